"""Statements of the paper and of its public code, on a small problem and around any base."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt
from adaloss_lightning.optim.recurrence import reference_step

STEPS = 30

# Both sides are float64 and differ only in the order of a few roundings (2e-16 each) over 30 contracting steps.
CLOSE = {"rtol": 1e-12, "atol": 1e-13}


class LeastSquares:
    """Mean over rows of 1/2 ||x W + v - y||^2: two parameters."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
        self.x, self.y = draw(8, 5), 3 * draw(8, 3)
        self.start = [draw(5, 3), draw(3)]

    def parameters(self) -> list[Parameter]:
        return [Parameter(w.clone()) for w in self.start]

    def loss(self, weights: list[Any]) -> Tensor:
        return 0.5 * ((self.x @ weights[0] + weights[1] - self.y) ** 2).sum() / len(self.x)

    def backward(self, parameters: list[Parameter]) -> Tensor:
        """The loss; its gradients are in the parameters."""
        for p in parameters:
            p.grad = None
        loss = self.loss(parameters)
        loss.backward()
        return loss

    def train(self, optimizer: Any, parameters: list[Parameter], steps: int) -> None:
        """``steps`` steps of ``optimizer``, which is given the loss at each."""
        for _ in range(steps):
            loss = self.backward(parameters)
            optimizer.step(loss=loss)


def check(parameters: list[Parameter], expected: list[Tensor], **tolerance: float) -> None:
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, **(tolerance or CLOSE))


@pytest.mark.parametrize(
    ("method", "base", "rate"),
    [(AdaLoss, torch.optim.SGD, 0.5 / 4.0), (AdamLoss, partial(torch.optim.Adam, betas=(0.9, 0.99)), 0.5 / 2.0)],
)
def test_alpha_0_is_a_constant_rate(method: Any, base: Any, rate: float) -> None:
    problem = LeastSquares()
    ours, theirs = problem.parameters(), problem.parameters()
    optimizer = method(ours, lr=0.5, b0=4.0, alpha=0.0)
    problem.train(optimizer, ours, STEPS)
    alone = base(theirs, lr=rate)
    for _ in range(STEPS):
        problem.backward(theirs)
        alone.step()
    check(ours, [p.detach() for p in theirs])
    assert optimizer.b[0].item() == 4.0


def test_adagrad_norm_per_channel_of_a_convolution_and_a_scalar() -> None:
    kernel, scalar = torch.randn(3, 2, 2, 2, dtype=torch.float64), torch.tensor(5.0, dtype=torch.float64)
    parameters = [Parameter(kernel.clone()), Parameter(scalar.clone())]
    optimizer = AdaGradNorm(parameters, lr=2.0, b0=3.0, granularity="channel")
    parameters[0].grad, parameters[1].grad = 2 * kernel, torch.tensor(4.0, dtype=torch.float64)
    optimizer.step()
    b = torch.sqrt(9 + (2 * kernel).flatten(1).square().sum(1)).reshape(3, 1, 1, 1)
    # one float64 division more or less
    torch.testing.assert_close(parameters[0].detach(), kernel - 2 / b * 2 * kernel, rtol=1e-14, atol=1e-14)
    assert parameters[1].item() == pytest.approx(5 - 2 / 5 * 4, rel=1e-14)


