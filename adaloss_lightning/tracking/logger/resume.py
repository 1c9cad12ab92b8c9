"""The run a logger writes to: one that a sweep hands out, or that of the checkpoint which a fit resumes."""

import contextvars
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning_utilities.core.rank_zero import rank_zero_only

from adaloss_lightning.tracking.logger.lightning_internals import fit_in_progress

if TYPE_CHECKING:
    from adaloss_lightning.tracking.logger.mlflow_logger import BufferedMLFlowLogger

log = logging.getLogger(__name__)

RUN_STATE = "mlflow_run"  # key in the checkpoint
RunState: TypeAlias = Mapping[str, str | None]
Place: TypeAlias = tuple[str, str]  # a store's address, as it may be written down, and an experiment

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


class CheckpointsRun:
    """Finds the run of the checkpoint that a logger continues; the file is read once.

    Args:
        logger: The logger.
        resume_from: The checkpoint. None: the one that `fit` resumes; False: none.
    """

    def __init__(self, logger: "BufferedMLFlowLogger", resume_from: str | Path | Literal[False] | None) -> None:
        self._logger, self._resume_from = logger, resume_from
        self._path = ""
        self._state: RunState = {}

    def state(self) -> RunState:
        """The state of the run that the logger continues; an empty one where it continues none, and on other ranks."""
        from adaloss_lightning.tracking.logger.mlflow_logger import BufferedMLFlowLogger

        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # set by Lightning
            return {}
        path, loggers = self._resume_from, [self._logger]
        if path is None and (fit := fit_in_progress()) is not None:
            trainer, path = fit
            loggers = [other for other in trainer.loggers if isinstance(other, BufferedMLFlowLogger)]
            if self._logger not in loggers:  # a callback's own, say: the checkpoint knows nothing of it
                return {}
        if path and self._path != str(path):
            states = match_states(read_run_states(path), [other.place for other in loggers])
            self._path, self._state = str(path), states[loggers.index(self._logger)]
        return self._state if path else {}


def read_run_states(path: str | Path) -> list[RunState]:
    """The states in a checkpoint, one for each logger of its trainer.

    Empty, and reported, where there are none: training then gets a new run.
    """
    try:
        return states_in(_read(path))
    except KeyError:
        reason = (
            "it does not say which. Checkpoints do with the callback RememberRun (from adaloss_lightning.tracking "
            "import RememberRun)"
        )
    except Exception as error:  # whatever is wrong with the file, Lightning reports it when it loads it
        reason = type(error).__name__
    log.warning("Cannot continue the MLflow run of the checkpoint %s: %s. A new run starts.", path, reason)
    return []


def _read(path: str | Path) -> Any:
    system = get_filesystem(path)  # as Lightning opens it: the path may be an address
    file = str(system._strip_protocol(str(path)))
    if system.isdir(file):  # a sharded strategy's
        file = f"{file}/meta.pt"
    reader = SimpleNamespace(__name__="reader", Unpickler=_Reader, load=pickle.load)
    load = partial(torch.load, map_location="cpu", weights_only=False, pickle_module=reader)
    if "file" in system.protocol:
        return load(file, mmap=True)
    with system.open(file, "rb") as stream:
        return load(stream)


def states_in(checkpoint: Mapping[str, object]) -> list[RunState]:
    """The states in a loaded checkpoint.

    Raises:
        KeyError: It has none.
    """
    states = checkpoint[RUN_STATE]
    return states if isinstance(states, list) else [states]  # type: ignore[list-item]  # one before 0.2


class _Anything(dict[Any, Any]):
    """Stands for an object of any class: it is built of anything and holds nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None: ...

    def append(self, item: object) -> None: ...

    def extend(self, items: object) -> None: ...

    __hash__ = object.__hash__  # type: ignore[assignment]


class _Reader(pickle.Unpickler):
    """Reads a checkpoint's dicts, lists and texts alone: no class of it is imported and no code of it runs."""

    def find_class(self, module: str, name: str) -> Callable[..., object]:
        return _inner_class if name == "getattr" else _Anything


def _inner_class(outer: object, name: str) -> type:
    """What a pickle gets of a class in which another one is defined."""
    return _Anything


def match_states(states: Sequence[RunState], places: Sequence[Place]) -> list[RunState]:
    """For each place the state of the run there; an empty one for a place that has none.

    A state that no place fits is taken by the first place left over: a store may have another address today.
    """
    left = list(states)
    found: dict[int, RunState] = {}
    for shared in (2, 1, 0):  # store and experiment, the store alone, neither
        for index, place in enumerate(places):
            state = next((state for state in left if _place_of(state)[:shared] == place[:shared]), None)
            if index not in found and state is not None:
                found[index] = state
                left.remove(state)
    return [found.get(index, {}) for index in range(len(places))]


def _place_of(state: RunState) -> Place:
    return str(state.get("tracking_uri")), str(state.get("experiment"))
