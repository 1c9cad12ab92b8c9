"""Records of what a run logs, each a line of JSON in the spool, and the batches of them that one call delivers."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, TypedDict

from adaloss_lightning.tracking.logger.journal import Place
from adaloss_lightning.tracking.logger.run_end import Status

# What MLflow takes in one log_batch: 1000 entries, of them at most 100 params and 100 tags, in a megabyte.
MAX_ENTRIES = 1000
MAX_PARAMS_OR_TAGS = 100
MAX_BYTES = 1_000_000
MAX_STEP = 2**63 - 1


class Header(TypedDict, total=False):
    """Whose run a spool is; `header.json`."""

    tracking_uri: str  # without secrets
    lacks_password: bool  # whether the address had a user name or a password
    experiment: str
    artifact_location: str | None  # of a new experiment
    run_name: str | None  # of a new run, as the two next ones
    tags: dict[str, str]
    started: int  # milliseconds
    run_key: str  # identity of the run from before any store has numbered it
    run_id: str | None  # of a run that exists
    is_resumed: bool  # a checkpoint named the run: a store without it gets a new one
    staged: str  # folder whose files are artifacts; "" for none
    is_owner: bool  # the run is over if this spool's process dies


@dataclass(frozen=True)
class Entries:
    """Values by name, of which one log_batch takes many."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Metrics(Entries):
    """Values at one step. MLflow keys a metric by name, `time` in milliseconds, step and value."""

    time: int
    step: int


@dataclass(frozen=True)
class Sample(Entries):
    """Values of the machine's metrics; each process numbers its own samples."""

    time: int
    number: int


@dataclass(frozen=True)
class Params(Entries):
    """Params of the run."""


@dataclass(frozen=True)
class Tags(Entries):
    """Tags of the run; a later value replaces an earlier one."""


@dataclass(frozen=True)
class Text:
    """A text that becomes the artifact `file`."""

    text: str
    file: str


@dataclass(frozen=True)
class StagedFiles:
    """The artifacts have to follow the staged folder."""

    have_changed: bool = True


@dataclass(frozen=True)
class Running:
    """The run goes on."""

    status: Literal["RUNNING"] = "RUNNING"


@dataclass(frozen=True)
class End:
    """The run ended at `time`, in milliseconds."""

    status: Status
    time: int


Record: TypeAlias = Metrics | Sample | Params | Tags | Text | StagedFiles | Running | End

# The line's keys of each field, since version 0.1.0: what an older version has left is delivered, too.
_KEYS: dict[type[Record], dict[str, str]] = {
    Metrics: {"m": "values", "t": "time", "s": "step"},
    Sample: {"m": "values", "t": "time", "n": "number"},
    Params: {"p": "values"},
    Tags: {"g": "values"},
    Text: {"text": "text", "file": "file"},
    StagedFiles: {"mirror": "have_changed"},
    Running: {"status": "status"},
    End: {"status": "status", "t": "time"},
}
_KINDS = {frozenset(keys): kind for kind, keys in _KEYS.items()}


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow stamps its metrics."""
    return int(time.time() * 1000)


def to_json(record: Record) -> dict[str, Any]:
    """The record as the spool's files hold it."""
    return {key: getattr(record, name) for key, name in _KEYS[type(record)].items()}


def from_json(content: dict[str, Any]) -> Record:
    """The record that `to_json` wrote.

    Raises:
        ValueError: A later version has written it.
    """
    kind = _KINDS.get(frozenset(content))
    if kind is None:
        raise ValueError(
            f"Invalid record {str(content)[:80]}. Must be one that this version knows: a later one wrote it."
        )
    return kind(**{_KEYS[kind][key]: value for key, value in content.items()})


def to_line(record: Record) -> bytes:
    """The record as a line of the spool."""
    return json.dumps(to_json(record), separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Record | None:
    """The record in a line; None for half a line, from a disk that was full.

    Raises:
        ValueError: As for `from_json`.
    """
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return from_json(content) if isinstance(content, dict) else None


def renamed(record: Entries, names: Mapping[str, str]) -> Entries:
    """The record with other names for some of its entries."""
    return replace(record, values={names.get(key, key): value for key, value in record.values.items()})


def halves(records: Sequence[Entries]) -> tuple[Sequence[Entries], Sequence[Entries]]:
    """The records in two parts; the entries of a single one in two parts."""
    if len(records) > 1:
        middle = len(records) // 2
        return records[:middle], records[middle:]
    (record,) = records
    pairs = list(record.values.items())
    middle = len(pairs) // 2
    first, second = (replace(record, values=dict(part)) for part in (pairs[:middle], pairs[middle:]))
    return [first], [second]


class Batch:
    """Records in their order, as many as one call to the store takes.

    Attributes:
        records: The records.
        following: Where the spool goes on after them; None while they are in memory.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.following: Place | None = None
        self._room, self._bytes = MAX_ENTRIES, MAX_BYTES
        self._room_for: dict[type[Record], int] = {Params: MAX_PARAMS_OR_TAGS, Tags: MAX_PARAMS_OR_TAGS}

    def takes(self, record: Record, line: int) -> bool:
        """Adds `record` if the call has room for it. What is no metric, param or tag has a call of its own.

        Args:
            record: The record.
            line: Its length in bytes.
        """
        kind = type(record)
        size = len(record.values) if isinstance(record, Entries) else MAX_ENTRIES + 1
        length = line + size * (100 if isinstance(record, Metrics | Sample) else 25)  # a request has more than the line
        room = min(self._room, self._room_for.get(kind, MAX_ENTRIES))
        if self.records and (length > self._bytes or size > room):
            return False
        self._room -= size
        self._bytes -= length
        if kind in self._room_for:
            self._room_for[kind] -= size
        self.records.append(record)
        return True
