"""Spools that another process left behind: killed, or gone while its store was away."""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from adaloss_lightning.tracking.address import redacted, storable
from adaloss_lightning.tracking.errors import StoreError, one_line
from adaloss_lightning.tracking.logger.batch import Record
from adaloss_lightning.tracking.logger.journal import Journal, Place
from adaloss_lightning.tracking.logger.spool import Spool, read_header, remove_former_root, spool_roots
from adaloss_lightning.tracking.logger.stored_run import StoredRun
from adaloss_lightning.tracking.names import run_label
from adaloss_lightning.tracking.store import resolve_uri
from adaloss_lightning.tracking.terminal import progress

OVER = "over"  # note of a spool whose run logs no more
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")


@dataclass(frozen=True)
class Delivered:
    """What became of one spool.

    Attributes:
        folder: The spool; it is gone when nothing is left.
        run: What messages call its run.
        run_id: Its identifier, as soon as the store has told.
        records: Number of records delivered now.
        problem: Why records are left; empty when none are.
        rejected: Entries the store refused, and why.
    """

    folder: Path
    run: str
    run_id: str | None
    records: int
    problem: str
    rejected: list[str] = field(default_factory=list)


def waiting(roots: Sequence[Path] | None = None) -> list[Path]:
    """Folders of all spools under `roots`, oldest first, those of living processes too.

    Args:
        roots: None takes the usual places, `spool_roots()`.
    """
    found = [path.parent for root in (roots or spool_roots()) for path in root.glob("*/header.json")]
    return sorted(found, key=lambda folder: folder.name)


def waiting_for(uri: str, roots: Sequence[Path]) -> list[Path]:
    """Those of `waiting` whose runs were logged to the store at `uri`."""
    return [folder for folder in waiting(roots) if read_header(folder).get("tracking_uri") == storable(uri)]


def is_over(folder: Path) -> bool:
    """Whether the run of a spool logs no more, so that anyone may deliver what waits there."""
    return (folder / f"{OVER}.json").exists()


def deliver(
    folder: Path,
    uri: str | None = None,
    report: Callable[[int], object] = lambda count: None,
    *,
    is_settled: bool = False,
) -> Delivered | None:
    """Delivers the spool of a process that has ended; once everything has arrived, the folder is deleted.

    A run whose process died without a word is KILLED, unless another process goes on with it.

    Args:
        folder: The spool.
        uri: Store to deliver to. None takes the one the run was logged to.
        report: Called with the number of records of each batch that is delivered.
        is_settled: The store knows how the run ended, from a process that knows it better than the spool.

    Returns:
        None for a spool whose process lives, or which another one delivers at this moment.
    """
    spool = Spool.adopt(folder)
    if spool is None:
        return None
    delivered = _deliver(spool, folder, uri, report, is_settled)
    spool.close(delete=not delivered.problem)
    return delivered


def deliver_beside(
    folder: Path, uri: str | None, report: Callable[[int], object], *, is_settled: bool
) -> Delivered | None:
    """Delivers what waits in a spool whose process lives, and leaves the spool to that process.

    What its process delivers once more is stored once.

    Args:
        folder: The spool of a run that logs no more.
        uri: As for `deliver`.
        report: As for `deliver`.
        is_settled: As for `deliver`.

    Returns:
        None for a folder that is no spool, or no longer one.
    """
    header = read_header(folder)
    if not header:
        return None
    return _deliver(_OnLoan(_ReadOnly(folder), header, None), folder, uri, report, is_settled)


class _OnLoan(Spool):
    """A spool that another process owns: it is read, and left as it is."""

    def note(self, name: str, content: Record) -> None:
        """Keeps what the owner has not noted yet: it reads that when it gets there."""
        if not self.noted(name):
            super().note(name, content)


class _ReadOnly(Journal):
    """Its owner alone moves the cursor."""

    def set_cursor(self, place: Place) -> None:
        """Does nothing."""


def _deliver(
    spool: Spool, folder: Path, uri: str | None, report: Callable[[int], object], is_settled: bool
) -> Delivered:
    run: StoredRun | None = None
    records, problem = 0, ""
    try:
        run = StoredRun(spool, uri or _address(spool.header))
        run.open()
        while (batch := spool.read()).records:
            run.send(_still_true(batch.records, spool, is_settled))
            spool.advance(batch)
            records += len(batch.records)
            report(len(batch.records))
        if not is_settled:
            _end_if_lost(run, spool)
        run.retry_artifacts(at_once=True)
        if run.postponed:
            problem = f"artifacts wait for their storage: {run.artifact_problem}"
    except Exception as error:
        problem = one_line(error, run.uri if run else "")
    if run is None:  # there is no address to deliver to
        known = spool.header.get("run_id")
        return Delivered(folder, run_label(spool.header.get("run_name"), known), known, records, problem)
    return Delivered(folder, run.label, run.run_id, records, problem, run.rejected)


