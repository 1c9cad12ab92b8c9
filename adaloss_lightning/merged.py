"""All parameter groups as one, for arithmetic that is done once and not once a group."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from adaloss_lightning.accumulator import are_numbers
from adaloss_lightning.wrapper import Group


class MergedGroup:
    """Settings of all groups under their own keys: one value where the groups agree, a vector where they do not.

    A vector of numbers is kept on its device until one of them changes.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[list[Any], Tensor]] = {}

    def of(self, groups: Sequence[Group], keys: Iterable[str], like: Tensor) -> Group | None:
        """One group in the place of `groups`.

        Args:
            groups: They have all of the keys.
            keys: What is needed of them: numbers, tensors of one element, or text.
            like: Its dtype and device are those of the vectors.

        Returns:
            None where they cannot be one: texts that differ, numbers beside tensors, tensors on another device.
        """
        merged: Group = {}
        for key in keys:
            values = [group[key] for group in groups]
            value = self._one(key, values, like)
            if value is None:
                return None
            merged[key] = value
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
