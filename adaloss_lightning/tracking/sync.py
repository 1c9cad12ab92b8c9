"""`adaloss sync`: delivers what trainings left in the spool."""

import sys
from pathlib import Path

from tqdm import tqdm

from adaloss_lightning.tracking.impatience import impatient
from adaloss_lightning.tracking.spooling.leftovers import Delivered, deliver, discard, waiting
from adaloss_lightning.tracking.spooling.spool import spool_root


def sync(tracking_uri: str | None, root: Path | None, *, discard_rest: bool = False) -> int:
    """Delivers every spool that no living process owns, oldest first, and says what became of each.

    Args:
        tracking_uri: Store to deliver to; None takes for each spool the one its training logged to.
        root: Folder of the spools; None takes the usual place.
        discard_rest: Deletes what cannot be delivered.

    Returns:
        Exit code: 0 when nothing is left but what living trainings own, 1 otherwise.
    """
    root = root or spool_root()
    folders = waiting(root)
    if not folders:
        print(f"Nothing waits in {root}.")
        return 0
    left = 0
    for folder in folders:
        with (
            impatient(),
            tqdm(desc=folder.name, unit="record", file=sys.stderr, dynamic_ncols=True, leave=False) as bar,
        ):
            delivered = deliver(folder, tracking_uri, bar.update)
        if delivered is None:
            print(f"{folder.name}: its training is running and delivers by itself")
            continue
        print(_sentence(delivered))
        if delivered.problem and discard_rest:
            discard(folder)
            print(f"{folder.name}: discarded")
        elif delivered.problem:
            left += 1
    if left:
        print(
            f"{left} of {len(folders)} are still in {root}. Run adaloss sync again when their store is back. "
            "To give them up: adaloss sync --discard"
        )
    return 1 if left else 0


def _sentence(delivered: Delivered) -> str:
    run = " ".join(part for part in (delivered.run_name, delivered.run_id) if part) or "a run not yet created"
    parts = [f"{delivered.folder.name}: {delivered.records} records delivered to {run}"]
    if delivered.problem:
        parts.append(f"the rest stays: {delivered.problem}")
    if delivered.rejected:
        parts.append(f"refused by the store: {'; '.join(delivered.rejected)}")
    return "; ".join(parts)
