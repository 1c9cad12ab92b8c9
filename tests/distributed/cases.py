"""One training, written once, run by one process with a doubled batch and by two ranks: the results must agree."""

import math
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from adaloss_lightning import AdaGradNorm, AdaLoss, AdaLossCallback, AdamLoss, LossAdaptive, find_lr

BATCH = 4  # per process: two ranks with 4 each see together what one process with 8 sees
OPTIMIZERS: dict[str, Any] = {
    "adaloss": lambda p, **kw: AdaLoss(p, lr=0.1, momentum=0.9, **kw),
    "adamloss": lambda p, **kw: AdamLoss(p, **kw),
    "adaloss_auto": lambda p, **kw: AdaLoss(p, lr=0.1, alpha="auto", c=0.2, **kw),
    "adamw": lambda p, **kw: LossAdaptive(torch.optim.AdamW(p, lr=0.01), rule="adamloss", **kw),
    "bare_adamw": lambda p: torch.optim.AdamW(p, lr=0.01),  # for the callback to wrap
    "adagrad_norm": lambda p: AdaGradNorm(p, lr=0.1),
}
LIGHTNING = [
    (name, accumulate) for name in ("adaloss", "adamloss", "bare_adamw", "adagrad_norm") for accumulate in (1, 3)
]
PLAIN = ["adaloss", "adamloss", "adaloss_auto", "adamw", "adagrad_norm"]


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(32, 5, generator=generator, dtype=torch.float64)
    # the two halves of each pair of samples differ a lot, so that the ranks' own losses do
    x[1::2] *= 3
    return TensorDataset(x, x.sum(dim=1, keepdim=True) + 1)


def loader(rank: int, ranks: int) -> DataLoader[Any]:
    # Lightning's own distributed sampler shuffles the training set, so this brings its own
    sampler = DistributedSampler(data(), num_replicas=ranks, rank=rank, shuffle=False)
    return DataLoader(data(), batch_size=2 * BATCH // ranks, sampler=sampler)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()


class Model(pl.LightningModule):
    def __init__(self, optimizer: str) -> None:
        super().__init__()
        self.net = network()
        self.optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer](self.parameters())


def result(net: torch.nn.Module, optimizer: Any, logged: Any = None) -> dict[str, Any]:
    loss = optimizer.last_loss
    return {
        "weights": [p.detach().clone() for p in net.parameters()],
        "b": torch.stack(optimizer.b),
        "loss": math.nan if loss is None else loss.item(),
        "logged": {} if logged is None else {k: float(v) for k, v in logged.items()},
    }


def train_with_lightning(
    optimizer: str, accumulate: int, rank: int, ranks: int, callback: bool = True
) -> dict[str, Any]:
    model = Model(optimizer)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", precision="64-true",
        use_distributed_sampler=False, accumulate_grad_batches=accumulate, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[AdaLossCallback()] if callback else [],
    )  # fmt: skip
    trainer.fit(model, loader(rank, ranks))
    return result(model.net, trainer.optimizers[0], trainer.callback_metrics)


def train_with_auto(rank: int, ranks: int) -> dict[str, Any]:
    """Nothing given by hand; the ranks see different data."""
    model, callback = Model("bare_adamw"), AdaLossCallback(auto=True)
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", devices=ranks, strategy="ddp" if ranks > 1 else "auto", precision="64-true",
        use_distributed_sampler=False, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[callback],
    )  # fmt: skip
    trainer.fit(model, loader(rank, ranks))
    return result(model.net, trainer.optimizers[0]) | {"found": callback.found, "lr": find_plainly(rank, ranks)}


def find_plainly(rank: int, ranks: int) -> float:
    net = network()
    parallel: Any = DistributedDataParallel(net) if ranks > 1 else net
    return find_lr(
        parallel, lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1]), loader(rank, ranks),
        lambda p: AdaLoss(p, alpha="auto"), verbose=False,
    )  # fmt: skip


def train_plainly(
    name: str, rank: int, ranks: int, way: str = "argument", spoiled: int | None = None, **settings: Any
) -> dict[str, Any]:
    """Eight steps; with ``spoiled`` the loss of rank 0 is not finite at that step."""
    net = network()
    parallel: Any = DistributedDataParallel(net) if ranks > 1 else net
    optimizer = OPTIMIZERS[name](net.parameters(), **settings)
    for index, (x, y) in enumerate(batches(rank, ranks)):

        def closure(x: Any = x, y: Any = y) -> Any:
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(parallel(x), y)
            loss.backward()
            return loss

        if way == "closure":
            optimizer.step(closure)
            continue
        loss = closure()
        if index == spoiled and rank == 0:
            loss = loss * math.inf
        if way == "global":
            mean = loss.detach().clone()
            if ranks > 1:
                dist.all_reduce(mean)
            optimizer.record_loss(mean / ranks, is_global=True)
            optimizer.step()
        else:
            optimizer.step(loss=loss)
    return result(net, optimizer)


def batches(rank: int, ranks: int) -> Iterator[Any]:
    for _ in range(2):
        yield from loader(rank, ranks)
