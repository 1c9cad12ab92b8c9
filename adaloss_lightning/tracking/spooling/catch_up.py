"""Delivering what waits on the spot, for a person who wants to see it: the points of a sweep that has just ended."""

import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from threading import Thread

from adaloss_lightning.tracking.address import redacted
from adaloss_lightning.tracking.names import run_label
from adaloss_lightning.tracking.progress import progress
from adaloss_lightning.tracking.spooling.leftovers import Delivered, deliver, deliver_beside, waiting_for
from adaloss_lightning.tracking.spooling.spool import read_header, spool_roots

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
            target=_deliver, args=(folders, uri, ended, done, bar.update), name="mlflow-catch-up", daemon=True
        )
        work.start()
        reached, since = (0, 0), time.monotonic()
        while work.is_alive() and time.monotonic() - since < _PATIENCE_S:
            work.join(_TICK_S)
            if reached != (bar.n, len(done)):
                reached, since = (bar.n, len(done)), time.monotonic()
        return not work.is_alive()


def _deliver(
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
