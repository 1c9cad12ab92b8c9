"""Training written out in float64: no optimizer, no Lightning, no process but this one."""

import itertools
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from tests import oracle
from tests.oracle import LossDriven, Weights

Rows = list[int]
ETA = 0.1


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(48, 5, generator=generator, dtype=torch.float64)
    x[1::2] *= 3  # so that neighbours, and with them the ranks, have losses of their own
    return TensorDataset(x, x.sum(dim=1, keepdim=True) + 1)


def plan(rank: int, ranks: int, uneven: bool = False) -> list[Rows]:
    """The rows of each batch of a rank: 12 a batch over all ranks, every row once.

    ``uneven``: the last batch is that much shorter, the higher the rank.
    """
    batches = [list(range(start + rank, start + 12, ranks)) for start in range(0, 48, 12)]
    return [*batches[:-1], batches[-1][: 4 - rank]] if uneven else batches


def group_of(optimizer: str, weights: list[Tensor]) -> LossDriven:
    """The equations of one of the optimizers in ``cases.OPTIMIZERS``."""
    update, rule, options = {
        "adaloss": (oracle.sgd, "adaloss", {"momentum": 0.9}),
        "bare_sgd": (oracle.sgd, "adaloss", {}),
        "adamloss": (oracle.adam, "adamloss", {"betas": (0.9, 0.99)}),
        "bare_adamw": (oracle.adamw, "adamloss", {}),
    }[optimizer]
    return LossDriven(update, ETA, 1.0, rule, [Weights([w]) for w in weights], options=options)


@dataclass
class Outcome:
    """Where a training ended."""

    weights: list[Tensor]
    losses: list[float]  # of each optimizer step that was made
    rates: list[float]

    @property
    def s(self) -> float:
        return 1.0 + sum(self.losses)


def train(
    optimizer: str,
    ranks: int,
    *,
    accumulate: int = 1,
    epochs: int = 2,
    uneven: bool = False,
    left_out: Collection[int] = (),
) -> Outcome:
    """The same training as ``cases.train_with_lightning``.

    A batch is as many chunks as there are ranks, and its loss the mean of theirs, as DistributedDataParallel averages
    gradients. Lightning divides by ``accumulate`` whatever the length of the window; the loss fed is its true mean.
    """
    net = network()
    names = [name for name, _ in net.named_parameters()]
    group = group_of(optimizer, [p.detach().clone() for p in net.parameters()])
    x, y = data().tensors
    chunks = list(zip(*(plan(rank, ranks, uneven) for rank in range(ranks)), strict=True))
    windows = [chunks[start : start + accumulate] for start in range(0, len(chunks), accumulate)]
    losses, rates = [], []
    for index, window in enumerate(itertools.chain.from_iterable([windows] * epochs)):
        if index in left_out:
            continue
        leaves = [w.values[0].clone().requires_grad_() for w in group.parameters]
        named = dict(zip(names, leaves, strict=True))
        batch_losses = [
            sum(((torch.func.functional_call(net, named, x[rows]) - y[rows]) ** 2).mean() for rows in batch) / ranks
            for batch in window
        ]
        gradients = torch.autograd.grad(sum(batch_losses) / accumulate, leaves)
        losses.append(sum(loss.item() for loss in batch_losses) / len(batch_losses))
        group.step(losses[-1], [[g] for g in gradients])
        rates.append(group.effective_lr)
    return Outcome([w.values[0] for w in group.parameters], losses, rates)
