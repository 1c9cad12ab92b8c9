"""LossDriven: s grows with the loss, in the loss's own unit or in units of the first one."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adaloss_lightning.optim import recurrence
from adaloss_lightning.optim.engine.groups import S, Vectors
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group
from adaloss_lightning.optim.method import Method
from adaloss_lightning.optim.recurrence import FLOOR, RULES, Rule, Scalar
from adaloss_lightning.optim.validation import require_alpha, require_choice, require_number

ALPHA = PREFIX + "alpha"
C = PREFIX + "c"
RULE = PREFIX + "rule"
FIRST = PREFIX + "first_loss"


class LossDriven(Method):
    """``s + alpha * |loss - c|``, and eta over the root of it; the loss in units of the first one on request.

    A group holds the first loss f_1 and not the unit ``|f_1 - c|``: groups differ in c, and one that is added later
    needs it. It is a float on the CPU, None before it is known; on an accelerator a 0-dim tensor, NaN before.
    """

    needs_loss = True
    evolving = (FIRST,)

    def settings(self, groups: Sequence[Group]) -> tuple[str, ...] | None:
        """Alpha and c, and what the unit is made of."""
        if not _is_auto(groups[0]):
            return ALPHA, C
        return (ALPHA, C, RULE, FIRST) if all(FIRST in group for group in groups) else None

    def rule(self, group: Group) -> Rule:
        """The rule that the optimizer was made with."""
        rule: Rule = group[RULE]
        return rule

    def validate(self, group: Group) -> None:
        """Raise ``ValueError`` for a setting that is out of its bounds."""
        require_alpha(group[ALPHA])
        require_number("c", group[C])
        require_choice("rule", group[RULE], RULES)
        super().validate(group)

    def signal(self, loss: Scalar | None, groups: Sequence[Group]) -> Scalar:
        """The loss."""
        return loss  # type: ignore[return-value]  # a step without one has been refused

    def advance(self, group: Group, s: Scalar, signal: Scalar) -> Scalar:
        """``s + alpha * |loss - c|``; with ``alpha="auto"`` ``s + |loss - c| / F``."""
        alpha = group[ALPHA]  # a number in most steps, so without another call
        return recurrence.advance(s, signal, self._alpha_of_unit(group) if isinstance(alpha, str) else alpha, group[C])

    def _alpha_of_unit(self, group: Group) -> Any:
        unit = _unit(group)
        if isinstance(unit, Tensor):
            return torch.where(unit.isnan(), 0.0, 1.0 / unit)
        return 0.0 if unit is None else 1.0 / unit

    def divisor(self, group: Group, s: Scalar) -> Scalar:
        """``sqrt(s)``; with ``alpha="auto"`` under ``"adaloss"`` ``F * sqrt(s)``, in the unit of the gradient."""
        root = recurrence.divisor(s)
        if not _is_auto(group) or group[RULE] == "adamloss":
            return root
        unit = _unit(group)
        if isinstance(unit, Tensor):
            unit = unit.nan_to_num(1.0)
        return root if unit is None else unit * root

    def b(self, group: Group, s: Scalar) -> Scalar:
        """The divisor under ``"adaloss"``, s under ``"adamloss"``."""
        return self.divisor(group, s) if group[RULE] == "adaloss" else s

    # -- the first loss ------------------------------------------------------------------------------------------------

    def adopt(self, group: Group, s: Tensor, groups: Sequence[Group]) -> None:
        """Give a group the first loss that the others know, and put it where its arithmetic is done."""
        if not _is_auto(group):
            group.pop(FIRST, None)
            return
        first = group.get(FIRST)
        if first is None:
            first = next((one[FIRST] for one in groups if one.get(FIRST) is not None), None)
        if s.is_cpu:
            group[FIRST] = _known(first, group)
        else:
            first = torch.as_tensor(math.nan if first is None else first).to(s, copy=True)
            group[FIRST] = torch.where((first - group[C]).abs() > FLOOR, first, math.nan)
        self.waits = self.waits or group[FIRST] is None or isinstance(group[FIRST], Tensor)

    def settle(self, groups: Sequence[Group], signal: float) -> None:
        """Take the first loss, where a group waits for one and this one is far enough from c."""
        own = list(filter(_is_auto, groups))
        for group, held in zip(own, list(map(_first, own)), strict=True):
            first = _known(held, group)
            group[FIRST] = _known(signal, group) if first is None else first
        self.waits = any(group[FIRST] is None for group in own)

    def settle_on_device(
        self, groups: Sequence[Group], vectors: Vectors, signal: Scalar, found_inf: Tensor | None
    ) -> None:
        """The same in tensors, at each step: the host does not know whether the first loss is there."""
        own = list(filter(_is_auto, groups))
        for group, first in zip(own, list(map(_first, own)), strict=True):
            if not isinstance(first, Tensor):
                group[FIRST] = torch.full_like(group[S], math.nan if first is None else first)
        together = vectors.merged(own, (C, FIRST), own[0][S]) if len(own) > 1 else None
        if together is not None:
            firsts = _settled(together, signal, found_inf)
            torch._foreach_copy_([group[FIRST] for group in own], firsts.unbind())
        else:
            for group in own:
                group[FIRST].copy_(_settled(group, signal, found_inf))


def _is_auto(group: Group) -> bool:
    return isinstance(group[ALPHA], str)


def _unit(group: Group) -> Any:
    """F; None or NaN as long as no loss was far enough from c."""
    first = _first(group)
    return None if first is None else abs(first - group[C])


def _first(group: Group) -> Any:
    """The first loss that a group knows.

    Raises:
        ValueError: If alpha was a number when the group was made: its s then counts in the loss's own unit.
    """
    if FIRST not in group:
        raise ValueError(
            f"Invalid alpha={group[ALPHA]!r} set in a parameter group that began with a number. Must stay a number: "
            "give alpha='auto' to the constructor or to add_param_group."
        )
    return group[FIRST]


def _known(first: Any, group: Group) -> float | None:
    """A first loss on the host; None where it makes no unit, or is none."""
    if first is None or not abs(float(first) - float(group[C])) > FLOOR:
        return None
    return float(first)


def _settled(group: Group, signal: Scalar, found_inf: Tensor | None) -> Tensor:
    """The first loss of a group, or of the vector of all, after this one."""
    with torch.no_grad():
        first: Tensor = group[FIRST]
        value = torch.as_tensor(signal, dtype=first.dtype).to(first.device, non_blocking=True)
        distance = (value - group[C]).abs()
        takes = first.isnan() & (distance > FLOOR) & (distance < math.inf)
        if found_inf is not None:
            takes = takes & (found_inf.to(first.device, non_blocking=True).reshape(()) == 0)
        return torch.where(takes, value, first)
