"""Limits of waiting: for an event, and never longer than a hang lasts.

A loaded machine may take a minute for what takes a second alone. No limit here says how fast anything is to be.
"""

import time
from collections.abc import Callable

HANG_S = 900.0  # what has not happened by then never will


def wait_for(condition: Callable[[], object], seconds: float = HANG_S) -> None:
    """Waits until the condition holds; fails when it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)


# Two agents of torchrun take each other for dead after 15 s without a word, unless they are told otherwise.
RENDEZVOUS = f"--rdzv-conf=join_timeout={HANG_S:.0f},read_timeout={HANG_S:.0f},keep_alive_max_attempt={HANG_S / 5:.0f}"
