"""``trainer.callback_metrics`` holds what the last step left, in every hook."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from adaloss_lightning import AdaLossCallback
from tests.callback.models import Regression, fit, regression_loader

HOOKS = (
    "on_train_batch_start", "on_before_backward", "on_after_backward", "on_before_optimizer_step",
    "on_before_zero_grad", "on_train_batch_end", "on_train_epoch_end", "on_validation_start",
    "on_validation_batch_end", "on_validation_end",
)  # fmt: skip


def look(seen: dict[str, list[tuple[float, float]]], hook: str, trainer: pl.Trainer) -> None:
    optimizer: Any = trainer.optimizers[0]
    if "adaloss/b" in trainer.callback_metrics and optimizer.stepped:
        values = [trainer.callback_metrics[f"adaloss/{name}"] for name in ("b", "loss", "effective_lr")]
        right = [optimizer.b[0], optimizer.last_loss, optimizer.effective_lr[0]]
        seen.setdefault(hook, []).extend((float(v), float(r)) for v, r in zip(values, right, strict=True))


@pytest.mark.parametrize("where", ["module", "callback before", "callback after"])
@pytest.mark.parametrize("logged", [True, False])  # another value in each step, or none at all
def test_values_are_those_of_the_last_step_in_every_hook(where: str, logged: bool) -> None:
    seen: dict[str, list[tuple[float, float]]] = {}

    class Logs(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.compute_loss(batch)
            if logged:
                self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if logged:
                self.log("val/loss", self.compute_loss(batch))

    def hook_of(name: str, of_module: bool) -> Any:
        def hook(self: Any, *arguments: Any) -> None:
            look(seen, name, self.trainer if of_module else arguments[0])

        return hook

    kind = Logs if where == "module" else pl.Callback
    watching = type("Watching", (kind,), {name: hook_of(name, kind is Logs) for name in HOOKS})()
    ours = AdaLossCallback()
    callbacks = {"module": [ours], "callback before": [watching, ours], "callback after": [ours, watching]}[where]
    model = watching if where == "module" else Logs()
    fit(model, None, callbacks=callbacks, val_check_interval=2, num_sanity_val_steps=0, max_epochs=2, loader=Loaders())
    assert set(seen) == set(HOOKS)
    for hook, pairs in seen.items():
        assert len({right for _, right in pairs}) > 3, hook
        for value, right in pairs:
            assert value == pytest.approx(right, rel=1e-6), hook  # what is logged is held in float32


class Loaders(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return regression_loader()

    val_dataloader = train_dataloader


def test_values_that_a_callback_keeps_do_not_change() -> None:
    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
            kept.append(trainer.callback_metrics["adaloss/b"])

    kept: list[torch.Tensor] = []
    fit(Regression(), AdaLossCallback(), callbacks=[Keep()])
    assert sorted({value.item() for value in kept}) == [value.item() for value in kept]
