"""Gradients of one optimizer: which backward has written them, and whether they still hold what it wrote.

Each is asked where it cannot lie: autograd, by hooks, which backward reaches which parameters; the gradients themselves
whether anything of it is left.
"""

from collections import deque
from collections.abc import Mapping
from operator import is_not
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Gradients:
    """The gradients of one optimizer: which backward has written them, and whether they still hold what it wrote.

    Args:
        optimizer: The optimizer.
        unsharded: What :func:`unsharded_parameters` found.
        watched: Whether to hook the parameters, so that :meth:`were_written` can tell.
    """

    def __init__(self, optimizer: Optimizer, unsharded: Mapping[int, Any], watched: bool) -> None:
        self._optimizer = optimizer
        self._unsharded = unsharded
        self.watched = watched
        # A built-in method as the hook: autograd calls it in a tenth of a microsecond. One element is all we ask for.
        self._written: deque[Tensor] = deque(maxlen=1)
        self._handles: list[Any] = []
        self._parameters: list[Tensor] = []
        self._pending: list[Any] = []  # FSDP2's, whose unsharded parameter was not there yet
        self._leaves: list[Tensor] = []
        self._leaf: Tensor | None = None
        self._seen: tuple[Tensor, int] | None = None

    @property
    def cannot_be_watched(self) -> bool:
        """Whether a wrapper such as FSDP1 lets autograd write another tensor's gradient than these parameters'."""
        return any(
            getattr(p, "_fsdp_flattened", False) for group in self._optimizer.param_groups for p in group["params"]
        )

    def look_for_parameters(self) -> None:
        """Take in new parameters: those added or replaced in mid-training, or unsharded for the first time.

        Call it before each backward if they are watched; the rest looks by itself.
        """
        parameters = [p for group in self._optimizer.param_groups for p in group["params"]]
        if len(parameters) != len(self._parameters) or any(map(is_not, parameters, self._parameters)):
            self.close()  # the id of a parameter that is gone may be used again
            self._parameters, self._leaves, self._leaf = parameters, list(parameters), None
            self._pending = [self._unsharded[id(p)] for p in parameters if id(p) in self._unsharded]
            if self.watched:
                for p in parameters:
                    if id(p) not in self._unsharded:
                        self._hook(p)
        for one in [one for one in self._pending if hasattr(one, "_unsharded_param")]:
            self._pending.remove(one)
            self._leaves.append(one._unsharded_param)
            if self.watched:
                self._hook(one._unsharded_param)

    def _hook(self, leaf: Tensor) -> None:
        if not (leaf.is_floating_point() or leaf.is_complex()):
            return
        trains = leaf.requires_grad
        leaf.requires_grad_(True)  # torch hooks nothing else; a frozen one may be unfrozen later
        register: Any = leaf.register_post_accumulate_grad_hook
        self._handles.append(register(self._written.append))
        leaf.requires_grad_(trains)

    def were_written(self) -> bool:
        """Whether a backward has reached any of the parameters since this was asked last."""
        written = bool(self._written)
        self._written.clear()
        return written

    def note(self) -> None:
        """Remember one gradient as it is after a backward: :meth:`hold_their_content` is quick while it stays so."""
        if self._leaf is None or self._leaf.grad is None:
            self.look_for_parameters()
            self._leaf = next((leaf for leaf in self._leaves if leaf.grad is not None), None)
        gradient = None if self._leaf is None else self._leaf.grad
        self._seen = None if gradient is None else (gradient, gradient._version)

    def forget(self) -> None:
        """Let go of the gradient that was noted: it would live on beside the next one."""
        self._seen = None

    def hold_their_content(self) -> bool | Tensor:
        """Whether anything of what was added to the gradients is still in them: on an accelerator a 0-dim tensor.

        They are empty where each is None, and where each is zero after a write.
        """
        self.look_for_parameters()
        if self._seen is not None and self._leaf is not None:
            gradient, version = self._seen
            if self._leaf.grad is gradient and gradient._version == version:
                return True
        gradients = [_local(leaf.grad) for leaf in self._leaves if leaf.grad is not None]
        if all(gradient.is_cpu for gradient in gradients):
            return any(bool(gradient.any()) for gradient in gradients)
        return torch.stack([gradient.any() for gradient in gradients]).any()

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _local(gradient: Tensor) -> Tensor:
    """The numbers of a gradient that lie on this rank, as a plain tensor."""
    if hasattr(gradient, "to_local"):
        gradient = gradient.to_local()
    return gradient._values() if gradient.is_sparse else gradient


def unsharded_parameters(module: nn.Module) -> dict[int, Any]:
    """What FSDP2 keeps for each sharded parameter of ``module``, by the parameter's ``id``.

    FSDP2 lets autograd write the gradient of an unsharded parameter, which exists from its first forward on (its
    attribute ``_unsharded_param``). The sharded gradient follows at the reduce-scatter: not before the last backward of
    an accumulation, and then for what earlier backwards have left, too.
    """
    sharded: list[Any] = [one for one in module.modules() if hasattr(one, "_get_fsdp_state")]
    states = [one._get_fsdp_state() for one in sharded]
    # one group a state in older versions of torch, several in newer ones
    groups = [
        group
        for state in states
        for group in (state._fsdp_param_groups if hasattr(state, "_fsdp_param_groups") else [state._fsdp_param_group])
    ]
    return {id(one.sharded_param): one for group in groups if group is not None for one in group.fsdp_params}
