"""Loaders that are read twice: for a trial first, and then by training as if for the first time."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, IterableDataset


def twin(loader: Any) -> Any:
    """A loader whose iteration does not move the one that training uses, but for its random numbers.

    Raises:
        ValueError: If the loader can be read once only.
    """
    dataset = getattr(loader, "dataset", None)
    if isinstance(loader, Iterator) or isinstance(dataset, Iterator):
        raise _once(loader)
    if not isinstance(loader, DataLoader):
        return loader if isinstance(loader, Sequence) else _whole_copy(loader, dataset)
    copied = copy.copy(loader)
    own = vars(copied)  # a DataLoader refuses a new sampler
    own["_iterator"] = None  # that of persistent workers
    if isinstance(dataset, IterableDataset):
        try:
            own["dataset"] = copy.deepcopy(dataset)  # it may count how far it was read
        except Exception as error:
            raise _once(loader) from error
    memo: dict[int, Any] = {id(dataset): own["dataset"]}
    for name in ("sampler", "batch_sampler"):  # some count their epochs
        try:
            own[name] = copy.deepcopy(own.get(name), memo)
        except Exception:  # what cannot be copied is used as it is
            continue
    return copied


def _whole_copy(loader: Any, dataset: Any) -> Any:
    """A loader of a kind that we do not know may keep its place in any of its members; rows by index have none."""
    try:
        return copy.deepcopy(loader, {id(dataset): dataset} if hasattr(dataset, "__getitem__") else {})
    except Exception as error:
        raise _once(loader) from error


def fresh(batch: Any) -> Any:
    """A batch that a step may write into, or take parts out of, without changing the one that is kept."""
    return tree_map(_own, batch)


def _own(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return leaf.clone()
    try:
        return copy.deepcopy(leaf)  # arrays, and batches of a class that torch does not know
    except Exception:  # what cannot be copied is used as it is
        return leaf


def _once(loader: Any) -> ValueError:
    return ValueError(
        f"{type(loader).__name__} can be read once only, so training would miss what a trial reads. Give a loader that "
        "can be gone through again"
    )