def deliver_those_of(uri: str, roots: Sequence[Path]) -> None:
    """Delivers what earlier processes left for the store at `uri`; what does not work stays for `adaloss sync`."""
    for folder in waiting_for(uri, roots):
        with contextlib.suppress(Exception):
            deliver(folder, uri)
    remove_former_root()


def discard(folder: Path) -> None:
    """Deletes a spool that no living process owns, undelivered."""
    spool = Spool.adopt(folder)
    if spool is None:
        raise StoreError(f"Cannot discard {folder}: its process is still running, or it is no spool.")
    spool.close(delete=True)


def _address(header: Record) -> str:
    """The store of a spool. A password is never in it: it comes from the environment."""
    uri, here = str(header["tracking_uri"]), resolve_uri()
    if storable(here) == uri:
        return here
    if header.get("lacks_password") and not any(os.environ.get(name) for name in _CREDENTIALS):
        raise StoreError(
            f"The address {uri} had a user name and password, which are never written down. Set MLFLOW_TRACKING_URI to "
            "it, give it as --tracking-uri, or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
        )
    return uri


def _still_true(records: list[Record], spool: Spool, is_settled: bool) -> list[Record]:
    # Drop a stale RUNNING; do not end a run that another process has resumed.
    status = records[0].get("status")
    is_stale = status is not None and (is_settled or any(_others_alive(spool)))
    return [] if status == "RUNNING" or is_stale else records


def _end_if_lost(run: StoredRun, spool: Spool) -> None:
    if spool.header.get("is_owner") and not any(_others_alive(spool)):
        run.end_if_running("KILLED")


def _others_alive(spool: Spool) -> Iterator[Path]:
    """Other spools of the same run, whose processes live or have more to deliver."""
    assert spool.folder is not None
    mine = {spool.header.get("run_key"), spool.noted("run").get("run_id"), spool.header.get("run_id")} - {None}
    for folder in waiting([spool.folder.parent, *spool_roots()]):
        header = read_header(folder)
        if folder != spool.folder and mine & {header.get("run_key"), header.get("run_id")}:
            yield folder


_PATIENCE_S = 30.0  # without a record delivered
_TICK_S = 0.05


def catch_up(uri: str, ended: Collection[str]) -> list[str]:
    """Delivers what waits for the store at `uri`, for as long as the store takes it; raises nothing.

    Args:
        uri: The store.
        ended: Identifiers of runs that are over, which the store knows. What they logged is delivered even where their
            process lives: it may be held up by its last call to a server that has come back since.

    Returns:
        A sentence for what still waits and one for what the store refused, as far as there is any.
    """
    done: list[Delivered] = []
    problems: list[str] = []
    try:
        folders = waiting_for(uri, spool_roots())
        if folders and not _in_time(folders, uri, ended, done):
            problems.append(f"{redacted(uri)} does not answer")
    except Exception as error:  # the sweep is done, and nothing here may hide that
        problems.append(str(error) or type(error).__name__)
    problems += [delivered.problem for delivered in done if delivered.problem]
    refused = [entry for delivered in done for entry in delivered.rejected]
    sentences = []
    if problems:
        sentences.append(f"Part of what runs have logged still waits: {problems[0]}. Deliver it with: adaloss sync")
    if refused:
        sentences.append(f"The store refused of what waited: {'; '.join(refused)}")
    return sentences


def _in_time(folders: Sequence[Path], uri: str, ended: Collection[str], done: list[Delivered]) -> bool:
    with progress("delivering", "record") as bar:
        # A call to a server that hangs cannot be ended. It is left to a thread that dies with the process.
        work = Thread(
            target=_deliver_each, args=(folders, uri, ended, done, bar.update), name="mlflow-catch-up", daemon=True
        )
        work.start()
        reached, since = (0, 0), time.monotonic()
        while work.is_alive() and time.monotonic() - since < _PATIENCE_S:
            work.join(_TICK_S)
            if reached != (bar.n, len(done)):
                reached, since = (bar.n, len(done)), time.monotonic()
        return not work.is_alive()


def _deliver_each(
    folders: Sequence[Path], uri: str, ended: Collection[str], done: list[Delivered], report: Callable[[int], object]
) -> None:
    for folder in folders:
        try:
            is_settled = read_header(folder).get("run_id") in ended
            delivered = deliver(folder, uri, report, is_settled=is_settled)
            if delivered is None and is_settled:
                delivered = deliver_beside(folder, uri, report, is_settled=True)
        except Exception as error:  # whatever it is, the other spools must not wait for this one
            delivered = Delivered(folder, run_label("", None), None, 0, str(error) or type(error).__name__)
        if delivered is not None:
            done.append(delivered)
