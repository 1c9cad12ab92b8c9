"""MLflow runs in a checkpoint: those that it was logged to."""

import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from lightning.fabric.utilities.cloud_io import get_filesystem

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
