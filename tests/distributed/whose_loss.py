"""Manual optimization on two ranks: each module notes, for each optimizer, the losses that its steps should see.

Started by torchrun from the tests: it saves what each rank got.
"""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import momo
import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

from adaloss_lightning import AdaLossCallback


class Pair(pl.LightningModule):
    """Two networks, an optimizer for each."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.nets = nn.ModuleList(nn.Linear(4, 2) for _ in range(2))
        self.right: list[list[float]] = [[], []]  # of each optimizer and step, this rank's share of the loss
        self.open = [0.0, 0.0]

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.05) for net in self.nets]

    def loss(self, batch: Any, *nets: nn.Module) -> Tensor:
        x, y = batch
        return sum((net(x) - y).square().mean() for net in nets)

    def backward_for(self, loss: Tensor, *reached: int) -> None:
        """``reached`` on any rank, whatever this one's graph holds."""
        for index in reached:
            self.open[index] += loss.item()
        self.manual_backward(loss)

    def step(self, index: int) -> None:
        optimizer: Any = self.optimizers()[index]
        optimizer.step()
        optimizer.zero_grad()
        self.right[index].append(self.open[index])
        self.open[index] = 0.0


class BackwardBackwardStepStep(Pair):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        losses = [self.loss(batch, net) for net in self.nets]
        for index, loss in enumerate(losses):
            self.backward_for(loss, index)
        for index in (0, 1):
            self.step(index)


class Toggled(Pair):
    """Accumulates by hand, and lets DDP average the gradients in the last backward only."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        is_last = batch_idx % 2 == 1
        for index, optimizer in enumerate(self.optimizers()):
            with optimizer.toggle_model(sync_grad=is_last):
                self.backward_for(self.loss(batch, self.nets[index]) / 2, index)
                if is_last:
                    self.step(index)


class Uneven(Pair):
    """Each rank's loss reaches one network alone, in turn; the other's gradient comes from the other rank."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        own = self.nets[(self.global_rank + batch_idx) % 2]
        self.backward_for(self.loss(batch, own), 0, 1)
        for index in (0, 1):
            self.step(index)


class Sharded(Pair):
    """FSDP2, accumulation by hand."""

    def configure_model(self) -> None:
        for net in self.nets:
            fully_shard(net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for index, net in enumerate(self.nets):
            self.before(net, batch_idx)
            self.backward_for(self.loss(batch, net) / 2, index)
            if batch_idx % 2 == 1:
                self.step(index)

    def before(self, net: Any, batch_idx: int) -> None:
        pass


class ShardedUnsynced(Sharded):
    """The gradients are reduced in the last backward only; until then FSDP2 keeps them elsewhere."""

    def before(self, net: Any, batch_idx: int) -> None:
        net.set_requires_gradient_sync(batch_idx % 2 == 1)


class Momo(momo.Momo):
    """Keeps b as AdaLoss would, from the losses that it is given."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=0.01)
        self.s = 1.0

    def step(self, closure: Any = None, loss: Any = None) -> Any:
        self.s += loss.item()
        return super().step(closure, loss)

    @property
    def b(self) -> list[Tensor]:
        return [torch.tensor(self.s).sqrt()]


class WithMomo(BackwardBackwardStepStep):
    def configure_optimizers(self) -> Any:
        return [Momo(net.parameters()) for net in self.nets]


CASES: dict[str, tuple[Callable[[], Pair], Callable[[], Any]]] = {
    "ddp": (BackwardBackwardStepStep, lambda: DDPStrategy(find_unused_parameters=True)),
    "ddp, gradients are views of buckets": (
        BackwardBackwardStepStep,
        lambda: DDPStrategy(find_unused_parameters=True, gradient_as_bucket_view=True),
    ),
    "ddp, toggle_model(sync_grad=...)": (Toggled, lambda: DDPStrategy(find_unused_parameters=True)),
    "ddp, parameters unused on one rank": (Uneven, lambda: DDPStrategy(find_unused_parameters=True)),
    "ddp, MoMo": (WithMomo, lambda: DDPStrategy(find_unused_parameters=True)),
    "fsdp2": (Sharded, lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)),
    "fsdp2, no gradient sync": (
        ShardedUnsynced,
        lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    ),
}


def train(case: str) -> dict[str, Any]:
    make, strategy = CASES[case]
    model = make()
    x = torch.randn(48, 4, generator=torch.Generator().manual_seed(1))
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=2, strategy=strategy(), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[AdaLossCallback()],
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(x, x[:, :2].contiguous()), batch_size=4))
    optimizers: list[Any] = trainer.optimizers
    return {"b": [optimizer.b[0].item() for optimizer in optimizers], "right": model.right}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results = {}
    for case in CASES:
        try:
            results[case] = train(case)
        except Exception:  # of one case: the others have their own tests
            results[case] = {"error": traceback.format_exc()}
    torch.save(results, folder / f"rank{os.environ['RANK']}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
