"""Spools that another process left behind: killed, or gone while its store was away."""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

from adaloss_lightning.tracking.address import redacted, storable
from adaloss_lightning.tracking.errors import StoreError, one_line
from adaloss_lightning.tracking.logger.records import End, Header, Record, Running
from adaloss_lightning.tracking.logger.run_end import status_of_lost, status_to_deliver
from adaloss_lightning.tracking.logger.spool import Spool, read_header, remove_former_root, spool_roots
from adaloss_lightning.tracking.logger.stored_run import StoredRun
from adaloss_lightning.tracking.names import run_label
from adaloss_lightning.tracking.store import resolve_uri
from adaloss_lightning.tracking.terminal import progress

OVER = "over"  # note of a spool whose run logs no more
OWNED = "owned"  # note of a spool whose process has resumed the run after an end
PATIENCE_S = 30.0  # for a store that takes nothing, where a person waits
_TICK_S = 0.05
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
        is_borrowed: The spool stays with its process, which lives.
    """

    folder: Path
    run: str
    run_id: str | None
    records: int
    problem: str
    rejected: list[str] = field(default_factory=list)
    is_borrowed: bool = False


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
    """Whether the run of a spool logs no more, so that any process may deliver what waits there."""
    return (folder / f"{OVER}.json").exists()


def is_left(folder: Path) -> bool:
    """Whether a spool is to be delivered by any process: its run logs no more, or its own process is gone."""
    if is_over(folder):
        return True
    spool = Spool.adopt(folder)
    if spool is not None:
        spool.close(delete=False)
    return spool is not None


def deliver(
    folder: Path,
    uri: str | None = None,
    report: Callable[[int], object] = lambda count: None,
    *,
    is_settled: bool = False,
    borrow: bool = False,
) -> Delivered | None:
    """Delivers the spool of a process that has ended; once everything has arrived, the folder is deleted.

    Args:
        folder: The spool.
        uri: Store to deliver to. None takes the one the run was logged to.
        report: Called with the number of records of each batch that is delivered.
        is_settled: A sweep has decided how the run ended.
        borrow: Delivers also what waits in a spool whose process lives, for a run that logs no more. The spool stays
            with that process; what it delivers once more is stored once.

    Returns:
        None for a spool whose process lives or that another process delivers at this moment, and for what is no spool.
    """
    spool = Spool.adopt(folder)
    is_borrowed = spool is None and borrow
    if is_borrowed:
        spool = Spool.borrow(folder)
    if spool is None:
        return None
    run: StoredRun | None = None
    records, problem = 0, ""
    try:
        run = StoredRun(spool, uri or _address(spool.header))
        run.open()
        while (batch := spool.read()).records:
            run.send([record for record in batch.records if _is_still_true(record, spool, folder, is_settled)])
            spool.advance(batch)
            records += len(batch.records)
            report(len(batch.records))
        has_successor = _has_successor(spool, folder)
        is_owner = bool(spool.header.get("is_owner") or spool.noted(OWNED))
        if status := status_of_lost(is_owner=is_owner, is_settled=is_settled, has_successor=has_successor):
            run.end_if_running(status)
        run.retry_artifacts(at_once=True)
        if run.postponed:
            problem = f"artifacts wait for their storage: {run.artifact_problem}"
    except Exception as error:
        problem = one_line(error, run.uri if run else "")
    spool.close(delete=not problem)
    if run is None:  # there is no address to deliver to
        known = spool.header.get("run_id")
        return Delivered(folder, run_label(spool.header.get("run_name"), known), known, records, problem)
    return Delivered(folder, run.label, run.run_id, records, problem, run.rejected, is_borrowed)


def _is_still_true(record: Record, spool: Spool, folder: Path, is_settled: bool) -> bool:
    if not isinstance(record, Running | End):
        return True
    has_successor = _has_successor(spool, folder)
    return status_to_deliver(record.status, is_settled=is_settled, has_successor=has_successor) is not None


def _has_successor(spool: Spool, folder: Path) -> bool:
    """Whether another spool of the same run is there, whose process lives or has more to deliver."""
    mine = {spool.header.get("run_key"), spool.noted("run").get("run_id"), spool.header.get("run_id")} - {None}
    others = [read_header(other) for other in waiting([folder.parent, *spool_roots()]) if other != folder]
    return any(mine & {header.get("run_key"), header.get("run_id")} for header in others)


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


def _address(header: Header) -> str:
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
        while work.is_alive() and time.monotonic() - since < PATIENCE_S:
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
            delivered = deliver(folder, uri, report, is_settled=is_settled, borrow=is_settled)
        except Exception as error:  # whatever it is, the other spools must not wait for this one
            delivered = Delivered(folder, run_label("", None), None, 0, str(error) or type(error).__name__)
        if delivered is not None:
            done.append(delivered)
