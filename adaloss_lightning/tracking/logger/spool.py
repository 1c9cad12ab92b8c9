"""The spool: what a run has logged, on disk, on its way to the store."""

import contextlib
import json
import logging
import os
import shutil
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adaloss_lightning.tracking.logger.journal import SEGMENT_BYTES, Journal
from adaloss_lightning.tracking.logger.records import Batch, Header, Metrics, Record, Sample, from_line, to_line
from adaloss_lightning.tracking.store import make_private

log = logging.getLogger(__name__)

_HEADER, _LOCK = "header.json", "lock"
_ROOT, _FORMER_ROOT = Path(".adaloss"), Path("mlruns", ".spool")


@dataclass(frozen=True)
class Limits:
    """Limits of a spool."""

    segment_bytes: int = SEGMENT_BYTES  # of a file
    in_memory: int = 100_000  # records, while the disk takes none
    retry_disk_s: float = 1.0  # between two tries of a disk that takes none


def spool_root() -> Path:
    """Folder of all spools: `ADALOSS_SPOOL`, else `.adaloss` in the working folder."""
    return Path(os.environ.get("ADALOSS_SPOOL") or _ROOT).absolute()


def spool_roots() -> list[Path]:
    """Folders where spools may lie: `spool_root()`, and in the working folder the one of version 0.1."""
    former = _FORMER_ROOT.absolute()
    return [spool_root(), *([former] if former.is_dir() and not os.environ.get("ADALOSS_SPOOL") else [])]


def remove_former_root() -> None:
    """Removes the spools' folder of version 0.1 once it is empty: an MLflow file store cannot be listed beside it."""
    with contextlib.suppress(OSError):
        if not any(_FORMER_ROOT.glob("*/")):
            (_FORMER_ROOT / "create.lock").unlink(missing_ok=True)
            _FORMER_ROOT.rmdir()


def read_header(folder: Path) -> Header:
    """Whose run the spool in `folder` is; empty for a folder that is none."""
    try:
        header: Header = json.loads((folder / _HEADER).read_text())
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


