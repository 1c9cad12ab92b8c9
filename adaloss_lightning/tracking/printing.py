"""Printing to a reader that may leave early: `adaloss report | head`."""

import os
import sys


def show(text: str) -> None:
    """Prints at once. After the reader of a pipe has left, this and all that follows goes nowhere, without an error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # What is still in the buffer would raise at the end of the process.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
