"""One step in every way that the package can take it: the same numbers.

Oracle, reference, fast, on the device path, wrapper and resumed, over every method, layout, dtype and number of groups.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt
from adaloss_lightning.optim.recurrence import reference_step
from tests import oracle
from tests.oracle import LossDriven, NormDriven, NormDrivenPerChannel, TimeDriven, Weights
from tests.properties.strategies import (
    LAYOUTS,
    TOLERANCE,
    Layout,
    channels_last,
    contiguous,
    expanded,
    numbers,
    on_device_path,
    transposed,
    values,
)

STEPS, B0 = 5, 0.7
ALPHA, C = 0.3, 2.5  # of the loss-driven methods
LOSSES = [1.5, 0.0, 4.25, -3.0, 2.5]  # to either side of c, and c itself
SHAPES = [(2, 3, 2, 2), (5,), (), (4, 3)]

PAIRS: list[tuple[Layout, Layout]] = [
    *((layout, layout) for layout in LAYOUTS), (transposed, contiguous), (channels_last, contiguous),
    (contiguous, expanded),
]  # fmt: skip

SGD: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.5},
    "nesterov": {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05},
    "maximize": {"maximize": True, "momentum": 0.9, "weight_decay": 0.1},
}
ADAM: dict[str, dict[str, Any]] = {
    "plain": {},
    "betas": {"betas": (0.8, 0.95), "eps": 1e-3},
    "amsgrad": {"amsgrad": True},
    "weight decay": {"weight_decay": 0.1},
    "decoupled weight decay": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "maximize": {"maximize": True, "weight_decay": 0.1},
}


@dataclass
class Case:
    """A method, the base that is below it, and what drives it."""

    fast: Callable[..., Any]
    base: Callable[..., torch.optim.Optimizer]
    options: dict[str, Any]
    drive: str = "loss"  # or "norm", "channel", or "time"
    rule: Any = "adaloss"
    own: dict[str, Any] = field(default_factory=dict)
    divisor: Callable[[int], float] = lambda t: math.nan

    @property
    def keywords(self) -> dict[str, Any]:
        loss = {"alpha": ALPHA, "c": C} if self.drive == "loss" else {}
        return {"b0": B0, **self.options, **loss, **self.own}

    @property
    def written_out(self) -> tuple[float, float, float]:
        """b0, alpha and c as the paper has them, where alpha="auto" is short for some."""
        c = self.own.get("c", C)
        if "alpha" not in self.own:
            return B0, ALPHA, c
        unit = abs(LOSSES[0] - c)
        return (unit * B0, unit, c) if self.rule == "adaloss" else (B0, 1 / unit, c)

    @property
    def update(self) -> oracle.Update:
        return oracle.sgd if self.base is torch.optim.SGD else oracle.adam


def loss_driven(fast: Any, base: Any, rule: str, options: dict[str, Any], **own: Any) -> Case:
    return Case(fast, base, options, rule=rule, own=own)


def schedule(fast: Any, base: Any, divisor: Callable[[int], float], options: dict[str, Any], **own: Any) -> Case:
    return Case(fast, base, options, "time", own=own, divisor=divisor)


ADAM_OF_OURS = {"betas": (0.9, 0.99)}
CASES: dict[str, Case] = {
    **{f"AdaLoss {name}": loss_driven(AdaLoss, torch.optim.SGD, "adaloss", own) for name, own in SGD.items()},
    **{
        f"AdamLoss {name}": loss_driven(AdamLoss, torch.optim.Adam, "adamloss", ADAM_OF_OURS | own)
        for name, own in ADAM.items()
    },
    "AdaLoss gradient": loss_driven(AdaLoss, torch.optim.SGD, "adaloss", SGD["nesterov"], scale="gradient"),
    "AdamLoss gradient": loss_driven(AdamLoss, torch.optim.Adam, "adamloss", ADAM_OF_OURS, scale="gradient"),
    "AdaLoss auto": loss_driven(AdaLoss, torch.optim.SGD, "adaloss", SGD["nesterov"], alpha="auto", c=-0.7),
    "AdamLoss auto": loss_driven(AdamLoss, torch.optim.Adam, "adamloss", ADAM_OF_OURS, alpha="auto", c=-0.7),
    "AdaGradNorm": Case(AdaGradNorm, torch.optim.SGD, SGD["nesterov"], "norm"),
    "AdaGradNorm channel": Case(
        AdaGradNorm, torch.optim.SGD, {"weight_decay": 0.1}, "channel", own={"granularity": "channel"}
    ),
    "SGDDecaySqrt": schedule(SGDDecaySqrt, torch.optim.SGD, lambda t: math.sqrt(B0**2 + t), SGD["momentum"]),
    "SGDDecaySqrt gradient": schedule(
        SGDDecaySqrt, torch.optim.SGD, lambda t: math.sqrt(B0**2 + t), SGD["nesterov"], scale="gradient"
    ),
    "SGDDecaySqrt linear": schedule(
        SGDDecaySqrt, torch.optim.SGD, lambda t: B0 + 1.5 * math.sqrt(t), SGD["plain"], form="linear", c_s=1.5
    ),
    "AdamSqrt": schedule(AdamSqrt, torch.optim.Adam, lambda t: math.sqrt(B0 + t), ADAM_OF_OURS),
}


class Run:
    """The parameters of one way, in groups of their own rates, and their gradients.

    Args:
        groups: 1, 2, or more: then each has one vector.
        layouts: Of parameters and of gradients.
    """

    def __init__(self, groups: int, dtype: torch.dtype, layouts: tuple[Layout, Layout]) -> None:
        shapes = [SHAPES] if groups == 1 else [SHAPES[:1], SHAPES[1:]] if groups == 2 else [[(3,)]] * groups
        self.layouts = layouts
        self.parameters = [
            [Parameter(layouts[0](values(10 * i + j, shape, dtype))) for j, shape in enumerate(group)]
            for i, group in enumerate(shapes)
        ]
        self.etas = [0.3 / (1 + i % 3) for i in range(len(shapes))]
        self.groups = [{"params": p, "lr": eta} for p, eta in zip(self.parameters, self.etas, strict=True)]

    @property
    def flat(self) -> list[Parameter]:
        return [p for group in self.parameters for p in group]

    def give_gradients(self, step: int) -> list[list[list[float]]]:
        for index, p in enumerate(self.flat):
            p.grad = self.layouts[1](values(1000 * (step + 1) + index, tuple(p.shape), p.dtype))
        return [[numbers(p.grad) for p in group if p.grad is not None] for group in self.parameters]

    def train(self, optimizer: Any, steps: range) -> None:
        for step in steps:
            self.give_gradients(step)
            optimizer.step(loss=LOSSES[step])


def by_oracle(case: Case, run: Run) -> list[list[float]]:
    groups = [[Weights(numbers(p)) for p in group] for group in run.parameters]
    count, options = len(groups), {key: value for key, value in case.options.items() if key != "fused"}
    whole: Any
    each: list[Any] = []
    if case.drive == "norm":
        whole = NormDriven([B0] * count, run.etas, groups, [options] * count)
    elif case.drive == "channel":
        channels = [[p.shape[0] if p.dim() else 1 for p in group] for group in run.parameters]
        whole = NormDrivenPerChannel([B0] * count, run.etas, groups, [options] * count, channels)
    elif case.drive == "time":
        each = [
            TimeDriven(case.update, eta, case.divisor, g, options, case.own.get("scale", "lr"))
            for eta, g in zip(run.etas, groups, strict=True)
        ]
    else:
        scale, (b0, alpha, c) = case.own.get("scale", "lr"), case.written_out
        each = [
            LossDriven(case.update, eta, b0, case.rule, g, alpha, c, scale, options)
            for eta, g in zip(run.etas, groups, strict=True)
        ]
    for step, loss in enumerate(LOSSES):
        gradients = run.give_gradients(step)
        if each:
            for group, own in zip(each, gradients, strict=True):
                group.step(loss, own)
        else:
            whole.step(gradients)
    return [weights.values for group in groups for weights in group]


def by_reference(case: Case, run: Run) -> list[Tensor]:
    base = case.base(run.groups, lr=7.0, foreach=False, fused=False, **case.options)
    time = case.drive == "time"
    linear = case.own.get("form") == "linear"
    b0, alpha, c = case.written_out
    start = 0.0 if linear else b0**2 if case.rule == "adaloss" and case.fast is not AdamSqrt else b0
    s = [start] * len(run.groups)
    if case.drive != "loss":
        alpha, c = 1.0, 0.0
    divisor = {"divisor": lambda s: B0 + 1.5 * math.sqrt(s)} if linear else {}
    for step, loss in enumerate(LOSSES):
        gradients = run.give_gradients(step)
        square = math.fsum(g * g for group in gradients for gradient in group for g in gradient)
        signal = 1.0 if time else square if case.drive == "norm" else loss
        s = reference_step(base, s, signal, alpha=alpha, c=c, **divisor)
    return [p.detach() for p in run.flat]


def check(case: Case, groups: int, dtype: torch.dtype, layouts: tuple[Layout, Layout]) -> None:
    def run() -> Run:
        return Run(groups, dtype, layouts)

    fast, device, resumed = run(), run(), run()
    optimizer = case.fast(fast.groups, **case.keywords)
    fast.train(optimizer, range(STEPS))
    on_device = on_device_path(case.fast(device.groups, **case.keywords))
    device.train(on_device, range(STEPS))

    first = case.fast(resumed.groups, **case.keywords)
    resumed.train(first, range(2))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = case.fast([{"params": group} for group in resumed.parameters], **case.own)
    second.load_state_dict(torch.load(file, weights_only=True))
    resumed.train(second, range(2, STEPS))
    assert all(torch.equal(p, q) for p, q in zip(resumed.flat, fast.flat, strict=True))
    for name in ("b", "effective_lr"):
        own = getattr(optimizer, name)
        assert all(map(torch.equal, own, getattr(second, name)))
        # a root of a tensor may be off by its last bit
        torch.testing.assert_close(own, getattr(on_device, name), rtol=1e-14, atol=0)

    ways: dict[str, list[Tensor]] = {"device": [p.detach() for p in device.flat]}
    expected = [torch.tensor(x, dtype=torch.float64) for x in by_oracle(case, run())]
    ways["oracle"] = [x.reshape(p.shape).to(dtype) for x, p in zip(expected, fast.flat, strict=True)]
    if case.drive != "channel" and "scale" not in case.own:
        ways["reference"] = by_reference(case, run())
    if layouts == (contiguous, contiguous):
        for flags in ({"foreach": False, "fused": False}, {"foreach": True}, {"fused": True}):
            asked = run()
            asked.train(case.fast(asked.groups, **case.keywords, **flags), range(STEPS))
            ways[str(flags)] = [p.detach() for p in asked.flat]
    if case.drive == "loss":
        wrapped = run()
        base = case.base(wrapped.groups, lr=7.0, foreach=False, fused=False, **case.options)
        own = {"alpha": ALPHA, "c": C, **case.own}
        wrapped.train(LossAdaptive(base, b0=B0, rule=case.rule, **own), range(STEPS))
        ways["wrapper"] = [p.detach() for p in wrapped.flat]
    close = TOLERANCE[dtype]
    for name, weights in ways.items():
        for p, q in zip(fast.flat, weights, strict=True):
            torch.testing.assert_close(
                p.detach(), q, rtol=close, atol=close, msg=lambda text, way=name: f"{way}: {text}"
            )


LAID: list[tuple[Layout, Layout, torch.dtype]] = [
    *((*pair, torch.float64) for pair in PAIRS),
    *((layout, layout, dtype) for dtype in (torch.float32, torch.bfloat16) for layout in (contiguous, channels_last)),
]


@pytest.mark.parametrize(("of_parameter", "of_gradient", "dtype"), LAID)
@pytest.mark.parametrize("name", CASES)
def test_every_way_gives_the_same_step(
    name: str, of_parameter: Layout, of_gradient: Layout, dtype: torch.dtype
) -> None:
    many = (20,) if of_parameter is of_gradient is contiguous else ()
    for groups in (1, 2, *many):
        check(CASES[name], groups, dtype, (of_parameter, of_gradient))
