"""Training loops that ranks run, written once for every strategy."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.algorithms.join import Join
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from adaloss_lightning import AdaGradNorm, AdaLoss, AdaLossCallback, AdamLoss, LossAdaptive, find_lr
from adaloss_lightning.optim.rate_adaptive import adaptive_in
from tests.support.reference import ETA, data, network, plan

OPTIMIZERS: dict[str, Any] = {
    "adaloss": lambda p, **kw: AdaLoss(p, lr=ETA, momentum=0.9, **kw),
    "adamloss": lambda p: AdamLoss(p, lr=ETA),
    "bare_sgd": lambda p: torch.optim.SGD(p, lr=ETA),  # the bare ones are for the callback to wrap
    "bare_adamw": lambda p: torch.optim.AdamW(p, lr=ETA),
    "adagrad_norm": lambda p: AdaGradNorm(p, lr=ETA),
}
# optimizer, accumulate_grad_batches
DDP = [(name, accumulate) for name in ("adaloss", "adamloss", "bare_sgd", "bare_adamw") for accumulate in (1, 3, 4)]
SPAWNED = [("bare_adamw", 3)]  # each takes a start of two processes
SHARDED = ["adaloss", "adamloss", "bare_adamw"]
ZERO_REDUNDANT = {
    "bare_adamw": "LossAdaptive(ZeroRedundancyOptimizer)",
    "adamloss": "ZeroRedundancyOptimizer(AdamLoss)",
}
PLAIN = ["step(loss=...)", "closure", "is_global=True"]
FABRIC = ["step(loss=...)", "record_loss"]
UNITS = [1e-4, 1.0, 1e4]  # of the loss, which alpha="auto" frees the training of
SPOILED = 2  # the batch of the first epoch whose loss is infinite on rank 1


def loader(rank: int, ranks: int, uneven: bool = False) -> DataLoader[Any]:
    return DataLoader(data(), batch_sampler=plan(rank, ranks, uneven))


class Model(pl.LightningModule):
    def __init__(self, optimizer: str, spoiled: bool = False, unit: float = 1.0) -> None:
        super().__init__()
        self.net = network()
        self.optimizer = optimizer
        self.spoiled = spoiled
        self.unit = unit

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.unit * torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])
        if self.spoiled and self.current_epoch == 0 and batch_idx == SPOILED and self.global_rank == 1:
            return loss * math.inf
        return loss

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer](self.parameters())


class Sharded(Model):
    def configure_model(self) -> None:
        shard(self.net, self.device_mesh["data_parallel"])


def shard(net: Any, mesh: DeviceMesh) -> None:
    for layer in net:
        if next(layer.parameters(), None) is not None:
            fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)


def whole(parameter: torch.Tensor) -> torch.Tensor:
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach().clone()


def result(net: torch.nn.Module, optimizer: Any, logged: Any = None) -> dict[str, Any]:
    return {
        "weights": [whole(p) for p in net.parameters()],
        "local": [tuple(getattr(p, "to_local", p.detach)().shape) for p in net.parameters()],
        "s": optimizer.param_groups[0]["adaloss_s"].item(),
        "rate": optimizer.effective_lr[0].item(),
        "loss": math.nan if optimizer.last_loss is None else optimizer.last_loss.item(),
        "logged": {} if logged is None else {k: float(v) for k, v in logged.items()},
    }


def trainer_for(strategy: Any, ranks: int, **settings: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    }  # fmt: skip
    return pl.Trainer(
        accelerator="cpu", devices=ranks, strategy=strategy, use_distributed_sampler=False,
        **{"max_epochs": 2, "precision": "64-true", "callbacks": [AdaLossCallback()], **quiet, **settings},
    )  # fmt: skip


def train_with_lightning(
    optimizer: str, rank: int, ranks: int, *, uneven: bool = False, spoiled: bool = False, accumulate: int = 1,
    unit: float = 1.0, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    model = Model(optimizer, spoiled, unit)
    trainer = trainer_for("ddp" if ranks > 1 else "auto", ranks, accumulate_grad_batches=accumulate, **settings)
    trainer.fit(model, loader(rank, ranks, uneven))
    return result(model.net, trainer.optimizers[0], trainer.callback_metrics)


def train_with_auto(rank: int, ranks: int) -> dict[str, Any]:
    """Nothing given by hand: what Lightning's callback finds, and ``find_lr`` in a loop of one's own."""
    callback, net = AdaLossCallback(auto=True), network()
    got = train_with_lightning("bare_adamw", rank, ranks, callbacks=[callback], max_epochs=3)
    lr = find_lr(
        DistributedDataParallel(net) if ranks > 1 else net,
        lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1]), loader(rank, ranks),
        lambda p: AdaLoss(p, alpha="auto"), verbose=False,
    )  # fmt: skip
    return got | {"found": callback.found, "lr": lr}


def train_sharded_with_lightning(optimizer: str, rank: int, ranks: int, folder: Path | None = None) -> dict[str, Any]:
    """Two epochs; with ``folder`` they are two runs with a checkpoint between them."""
    path = None if folder is None else str(folder / f"{optimizer}.ckpt")

    def run(epochs: int, ckpt_path: str | None) -> tuple[Sharded, pl.Trainer]:
        model = Sharded(optimizer)
        strategy = ModelParallelStrategy(data_parallel_size=ranks, tensor_parallel_size=1)
        # the strategy knows no 64-true; with 32-true Lightning leaves the model as it is, in float64
        trainer = trainer_for(strategy, ranks, precision="32-true", max_epochs=epochs)
        trainer.fit(model, loader(rank, ranks), ckpt_path=ckpt_path)
        return model, trainer

    if path is not None:
        run(1, None)[1].save_checkpoint(path)
    model, trainer = run(2, path)
    return result(model.net, trainer.optimizers[0], trainer.callback_metrics)


def adaptive(optimizer: str, parameters: Any, **settings: Any) -> Any:
    made = OPTIMIZERS[optimizer](parameters, **settings)
    rule: Any = "adamloss" if isinstance(made, torch.optim.AdamW) else "adaloss"
    return made if isinstance(made, LossAdaptive) else LossAdaptive(made, rule=rule)


def loop(net: Any, optimizer: Any, batches: Iterator[Any], spoiled: bool = False) -> None:
    for index, (x, y) in enumerate(batches):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step(loss=loss * math.inf if spoiled and index == SPOILED else loss)


def train_plainly(
    optimizer: str, rank: int, ranks: int, way: str, *, unit: float = 1.0, **settings: Any
) -> dict[str, Any]:
    """Two epochs with uneven last batches; the loss is given in one of the ways in ``PLAIN``."""
    net = network()
    parallel, adapted = DistributedDataParallel(net), adaptive(optimizer, net.parameters(), **settings)
    for x, y in itertools.chain.from_iterable([loader(rank, ranks, uneven=True)] * 2):

        def closure(x: Any = x, y: Any = y) -> Any:
            adapted.zero_grad()
            loss = unit * torch.nn.functional.mse_loss(parallel(x), y)
            loss.backward()
            return loss

        if way == "closure":
            adapted.step(closure)
        elif way == "step(loss=...)":
            adapted.step(loss=closure())
        else:
            mean = closure().detach().clone()
            dist.all_reduce(mean)
            adapted.record_loss(mean / ranks, is_global=True)
            adapted.step()
    return result(net, adapted)


def zero_redundant(optimizer: str, parameters: Any) -> tuple[Any, Any]:
    """ZeroRedundancyOptimizer within an adaptive one or around it, and the adaptive one."""
    if optimizer == "bare_adamw":
        adapted: Any = LossAdaptive(ZeroRedundancyOptimizer(parameters, torch.optim.AdamW, lr=ETA), rule="adamloss")
        return adapted, adapted
    around = ZeroRedundancyOptimizer(parameters, AdamLoss, lr=ETA)
    return around, adaptive_in(around)


def train_zero_redundant(optimizer: str, rank: int, ranks: int) -> dict[str, Any]:
    """Two epochs; between them everything is saved, as Lightning does it, and made again."""

    def fresh() -> Any:
        net = network()
        return DistributedDataParallel(net), *zero_redundant(optimizer, net.parameters())

    net, steps, _ = fresh()
    loop(net, steps, iter(loader(rank, ranks)))
    weights = net.state_dict()
    steps.consolidate_state_dict()  # on rank 0
    saved = [steps.state_dict() if rank == 0 else None]
    dist.broadcast_object_list(saved, src=0)
    net, steps, adapted = fresh()
    net.load_state_dict(weights)
    steps.load_state_dict(saved[0])
    loop(net, steps, iter(loader(rank, ranks)))
    return result(net, adapted)


def train_with_fabric(way: str, rank: int, ranks: int) -> dict[str, Any]:
    """Two epochs of Fabric; the loss is given in either of two ways."""
    fabric = Fabric(accelerator="cpu", devices=ranks, strategy="ddp")
    fabric.launch()
    module = network()
    net, optimizer = fabric.setup(module, adaptive("adaloss", module.parameters()))
    for x, y in itertools.chain.from_iterable([loader(rank, ranks)] * 2):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        fabric.backward(loss)
        if way == "step(loss=...)":
            optimizer.step(loss=loss)
        else:
            optimizer.record_loss(loss)
            optimizer.step()
    return result(module, optimizer.optimizer)


def step_within_join(rank: int, ranks: int) -> dict[str, Any]:
    """A rank with fewer batches, in torch's Join; then a step without Join of the same module."""
    net = network()
    ddp = DistributedDataParallel(net)
    sgd, optimizer = torch.optim.SGD(net.parameters(), lr=ETA), AdaLoss(net.parameters(), lr=ETA)
    batches = list(loader(rank, ranks))
    said = ""
    try:
        with Join([ddp]):
            loop(ddp, optimizer, iter(batches[: 2 + rank]))
    except RuntimeError as error:
        said = str(error)
    untouched = {"weights": [p.detach().clone() for p in net.parameters()], "b": optimizer.b[0].item()}
    with Join([ddp]):
        for x, y in batches[: 2 + rank]:
            sgd.zero_grad()
            torch.nn.functional.mse_loss(ddp(x), y).backward()
            sgd.step()
    loop(ddp, optimizer, iter(batches[:1]))
    return {"said": said, "untouched": untouched, "b": optimizer.b[0].item(), "loss": optimizer.last_loss.item()}


