"""Parameter groups as vectors, for arithmetic that is done once and not once a group."""

from collections.abc import Sequence
from operator import is_
from typing import Any

import torch
from torch import Tensor

from adaloss_lightning.optim.engine.wrapper import PREFIX, Group

S = PREFIX + "s"  # accumulator: 0-dim, float64, on the device of the group's parameters
RATE = PREFIX + "effective_lr"  # learning rate of the last step, None before the first
_NUMBERS = frozenset((float, int))


def are_numbers(values: Sequence[object]) -> bool:
    """Whether all are Python's own numbers; a thousand take as long to ask as one tensor operation."""
    return _NUMBERS.issuperset(map(type, values))


class Column:
    """The tensors that the groups hold under one key, as the elements of one vector.

    A group's 0-dim tensor and its element of the vector are the same memory, so an operation on the vector is one for
    all groups. Where a group holds another tensor (a loaded checkpoint, an added group), the vector is made again.

    Args:
        key: Of the groups.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._elements: list[Tensor] = []
        self._addresses: list[int] = []
        self._vector: Tensor = torch.empty(0)
        self._memory: Any = self._vector

    def vector(self, groups: Sequence[Group]) -> Tensor | None:
        """Shape `[len(groups)]`; None where they lie on several devices."""
        held = [group[self._key] for group in groups]
        if len(held) == len(self._elements) and all(map(is_, held, self._elements)):
            return self._vector
        if any(one.device != held[0].device or one.dtype != held[0].dtype for one in held):
            return None
        self.put(groups, torch.stack(held))
        return self._vector

    def memory(self, groups: Sequence[Group]) -> Any | None:
        """The vector for the host's own arithmetic: `tolist()` and item assignment; None where it is not on the CPU.

        A NumPy array, which costs a tenth of a tensor to read or write; the vector itself where there is no NumPy.
        """
        vector = self.vector(groups)
        if vector is None or not vector.is_cpu:
            return None
        if self._addresses != list(map(Tensor.data_ptr, self._elements)):  # `.data` was set, or the tensor shared
            self.put(groups, torch.stack(self._elements))
        return self._memory

    def put(self, groups: Sequence[Group], vector: Tensor) -> None:
        """Hands each group its element of `vector`."""
        self._vector, self._elements = vector, list(vector.unbind())
        for group, element in zip(groups, self._elements, strict=True):
            group[self._key] = element
        if vector.is_cpu:
            self._addresses = list(map(Tensor.data_ptr, self._elements))
            try:
                self._memory = vector.numpy()
            except RuntimeError:
                self._memory = vector


class Vectors:
    """What the parameter groups of one optimizer hold, as vectors.

    A vector of numbers is kept on its device until one of them changes.
    """

    def __init__(self) -> None:
        self.s = Column(S)
        self.rates = Column(RATE)
        self._kept: dict[str, tuple[list[Any], Tensor]] = {}

    def merged(self, groups: Sequence[Group], keys: Sequence[str] | None, like: Tensor) -> Group | None:
        """One group for all: under each key one value where the groups agree, a vector where they do not.

        Args:
            groups: They have all of the keys.
            keys: What is needed of them: numbers, tensors of one element, or text. None: they cannot be one.
            like: Its dtype and device are those of the vectors.

        Returns:
            None where they cannot be one: texts that differ, numbers beside tensors, tensors on another device.
        """
        if keys is None:
            return None
        merged = {}
        for key in keys:
            merged[key] = self._one(key, [group[key] for group in groups], like)
            if merged[key] is None:
                return None
        return merged

    def _one(self, key: str, values: list[Any], like: Tensor) -> Any | None:
        first = values[0]
        if are_numbers(values):
            if values.count(first) == len(values):
                return first
        elif isinstance(first, Tensor):
            is_alike = all(
                isinstance(x, Tensor) and x.device == like.device and x.dtype == first.dtype and x.numel() == 1
                for x in values
            )
            return torch.stack([x.reshape(()) for x in values]).to(like.dtype) if is_alike else None
        else:
            is_one_text = isinstance(first, str) and values.count(first) == len(values)
            return first if is_one_text else None
        before, vector = self._kept.get(key, ([], like))
        if values != before or vector.device != like.device:
            vector = torch.tensor(values, dtype=like.dtype, device=like.device)
            self._kept[key] = (values, vector)
        return vector
