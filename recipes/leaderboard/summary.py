"""Standing of ours over all tasks: wins, ties and losses against each method, and targets that are missed or open."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from recipes.leaderboard.measures import Cell, Difference, Outcome, Row, Table
from recipes.leaderboard.methods import ADAMW, AUTO, METHODS, TUNING_FREE

_LABELS = {method.name: method.label for method in METHODS}
BEST_FREE = "the best of Prodigy, D-Adaptation, DoG, Schedule-Free and MoMo"
BEST_ADAMW = "the best tuned AdamW"


@dataclass
class Count:
    """Tasks by outcome, from the view of ours; `ahead` counts positive means, however small."""

    win: list[str] = field(default_factory=list)
    tie: list[str] = field(default_factory=list)
    loss: list[str] = field(default_factory=list)
    ahead: int = 0

    def add(self, task: str, one: Difference) -> None:
        """Counts a task."""
        outcomes: dict[Outcome, list[str]] = {"win": self.win, "tie": self.tie, "loss": self.loss}
        outcomes[one.outcome].append(task)
        self.ahead += one.mean > 0

    @property
    def tasks(self) -> int:
        """How many tasks were compared."""
        return len(self.win) + len(self.tie) + len(self.loss)


@dataclass(frozen=True)
class Standing:
    """Ours, at no argument, against something else at its authors' default and tuned."""

    label: str
    at_default: Count
    tuned: Count
    is_target: bool = False


def versus(table: Table, theirs: Cell) -> Difference | None:
    """How much better ours is than a cell; None where either was not run."""
    ours = table.rows.get(AUTO)
    if ours is None or not theirs.by_seed or not ours.default.by_seed:
        return None
    one = table.difference(ours.default, theirs)
    return None if math.isnan(one.mean) else one


def standings(tables: Sequence[Table]) -> list[Standing]:
    """The summary, a line for each method that any task has, after the two lines of the targets."""
    shown = [method.name for method in METHODS if any(method.name in table.rows for table in tables)]
    lines = [
        Standing(BEST_FREE, _count(tables, _best_free), _count(tables, _tuned(TUNING_FREE)), is_target=True),
        Standing(BEST_ADAMW.replace(" tuned", ""), _count(tables, _at_default(ADAMW)), _count(tables, _tuned(ADAMW)),
                 is_target=True),
    ]  # fmt: skip
    for name in shown:
        if name != AUTO:
            count, tuned = _count(tables, _at_default((name,))), _count(tables, _tuned((name,)))
            lines.append(Standing(_LABELS[name], count, tuned))
    return [line for line in lines if line.at_default.tasks or line.tuned.tasks]


def targets(tables: Sequence[Table]) -> list[str]:
    """A sentence for each target that was missed, or that the seeds leave open."""
    sentences = []
    for what, pick in ((f"{BEST_FREE} at their defaults", _best_free), (BEST_ADAMW, _tuned(ADAMW))):
        for table in tables:
            found = pick(table)
            one = None if found is None else versus(table, found[1])
            if found is None or one is None or one.not_worse == "holds":
                continue
            than = f"worse than {what}, which is {_LABELS[found[0]]}."
            if one.not_worse == "does not hold":
                sentences.append(f"Missed: on {table.results.task} ours is {than}")
            else:
                sentences.append(f"Open: on {table.results.task} the seeds do not tell whether ours is {than}")
    for name in TUNING_FREE:
        count = _count(tables, _at_default((name,)))
        if count.tasks and 2 * count.ahead <= count.tasks:
            share = f"{count.ahead} of {count.tasks} tasks, not on most"
            sentences.append(f"Missed: ours is ahead of {_LABELS[name]} at its default on {share}.")
    return sentences


_Pick = Callable[[Table], tuple[str, Cell] | None]


def _count(tables: Sequence[Table], pick: _Pick) -> Count:
    count = Count()
    for table in tables:
        found = pick(table)
        one = None if found is None else versus(table, found[1])
        if one is not None:
            count.add(table.results.task, one)
    return count


def _picked(names: Sequence[str], cell_of: Callable[[Row], Cell]) -> _Pick:
    """The first on validation data of some methods."""

    def pick(table: Table) -> tuple[str, Cell] | None:
        cells = [(name, cell_of(table.rows[name])) for name in names if name in table.rows]
        return table.first([(name, cell) for name, cell in cells if cell.by_seed])

    return pick


def _at_default(names: Sequence[str]) -> _Pick:
    return _picked(names, lambda row: row.default)


def _tuned(names: Sequence[str]) -> _Pick:
    return _picked(names, lambda row: row.best)


_best_free = _at_default(TUNING_FREE)