class ThreeBetas(Optimizer):
    """Stands for the optimizers outside torch whose settings have other shapes than torch's (Adan, AdEMAMix)."""

    def __init__(
        self, params: Any, lr: float = 0.1, betas: tuple[float, ...] = (0.9, 0.5, 0.1), eps: Any = None
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.mul_(group["betas"][0]).add_(p.grad, alpha=1 - group["betas"][0])
                p.sub_(mean * group["lr"])


BASES: dict[str, Callable[[Any], Optimizer]] = {
    "SGD": lambda params: torch.optim.SGD(params, momentum=0.9, weight_decay=0.1, nesterov=True),
    "SGD fused": lambda params: torch.optim.SGD(params, momentum=0.9, fused=True),
    "Adam": lambda params: torch.optim.Adam(params, weight_decay=0.1),
    "AdamW": lambda params: torch.optim.AdamW(params, weight_decay=0.1),
    "AdamW fused": lambda params: torch.optim.AdamW(params, fused=True),
    "AdamW foreach": lambda params: torch.optim.AdamW(params, foreach=True),
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "RMSprop": lambda params: torch.optim.RMSprop(params, alpha=0.95, momentum=0.5, centered=True),
    "Adagrad": torch.optim.Adagrad,
    "Adagrad fused": lambda params: torch.optim.Adagrad(params, fused=True),
    "Adadelta": torch.optim.Adadelta,
    "Adamax": torch.optim.Adamax,
    "ASGD": lambda params: torch.optim.ASGD(params, alpha=0.6),
    "Adafactor": torch.optim.Adafactor,
    **(
        {"Muon": lambda params: torch.optim.Muon([p for p in params if p.dim() == 2])}
        if hasattr(torch.optim, "Muon")
        else {}
    ),
    "one with other settings": ThreeBetas,
}


@pytest.mark.parametrize(("rule", "s"), [("adaloss", 0.7**2), ("adamloss", 0.7)])
@pytest.mark.parametrize("base", BASES)
def test_any_base_runs_at_eta_over_root_s(base: str, rule: Any, s: float) -> None:
    problem = LeastSquares()
    ours, theirs = problem.parameters(), problem.parameters()
    optimizer, alone = LossAdaptive(BASES[base](ours), b0=0.7, alpha=0.3, c=2.5, rule=rule), BASES[base](theirs)
    for group in (*optimizer.param_groups, *alone.param_groups):
        group["lr"] = 0.05
    problem.train(optimizer, ours, STEPS)
    accumulators = [s]
    for _ in range(STEPS):
        accumulators = reference_step(alone, accumulators, problem.backward(theirs).item(), alpha=0.3, c=2.5)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))  # the same code at the same rates
    assert {group["lr"] for group in optimizer.param_groups} == {0.05}


@pytest.mark.parametrize("base", ["RMSprop", "ASGD"])
def test_alpha_of_the_base_stays_its_own(base: str) -> None:
    parameters = LeastSquares().parameters()
    optimizer = LossAdaptive(BASES[base](parameters), alpha=0.0)
    assert optimizer.param_groups[0]["alpha"] == {"RMSprop": 0.95, "ASGD": 0.6}[base]
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step(loss=100.0)
    assert optimizer.b[0].item() == 1.0


def authors_scheme(
    parameters: list[Parameter], problem: LeastSquares, steps: int, lr: float, b0: float, **sgd: Any
) -> None:
    """As in the paper's public code: the loss is divided by b in front of plain SGD."""
    b2, optimizer = b0**2, torch.optim.SGD(parameters, lr=lr, **sgd)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = problem.loss(parameters)
        b2 += abs(loss.item())
        (loss / math.sqrt(b2)).backward()
        optimizer.step()


@pytest.mark.parametrize("b0", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("scale", ["lr", "gradient"])
def test_authors_scheme(scale: Any, b0: float) -> None:
    problem = LeastSquares(dtype=torch.float32)
    ours, theirs = problem.parameters(), problem.parameters()
    problem.train(AdaLoss(ours, lr=0.3, b0=b0, scale=scale), ours, 100)
    authors_scheme(theirs, problem, 100, lr=0.3, b0=b0)
    # float32: (loss / b).backward() rounds each gradient once more; relative to weights of order 1 that is 1e-7 a step
    # and contracts. With b0 = 0.01 the first steps reach weights of order 10.
    check(ours, [p.detach() for p in theirs], rtol=5e-6 if b0 == 0.01 else 1e-6, atol=5e-6 if b0 == 0.01 else 1e-6)


@pytest.mark.parametrize("sgd", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.1},
                                 {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
                                 {"momentum": 0.9, "dampening": 0.3}], ids=str)  # fmt: skip
