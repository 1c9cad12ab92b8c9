"""Every method of the package, and a small problem that gives the same gradients for the same weights."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.nn import Parameter

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt

Method = Callable[..., Any]

LOSS_DRIVEN: dict[str, Method] = {
    "AdaLoss": lambda params, **kw: AdaLoss(params, **kw),
    "AdaLoss momentum": lambda params, **kw: AdaLoss(params, momentum=0.9, **kw),
    "AdaLoss unfused": lambda params, **kw: AdaLoss(params, momentum=0.9, fused=False, **kw),
    "AdaLoss dampening": lambda params, **kw: AdaLoss(params, momentum=0.9, dampening=0.5, **kw),
    "AdaLoss gradient": lambda params, **kw: AdaLoss(params, momentum=0.9, scale="gradient", **kw),
    "AdamLoss": lambda params, **kw: AdamLoss(params, amsgrad=True, **kw),
    "AdamLoss unfused": lambda params, **kw: AdamLoss(params, fused=False, **kw),
    "LossAdaptive(SGD fused)": lambda params, lr=0.1, **kw: LossAdaptive(
        torch.optim.SGD(params, lr=lr, momentum=0.9, fused=True), **kw
    ),
    "LossAdaptive(AdamW)": lambda params, lr=0.1, **kw: LossAdaptive(torch.optim.AdamW(params, lr=lr), **kw),
    "LossAdaptive(AdamW fused)": lambda params, lr=0.1, **kw: LossAdaptive(
        torch.optim.AdamW(params, lr=lr, fused=True), **kw
    ),
    "LossAdaptive(RMSprop)": lambda params, lr=0.1, **kw: LossAdaptive(torch.optim.RMSprop(params, lr=lr), **kw),
    "LossAdaptive(Adagrad fused)": lambda params, lr=0.1, **kw: LossAdaptive(
        torch.optim.Adagrad(params, lr=lr, fused=True), **kw
    ),
    "LossAdaptive(RAdam) adamloss": lambda params, lr=0.1, **kw: LossAdaptive(
        torch.optim.RAdam(params, lr=lr), rule="adamloss", **kw
    ),
}
BASELINES: dict[str, Method] = {
    "AdaGradNorm": lambda params, **kw: AdaGradNorm(params, momentum=0.9, **kw),
    "AdaGradNorm channel": lambda params, **kw: AdaGradNorm(params, granularity="channel", momentum=0.9, **kw),
    "SGDDecaySqrt": lambda params, **kw: SGDDecaySqrt(params, momentum=0.9, **kw),
    "SGDDecaySqrt gradient": lambda params, **kw: SGDDecaySqrt(params, momentum=0.9, scale="gradient", **kw),
    "SGDDecaySqrt linear": lambda params, **kw: SGDDecaySqrt(params, form="linear", **kw),
    "AdamSqrt": lambda params, **kw: AdamSqrt(params, **kw),
}
METHODS = {**LOSS_DRIVEN, **BASELINES}


def make_parameters(dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 3), (5,), ()]
    return [Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)) for shape in shapes]


def give_gradients(params: list[Parameter], step: int, factor: float = 1.0) -> None:
    for index, p in enumerate(params):
        p.grad = factor * torch.sin(3 * p.detach() + index + step)


def train(optimizer: Any, params: list[Parameter], steps: Iterable[int]) -> None:
    """For each step: its gradients, and 0.5 + step as its loss."""
    for step in steps:
        give_gradients(params, step)
        optimizer.step(loss=0.5 + step)


@contextmanager
def one_rank() -> Iterator[DeviceMesh]:
    """A mesh of this process alone: its DTensors are what they are anywhere."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def snapshot(optimizer: Any, params: list[Parameter]) -> Any:
    """Everything that a step may change, copied."""
    groups = [
        {key: clone(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    states = [
        {key: clone(value) for key, value in optimizer.state[p].items()} if p in optimizer.state else {} for p in params
    ]
    return [p.detach().clone() for p in params], groups, states


def clone(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return [clone(item) for item in value] if isinstance(value, list) else value


def equal(first: Any, second: Any) -> bool:
    """Whether nested lists, dicts and tensors are equal bit for bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)
