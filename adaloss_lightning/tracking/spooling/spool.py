"""The spool: what a run has logged, on disk, on its way to the store."""

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)

Record: TypeAlias = dict[str, Any]

# What MLflow takes in one log_batch: 1000 entries, of them at most 100 params and 100 tags.
MAX_ENTRIES = 1000
MAX_PARAMS_OR_TAGS = 100
KINDS = ("m", "p", "g")  # where a record has its metrics, params or tags; it has one kind of them

_HEADER, _CURSOR, _LOCK = "header.json", "cursor", "lock"
_SEGMENT_BYTES = 8 << 20  # a file that is delivered to its end is deleted: the disk holds what is pending, not the run
_MAX_IN_MEMORY = 100_000  # records, for as long as the disk takes none
_RETRY_DISK_S = 1.0


def spool_root() -> Path:
    """Folder of all spools: `ADALOSS_SPOOL`, else `mlruns/.spool` in the working folder."""
    return Path(os.environ.get("ADALOSS_SPOOL") or Path("mlruns", ".spool")).absolute()


def read_header(folder: Path) -> Record:
    """Whose run the spool in `folder` is; empty for a folder that is none."""
    try:
        header = json.loads((folder / _HEADER).read_text())
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


@dataclass(frozen=True)
class Batch:
    """Records in their order, as many as one call to the store takes, and where the spool goes on after them."""

    records: list[Record]
    following: tuple[int, int] | None  # segment and offset; None: they are in memory


