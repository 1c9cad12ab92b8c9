"""What the papers claim about the two-layer network, each beside the numbers measured here."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from recipes.shared.claims import Claim
from recipes.two_layer.descent import Descent
from recipes.two_layer.experiments import EPSILON, FLOOR, Convergence, Norms, Stochastic, Widths

_SLOPE = 0.1  # how far a fitted exponent may be from the one of the theory
_SAME = 2.0  # losses within this factor are "almost the same": curves span twenty decades


def about_convergence(found: Convergence) -> list[Claim]:
    """Theorems 2 and 3, and the joint training of Du et al."""
    by_b0 = list(zip(found.b0s, found.constant, strict=True))
    above = [(b0, run) for b0, run in by_b0 if b0 >= found.critical]
    below = [(b0, run) for b0, run in by_b0 if b0 < found.critical]
    reaching = f"L <= {EPSILON:g} from every"
    return [
        Claim(
            "Theorem 2; Du et al.",
            "Gradient descent with a constant step reaches the global minimum from b0 >= b*",
            f"{reaching} b0 >= b*",
            all(_reaches(run) for _, run in above),
            f"steps to the minimum: {_steps(above, found)}",
        ),
        Claim(
            "Theorem 3, case (b)",
            "b* is critical: with a constant step from b0 < b* the loss is not driven to 0",
            f"L > {EPSILON:g} from every b0 < b*",
            not any(_reaches(run) for _, run in below),
            "last loss " + ", ".join(f"{_loss(run.losses[-1])} at {b0 / found.critical:g} b*" for b0, run in below),
        ),
        Claim(
            "Theorem 3",
            "AdaLoss reaches the global minimum from any b0, on both sides of b*",
            f"{reaching} b0",
            all(map(_reaches, found.adaloss)),
            f"steps to the minimum: {_steps(zip(found.b0s, found.adaloss, strict=True), found)}",
        ),
        Claim(
            "Du et al., joint training",
            "Training both layers reaches the global minimum as well",
            f"{reaching} b0, and with a constant step from its own b*",
            all(map(_reaches, (*found.joint_adaloss, found.joint_constant))),
            f"AdaLoss, steps: {_steps(zip(found.b0s, found.joint_adaloss, strict=True), found)}"
            f"; constant: {_steps([(found.joint_critical, found.joint_constant)], found)}",
        ),
    ]


def about_widths(found: Widths) -> list[Claim]:
    """The lemmas on the distance from the start, as powers of m."""
    laws = {
        "norm(H(k) - H(0)) = O(m^(-1/2))": "drift",
        "norm(H(0) - H-infinity) = O(m^(-1/2))": "sampling",
        "Every w_r stays within O(m^(-1/2)) of its start": "weights",
        "The share of activation patterns that change falls like m^(-1/2)": "patterns",
    }
    slopes = [
        Claim(
            "Du et al.",
            text,
            f"slope within {_SLOPE:g} of -1/2",
            abs(found.slope(name) + 0.5) < _SLOPE,
            f"slope {found.slope(name):.2f}; from {getattr(found, name)[0]:.3g} at m = {found.widths[0]} "
            f"to {getattr(found, name)[-1]:.3g} at m = {found.widths[-1]}",
        )
        for text, name in laws.items()
    ]
    lowest = min(found.lowest)
    least = Claim(
        "Du et al.",
        "lambda_min(H(0)) >= 3/4 lambda_0 for wide m",
        "for every m and seed",
        lowest >= 0.75,
        f"the smallest ratio is {lowest:.3f}, over all m and seeds",
    )
    return [*slopes, least]


def about_norms(found: dict[str, Norms]) -> list[Claim]:
    """Figure 5 and what Theorem 2 makes of it."""
    orthogonal, fixed = found["nearly orthogonal, d = n"], found["Gaussian, d fixed"]
    slope, contrast = (float(np.polyfit(np.log(f.sizes), np.log(f.norm), 1)[0]) for f in (orthogonal, fixed))
    text = ", ".join(f"{norm:.3f}" for norm in orthogonal.norm)
    steps = [step for step in orthogonal.steps if step is not None]
    # T carries a log(n / epsilon): twice the steps for eight times the n is what that factor alone allows.
    flat = len(steps) == len(orthogonal.steps) and max(steps) <= 2 * min(steps)
    return [
        Claim(
            "Figure 5",
            "norm(H-infinity) = O(1) for nearly orthogonal data",
            f"slope against n within {_SLOPE:g} of 0",
            abs(slope) < _SLOPE,
            f"{text} at n = {_join(orthogonal.sizes)}: slope {slope:.2f}; Gaussian data of fixed d: {contrast:.2f}",
        ),
        Claim(
            "Theorem 2",
            "Then T is nearly independent of n",
            "T reached at every n, and at most twice its smallest",
            flat,
            f"T = {_join(orthogonal.steps)}; Gaussian data of fixed d: {_join(fixed.steps)}",
        ),
    ]


def about_stochastic(found: Sequence[Stochastic]) -> list[Claim]:
    """Figure 6, for each batch size."""
    return [_about_batches(result) for result in found]


def _about_batches(result: Stochastic) -> Claim:
    ratios = [
        max(ours, FLOOR) / max(theirs, FLOOR)
        for (method, b0), seen in result.found.items()
        if method == "adaloss"
        for (ours, _), (theirs, _) in zip(seen, result.found["adagrad_norm", b0], strict=True)
    ]
    worse = sum(not ratio <= _SAME for ratio in ratios)
    return Claim(
        "Figure 6",
        "AdaLoss is almost the same as or better than AdaGrad-Norm, with steps of "
        f"{'one row' if result.batch_size == 1 else f'{result.batch_size} rows'}",
        f"its loss at most {_SAME:g} times that of AdaGrad-Norm at every b0 and mark",
        worse == 0,
        f"loss of AdaLoss over that of AdaGrad-Norm: median {np.median(ratios):.2f}, from {min(ratios):.2g} to "
        f"{max(ratios):.2g}; above {_SAME:g} in {worse} of {len(ratios)} points",
    )


def _reaches(run: Descent) -> bool:
    return run.steps_to(EPSILON) is not None


def _steps(runs: Iterable[tuple[float, Descent]], found: Convergence) -> str:
    return ", ".join(f"{_join([run.steps_to(EPSILON)])} from {b0 / found.critical:.3g} b*" for b0, run in runs)


def _loss(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "infinite"


def _join(values: Sequence[int | None]) -> str:
    return ", ".join("never" if value is None else f"{value}" for value in values)
