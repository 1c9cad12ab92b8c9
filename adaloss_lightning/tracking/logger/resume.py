"""The run a logger writes to: one that a sweep hands out, or that of the checkpoint which a fit resumes.

Lightning asks a logger for its run while it sets up a fit, and loads the checkpoint afterwards. Which checkpoint that
is stands in the frame of `Trainer._fit_impl` alone.
"""

import contextvars
import logging
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, TypeAlias

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

_FIT, _FOLDER = "_fit_impl", "__resolve_ckpt_dir"


def fit_in_progress() -> tuple[Trainer, str | None] | None:
    """The trainer that fits in this thread and the checkpoint it resumes; None outside of `fit`."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == _FIT and "ckpt_path" in frame.f_locals:
            trainer: Trainer = frame.f_locals["self"]
            return trainer, checkpoint_to_resume(trainer, frame.f_locals["ckpt_path"])
        frame = frame.f_back
    return None


def is_for_checkpoint_folder() -> bool:
    """Whether a ModelCheckpoint asks the caller's caller: it makes a folder of `save_dir`, `name` and `version`."""
    return sys._getframe(2).f_code.co_name == _FOLDER


def checkpoint_to_resume(trainer: Trainer, given: str | Path | None) -> str | None:
    """Path of the checkpoint that `trainer.fit(ckpt_path=given)` resumes; None where it resumes none.

    Lightning looks for `last` in every callback's folder, and asks the logger for a folder that is not chosen yet: that
    starts the run which is to be found here. Such a folder is a new one and holds no checkpoint.
    """
    connector = trainer._checkpoint_connector
    if given is None and SLURMEnvironment.detect():
        given = connector._hpc_resume_path
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    faults = [callback for callback in callbacks if isinstance(callback, OnExceptionCheckpoint)]
    if given is None and faults:
        given = "last"
    if given == "hpc":
        given = connector._hpc_resume_path
    elif given == "best":
        given = getattr(trainer.checkpoint_callback, "best_model_path", None)
    elif given == "last":
        found: set[Any] = {callback.ckpt_path for callback in faults}
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
                found |= callback._find_last_checkpoints(trainer)
        there = [str(path) for path in found if get_filesystem(path).exists(str(path))]
        given = max(there, key=lambda path: get_filesystem(path).modified(path), default=None)
    return str(given) if given else None


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


log = logging.getLogger(__name__)

RUN_STATE = "mlflow_run"  # key in the checkpoint
RunState: TypeAlias = Mapping[str, str | None]
Place: TypeAlias = tuple[str, str]  # a store's address, as it may be written down, and an experiment


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
    for fits in (_is_there, _is_in_the_store, _is_anywhere):
        for index, place in enumerate(places):
            state = next((state for state in left if fits(state, place)), None)
            if index not in found and state is not None:
                found[index] = state
                left.remove(state)
    return [found.get(index, {}) for index in range(len(places))]


def _is_there(state: RunState, place: Place) -> bool:
    return (state.get("tracking_uri"), state.get("experiment")) == place


def _is_in_the_store(state: RunState, place: Place) -> bool:
    return state.get("tracking_uri") == place[0]


def _is_anywhere(state: RunState, place: Place) -> bool:
    return True
