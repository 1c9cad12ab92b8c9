"""The paper's equations as slow float64 loops, with no optimizer of torch or of this package in them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

Rate = Callable[[float, list[Tensor]], float]  # (loss, gradients) of the step -> its learning rate


class LeastSquares:
    """Mean over rows of 1/2 ||x W + v - y||^2: two parameters; gradients from the closed form, not from autograd."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
        self.x, self.y = draw(8, 5), 3 * draw(8, 3)
        self.start = [draw(5, 3), draw(3)]

    def parameters(self) -> list[Parameter]:
        return [Parameter(w.clone()) for w in self.start]

    def loss(self, weights: list[Any]) -> Tensor:
        return 0.5 * ((self.x @ weights[0] + weights[1] - self.y) ** 2).sum() / len(self.x)

    def gradients(self, weights: list[Tensor]) -> list[Tensor]:
        residual = (self.x @ weights[0] + weights[1] - self.y) / len(self.x)
        return [self.x.T @ residual, residual.sum(0)]

    def train(self, optimizer: Any, parameters: list[Parameter], steps: int, sign: float = 1.0) -> list[float]:
        """``steps`` steps of ``optimizer`` on ``sign`` times the loss, which it is given at each; the losses."""
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = sign * self.loss(parameters)
            loss.backward()
            optimizer.step(loss=loss)
            losses.append(loss.item())
        return losses

    def iterate(
        self, update: Callable[[list[Tensor], list[Tensor], float], list[Tensor]], steps: int, sign: float = 1.0
    ) -> list[Tensor]:
        """``steps`` times ``weights = update(weights, gradients, rate(loss, gradients))``."""
        weights = [w.clone() for w in self.start]
        for _ in range(steps):
            gradients = [sign * g for g in self.gradients(weights)]
            weights = update(weights, gradients, sign * self.loss(weights).item())
        return weights


def loss_driven(eta: float, s: float, alpha: float = 1.0, c: float = 0.0) -> Rate:
    """s <- s + alpha |f - c|, rate eta / sqrt(s); s starts at b0**2 for AdaLoss and at b0 for AdamLoss."""

    def rate(loss: float, gradients: list[Tensor]) -> float:
        nonlocal s
        s += alpha * math.fabs(loss - c)
        return eta / math.sqrt(s)

    return rate


def norm_driven(eta: float, b0: float) -> Rate:
    """b**2 <- b**2 + ||g||**2 over all gradients, rate eta / b."""
    b2 = b0**2

    def rate(loss: float, gradients: list[Tensor]) -> float:
        nonlocal b2
        b2 += sum((g**2).sum().item() for g in gradients)
        return eta / math.sqrt(b2)

    return rate


def time_driven(eta: float, b: Callable[[int], float]) -> Rate:
    """Rate eta / b(t), t = 1, 2, ..."""
    t = 0

    def rate(loss: float, gradients: list[Tensor]) -> float:
        nonlocal t
        t += 1
        return eta / b(t)

    return rate


@dataclass
class SGD:
    """Stochastic gradient descent with torch's meaning of momentum, at a rate that is told at each step."""

    rate: Rate
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    maximize: bool = False
    buffers: dict[int, Tensor] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)

    def __call__(self, weights: list[Tensor], gradients: list[Tensor], loss: float) -> list[Tensor]:
        self.rates.append(self.rate(loss, gradients))
        moved = []
        for index, (w, gradient) in enumerate(zip(weights, gradients, strict=True)):
            g = (-gradient if self.maximize else gradient) + self.weight_decay * w
            if self.momentum:
                first = index not in self.buffers
                buffer = g if first else self.momentum * self.buffers[index] + (1 - self.dampening) * g
                self.buffers[index] = buffer
                g = g + self.momentum * buffer if self.nesterov else buffer
            moved.append(w - self.rates[-1] * g)
        return moved


@dataclass
class Adam:
    """Adam with torch's place of eps (outside the root), at a rate that is told at each step."""

    rate: Rate
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    amsgrad: bool = False
    maximize: bool = False
    moments: dict[int, tuple[Tensor, Tensor, Tensor]] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)

    def __call__(self, weights: list[Tensor], gradients: list[Tensor], loss: float) -> list[Tensor]:
        self.rates.append(self.rate(loss, gradients))
        rate, t, (beta1, beta2) = self.rates[-1], len(self.rates), self.betas
        moved = []
        for index, (w, gradient) in enumerate(zip(weights, gradients, strict=True)):
            g = -gradient if self.maximize else gradient
            if self.decoupled_weight_decay:
                w = w * (1 - rate * self.weight_decay)
            else:
                g = g + self.weight_decay * w
            m, v, largest = self.moments.get(index, (torch.zeros_like(w),) * 3)
            m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
            largest = torch.maximum(largest, v)
            self.moments[index] = (m, v, largest)
            root = ((largest if self.amsgrad else v) / (1 - beta2**t)).sqrt()
            moved.append(w - rate * (m / (1 - beta1**t)) / (root + self.eps))
        return moved


@dataclass
class AdaGradNormPerChannel:
    """One b for each index of the first dimension: b**2 <- b**2 + ||g[i]||**2, w[i] <- w[i] - eta / b[i] g[i]."""

    eta: float
    b0: float
    weight_decay: float = 0.0
    squares: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, weights: list[Tensor], gradients: list[Tensor], loss: float) -> list[Tensor]:
        moved = []
        for index, (w, g) in enumerate(zip(weights, gradients, strict=True)):
            b2 = self.squares.get(index, torch.full((len(w),), self.b0**2, dtype=torch.float64))
            b2 = b2 + torch.stack([(row**2).sum() for row in g])
            self.squares[index] = b2
            rows = zip(w, g, b2.sqrt(), strict=True)
            moved.append(torch.stack([row - self.eta * (gr / b + self.weight_decay * row) for row, gr, b in rows]))
        return moved