class Spool:
    """A durable queue of records, in a folder that only its user can read.

    What `append` took survives the death of the process (SIGKILL; not a power cut: nothing waits for the disk's own
    cache). `read` and `advance` are for the process that delivers, this or a later one: records leave the spool once
    they are delivered, and never before. A process that dies between the two delivers a batch again, which stores
    nothing twice: MLflow keys a metric by name, time, step and value, and each of them is written down here.

    When the disk takes nothing, that is reported once. Up to 100,000 records then wait in memory, from where they reach
    the store or the disk, whichever takes them first. Metrics beyond those are counted in `dropped`.

    Folder: `header.json` (whose run it is), a `Journal` of records as lines of JSON, `lock` (held while a process owns
    the spool; the system frees it when that process dies).
    """

    def __init__(
        self,
        journal: Journal | None,
        header: Header,
        lock: FileLock | None,
        limits: Limits = Limits(),
    ) -> None:
        self.folder = None if journal is None else journal.folder
        self.header = header
        self.dropped = 0
        self._owner, self._is_borrowed = lock, False
        self._guard = threading.RLock()  # a handler of a signal may end the run in the middle of `append`
        self._journal, self._limits = journal, limits
        self._cursor = (1, 0) if journal is None else journal.cursor()
        self._overflow: deque[bytes] = deque()
        self._is_lent = self._has_reported = False
        self._next_try = 0.0
        self.appended = 0  # records taken so far
        self.settled = 0  # those delivered so far, of what this object appended or read

    @classmethod
    def create(cls, root: Path, header: Header, limits: Limits = Limits()) -> "Spool":
        """A new spool under `root`; where that cannot be written, one in memory, which is reported."""
        folder = root / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{os.urandom(4).hex()}"
        lock = FileLock(folder / _LOCK, mode=0o600, thread_local=False)
        journal = Journal(folder, limits.segment_bytes)
        try:
            make_private(folder)
            _keep_out_of_git(root)
            lock.acquire(timeout=0)
            write_private(folder / _HEADER, json.dumps(header))
            journal.open()
            return cls(journal, header, lock, limits)
        except (OSError, Timeout, NotImplementedError) as error:  # the last one of a file system without locks
            if lock.is_locked:
                lock.release()
            shutil.rmtree(folder, ignore_errors=True)
            spool = cls(None, header, None, limits)
            spool._report_full(error)
            return spool

    @classmethod
    def adopt(cls, folder: Path) -> "Spool | None":
        """The spool that a process left behind; None while its process lives, or for a folder that is no spool."""
        if not read_header(folder):
            return None  # a lock makes the folder that is not there
        lock = FileLock(folder / _LOCK, mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except (OSError, Timeout, NotImplementedError):
            return None
        if not (header := read_header(folder)):  # another process has delivered it meanwhile
            with contextlib.suppress(OSError):
                if os.listdir(folder) == [_LOCK]:  # noqa: PTH208
                    shutil.rmtree(folder)
            lock.release()
            return None
        return cls(Journal(folder), header, lock)

    @classmethod
    def borrow(cls, folder: Path) -> "Spool | None":
        """The spool of a process that lives: it is read, and left as it is. None for a folder that is no spool."""
        header = read_header(folder)
        if not header:
            return None
        spool = cls(Journal(folder), header, None)
        spool._is_borrowed = True
        return spool

    @property
    def in_memory(self) -> int:
        """Records that no disk has taken: they are lost with the process."""
        return len(self._overflow)

    def append(self, record: Record) -> None:
        """Takes a record; does not wait and does not raise."""
        line = to_line(record)
        with self._guard:
            self.appended += 1
            try:
                if self._overflow:
                    self._try_disk_again()
                if self._overflow or not self._write(line):
                    self._keep(line, is_metric=isinstance(record, Metrics | Sample))
            except BaseException:  # Ctrl-C: a record that is counted and not there would be waited for
                self.appended -= 1
                raise

    def read(self) -> Batch:
        """The next records, an empty batch when all are delivered; the same ones again until `advance`."""
        batch, place = Batch(), self._cursor
        for following, line in self._journal.lines(place) if self._journal is not None else ():
            record = from_line(line)
            if record is not None and not batch.takes(record, len(line)):
                break
            place = following
        if batch.records:
            batch.following = place
            return batch
        with self._guard:
            for line in self._overflow:
                record = from_line(line)
                if record is not None and not batch.takes(record, len(line)):
                    break
            self._is_lent = bool(batch.records)
        return batch

    def advance(self, batch: Batch) -> None:
        """Notes that `batch`, the last one read, is delivered."""
        if batch.following is None:
            with self._guard:
                for _ in batch.records:
                    self._overflow.popleft()
                self._is_lent = False
        else:
            self._cursor = batch.following
            if self._journal is not None and not self._is_borrowed:
                self._journal.set_cursor(self._cursor)
        self.settled += len(batch.records)

    def give_back(self) -> None:
        """Notes that the last batch read was not delivered: what waits in memory may go to the disk."""
        with self._guard:
            self._is_lent = False

    def note(self, name: str, content: dict[str, Any]) -> None:
        """Keeps something the next owner needs to know, in a file of its own, if the disk takes it.

        Of a borrowed spool only what its owner has not noted yet: it reads that when it gets there.
        """
        if self.folder is not None and not (self._is_borrowed and self.noted(name)):
            with contextlib.suppress(OSError):
                write_private(self.folder / f"{name}.json", json.dumps(content))

    def noted(self, name: str) -> dict[str, Any]:
        """What `note` kept; empty where it did not."""
        if self.folder is not None:
            with contextlib.suppress(OSError, ValueError):
                content: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
                return content
        return {}

    def close(self, *, delete: bool) -> None:
        """Gives the spool up; `delete` removes the folder: everything is delivered. A borrowed one stays."""
        if self._is_borrowed:
            return
        with self._guard:
            if not delete:
                self._is_lent, self._next_try = False, 0.0
                self._try_disk_again()
            if self._journal is not None:
                self._journal.close()
        if delete and self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._owner is not None:
            self._owner.release()

    def promise(self, when: str, *, by_this_process: bool = True) -> str:
        """Where the records wait, and who delivers them `when`."""
        if self.folder is None:
            delivery = f"this process delivers them {when}, and they" if by_this_process else "they"
            return f"The records wait in memory: {delivery} are lost if it ends before."
        alone = f", {self.in_memory} of them in memory alone and lost if this process ends before"
        alone = alone if self.in_memory else ""
        by = "by this process, by a later one" if by_this_process else "by a later process"
        return f"The records wait in {self.folder}{alone}. They are delivered {when}, {by} or by: adaloss sync"

    def _write(self, line: bytes) -> bool:
        """Whether the disk took the line."""
        if self._journal is None or not self._journal.is_open:
            return False
        try:
            self._journal.write(line)
        except OSError as error:
            self._report_full(error)
            return False
        except TypeError:  # a handler of a signal has ended the run, and closed the file, meanwhile
            return False
        return True

    def _keep(self, line: bytes, *, is_metric: bool) -> None:
        if is_metric and len(self._overflow) >= self._limits.in_memory:
            self.dropped += 1
            self.appended -= 1
        else:
            self._overflow.append(line)

    def _try_disk_again(self) -> None:
        if self._is_lent or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + self._limits.retry_disk_s
        while self._overflow and self._write(self._overflow[0]):
            self._overflow.popleft()

    def _report_full(self, error: BaseException) -> None:
        if not self._has_reported:
            self._has_reported = True
            log.warning(
                "Cannot write to the spool %s: %s. Training goes on; up to %d records wait in memory, where they are "
                "lost if the process ends before the store takes them. Free some space, or set ADALOSS_SPOOL to a "
                "folder on another disk.",
                self.folder or spool_root(),
                error,
                self._limits.in_memory,
            )


def _keep_out_of_git(root: Path) -> None:
    ignore = root / ".gitignore"
    if root.name == _ROOT.name and not ignore.exists():
        ignore.write_text("*\n")


def write_private(path: Path, text: str) -> None:
    """Replaces the file `path`, whole or not at all, by one for its user alone."""
    temporary = path.with_suffix(".tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123
        file.write(text)
    temporary.replace(path)
