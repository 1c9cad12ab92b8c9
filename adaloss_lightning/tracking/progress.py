"""Progress of what is done at the terminal."""

import sys

from tqdm import tqdm

_SILENT_S = 3.0  # what is over sooner needs no progress bar


def progress(what: str, unit: str, total: int | None = None) -> "tqdm[None]":
    """A bar on the terminal for what may take long; it appears after a few seconds and goes when it is done."""
    return tqdm(total=total, desc=what, unit=unit, delay=_SILENT_S, leave=False, file=sys.stderr, dynamic_ncols=True)
