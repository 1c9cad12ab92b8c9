"""Claims of the papers, each beside what our runs say about it."""

from collections.abc import Iterable
from dataclasses import dataclass

from recipes.shared.reports import table


@dataclass(frozen=True)
class Claim:
    """One claim, decided by a number.

    Attributes:
        source: Where the paper makes it.
        text: What it says.
        criterion: What must be true of our numbers for it to hold here.
        holds: Whether that is true; None where runs that it needs are missing.
        numbers: What was measured.
    """

    source: str
    text: str
    criterion: str
    holds: bool | None
    numbers: str

    @property
    def verdict(self) -> str:
        """The outcome in words."""
        return {True: "holds", False: "**does not hold**", None: "not tested"}[self.holds]


def claims_table(claims: Iterable[Claim]) -> str:
    """The claims in Markdown, one a row."""
    head = ["source", "claim", "criterion", "holds?", "our numbers"]
    rows = [[claim.source, claim.text, claim.criterion, claim.verdict, claim.numbers] for claim in claims]
    return table(head, rows, names=len(head))
