"""The paper's equations and torch's documented formulas as one slow loop, independent of both packages.

It takes the elements of a parameter one by one, as Python floats, so that memory layouts, dtypes, kernels and vectors
of groups cannot be wrong in the same way. A whole float64 tensor may stand for an element where that is enough.
Every update is elementwise: it takes a weight, its gradient, its memory (a dict that starts empty) and the rate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

Number = Any  # a float, or a float64 tensor
Memory = dict[str, Any]
Update = Callable[..., Any]


def sqrt(x: Number) -> Number:
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def larger(x: Number, y: Number) -> Number:
    return torch.maximum(torch.as_tensor(x, dtype=y.dtype), y) if isinstance(y, Tensor) else max(x, y)


def sgd(
    w: Number, g: Number, memory: Memory, rate: float, *, momentum: float = 0.0, dampening: float = 0.0,
    nesterov: bool = False, weight_decay: float = 0.0, maximize: bool = False,
) -> Number:  # fmt: skip
    g = (-g if maximize else g) + weight_decay * w
    if momentum:
        memory["v"] = momentum * memory["v"] + (1 - dampening) * g if "v" in memory else g
        g = g + momentum * memory["v"] if nesterov else memory["v"]
    return w - rate * g


def adam(
    w: Number, g: Number, memory: Memory, rate: float, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
    weight_decay: float = 0.0, decoupled_weight_decay: bool = False, amsgrad: bool = False, maximize: bool = False,
) -> Number:  # fmt: skip
    g = -g if maximize else g
    if decoupled_weight_decay:
        w = w - rate * weight_decay * w
    else:
        g = g + weight_decay * w
    t = memory["t"] = memory.get("t", 0.0) + 1
    m = memory["m"] = betas[0] * memory.get("m", 0.0) + (1 - betas[0]) * g
    v = memory["v"] = betas[1] * memory.get("v", 0.0) + (1 - betas[1]) * g * g
    largest = memory["largest"] = larger(memory.get("largest", 0.0), v)
    second = (largest if amsgrad else v) / (1 - math.pow(betas[1], t))
    return w - rate * m / (1 - math.pow(betas[0], t)) / (sqrt(second) + eps)


adamw: Update = partial(adam, weight_decay=1e-2, decoupled_weight_decay=True)


def rmsprop(
    w: Number, g: Number, memory: Memory, rate: float, *, alpha: float = 0.99, eps: float = 1e-8,
    weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False,
) -> Number:  # fmt: skip
    g = g + weight_decay * w
    v = memory["v"] = alpha * memory.get("v", 0.0) + (1 - alpha) * g * g
    if centered:
        mean = memory["mean"] = alpha * memory.get("mean", 0.0) + (1 - alpha) * g
        v = v - mean * mean
    g = g / (sqrt(v) + eps)
    if momentum:
        g = memory["b"] = momentum * memory.get("b", 0.0) + g
    return w - rate * g


def adagrad(
    w: Number, g: Number, memory: Memory, rate: float, *, lr_decay: float = 0.0, weight_decay: float = 0.0,
    initial_accumulator_value: float = 0.0, eps: float = 1e-10,
) -> Number:  # fmt: skip
    g = g + weight_decay * w
    t = memory["t"] = memory.get("t", 0.0) + 1
    total = memory["sum"] = memory.get("sum", initial_accumulator_value) + g * g
    return w - rate / (1 + (t - 1) * lr_decay) * g / (sqrt(total) + eps)


class Weights:
    """The elements of one parameter, each with the memory of its own update."""

    def __init__(self, values: Sequence[Number]) -> None:
        self.values = list(values)
        self.memories: list[Memory] = [{} for _ in values]

    def move(self, update: Update, gradient: Sequence[Number], rate: float, options: dict[str, Any]) -> None:
        elements = zip(self.values, gradient, self.memories, strict=True)
        self.values = [update(w, g, memory, rate, **options) for w, g, memory in elements]


Gradients = Sequence[Sequence[Number] | None]  # of each parameter, None where there is none


@dataclass
class LossDriven:
    """A group under Algorithm 1 (``rule="adaloss"``) or Algorithm 2 (``"adamloss"``).

    b**2 <- b**2 + alpha |f - c| with the rate eta / b, or b <- b + alpha |f - c| with the rate eta / sqrt(b). With
    ``scale="gradient"`` g is divided in place of eta, as in the paper's public code, which divides the loss.
    """

    update: Update
    eta: float
    b: float
    rule: str
    parameters: list[Weights]
    alpha: float = 1.0
    c: float = 0.0
    scale: str = "lr"
    options: dict[str, Any] = field(default_factory=dict)
    effective_lr: float = math.nan

    @property
    def divisor(self) -> float:
        return self.b if self.rule == "adaloss" else math.sqrt(self.b)

    def step(self, loss: float, gradients: Gradients) -> None:
        """One step; a loss that is not finite changes nothing."""
        if not math.isfinite(loss):
            return
        growth = self.alpha * abs(loss - self.c)
        self.b = math.sqrt(self.b**2 + growth) if self.rule == "adaloss" else self.b + growth
        self.effective_lr = self.eta / self.divisor
        by_gradient = self.scale == "gradient"
        for weights, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                scaled = [g / self.divisor for g in gradient] if by_gradient else gradient
                weights.move(self.update, scaled, self.eta if by_gradient else self.effective_lr, self.options)


@dataclass
class TimeDriven:
    """A group whose rate, or with ``scale="gradient"`` whose gradient, is divided by a function of t = 1, 2, ..."""

    update: Update
    eta: float
    divisor: Callable[[int], float]
    parameters: list[Weights]
    options: dict[str, Any] = field(default_factory=dict)
    scale: str = "lr"
    t: int = 0

    def step(self, loss: float, gradients: Gradients) -> None:
        self.t += 1
        for weights, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None and self.scale == "gradient":
                scaled = [g / self.divisor(self.t) for g in gradient]
                weights.move(self.update, scaled, self.eta, self.options)
            elif gradient is not None:
                weights.move(self.update, gradient, self.eta / self.divisor(self.t), self.options)


@dataclass
class NormDriven:
    """AdaGrad-Norm over several groups of SGD: b**2 <- b**2 + ||g||**2 with the norm over all parameters."""

    b0: list[float]
    etas: list[float]
    groups: list[list[Weights]]
    options: list[dict[str, Any]]
    b: list[float] = field(default_factory=list)

    def step(self, gradients: Sequence[Gradients]) -> None:
        square = math.fsum(g * g for group in gradients for gradient in group for g in gradient or ())
        self.b = [math.sqrt(b**2 + square) for b in self.b or self.b0]
        for parameters, given, b, eta, options in zip(
            self.groups, gradients, self.b, self.etas, self.options, strict=True
        ):
            for weights, gradient in zip(parameters, given, strict=True):
                if gradient is not None:
                    weights.move(sgd, gradient, eta / b, options)


@dataclass
class NormDrivenPerChannel:
    """AdaGrad-Norm with a b for each index of each parameter's first dimension; g is divided, so decay is not."""

    b0: list[float]
    etas: list[float]
    groups: list[list[Weights]]
    options: list[dict[str, Any]]
    channels: list[list[int]]  # how many each parameter has
    squares: dict[tuple[int, int], list[float]] = field(default_factory=dict)

    def step(self, gradients: Sequence[Gradients]) -> None:
        for i, given in enumerate(gradients):
            for j, gradient in enumerate(given):
                squares = self.squares.setdefault((i, j), [self.b0[i] ** 2] * self.channels[i][j])
                if gradient is None:
                    continue
                width = len(gradient) // max(len(squares), 1)
                divided: list[float] = []
                for row in range(len(squares)):
                    channel = gradient[row * width : (row + 1) * width]
                    squares[row] += math.fsum(g * g for g in channel)
                    divided += [g / math.sqrt(squares[row]) for g in channel]
                self.groups[i][j].move(sgd, divided, self.etas[i], self.options[i])

    @property
    def b(self) -> list[float]:
        """The mean over the channels of each group, nan for one that has none."""
        means = []
        for i in range(len(self.groups)):
            roots = [math.sqrt(x) for (group, _), squares in self.squares.items() if group == i for x in squares]
            means.append(math.fsum(roots) / len(roots) if roots else math.nan)
        return means
