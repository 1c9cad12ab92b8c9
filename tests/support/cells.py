"""Lines of ``docs/support_matrix.md``, each earned by a test."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

Verdict = Literal["works", "refused", "limit"]
SECTIONS = (
    "Strategies",
    "Sharded parameters (FSDP2)",
    "Precision, accumulation and clipping",
    "Overrides, modules and losses",
    "Manual optimization",
    "Schedulers",
    "Other callbacks",
    "Interruption",
    "Outside Lightning",
    "Optimizers of other packages",
    "Namespaces and versions",
    "Set-up that is refused",
)
Test = TypeVar("Test", bound=Callable[..., Any])


@dataclass(frozen=True)
class Cell:
    """One line of the matrix: what is combined, with which outcome, and what it was compared with."""

    section: str
    what: str
    control: str
    verdict: Verdict = "works"

    def __post_init__(self) -> None:
        if self.section not in SECTIONS:
            raise ValueError(f"Invalid section={self.section!r}. Must be one of {SECTIONS}.")


def cell(section: str, what: str, control: str, verdict: Verdict = "works") -> Callable[[Test], Test]:
    """Mark a test as the proof of a line; each of its parameter sets is a cell of that line."""

    def mark(test: Test) -> Test:
        test.cell = Cell(section, what, control, verdict)
        return test

    return mark
