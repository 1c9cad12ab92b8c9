"""How a sweep hands out runs to loggers that it does not build itself."""

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager

_joined_run: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar("joined_run", default=None)


@contextmanager
def joined_run(tracking_uri: str, run_id: str) -> Iterator[None]:
    """Loggers built inside the block write to this run, whatever their arguments say."""
    token = _joined_run.set((tracking_uri, run_id))
    try:
        yield
    finally:
        _joined_run.reset(token)


def run_to_join() -> tuple[str, str] | None:
    """Store and identifier of the run that a logger built now is to write to; None outside of all blocks."""
    return _joined_run.get()
