"""The claims and the comparison of problems as Markdown tables."""

from collections.abc import Sequence

from recipes.linear_regression.claims import Claim, span
from recipes.linear_regression.studies import WINDOWS, Comparison


def claims_table(claims: Sequence[Claim]) -> str:
    """The claims in Markdown."""
    head = "| source | claim | criterion | holds? | our numbers |\n|---|---|---|---|---|\n"
    verdicts = {True: "holds", False: "**does not hold**"}
    cells = ((one.source, one.text, one.criterion, verdicts[one.holds], one.numbers) for one in claims)
    return head + "".join(f"| {' | '.join(row)} |\n" for row in cells)


def comparison_table(compared: Sequence[Comparison]) -> str:
    """How the claims about b0 < 1 fare on other problems, in Markdown."""
    head = "| n x d | distance of the start | " + " | ".join(f"loss, steps {span(w)}" for w in range(len(WINDOWS)))
    head += f" | 1/b, steps {span(-1)} |\n|---|---:|" + "---:|" * (len(WINDOWS) + 1) + "\n"
    return head + "".join(
        f"| {one.n} x {one.d} | {one.distance:g} | "
        + " | ".join(f"{value:.2g}" for value in (*one.loss_ratio.tolist(), one.rate_ratio[-1].item()))
        + " |\n"
        for one in compared
    )