class Spool:
    """A durable queue of records, in a folder that only its user can read.

    `append` writes one line of JSON with one system call, so what it took survives the death of the process
    (SIGKILL; not a power cut: nothing waits for the disk's own cache). `read` and `advance` are for whoever delivers,
    in this process or in a later one: records leave the spool once they are delivered, and never before. A process
    that dies between the two delivers a batch again, which stores nothing twice: MLflow keys a metric by name, time,
    step and value, and each of them is written down here.

    When the disk takes nothing, that is said once, and up to 100,000 records wait in memory, from where they reach the
    store or the disk, whichever takes them first. Metrics beyond those are counted in `dropped`.

    Folder: `header.json` (whose run it is), `00000001.jsonl` and so on (lines of records), `cursor` (what is
    delivered), `lock` (held while a process owns the spool; the system frees it when that process dies).
    """

    def __init__(self, folder: Path | None, header: Record, lock: FileLock | None) -> None:
        self.folder, self.header = folder, header
        self.dropped = 0
        self._owner = lock
        self._guard = threading.Lock()
        self._file: int | None = None
        self._segment, self._size, self._is_torn = 1, 0, False
        self._overflow: deque[bytes] = deque()
        self._is_lent = self._is_said = False
        self._next_try = 0.0
        self._cursor = self._read_cursor()
        self._appended = self._settled = 0

    @classmethod
    def create(cls, root: Path, header: Record) -> "Spool":
        """A new spool under `root`; one in memory, said once, where that cannot be written."""
        folder = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{os.urandom(4).hex()}"
        lock = FileLock(folder / _LOCK, mode=0o600, thread_local=False)
        try:
            _make_private(folder)
            lock.acquire(timeout=0)
            spool = cls(folder, header, lock)
            _write_private(folder / _HEADER, json.dumps(header))
            (folder / _CURSOR).touch(0o600)
            spool._open_segment()
        except (OSError, Timeout) as error:
            if lock.is_locked:
                lock.release()
            shutil.rmtree(folder, ignore_errors=True)
            spool = cls(None, header, None)
            spool._say_full(error)
        return spool

    @classmethod
    def adopt(cls, folder: Path) -> "Spool | None":
        """The spool that a process left behind; None while its process lives, or for a folder that is no spool."""
        lock = FileLock(folder / _LOCK, mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except (OSError, Timeout):
            return None
        header = read_header(folder)
        if not header:
            lock.release()
            return None
        return cls(folder, header, lock)

    @property
    def appended(self) -> int:
        """Records taken so far."""
        return self._appended

    @property
    def settled(self) -> int:
        """Records delivered so far, of those that this object appended or read."""
        return self._settled

    def append(self, record: Record) -> None:
        """Takes a record; does not wait and does not raise."""
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with self._guard:
            self._appended += 1
            if self._overflow:
                self._try_disk_again()
            if self._overflow or not self._write(line):
                self._keep(line, is_metric="m" in record)

    def read(self) -> Batch:
        """The next records, an empty batch when all are delivered; the same ones again until `advance`."""
        call = _Call()
        place = self._cursor
        for following, line in self._lines(*place):
            record = _parse(line)
            if record is not None and not call.takes(record):
                break
            place = following
        if call.records:
            return Batch(call.records, place)
        with self._guard:
            for line in self._overflow:
                if not call.takes(json.loads(line)):
                    break
            self._is_lent = bool(call.records)
        return Batch(call.records, None)

    def advance(self, batch: Batch) -> None:
        """Notes that `batch`, the last one read, is delivered."""
        if batch.following is None:
            with self._guard:
                for _ in batch.records:
                    self._overflow.popleft()
                self._is_lent = False
        else:
            self._cursor = batch.following
            self._write_cursor()
        self._settled += len(batch.records)

    def note(self, name: str, content: Record) -> None:
        """Keeps something the next owner needs to know, in a file of its own, if the disk takes it."""
        if self.folder is not None:
            with contextlib.suppress(OSError):
                _write_private(self.folder / f"{name}.json", json.dumps(content))

    def noted(self, name: str) -> Record:
        """What `note` kept; empty where it did not."""
        if self.folder is not None:
            with contextlib.suppress(OSError, ValueError):
                content: Record = json.loads((self.folder / f"{name}.json").read_text())
                return content
        return {}

    def close(self, *, delete: bool) -> None:
        """Gives the spool up; `delete` removes the folder: everything is delivered."""
        with self._guard:
            if self._file is not None:
                os.close(self._file)
                self._file = None
        if delete and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._owner is not None:
            self._owner.release()

    # Writing ----------------------------------------------------------------------------------------------------------

    def _write(self, line: bytes) -> bool:
        """One line at the end of the newest segment, whole or not at all."""
        if self._file is None:
            return False
        try:
            if self._size >= _SEGMENT_BYTES:
                self._segment += 1
                self._open_segment()
            data = b"\n" + line if self._is_torn else line
            written = os.write(self._file, data)
            if written < len(data):
                raise OSError(f"the disk took {written} of {len(data)} bytes")
        except OSError as error:
            self._say_full(error)
            self._undo()
            return False
        self._size += len(data)
        self._is_torn = False
        return True

    def _undo(self) -> None:
        try:
            os.ftruncate(self._file, self._size)  # type: ignore[arg-type]
        except (OSError, TypeError):
            self._is_torn = True  # the next line starts a new one; readers skip the half one

    def _open_segment(self) -> None:
        assert self.folder is not None
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        file = os.open(self._path(self._segment), flags, 0o600)
        if self._file is not None:
            os.close(self._file)
        self._file, self._size = file, os.fstat(file).st_size

    def _keep(self, line: bytes, *, is_metric: bool) -> None:
        if is_metric and len(self._overflow) >= _MAX_IN_MEMORY:
            self.dropped += 1
            self._appended -= 1
        else:
            self._overflow.append(line)

    def _try_disk_again(self) -> None:
        if self._is_lent or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + _RETRY_DISK_S
        while self._overflow and self._write(self._overflow[0]):
            self._overflow.popleft()

    def _say_full(self, error: BaseException) -> None:
        if not self._is_said:
            self._is_said = True
            log.warning(
                "Cannot write to the spool %s: %s. Training goes on; up to %d records wait in memory, where they are "
                "lost if the process dies. Free some space, or set ADALOSS_SPOOL to a folder on another disk.",
                self.folder or spool_root(),
                error,
                _MAX_IN_MEMORY,
            )

    # Reading ----------------------------------------------------------------------------------------------------------

    def _lines(self, segment: int, offset: int) -> Iterator[tuple[tuple[int, int], bytes]]:
        """Complete lines from a place on, each with the place after it."""
        while self.folder is not None:
            # Asked before the segment is read: its writer goes on to the next one only after its last line.
            is_last = not self._path(segment + 1).exists()
            with contextlib.suppress(FileNotFoundError), self._path(segment).open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    offset += len(line)
                    yield (segment, offset), line
            if is_last:
                return
            segment, offset = segment + 1, 0

    def _path(self, segment: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{segment:08d}.jsonl"

    def _read_cursor(self) -> tuple[int, int]:
        if self.folder is not None:
            with contextlib.suppress(OSError, ValueError):
                segment, offset = (self.folder / _CURSOR).read_text().split()
                return int(segment), int(offset)
        return 1, 0

    def _write_cursor(self) -> None:
        assert self.folder is not None
        segment, offset = self._cursor
        # In place and of one size, so that a full disk takes it too.
        with contextlib.suppress(OSError):
            file = os.open(self.folder / _CURSOR, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, f"{segment:08d} {offset:016d}\n".encode(), 0)
            finally:
                os.close(file)
        for old in range(segment - 1, 0, -1):
            try:
                self._path(old).unlink()
            except OSError:
                break


class _Call:
    """Collects the records of one call to the store."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._room = {"m": MAX_ENTRIES, "p": MAX_PARAMS_OR_TAGS, "g": MAX_PARAMS_OR_TAGS}
        self._room_of_all = MAX_ENTRIES

    def takes(self, record: Record) -> bool:
        """Adds `record` if the call has room for it. What is no metric, param or tag has a call of its own."""
        kind = next((kind for kind in KINDS if kind in record), None)
        size = MAX_ENTRIES + 1 if kind is None else len(record[kind])
        if self.records and size > min(self._room_of_all, self._room.get(kind or "", 0)):
            return False
        self._room_of_all -= size
        if kind is not None:
            self._room[kind] -= size
        self.records.append(record)
        return True


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None  # half a line, from a disk that was full
    return record if isinstance(record, dict) else None


def _make_private(folder: Path) -> None:
    for parent in reversed(folder.parents):
        if not parent.exists():
            with contextlib.suppress(FileExistsError):
                parent.mkdir(0o700)
    folder.mkdir(0o700)


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)
    temporary.replace(path)
