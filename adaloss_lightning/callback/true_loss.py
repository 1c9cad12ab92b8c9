"""The true loss of one optimizer step, from what goes backward.

The step of an optimizer applies the gradient of the sum of the losses whose backward reached its parameters since its
gradients were last zeroed or used. So three things have to be known, and each is asked where it cannot lie: which
backward reaches which parameters (of autograd, by hooks), whether the gradients still hold what was added to them (of
the gradients), and when they are used (of the step itself).
"""

from collections import deque
from collections.abc import Mapping
from operator import is_not
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.ranks import PLACES, spans_ranks
from adaloss_lightning.optim.recurrence import Scalar, as_scalar


def unscaled(loss: Tensor, scaler: Any) -> Tensor:
    """The loss before ``GradScaler`` scaled it, by the scale in force now, without reading that scale on the host.

    ``scaler.get_scale()`` would read it; scaling a 1 gives the same number as a tensor.
    """
    if scaler is None or not scaler.is_enabled():
        return loss
    one = torch.ones((), dtype=torch.float32, device=loss.device)
    scale: Tensor = scaler.scale(one)
    return loss.detach().to(torch.float32) / scale


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


class Window:
    """The losses in the gradients of one optimizer, each with whether its backward reached the parameters.

    Args:
        gradients: Of that optimizer.
        filters: Whether to count only what reached the parameters: where there are several optimizers.
    """

    def __init__(self, gradients: Gradients, filters: bool) -> None:
        self.gradients = gradients
        self._filters = filters
        self.clear()

    def clear(self) -> None:
        """Start a new window: the gradients were zeroed or used."""
        self.gradients.forget()
        self.losses: list[Scalar] = []
        self.reached: list[bool] = []
        self._holds_unknown = False  # a backward that Lightning did not announce
        self._shares: Scalar = 0.0  # of an accumulation by Lightning that is not complete
        self._batches = 0

    def before_backward(self) -> None:
        """Look whether what is counted is still in the gradients."""
        if len(self.losses) > len(self.reached):
            self.after_backward()  # of a backward that an exception ended
        if self.gradients.watched:
            self.gradients.look_for_parameters()
        if self.holds_unknown() or self._batches or any(self.reached):
            holds = self.gradients.hold_their_content()
            if self._holds_unknown:
                holds = bool(holds)  # rare enough for a read
            if holds is False:
                self.clear()
            elif isinstance(holds, Tensor):
                self.losses = [torch.where(holds, torch.as_tensor(loss).to(holds.device), 0.0) for loss in self.losses]
                self._shares = torch.where(holds, torch.as_tensor(self._shares).to(holds.device), 0.0)

    def add(self, loss: Tensor) -> None:
        """Add a loss whose backward is under way; one of several numbers is none that a step could use."""
        if loss.numel() == 1:
            self.losses.append(_in_double(loss))
        else:
            self._holds_unknown = True

    def add_share(self, loss: Tensor, accumulated: int, is_new_batch: bool) -> None:
        """Add a micro-batch's loss, which Lightning has divided by ``accumulated``."""
        self._shares = self._shares + _in_double(loss) * accumulated
        self._batches += is_new_batch

    def complete_shares(self) -> None:
        """The accumulation ends: what counts is the mean over the batches that it really had."""
        if self._batches:
            self.losses.append(self._shares / self._batches)
            self.reached.append(True)
            self._shares, self._batches = 0.0, 0

    def after_backward(self) -> None:
        """Note whether the backward that ends has reached the parameters."""
        is_in = self.gradients.were_written() or not self._filters
        if len(self.losses) > len(self.reached):
            self.reached.append(is_in)
            if not is_in:
                self._forget_one_that_reached_nothing()
        if is_in:
            self.gradients.note()

    def _forget_one_that_reached_nothing(self) -> None:
        """Another rank may know better of the last few; without other ranks none is kept."""
        if not spans_ranks(None) or len(self.losses) > PLACES:
            index = self.reached.index(False)
            del self.losses[index], self.reached[index]

    def total(self) -> Scalar:
        """Sum of the losses, whatever they reached."""
        return sum(self.losses)

    @property
    def is_known(self) -> bool:
        """Whether it can be told which of the losses reached the parameters."""
        return not (self._filters and self.gradients.cannot_be_watched)

    def holds_unknown(self) -> bool:
        """Whether a backward that Lightning did not announce is in the gradients."""
        self._holds_unknown = self.gradients.were_written() or self._holds_unknown
        return self._holds_unknown


def _in_double(loss: Tensor) -> Scalar:
    value = as_scalar(loss)
    if isinstance(value, Tensor) and value.device.type != "mps":  # which has no float64
        value = value.double()
    return value
