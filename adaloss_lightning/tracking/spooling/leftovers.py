"""Spools that a process left behind: killed, or gone while its store was away."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from adaloss_lightning.tracking.address import storable
from adaloss_lightning.tracking.errors import StoreError, one_line
from adaloss_lightning.tracking.names import run_label
from adaloss_lightning.tracking.spooling.batch import Record
from adaloss_lightning.tracking.spooling.journal import Journal, Place
from adaloss_lightning.tracking.spooling.spool import Spool, read_header, remove_former_root, spool_roots
from adaloss_lightning.tracking.spooling.stored_run import StoredRun
from adaloss_lightning.tracking.store import resolve_uri

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
