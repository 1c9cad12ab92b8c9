"""Records of what was logged, as many as one call to the store takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from adaloss_lightning.tracking.logger.journal import Place

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

Record: TypeAlias = dict[str, Any]

# What MLflow takes in one log_batch: 1000 entries, of them at most 100 params and 100 tags, in a megabyte.
MAX_ENTRIES = 1000
MAX_PARAMS_OR_TAGS = 100
MAX_BYTES = 1_000_000
_MORE_BYTES = {"m": 100, "p": 25, "g": 25}  # that the request has for each entry beside what the record's line has
KINDS = ("m", "p", "g")  # where a record has its metrics, params or tags; it has one kind of them


@dataclass(frozen=True)
class Batch:
    """Records in their order, as many as one call to the store takes, and where the spool goes on after them."""

    records: list[Record]
    following: Place | None  # None: they are in memory


class Call:
    """Collects the records of one call to the store."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._room = {"m": MAX_ENTRIES, "p": MAX_PARAMS_OR_TAGS, "g": MAX_PARAMS_OR_TAGS}
        self._room_of_all = MAX_ENTRIES
        self._bytes = MAX_BYTES

    def takes(self, record: Record, line: int) -> bool:
        """Adds `record` if the call has room for it. What is no metric, param or tag has a call of its own.

        Args:
            record: The record.
            line: Its length in bytes.
        """
        kind = next((kind for kind in KINDS if kind in record), None)
        size = MAX_ENTRIES + 1 if kind is None else len(record[kind])
        length = line + size * _MORE_BYTES.get(kind or "", 0)
        if self.records and (length > self._bytes or size > min(self._room_of_all, self._room.get(kind or "", 0))):
            return False
        self._room_of_all -= size
        self._bytes -= length
        if kind is not None:
            self._room[kind] -= size
        self.records.append(record)
        return True


def log_batch(client: "MlflowClient", run_id: str, records: Sequence[Record]) -> None:
    """Delivers the metrics, params and tags of `records`, not more than one call takes, in one call.

    Raises:
        Exception: Whatever MLflow raises for a store that is away, fails or refuses.
    """
    from mlflow.entities import Metric, Param, RunTag

    # The store refuses one tag twice in a call; the latest counts, as if they had come one by one.
    tags = {key: value for record in records for key, value in record.get("g", {}).items()}
    client.log_batch(
        run_id,
        metrics=[Metric(k, v, r["t"], r["s"]) for r in records for k, v in r.get("m", {}).items()],
        params=[Param(key, value) for record in records for key, value in record.get("p", {}).items()],
        tags=[RunTag(key, value) for key, value in tags.items()],
        synchronous=True,
    )
