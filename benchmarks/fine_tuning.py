"""Images per second of a fine-tuning with Lightning, with AdaLoss against SGD, with the callback and without."""

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from adaloss_lightning import AdaLoss, AdaLossCallback
from benchmarks.common import Make, Row
from benchmarks.lightning_loop import Repeated, silence, trainer


class Setting(NamedTuple):
    """What is trained, and for how long."""

    net: Callable[[], torch.nn.Module]
    images: int  # pixels of a side
    batch: int
    steps: int  # that count, in each round
    rounds: int
    warm_up: int = 10


def vit_toy() -> torch.nn.Module:
    """A vision transformer of two narrow layers."""
    import timm

    return timm.models.VisionTransformer(img_size=16, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=10)


SGD = partial(torch.optim.SGD, lr=1e-3, momentum=0.9, fused=True)
ADALOSS = partial(AdaLoss, lr=1e-3, momentum=0.9)
WAYS: dict[str, tuple[Make, bool]] = {  # with the callback?
    "SGD": (SGD, False),
    "SGD with the callback": (SGD, True),
    "AdaLoss": (ADALOSS, False),
    "AdaLoss with the callback": (ADALOSS, True),
}


class Classifier(pl.LightningModule):
    """Trains a network that several runs share, since two copies differ in speed by where they lie in memory."""

    def __init__(self, net: torch.nn.Module, optimizer: Make) -> None:
        super().__init__()
        self.net = net
        self.optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: D102
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> Any:  # noqa: D102
        return self.optimizer(self.parameters())


class Stopwatch(pl.Callback):
    """Seconds from the first batch after the warm-up to the end. It waits for the device at these two moments only."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.seconds = 0.0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: D102
        if batch_idx == self.warm_up:
            self.seconds = -_now(pl_module.device)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: D102
        self.seconds += _now(pl_module.device)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def images_per_second(net: torch.nn.Module, way: str, batch: Any, setting: Setting) -> float:
    """One run, in bfloat16 where autocast allows it."""
    optimizer, with_callback = WAYS[way]
    watch = Stopwatch(setting.warm_up)
    fitting = trainer(
        accelerator=batch[0].device.type, devices=1, precision="bf16-mixed", logger=False,
        callbacks=[watch, *([AdaLossCallback()] if with_callback else [])],
    )  # fmt: skip
    fitting.fit(Classifier(net, optimizer), Repeated(batch, setting.warm_up + setting.steps))
    return len(batch[1]) * setting.steps / watch.seconds


def fine_tuning(device: str, setting: Setting) -> list[Row]:
    """Medians over rounds in which all ways take their turn, and each way's share of SGD's speed in the same round."""
    torch.manual_seed(0)
    net = setting.net().to(device)
    images = torch.randn(setting.batch, 3, setting.images, setting.images, device=device)
    batch = (images, torch.randint(0, 10, (setting.batch,), device=device))
    speeds: dict[str, list[float]] = {way: [] for way in WAYS}
    with warnings.catch_warnings():
        silence()
        for index in range(setting.rounds):
            for way in list(WAYS)[:: -1 if index % 2 else 1]:
                speeds[way].append(images_per_second(net, way, batch, setting))
    return [
        {
            "way": way,
            "images_per_s": statistics.median(found),
            "of_sgd": statistics.median(a / b for a, b in zip(found, speeds["SGD"], strict=True)),
            "verdict": "measured",
        }
        for way, found in speeds.items()
    ]
