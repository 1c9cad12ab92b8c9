"""torch's SGD and Adam, with the fused kernel wherever it is right and never elsewhere.

torch's fused kernels walk the raw memory of parameter, gradient and state side by side. That is right only where all
three are dense and laid out alike; elsewhere (a strided slice as a parameter, a channels_last parameter whose gradient
is row-major) the stock optimizers give silently wrong numbers. Sparse gradients and complex parameters have no fused
kernel at all. So the choice is made with each group of parameters and looked at again at each step, when the gradients
are known. A group in which they turn out not to agree falls back to torch's default implementation and stays there.

Gathering the lists with one comprehension each, in place of torch's loop, costs less than the look at the layouts adds.
"""

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

Group = dict[str, Any]
_DEVICES = ("cpu", "cuda")  # where the fused kernels were measured to be right; fused=True asks for them elsewhere
WITHDRAWN = "adaloss_fused_withdrawn"  # saved with the group: a resumed run must not go back to the fused kernel
_STOPPABLE = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad)
_is_contiguous = torch.Tensor.is_contiguous

if TYPE_CHECKING:
    _Base = torch.optim.Optimizer
else:
    _Base = object


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one block of memory without gap or overlap, in whatever order of dimensions."""
    if tensor.layout is not torch.strided:
        return False
    if tensor.is_contiguous():
        return True
    order = sorted(range(tensor.dim()), key=lambda dim: (tensor.stride(dim), tensor.size(dim)), reverse=True)
    return tensor.permute(order).is_contiguous()


def same_layout(parameter: Tensor, other: Tensor) -> bool:
    """Whether element i in the memory of one is element i in the memory of the other, for a dense ``parameter``."""
    if other.layout is not torch.strided or other.shape != parameter.shape:
        return False
    pairs = zip(parameter.shape, parameter.stride(), other.stride(), strict=True)
    return all(mine == theirs for size, mine, theirs in pairs if size > 1)


def fits(parameters: Iterable[Tensor]) -> bool:
    """Whether the fused kernels may take these parameters, as far as can be said before there are gradients."""
    return all(
        not is_lazy(p) and p.is_floating_point() and p.device.type in _DEVICES and is_dense(p) for p in parameters
    )


def agree(*pairs: tuple[list[Tensor], list[Tensor]]) -> bool:
    """Whether the second list of each pair (gradients, state) lies in memory as the first, the parameters, does.

    Raises:
        TypeError: If a list holds None.
    """
    for parameters, others in pairs:  # the first of each: model.double() after the optimizer was built changes all
        if others and others[0] is not None and others[0].dtype != parameters[0].dtype:
            return False
    try:
        if all(map(_is_contiguous, chain.from_iterable(chain.from_iterable(pairs)))):
            return True
    except RuntimeError:  # a sparse tensor has no strides to speak of
        return False
    if any(other is None for _, others in pairs for other in others):  # behind the first that is not contiguous
        raise TypeError("a parameter has no gradient")
    return all(
        is_dense(parameter) and same_layout(parameter, other)
        for parameters, others in pairs
        for parameter, other in zip(parameters, others, strict=True)
    )


def withdraw_fused(base: torch.optim.Optimizer) -> None:
    """Settle now, before a step, which groups of ours go on with the fused kernel."""
    if isinstance(base, _FusedWhereRight):
        base.withdraw_fused()


def skips_on_device(base: torch.optim.Optimizer) -> bool:
    """Whether ``found_inf`` stops this base's next step on the device, parameters and state alike.

    It does in torch's fused kernels, which also read a tensor lr there; but SGD's new momentum buffers are left
    uninitialized by a first step that is stopped.
    """
    if not isinstance(base, _STOPPABLE) or not all(group.get("fused") for group in base.param_groups):
        return False
    return not isinstance(base, torch.optim.SGD) or not any(
        _starts_momentum(base, group) for group in base.param_groups
    )


def _starts_momentum(base: torch.optim.SGD, group: Group) -> bool:
    if group["momentum"] == 0 or (isinstance(base, SGD) and group["dampening"] == 0):  # ours starts with zeros
        return False
    return any(p.grad is not None and base.state[p].get("momentum_buffer") is None for p in group["params"])


class Gathered(NamedTuple):
    """The parameters of a group that have a gradient, with their gradients, their states and the state's tensors."""

    params: list[Tensor]
    grads: list[Tensor]
    states: list[dict[str, Any]]
    walked: dict[str, list[Tensor]]


