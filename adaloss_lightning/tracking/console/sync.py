"""`adaloss sync`: delivers what runs left in the spool."""

import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from adaloss_lightning.tracking.logger.recovery import Delivered, deliver, discard, is_over, waiting
from adaloss_lightning.tracking.logger.spool import remove_former_root, spool_roots
from adaloss_lightning.tracking.retry import impatient


def sync(tracking_uri: str | None, root: Path | None, *, discard_rest: bool = False) -> int:
    """Delivers every spool but those of runs in progress, oldest first, and reports each.

    Args:
        tracking_uri: Store to deliver to; None takes for each spool the one its run was logged to.
        root: Folder of the spools; None takes the usual places.
        discard_rest: Deletes what cannot be delivered.

    Returns:
        Exit code: 0 when nothing is left but what runs in progress own, 1 otherwise.
    """
    roots = [root] if root else spool_roots()
    folders = waiting(roots)
    if not folders:
        print(f"Nothing waits in {roots[0]}.")
    left = 0
    for folder in folders:
        with (
            impatient(),
            tqdm(desc=folder.name, unit="record", file=sys.stderr, dynamic_ncols=True, leave=False) as bar,
        ):
            # Its process may live, and be held up by a call to a server that was away.
            delivered = deliver(folder, tracking_uri, bar.update, borrow=is_over(folder))
        if delivered is None:
            if folder.exists():
                print(f"{folder.name}: its run is in progress and delivers by itself")
            continue
        print(_sentence(delivered))
        if delivered.problem and discard_rest and not delivered.is_borrowed:
            discard(folder)
            print(f"{folder.name}: discarded")
        elif delivered.problem:
            left += 1
    if left:
        where = f" --spool {shlex.quote(str(root))}" if root else ""
        print(
            f"{left} of {len(folders)} are still in {roots[0]}. Run adaloss sync{where} again when their store is "
            f"back. To give them up: adaloss sync{where} --discard"
        )
    remove_former_root()
    return 1 if left else 0


def _sentence(delivered: Delivered) -> str:
    parts = [f"{delivered.folder.name}: {delivered.records} records delivered to {delivered.run}"]
    if delivered.problem:
        parts.append(f"the rest stays: {delivered.problem}")
    if delivered.rejected:
        parts.append(f"refused by the store: {'; '.join(delivered.rejected)}")
    return "; ".join(parts)
