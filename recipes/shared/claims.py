"""Claims of the papers, decided seed by seed: holds, does not hold or not tested, always with the reason.

Every verdict of every recipe is decided here. A claim needs at least three seeds, results in which something was
learned, and sizes at which it can be true; then its interval decides, and an interval that covers both answers is not
tested.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from scipy import stats

from recipes.shared.reports import table

SEEDS = 3  # fewer have no spread worth the name
CONFIDENCE = 0.95
METHOD = (
    "Intervals: 95 % t-intervals of the mean over the seeds, of the geometric mean where the numbers are ratios. A "
    "statement about every problem falls with one seed; where none contradicts it, the exact binomial bound (95 %) "
    "says in how many it could still fail. An interval that covers both answers counts as not tested."
)
_NAMED = 2  # reasons of a claim that has many
Verdict = Literal["holds", "does not hold", "not tested"]


class Decision(NamedTuple):
    """A verdict and its reason."""

    verdict: Verdict
    reason: str


@dataclass(frozen=True)
class Mean:
    """One number a seed, the mean of which the claim puts strictly between two values.

    Attributes:
        name: Of the number.
        values: Seed by seed; differences or ratios where runs are paired. Infinite, or a ratio of 0, where a run
            diverged.
        low: The mean must be above it.
        high: The mean must be below it.
        is_ratio: Take the geometric mean; all values are then >= 0.
    """

    name: str
    values: Sequence[float]
    low: float = -math.inf
    high: float = math.inf
    is_ratio: bool = False

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.values)

    def decide(self) -> Decision:
        """Compares the interval with the two values; counts seeds where some values are infinite."""
        if any(math.isnan(value) for value in self.values):
            return Decision("not tested", f"{self.name}: some seeds have no number")
        scaled = [_log(value) for value in self.values] if self.is_ratio else self.values
        if any(math.isinf(value) for value in scaled) and len(set(scaled)) > 1:
            inside = sum(self.low < value < self.high or (abs(value) == math.inf and value in (self.low, self.high))
                         for value in self.values)  # fmt: skip
            low, high = share_interval(inside, self.seeds)
            unlike = "0 or not finite" if self.is_ratio else "not finite"
            found = f"{self.name} {self._wanted} with {inside} of {self.seeds} seeds, {unlike} with some"
            return Decision("holds" if low > 0.5 else "does not hold" if high < 0.5 else "not tested", found)
        mean, low, high = t_interval(self.values, self.is_ratio)
        found = f"{self.name} {mean:.3g} ({low:.3g} to {high:.3g}, {self.seeds} seeds)"
        if (low > self.low or self.low == -math.inf) and (high < self.high or self.high == math.inf):
            return Decision("holds", found)
        if high <= self.low or low >= self.high:
            return Decision("does not hold", found)
        return Decision("not tested", f"{found}: undecided, the interval is not {self._wanted} and not outside")

    @property
    def _wanted(self) -> str:
        ends = [f"{word} {end:g}" for word, end in (("above", self.low), ("below", self.high)) if math.isfinite(end)]
        return " and ".join(ends)


@dataclass(frozen=True)
class Always:
    """A statement about every problem, which one seed refutes.

    Attributes:
        name: What is true of a seed that agrees.
        outcomes: Whether each seed agrees.
    """

    name: str
    outcomes: Sequence[bool]

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.outcomes)

    def decide(self) -> Decision:
        """Holds where every seed agrees."""
        agree = sum(map(bool, self.outcomes))
        found = f"{self.name} with {agree} of {self.seeds} seeds"
        if agree < self.seeds:
            return Decision("does not hold", found)
        return Decision("holds", f"{found}; at most {100 * (1 - (1 - CONFIDENCE) ** (1 / agree)):.0f} % can fail")


Evidence = Mean | Always


@dataclass(frozen=True)
class Claim:
    """One claim and its evidence.

    Attributes:
        source: Where the paper makes it.
        text: What it says.
        criterion: What must be true of our numbers for it to hold here.
        evidence: All must hold; none where runs that it needs are missing.
        numbers: What was measured, for the reader.
        learned: Whether something was learned, seed by seed; None where the claim is not about training, or where
            reaching the minimum is the claim.
        is_toy: Whether the sizes are too small for the claim.
    """

    source: str
    text: str
    criterion: str
    evidence: Sequence[Evidence]
    numbers: str
    learned: Sequence[bool] | None = None
    is_toy: bool = False

    @property
    def verdict(self) -> Verdict:
        """The outcome in words."""
        return self.decide().verdict

    def decide(self) -> Decision:
        """The verdict of all evidence together: it holds where all of it does, and falls with any."""
        obstacle = self._obstacle()
        if obstacle:
            return Decision("not tested", obstacle)
        found = [one.decide() for one in self.evidence]
        verdicts = {one.verdict for one in found}
        for verdict in ("does not hold", "not tested", "holds"):
            if verdict in verdicts:
                reasons = [one.reason for one in found if one.verdict == verdict]
                more = [f"{len(reasons) - _NAMED} more"] if len(reasons) > _NAMED else []
                return Decision(verdict, "; ".join([*reasons[:_NAMED], *more]))
        raise AssertionError

    def _obstacle(self) -> str | None:
        """Why nothing can be decided; None where it can."""
        if self.is_toy:
            return "the sizes are toys"
        if not self.evidence:
            return "runs that it needs are missing"
        seeds = min(one.seeds for one in self.evidence)
        if seeds < SEEDS:
            return f"{'one seed' if seeds == 1 else f'{seeds} seeds'}, it takes {SEEDS}"
        if self.learned is not None and not all(self.learned):
            return f"nothing was learned with {sum(not one for one in self.learned)} of {len(self.learned)} seeds"
        return None


def claims_table(claims: Iterable[Claim]) -> str:
    """The claims in Markdown, one a row, and how they are decided."""
    head = ["source", "claim", "criterion", "verdict", "why", "our numbers"]
    rows = []
    for claim in claims:
        verdict, reason = claim.decide()
        bold = f"**{verdict}**" if verdict == "does not hold" else verdict
        rows.append([claim.source, claim.text, claim.criterion, bold, reason, claim.numbers])
    return f"{table(head, rows, names=len(head))}\n{METHOD}\n"


def t_interval(values: Sequence[float], is_ratio: bool = False) -> tuple[float, float, float]:
    """Mean and the ends of its 95 % t-interval, unbounded for a single value.

    Args:
        values: At least one. Infinite ones, and ratios of 0, must be all the same.
        is_ratio: Compute on the logarithms, and go back.
    """
    if is_ratio:
        mean, low, high = t_interval([_log(value) for value in values])
        return _exp(mean), _exp(low), _exp(high)
    if len(set(values)) == 1 and len(values) > 1:
        return values[0], values[0], values[0]
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def share_interval(count: int, of: int) -> tuple[float, float]:
    """The exact (Clopper-Pearson) 95 % interval of a share."""
    interval = stats.binomtest(count, of).proportion_ci(CONFIDENCE, "exact")
    return float(interval.low), float(interval.high)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
