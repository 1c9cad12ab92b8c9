"""Many copies of one small model, trained at once: their parameters lie along a new first dimension.

The forward and the backward of all copies are one call each of ``torch.func.vmap``, which is where a small model spends
its time. The step is not done anew here: each copy has an optimizer of its own, of the very class that it would have
alone, over views of its share of the parameters. So whatever a method does (a loss that is not finite, weight decay,
channels of AdaGrad-Norm) it does here too.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map

from adaloss_lightning.rate_adaptive import B0, RateAdaptive
from adaloss_lightning.validation import require_number

_PREFIX = "module."


class _Method(nn.Module):
    """A method of a module as the forward of another one: ``functional_call`` calls nothing else."""

    def __init__(self, module: nn.Module, name: str) -> None:
        super().__init__()
        self.module = module
        self.name = name

    def forward(self, batch: Any) -> Any:
        return getattr(self.module, self.name)(batch)


class Stack:
    """Copies of a module, `points` of them, each with values of its own.

    Buffers are stacked too, so each copy keeps the running statistics of its own BatchNorm. What draws random numbers
    in its forward (dropout that is on) is refused by ``vmap`` with a ``RuntimeError``: the copies would not draw what
    each would draw alone.

    Args:
        modules: Where each point starts: modules of one architecture, of which one may serve several points.

    Raises:
        ValueError: There are none, or their parameters differ in name, shape or dtype.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        if not modules:
            raise ValueError("Invalid modules=[]. Must be at least one.")
        self._module = modules[0]
        parameters = _alike([dict(module.named_parameters()) for module in modules])
        self._trained = [name for name, same in parameters.items() if same[0].requires_grad]
        self._parameters = {name: torch.stack([p.detach() for p in same]) for name, same in parameters.items()}
        buffers = _alike([dict(module.named_buffers()) for module in modules])
        self._buffers = {name: torch.stack(same) for name, same in buffers.items()}
        # Detached, so that an optimizer may write into them; the memory is that of the stack.
        self._views = [
            {name: stacked[point] for name, stacked in self._parameters.items()} for point in range(len(modules))
        ]
        for name in self._trained:
            self._parameters[name] = self._parameters[name].detach().requires_grad_()
        # Gradients lie as the parameters do, or the fused kernels could not be used.
        self._gradients = {name: torch.zeros_like(self._parameters[name]) for name in self._trained}
        self._shares = {name: gradient.unbind() for name, gradient in self._gradients.items()}

    def __len__(self) -> int:
        """How many points there are."""
        return len(self._views)

    def optimizer(self, point: int, template: RateAdaptive, module: nn.Module, b0: float) -> RateAdaptive:
        """An optimizer like `template`, for one point.

        Args:
            point: Its number.
            template: An optimizer of parameters of `module` that has not stepped. It stays as it is.
            module: Of the architecture of the stack.
            b0: Where b of this point starts, > 0, in every group.

        Raises:
            ValueError: The template has stepped, has parameters that are not the module's, or cannot start at `b0`.
        """
        require_number("b0", b0, above=0)
        shares = {id(p): self._views[point][name] for name, p in module.named_parameters()}
        if template.stepped or template.state:
            raise ValueError("Invalid template. Must be an optimizer that has not stepped.")
        if not all(id(p) in shares for group in template.param_groups for p in group["params"]):
            raise ValueError("Invalid template. Must have parameters of the module, and no others.")
        optimizer = copy.deepcopy(template, dict(shares))
        for group in optimizer.param_groups:
            optimizer._validate({**group, B0: b0})
            group[B0] = b0
            for evolving in optimizer._evolving:
                group.pop(evolving, None)
            optimizer._adopt(group)
        return optimizer

    def losses(self, name: str, batches: Sequence[Any], source: Sequence[int]) -> Tensor:
        """What the method `name` of each copy returns for its batch, in training mode, ready for :meth:`backward`.

        Args:
            name: Of a method that takes a batch and returns the loss, 0-dim.
            batches: One or more, of tensors of the same shapes.
            source: Which of them each point sees.

        Returns:
            Shape `[points]`.
        """
        self._module.train()
        losses: Tensor = self._call(name, batches, source)
        return losses

    @torch.no_grad()
    def evaluate(self, name: str, batches: Sequence[Any], source: Sequence[int]) -> Any:
        """The same in evaluation mode and without gradients, for a method that returns tensors of any shapes."""
        self._module.eval()
        return self._call(name, batches, source)

    def _call(self, name: str, batches: Sequence[Any], source: Sequence[int]) -> Any:
        method = _Method(self._module, name)
        shared = len(batches) == 1
        batch = batches[0] if shared else tree_map(lambda *same: _chosen(same, source), *batches)

        def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Any) -> Any:
            state = {_PREFIX + key: value for key, value in (parameters | buffers).items()}
            return functional_call(method, state, (batch,))

        return vmap(call, in_dims=(0, 0, None if shared else 0))(self._parameters, self._buffers, batch)

    def backward(self, losses: Tensor) -> None:
        """Gives the parameters of each point the gradient of its own loss."""
        stacked = [self._parameters[name] for name in self._trained]
        # The gradient of the sum is each point's own: no loss depends on another point's parameters.
        gradients = torch.autograd.grad(losses.sum(), stacked, allow_unused=True)
        for name, gradient in zip(self._trained, gradients, strict=True):
            if gradient is not None:
                self._gradients[name].copy_(gradient)
            for view, share in zip(self._views, self._shares[name], strict=True):
                view[name].grad = None if gradient is None else share

    def state_dict(self, point: int) -> dict[str, Tensor]:
        """Copies of the parameters and buffers of one point, under the names that they have in the module."""
        buffers = {name: stacked[point] for name, stacked in self._buffers.items()}
        return {name: value.detach().clone() for name, value in (self._views[point] | buffers).items()}


def _chosen(same: Sequence[Any], source: Sequence[int]) -> Any:
    return torch.stack([same[index] for index in source])


def _alike(named: Sequence[dict[str, Tensor]]) -> dict[str, list[Tensor]]:
    """The tensors of each name."""
    described = [{name: (tensor.shape, tensor.dtype) for name, tensor in one.items()} for one in named]
    if any(one != described[0] for one in described):
        raise ValueError("Invalid modules. Must be of one architecture: their tensors differ in name, shape or dtype.")
    return {name: [one[name] for one in named] for name in named[0]}