def test_authors_scheme_by_scale_gradient(sgd: dict[str, Any]) -> None:
    problem = LeastSquares()
    ours, theirs, default = problem.parameters(), problem.parameters(), problem.parameters()
    problem.train(AdaLoss(ours, lr=0.3, b0=0.5, scale="gradient", **sgd), ours, 100)
    authors_scheme(theirs, problem, 100, lr=0.3, b0=0.5, **sgd)
    # float64 over 100 steps, the division by b before or after the backward pass
    check(ours, [p.detach() for p in theirs], rtol=1e-10, atol=1e-11)
    problem.train(AdaLoss(default, lr=0.3, b0=0.5, **sgd), default, 100)
    differs = max((a - b).abs().max().item() for a, b in zip(ours, default, strict=True)) > 1e-6
    assert differs == bool(sgd)  # with momentum or weight decay the two are different methods


def test_scale_gradient_leaves_the_gradients_as_they_were() -> None:
    problem = LeastSquares()
    parameters = problem.parameters()
    gradients = [torch.randn_like(p) for p in parameters]
    values = [g.clone() for g in gradients]
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g
    AdaLoss(parameters, scale="gradient").step(loss=3.0)
    assert all(p.grad is g and torch.equal(g, v) for p, g, v in zip(parameters, gradients, values, strict=True))


def test_groups_have_their_own_settings_and_accumulators() -> None:
    first, second = (Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(2))
    groups = [{"params": [first]},
              {"params": [second], "lr": 7.0, "adaloss_b0": 2.0, "adaloss_alpha": 3.0, "adaloss_c": 1.0}]  # fmt: skip
    optimizer = AdaLoss(groups, lr=1.0, b0=4.0)
    for step, (b_first, b_second) in enumerate(
        [(5.0, math.sqrt(4 + 3 * 8)), (math.sqrt(34), math.sqrt(4 + 3 * 16))], 1
    ):
        first.grad, second.grad = torch.ones_like(first), torch.ones_like(second)
        optimizer.step(loss=9.0)
        assert [b.item() for b in optimizer.b] == pytest.approx([b_first, b_second], rel=1e-15), step
        expected = [1 / b_first, 7 / b_second]
        assert [rate.item() for rate in optimizer.effective_lr] == pytest.approx(expected, rel=1e-15), step


def test_before_any_step() -> None:
    parameters = LeastSquares().parameters()
    assert AdaLoss(parameters, lr=3.0, b0=4.0).effective_lr[0].item() == 0.75
    adamloss = AdamLoss(parameters, lr=3.0, b0=4.0)
    assert (adamloss.b[0].item(), adamloss.effective_lr[0].item()) == (4.0, 1.5)
    assert adamloss.b[0].shape == adamloss.effective_lr[0].shape == ()
    assert LossAdaptive(torch.optim.RMSprop(parameters, lr=3.0), b0=4.0).effective_lr[0].item() == 0.75
    assert SGDDecaySqrt(parameters, lr=3.0, b0=4.0, form="linear").effective_lr[0].item() == 0.75


def test_baselines_ignore_the_loss() -> None:
    def run(method: Any, losses: list[Any], **settings: Any) -> list[Tensor]:
        problem = LeastSquares()
        parameters = problem.parameters()
        optimizer = method(parameters, **settings)
        for loss in losses:
            problem.backward(parameters)
            optimizer.step() if loss is None else optimizer.step(loss=loss)
        return [p.detach() for p in parameters]

    for method, settings in ((AdaGradNorm, {}), (AdaGradNorm, {"granularity": "channel"}), (SGDDecaySqrt, {}),
                             (SGDDecaySqrt, {"form": "linear"}), (AdamSqrt, {})):  # fmt: skip
        without = run(method, [None] * 3, **settings)
        assert all(map(torch.equal, without, run(method, [5.0, math.nan, torch.tensor(1e30)], **settings)))
