"""Spools that a process left behind: killed, or gone while its store was away."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adaloss_lightning.tracking.address import storable
from adaloss_lightning.tracking.errors import StoreError, one_line
from adaloss_lightning.tracking.spooling.batch import Record
from adaloss_lightning.tracking.spooling.journal import Journal, Place
from adaloss_lightning.tracking.spooling.spool import Spool, read_header, spool_root
from adaloss_lightning.tracking.spooling.stored_run import StoredRun
from adaloss_lightning.tracking.store import resolve_uri

_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")


@dataclass(frozen=True)
class Delivered:
    """What became of one spool.

    Attributes:
        folder: The spool; it is gone when nothing is left.
        run_name: Name of its run, for people.
        run_id: The run, as soon as the store has told.
        records: Number of records delivered now.
        problem: Why records are left; empty when none are.
        rejected: Entries the store refused, and why.
    """

    folder: Path
    run_name: str
    run_id: str | None
    records: int
    problem: str
    rejected: list[str]


def waiting(root: Path | None = None) -> list[Path]:
    """Folders of all spools under `root`, oldest first, those of living processes too.

    Args:
        root: None takes the usual place, `spool_root()`.
    """
    root = root or spool_root()
    return sorted(path.parent for path in root.glob("*/header.json"))


def waiting_for(uri: str, root: Path) -> list[Path]:
    """Those of `waiting` whose runs were logged to the store at `uri`."""
    return [folder for folder in waiting(root) if read_header(folder).get("tracking_uri") == storable(uri)]


def deliver(
    folder: Path,
    uri: str | None = None,
    report: Callable[[int], object] = lambda count: None,
    *,
    is_settled: bool = False,
) -> Delivered | None:
    """Delivers the spool of a process that has ended; once everything has arrived, the folder is deleted.

    A run whose process died without a word is KILLED, unless somebody goes on with it.

    Args:
        folder: The spool.
        uri: Store to deliver to. None takes the one the run was logged to.
        report: Called with the number of records of each batch that is delivered.
        is_settled: The store knows how the run ended, and from somebody who knows it better than the spool.

    Returns:
        None for a spool whose process lives, or which another one delivers at this moment.
    """
    spool = Spool.adopt(folder)
    if spool is None:
        return None
    delivered = _deliver(spool, folder, uri, report, is_settled)
    spool.close(delete=not delivered.problem)
    return delivered


def deliver_beside(folder: Path, uri: str | None, report: Callable[[int], object]) -> Delivered | None:
    """Delivers what waits in a spool whose process lives, and leaves the spool to that process.

    What its process delivers once more is stored once.

    Args:
        folder: The spool of a run that logs no more, and of which the store knows how it ended.
        uri: As for `deliver`.
        report: As for `deliver`.

    Returns:
        None for a folder that is no spool, or no longer one.
    """
    header = read_header(folder)
    return _deliver(_OnLoan(_ReadOnly(folder), header, None), folder, uri, report, is_settled=True) if header else None


class _OnLoan(Spool):
    """A spool that somebody else owns: it is read, and left as it is."""

    def note(self, name: str, content: Record) -> None:
        """Does nothing: the owner keeps notes of its own."""


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
        spool.note("run", {"run_id": run.run_id})
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
    name, known = str(spool.header.get("run_name") or ""), spool.header.get("run_id")
    return Delivered(folder, name, run.run_id if run else known, records, problem, run.rejected if run else [])


def deliver_those_of(uri: str, root: Path) -> None:
    """Delivers what earlier processes left for the store at `uri`; what does not work stays for `adaloss sync`."""
    for folder in waiting_for(uri, root):
        with contextlib.suppress(Exception):
            deliver(folder, uri)


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
    # That it runs is true no longer, and its end says nothing about a run that another process has gone on with since.
    status = records[0].get("status")
    is_over = status is not None and (is_settled or any(_others_alive(spool)))
    return [] if status == "RUNNING" or is_over else records


def _end_if_lost(run: StoredRun, spool: Spool) -> None:
    if spool.header.get("is_owner") and not any(_others_alive(spool)):
        run.end_if_running("KILLED")


def _others_alive(spool: Spool) -> Iterator[Path]:
    """Other spools of the same run, whose processes live or have more to deliver."""
    assert spool.folder is not None
    mine = {spool.header.get("run_key"), spool.noted("run").get("run_id"), spool.header.get("run_id")} - {None}
    for folder in waiting(spool.folder.parent):
        header = read_header(folder)
        if folder != spool.folder and mine & {header.get("run_key"), header.get("run_id")}:
            yield folder
