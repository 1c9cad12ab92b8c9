"""Results of the leaderboard as files: one JSON a task, a line a run."""

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """A run.

    Attributes:
        method: Name of the method.
        value: Of its hyper-parameter; None where there is none.
        seed: Of the run.
        val: The measure on validation data at the end; None where the run diverged.
        test: The same on test data.
        val_loss: The loss on validation data, by which equal values of `val` are told apart.
        batches: Steps, with those of a probe.
        step_seconds: Median of a step, None where there was none.
        seconds: Of the whole of training, with a probe.
    """

    method: str
    value: float | None
    seed: int
    val: float | None
    test: float | None
    val_loss: float | None
    batches: int
    step_seconds: float | None
    seconds: float


_COLUMNS = [field.name for field in fields(Record)]


@dataclass(frozen=True)
class TaskResults:
    """All runs of a task.

    Attributes:
        task: Its name.
        measure: What is compared.
        defaults: The authors' value for each method on this task; None where nothing is tuned.
        facts: Where and with what it was run.
        records: The runs.
    """

    task: str
    measure: str
    defaults: dict[str, float | None]
    facts: dict[str, str]
    records: Sequence[Record]

    def to_json(self) -> bytes:
        """The file's content."""
        head = {"task": self.task, "measure": self.measure, "defaults": self.defaults, "facts": self.facts}
        lines = [json.dumps([_short(value) for value in astuple(record)]) for record in self.records]
        text = json.dumps(head | {"columns": _COLUMNS}, indent=1).removesuffix("\n}")
        return (text + ',\n "runs": [\n' + ",\n".join(lines) + "\n]}\n").encode()

    @classmethod
    def read(cls, path: Path) -> "TaskResults":
        """Reads a file."""
        content: dict[str, Any] = json.loads(path.read_text())
        records = [Record(**dict(zip(content["columns"], run, strict=True))) for run in content["runs"]]
        return cls(content["task"], content["measure"], content["defaults"], content["facts"], records)


def merged(old: Sequence[Record], new: Sequence[Record]) -> list[Record]:
    """Records of a file, in its order of the methods, with those that were run now instead of their old ones."""
    by_method: dict[str, list[Record]] = {record.method: [] for record in (*old, *new)}
    again = {record.method for record in new}
    for record in (*(one for one in old if one.method not in again), *new):
        by_method[record.method].append(record)
    return [record for records in by_method.values() for record in records]


def _short(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value