class _FusedWhereRight(_Base):
    """Mixin: decides ``group["fused"]`` where the user left it at None, and withdraws it where it would be wrong."""

    _walked: tuple[str, ...]  # the state, besides parameter and gradient, whose memory the kernel walks

    def add_param_group(self, param_group: Group) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        self._choose(group)
        if group["fused"] and not all(p.is_floating_point() for p in group["params"]):
            del self.param_groups[-1]
            raise ValueError(
                "Invalid fused=True. Must be None or False for parameters that are not real floating point."
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self._choose(group)

    def _choose(self, group: Group) -> None:
        if (
            group["fused"] is None
            and not group["foreach"]
            and not group["differentiable"]
            and not group.get(WITHDRAWN)
            and self._allows_fused(group)
        ):
            group["fused"] = fits(group["params"]) or None

    def _allows_fused(self, group: Group) -> bool:
        return True

    def withdraw_fused(self) -> None:
        """Give up the fused kernel in each group whose gradients or state do not lie as the parameters do.

        ``GradScaler`` decides before the step whether the kernel will unscale, so it has to be known by then.
        """
        for group in self.param_groups:
            self._gather(group)

    def _gather(self, group: Group) -> Gathered | None:
        """What the kernel would walk, where it may: None for a group whose fused kernel is not used."""
        if not group["fused"]:
            return None
        params: list[Tensor] = group["params"]
        grads: list[Any] = [p.grad for p in params]
        try:
            right = agree((params, grads))
        except TypeError:  # parameters without a gradient
            params = [p for p in params if p.grad is not None]
            grads = [p.grad for p in params]
            right = agree((params, grads))
        states = list(map(self.state.__getitem__, params)) if right and self._has_state(group) else []
        walked = {key: [state[key] for state in states if state.get(key) is not None] for key in self._walked}
        for key, values in walked.items():
            owners = params if len(values) == len(params) else [p for p in params if self.state[p].get(key) is not None]
            right = right and (not values or agree((owners, values)))
        if not right:
            group["fused"], group[WITHDRAWN] = None, True
            return None
        return Gathered(params, grads, states, walked)

    def _has_state(self, group: Group) -> bool:
        return True


class SGD(_FusedWhereRight, torch.optim.SGD):
    """``torch.optim.SGD`` whose ``fused=None`` means: fused where it is right."""

    _walked = ("momentum_buffer",)

    def _has_state(self, group: Group) -> bool:
        return bool(group["momentum"] != 0)

    def _allows_fused(self, group: Group) -> bool:
        if any(hasattr(p, "placements") for p in group["params"]):  # a DTensor: torch shards fused Adam, not fused SGD
            return False
        # The first step takes g itself for the buffer, later ones momentum * buffer + (1 - dampening) * g. Without
        # dampening a buffer of zeros says the same, and then a first step that is skipped on the device does no harm.
        return bool(group["momentum"] == 0 or group["dampening"] == 0)

    def _init_group(
        self, group: Group, params: list[Tensor], grads: list[Tensor], momentum_buffer_list: list[Tensor | None]
    ) -> bool:
        gathered = self._gather(group)
        if gathered is not None and gathered.states and group["dampening"] != 0:
            if 0 < len(gathered.walked["momentum_buffer"]) < len(gathered.states):
                group["fused"], group[WITHDRAWN] = None, True  # torch's kernel takes either all buffers or none
            gathered = None
        if gathered is None:
            return bool(super()._init_group(group, params, grads, momentum_buffer_list))  # type: ignore[no-untyped-call]
        params += gathered.params
        grads += gathered.grads
        buffers = gathered.walked["momentum_buffer"]
        if len(buffers) < len(gathered.states):
            # torch leaves a new buffer uninitialized when found_inf skips its first step (GradScaler's first overflow)
            buffers = [
                torch.zeros_like(p) if state.get("momentum_buffer") is None else state["momentum_buffer"]
                for p, state in zip(gathered.params, gathered.states, strict=True)
            ]
        momentum_buffer_list += buffers
        return False


class Adam(_FusedWhereRight, torch.optim.Adam):
    """``torch.optim.Adam`` whose ``fused=None`` means: fused where it is right."""

    _walked = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    def _init_group(
        self, group: Group, params_with_grad: list[Tensor], grads: list[Tensor], *lists: list[Tensor]
    ) -> bool:
        gathered = self._gather(group)
        if gathered is None or not all(gathered.states):  # torch makes the state on a parameter's first gradient
            return bool(super()._init_group(group, params_with_grad, grads, *lists))  # type: ignore[no-untyped-call]
        params_with_grad += gathered.params
        grads += gathered.grads
        *moments, steps = lists
        for key, values in zip(self._walked, moments, strict=True):
            values += gathered.walked[key] if key != "max_exp_avg_sq" or group["amsgrad"] else []
        steps += [state["step"] for state in gathered.states]
        return False
