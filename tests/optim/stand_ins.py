"""Optimizers with the manners of other people's packages, so that tests need not install those."""

import copy
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

Closure = Callable[[], Any] | None


class Descent(Optimizer):
    """SGD in three lines, for the others to change."""

    def __init__(self, params: Any, lr: Any = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def direction(self, p: Tensor) -> Tensor:
        assert p.grad is not None
        return p.grad

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * self.direction(p))
        return loss


class Sign(Descent):
    """Normalizes its gradient, as Lion."""

    def direction(self, p: Tensor) -> Tensor:
        return super().direction(p).sign()


class TrustRatio(Descent):
    """Normalizes its gradient, as Lamb and LARS."""

    def direction(self, p: Tensor) -> Tensor:
        g = super().direction(p)
        return g * p.norm() / g.norm().clamp(min=1e-12)


class ScheduleFree(Descent):
    """Has ``train`` and ``eval``, and steps in its training mode alone."""

    mode = "eval"

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"

    def step(self, closure: Closure = None) -> Any:
        if self.mode != "train":
            raise RuntimeError("call train() first")
        return super().step(closure)


class Curvature(Descent):
    """Takes another keyword in its step, as Sophia."""

    def step(self, closure: Closure = None, *, hessian: float = 1.0) -> Any:
        for group in self.param_groups:
            group["lr"] /= hessian
        try:
            return super().step(closure)
        finally:
            for group in self.param_groups:
                group["lr"] *= hessian


class TensorRate(Descent):
    """Refuses a rate that is no tensor, as torchao's low-bit optimizers."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, torch.tensor(lr))

    def step(self, closure: Closure = None) -> Any:
        if not all(isinstance(group["lr"], Tensor) for group in self.param_groups):
            raise RuntimeError("lr must stay a tensor")
        return super().step(closure)


class Compact(Descent):
    """Saves what little it needs, and loads it into the groups as they are."""

    def state_dict(self) -> dict[str, Any]:
        return {"rates": [group["lr"] for group in self.param_groups]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for group, lr in zip(self.param_groups, state_dict["rates"], strict=True):
            group["lr"] = lr


class OneRate(Descent):
    """Refuses groups whose rates differ, as Prodigy."""

    def step(self, closure: Closure = None) -> Any:
        if len({float(group["lr"]) for group in self.param_groups}) > 1:
            raise RuntimeError("all groups must have one lr")
        return super().step(closure)


class SharpnessAware(Descent):
    """Needs its closure although that has a default, as SAM."""

    def step(self, closure: Closure = None) -> Any:
        if closure is None:
            raise RuntimeError("needs a closure")
        return super().step(closure)


class UsesLoss(Descent):
    """Takes the loss for its step size, as MoMo."""

    def step(self, closure: Closure = None, loss: Any = None) -> Any:
        assert loss is not None
        return super().step(closure)


class Lookahead(Optimizer):
    """Pulls the weights of another optimizer back at each k-th step; lays its ``state_dict`` out in its own way.

    Like the real one it does not call ``Optimizer.__init__``.
    """

    def __init__(self, optimizer: Optimizer, k: int = 2) -> None:
        self.optimizer, self.k, self.steps = optimizer, k, 0
        self.defaults = optimizer.defaults
        self.state = defaultdict(dict)
        self._optimizer_step_pre_hooks: dict[int, Any] = OrderedDict()
        self._optimizer_step_post_hooks: dict[int, Any] = OrderedDict()
        self._patch_step_function()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["slow"] = p.detach().clone()

    @property
    def param_groups(self) -> Any:
        return self.optimizer.param_groups

    def step(self, closure: Closure = None) -> Any:
        loss = self.optimizer.step(closure)
        self.steps += 1
        if self.steps % self.k == 0:
            for p, values in self.state.items():
                values["slow"].lerp_(p.detach(), 0.5)
                p.data.copy_(values["slow"])
        return loss

    def state_dict(self) -> dict[str, Any]:
        slow = [values["slow"].clone() for values in self.state.values()]
        return {"slow": slow, "steps": self.steps, "inner": copy.deepcopy(self.optimizer.state_dict())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if set(state_dict) != {"slow", "steps", "inner"}:
            raise KeyError(f"unknown keys: {sorted(state_dict)}")
        self.optimizer.load_state_dict(state_dict["inner"])
        self.steps = state_dict["steps"]
        for values, slow in zip(self.state.values(), state_dict["slow"], strict=True):
            values["slow"] = slow.clone()
