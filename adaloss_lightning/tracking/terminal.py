"""The terminal: progress bars, and text for a reader that may leave early (`adaloss report | head`)."""

import os
import sys

from tqdm import tqdm

_SILENT_S = 3.0  # what is over sooner needs no progress bar


def progress(what: str, unit: str, total: int | None = None) -> "tqdm[None]":
    """A bar on the terminal for what may take long; it appears after a few seconds and goes when it is done."""
    return tqdm(total=total, desc=what, unit=unit, delay=_SILENT_S, leave=False, file=sys.stderr, dynamic_ncols=True)


def show(text: str) -> None:
    """Prints at once. After the reader of a pipe has left, this and all that follows goes nowhere, without an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is still in the buffer would raise at the end of the process.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
