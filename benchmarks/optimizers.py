"""The optimizers that are compared: ours, torch's in its three implementations, and other adaptive ones."""

from functools import partial
from typing import Any

import dadaptation
import momo
import prodigyopt
import schedulefree
import torch

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, LossAdaptive
from benchmarks.common import Make, Parameters

FUSED = {"fused": True}
IMPLEMENTATIONS = {"for-loop": {"foreach": False, "fused": False}, "foreach": {"foreach": True}, "fused": FUSED}

SGD: dict[str, Make] = {f"SGD({how})": partial(torch.optim.SGD, lr=1e-3, **o) for how, o in IMPLEMENTATIONS.items()}
ADAM: dict[str, Make] = {f"Adam({how})": partial(torch.optim.Adam, lr=1e-4, **o) for how, o in IMPLEMENTATIONS.items()}
ADAMW: dict[str, Make] = {
    f"AdamW({how})": partial(torch.optim.AdamW, lr=1e-4, **o) for how, o in IMPLEMENTATIONS.items()
}
TORCH = SGD | ADAM | ADAMW

OURS: dict[str, Make] = {
    "AdaLoss": partial(AdaLoss, lr=1e-3),
    "AdamLoss": partial(AdamLoss, lr=1e-4),
    "LossAdaptive(AdamW)": lambda p: LossAdaptive(ADAMW["AdamW(fused)"](p), rule="adamloss"),
    "LossAdaptive(SGD)": lambda p: LossAdaptive(SGD["SGD(fused)"](p)),
    "AdaGradNorm": partial(AdaGradNorm, lr=1e-3),
}

SGD_PEERS: dict[str, Make] = {
    "Momo": partial(momo.Momo, lr=1e-3),
    "DAdaptSGD": partial(dadaptation.DAdaptSGD, lr=1.0),
    "SGDScheduleFree": lambda p: _training(schedulefree.SGDScheduleFree(p, lr=1e-3)),
}
ADAM_PEERS: dict[str, Make] = {
    "MomoAdam": partial(momo.MomoAdam, lr=1e-3),
    "Prodigy": partial(prodigyopt.Prodigy, lr=1.0),
    "DAdaptAdam": partial(dadaptation.DAdaptAdam, lr=1.0),
    "AdamWScheduleFree": lambda p: _training(schedulefree.AdamWScheduleFree(p, lr=1e-3)),
}
PEERS = SGD_PEERS | ADAM_PEERS


def _training(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    optimizer.train()
    return optimizer


class SGDAndRead:
    """torch's fused SGD, and a read of the gradients: what a step that needs their norm cannot do without.

    Args:
        parameters: They have gradients already.
        in_one: Moves the gradients into one vector beforehand, which one dot product reads. Else each is looked up and
            read where it lies, as in a training, where backward makes new gradients for every step.
    """

    def __init__(self, parameters: Parameters, *, in_one: bool = False) -> None:
        self.parameters = parameters
        self.sgd = SGD["SGD(fused)"](parameters)
        self.flat = flatten_gradients(parameters) if in_one else None

    def step(self) -> None:
        """Reads, then steps."""
        if self.flat is not None:
            torch.dot(self.flat, self.flat)
        else:
            for p in self.parameters:
                if p.grad is not None:
                    vector = p.grad.view(-1)
                    torch.dot(vector, vector)
        self.sgd.step()


def flatten_gradients(parameters: Parameters) -> torch.Tensor:
    """Puts all gradients into one vector, of which each parameter's is a view from then on."""
    flat = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    parts = flat.split([p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.grad = part.view_as(p)
    return flat


class Idle(torch.optim.Optimizer):
    """Does nothing in a step."""

    def __init__(self, parameters: Parameters) -> None:
        super().__init__(parameters, {"lr": 1.0})

    def step(self, closure: Any = None) -> None:
        """Nothing."""


def grouped(make: Make, count: int) -> Make:
    """With the parameters dealt out to so many groups."""
    return lambda parameters: make([{"params": parameters[index::count]} for index in range(count)])