def train_sharded(optimizer: str, rank: int, ranks: int, way: str) -> dict[str, Any]:
    """Two epochs of ``fully_shard``; between them, for ``way="resumed"``, everything is saved and made again."""
    mesh = init_device_mesh("cpu", (ranks,))

    def fresh() -> tuple[Any, Any]:
        net = network()
        shard(net, mesh)
        return net, adaptive(optimizer, net.parameters())

    net, adapted = fresh()
    loop(net, adapted, iter(loader(rank, ranks)), spoiled=way == "spoiled" and rank == 1)
    if way == "resumed":
        weights, state = net.state_dict(), get_optimizer_state_dict(net, adapted)
        net, adapted = fresh()
        net.load_state_dict(weights)
        set_optimizer_state_dict(net, adapted, state)
    loop(net, adapted, iter(loader(rank, ranks)))
    return result(net, adapted)


class NotedWork:
    """The handle of an all-reduce, which notes when it is waited for."""

    def __init__(self, work: dist.Work, events: list[str]) -> None:
        self.work, self.events = work, events

    def wait(self) -> bool:
        self.events.append("wait")
        return self.work.wait()


def count_reductions(rank: int, ranks: int, accumulate: int) -> dict[str, Any]:
    """What happens in which order: scalar float64 all-reduces, the first gradient of each backward, and steps.

    The model is float32 here, so that no reduction of Lightning's own is taken for ours.
    """
    events: list[str] = []
    real = dist.all_reduce

    def noted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        work = real(tensor, *args, **kwargs)
        if tensor.dtype != torch.float64 or tensor.numel() != 1:
            return work
        events.append("all_reduce")
        return NotedWork(work, events) if work is not None else None

    class Noted(Model):
        def __init__(self) -> None:
            super().__init__("adaloss")
            self.net.float()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = torch.nn.functional.mse_loss(self.net(batch[0].float()), batch[1].float())
            loss.register_hook(lambda gradient: events.append("backward"))
            return loss

        def on_before_optimizer_step(self, optimizer: Any) -> None:
            events.append("backward ended")

        def on_train_batch_end(self, *args: Any) -> None:
            events.append("batch end")

    model = Noted()
    dist.all_reduce = noted
    try:
        trainer = trainer_for("ddp", ranks, precision="32-true", accumulate_grad_batches=accumulate, max_epochs=1)
        trainer.fit(model, loader(rank, ranks))
    finally:
        dist.all_reduce = real
    return {"events": events}
