"""Setting up the callback: it wraps, refuses and logs, in both of Lightning's namespaces."""

import math
import re
import subprocess
import sys
from typing import Any

import lightning.pytorch as pl
import prodigyopt
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from adaloss_lightning import (
    AdaGradNorm,
    AdaLoss,
    AdaLossCallback,
    AdamLoss,
    AdamSqrt,
    LossAdaptive,
    SGDDecaySqrt,
)
from tests.callback.models import Regression, fit, optimizer_of, regression_loader


@pytest.mark.parametrize(("make", "rule"), [
    (torch.optim.SGD, "adaloss"), (torch.optim.ASGD, "adaloss"),
    (torch.optim.RMSprop, "adamloss"), (torch.optim.Adagrad, "adamloss"), (prodigyopt.Prodigy, "adamloss"),
    (torch.optim.Adam, "adamloss"), (torch.optim.AdamW, "adamloss"), (torch.optim.NAdam, "adamloss"),
    (torch.optim.RAdam, "adamloss"), (torch.optim.Adamax, "adamloss"),
])  # fmt: skip
def test_optimizers_that_normalize_their_gradient_get_adamloss_and_the_rest_adaloss(make: Any, rule: str) -> None:
    trainer = fit(Regression(lambda p: make(p, lr=0.01)), AdaLossCallback(b0=2.0), max_epochs=1)
    optimizer = optimizer_of(trainer)
    assert type(optimizer) is LossAdaptive
    assert type(optimizer.base) is make
    assert optimizer.param_groups[0]["adaloss_rule"] == rule
    assert optimizer.param_groups[0]["adaloss_b0"] == 2.0


def test_a_given_rule_wins() -> None:
    trainer = fit(Regression(lambda p: torch.optim.Adam(p)), AdaLossCallback("adaloss"), max_epochs=1)
    assert optimizer_of(trainer).param_groups[0]["adaloss_rule"] == "adaloss"


@pytest.mark.parametrize("make", [AdaLoss, AdamLoss, AdaGradNorm, SGDDecaySqrt, AdamSqrt])
def test_adaptive_optimizers_are_fed_and_not_wrapped(make: Any) -> None:
    model = Regression(lambda p: make(p))
    trainer = fit(model, AdaLossCallback(b0=7.0), max_epochs=1)
    assert type(optimizer_of(trainer)) is make
    assert optimizer_of(trainer).param_groups[0]["adaloss_b0"] == 1.0
    assert optimizer_of(trainer).last_loss.item() == model.true_losses[-1]


def test_two_fits_wrap_once_each() -> None:
    model, callback = Regression(), AdaLossCallback()
    for _ in range(2):
        model.true_losses.clear()
        trainer = fit(model, callback)
        assert isinstance(optimizer_of(trainer).base, torch.optim.SGD)
        expected = math.sqrt(1 + sum(model.true_losses))
        assert optimizer_of(trainer).b[0].item() == pytest.approx(expected, rel=1e-12)


def test_logs_through_the_module(tmp_path: Any) -> None:
    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            seen.append((dict(trainer.progress_bar_metrics), dict(trainer.callback_metrics)))

    seen: list[Any] = []
    model = Regression()
    logger = CSVLogger(tmp_path)
    trainer = fit(model, AdaLossCallback(), logger=logger, log_every_n_steps=1, callbacks=[Keep()])
    s = 1.0
    for loss, (bar, metrics) in zip(model.true_losses, seen, strict=True):
        s += loss
        right = {"adaloss/loss": loss, "adaloss/b": math.sqrt(s), "adaloss/effective_lr": 0.1 / math.sqrt(s)}
        assert metrics == pytest.approx(right, rel=1e-6)  # Lightning holds logged values in float32
        assert bar == pytest.approx({"adaloss/effective_lr": right["adaloss/effective_lr"]}, rel=1e-6)
    logger.save()
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    assert set(right) < set(rows[0].split(","))
    assert len(rows) == 1 + trainer.global_step


@pytest.mark.parametrize("accumulate", [1, 2])
def test_monitors_see_every_step_although_few_are_logged(accumulate: int) -> None:
    class Peek(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            optimizer = trainer.optimizers[0]
            if optimizer.stepped:
                expected = optimizer.last_loss, optimizer.b[0], optimizer.effective_lr[0]
                names = ("adaloss/loss", "adaloss/b", "adaloss/effective_lr")
                seen.append([float(trainer.callback_metrics[name]) for name in names])
                assert seen[-1] == pytest.approx([float(value) for value in expected], rel=1e-6)  # logged in float32

    seen: list[list[float]] = []
    trainer = fit(Regression(), AdaLossCallback(), accumulate_grad_batches=accumulate, callbacks=[Peek()])
    assert trainer.log_every_n_steps > trainer.global_step
    assert len({b for _, b, _ in seen}) == trainer.global_step


def test_a_checkpoint_may_monitor_b_between_the_steps_that_are_logged(tmp_path: Any) -> None:
    saves = ModelCheckpoint(
        tmp_path, "{step}-{adaloss/b:.6f}", "adaloss/b", save_top_k=-1, mode="max", every_n_train_steps=2,
        auto_insert_metric_name=False,
    )  # fmt: skip
    trainer = fit(Regression(), AdaLossCallback(), callbacks=[saves], enable_checkpointing=True)
    bs = [float(path.stem.rpartition("-")[2]) for path in tmp_path.rglob("*.ckpt")]
    assert len(set(bs)) == len(bs) == trainer.global_step // 2


def test_logs_per_group_and_only_when_a_step_was_made() -> None:
    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            logged.append(sorted(name for name in trainer._results if "adaloss" in name) if trainer._results else [])

    logged: list[Any] = []
    model = Regression()
    model.make_optimizer = lambda p: torch.optim.SGD(
        [{"params": [model.net.weight]}, {"params": [model.net.bias], "lr": 0.5}], lr=0.1
    )
    trainer = fit(model, AdaLossCallback(), accumulate_grad_batches=2, max_epochs=1, callbacks=[Keep()])
    expected = {"adaloss/loss"} | {f"adaloss/{name}/group{i}" for name in ("b", "effective_lr") for i in (0, 1)}
    assert set(trainer.callback_metrics) == expected
    assert logged[0] == []
    assert len(logged[1]) == len(expected)
    ratio = (
        trainer.callback_metrics["adaloss/effective_lr/group1"]
        / trainer.callback_metrics["adaloss/effective_lr/group0"]
    )
    assert ratio.item() == pytest.approx(5.0, rel=1e-6)


def test_logs_nothing_on_request() -> None:
    assert not fit(Regression(), AdaLossCallback(log=False)).callback_metrics


def test_both_optimizers_are_logged_apart() -> None:
    from tests.callback.test_manual import Adversarial

    trainer = fit(Adversarial(), AdaLossCallback())
    assert {"adaloss/b/optimizer0", "adaloss/b/optimizer1", "adaloss/loss/optimizer0"} <= set(trainer.callback_metrics)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"b0": 0}, "Invalid b0=0. Must be > 0."),
    ({"alpha": -1.0}, "Invalid alpha=-1.0. Must be >= 0."),
    ({"c": math.nan}, "Invalid c=nan. Must be finite."),
    ({"rule": "adagrad"}, "Invalid rule='adagrad'. Must be one of 'adaloss', 'adamloss'."),
])  # fmt: skip
def test_refuses_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AdaLossCallback(**arguments)


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: torch.optim.LBFGS(p), "LBFGS.*without a closure.*Use torch.optim.SGD"),
    (lambda p: torch.optim.Rprop(p), "Rprop.*lr at each step"),
    (lambda p: None, "found no optimizer to adapt.*Regression returned none"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None.")
def test_refuses_before_the_first_step(make: Any, message: str) -> None:
    model = Regression(make)
    with pytest.raises(MisconfigurationException, match=message):
        fit(model, AdaLossCallback())
    assert model.true_losses == []


def test_refuses_to_be_there_twice() -> None:
    class Mine(AdaLossCallback):
        pass

    with pytest.raises(MisconfigurationException, match="Found several AdaLossCallbacks"):
        fit(Regression(), AdaLossCallback(), callbacks=[Mine()])


def test_refuses_a_strategy_whose_engine_owns_the_step() -> None:
    class Engine(pl.strategies.SingleDeviceStrategy):
        handles_gradient_accumulation = True

    with pytest.raises(MisconfigurationException, match=r"Engine: its engine owns the optimizer step.*strategy='ddp'"):
        fit(Regression(), AdaLossCallback(), strategy=Engine("cpu"))


def test_schedulers_move_eta_and_the_monitor_shows_it(tmp_path: Any) -> None:
    def make(parameters: Any) -> Any:
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    monitor = pl.callbacks.LearningRateMonitor()
    logger = CSVLogger(tmp_path)
    model = Regression(make)
    trainer = fit(model, AdaLossCallback(), callbacks=[monitor], logger=logger, log_every_n_steps=1)
    assert optimizer_of(trainer).param_groups[0]["lr"] == pytest.approx(0.1 * 0.1**2)  # 8 steps
    s = 1 + sum(model.true_losses)
    effective = optimizer_of(trainer).effective_lr[0].item()
    assert effective == pytest.approx(0.001 / math.sqrt(s), rel=1e-12)  # the rate of step 8, before its scheduler step
    # under the name that it had before the callback came, and only there
    rates = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("lr-")}
    assert rates == {"lr-SGD": pytest.approx(0.001)}


def test_backbone_finetuning_adds_groups_in_mid_training() -> None:
    class Backbone(Regression):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.backbone = torch.nn.Linear(3, 3)

        def compute_loss(self, batch: Any) -> Any:
            x, y = batch
            return super().compute_loss((self.backbone(x), y))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.01)

    model = Backbone()
    finetuning = pl.callbacks.BackboneFinetuning(1, lambda epoch: 1.0, backbone_initial_ratio_lr=0.5, verbose=False)
    trainer = fit(model, AdaLossCallback(), callbacks=[finetuning])
    optimizer: Any = optimizer_of(trainer)
    assert len(optimizer.param_groups) == 2
    assert optimizer.b[0].item() == pytest.approx(math.sqrt(1 + sum(model.true_losses)), rel=1e-12)
    assert optimizer.b[1].item() == pytest.approx(math.sqrt(1 + sum(model.true_losses[4:])), rel=1e-12)
    assert {name for name in trainer.callback_metrics if "adaloss/b" in name} == {
        "adaloss/b/group0",
        "adaloss/b/group1",
    }


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # the one it resumes from
@pytest.mark.parametrize("make", [AdaLoss, AdamLoss, AdaGradNorm, SGDDecaySqrt, AdamSqrt, torch.optim.AdamW])
def test_resume_is_bit_exact(make: Any, tmp_path: Any) -> None:
    def trained(epochs: int, ckpt_path: Any = None) -> tuple[pl.Trainer, Regression]:
        model = Regression(lambda p: make(p, lr=0.01))
        save = pl.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=[AdaLossCallback(), save],
        )  # fmt: skip
        trainer.fit(model, regression_loader(), ckpt_path=ckpt_path)
        return trainer, model

    whole, model = trained(4)
    resumed, other = trained(4, tmp_path / "epoch=1.ckpt")
    assert torch.equal(model.net.weight, other.net.weight)
    assert torch.equal(model.net.bias, other.net.bias)
    for ours, theirs in zip(whole.optimizers[0].b, resumed.optimizers[0].b, strict=True):
        assert torch.equal(ours, theirs)
    # what the checkpoint holds is plain: tensors and numbers
    torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)


def test_a_checkpoint_without_the_callback_starts_b_at_b0(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = Regression(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9))
    bare = fit(model, None, max_epochs=1)
    bare.save_checkpoint(tmp_path / "bare.ckpt")
    resumed = Regression(lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9))
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[AdaLossCallback(b0=0.5)],
    )  # fmt: skip
    with caplog.at_level("INFO"):
        trainer.fit(resumed, regression_loader(), ckpt_path=tmp_path / "bare.ckpt")
    assert "made without AdaLossCallback: b starts at b0=0.5" in caplog.text
    expected = math.sqrt(0.25 + sum(resumed.true_losses))
    assert trainer.optimizers[0].b[0].item() == pytest.approx(expected, rel=1e-12)


def test_settings_of_the_checkpoint_win_and_a_warning_says_so(tmp_path: Any) -> None:
    fit(Regression(), AdaLossCallback(b0=0.5), max_epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    model = Regression(lambda p: torch.optim.SGD(p, lr=0.3))
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[AdaLossCallback(b0=8.0)],
    )  # fmt: skip
    expected = r"lr=0.1 from the checkpoint, not 0.3; b0=0.5 from the checkpoint, not 8.0"
    with pytest.warns(UserWarning, match=expected):
        trainer.fit(model, regression_loader(), ckpt_path=tmp_path / "half.ckpt")
    assert trainer.optimizers[0].param_groups[0]["adaloss_b0"] == 0.5


def test_a_checkpoint_that_was_only_tested_does_not_speak_for_the_next_fit(tmp_path: Any) -> None:
    class Tested(Regression):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.compute_loss(batch)

    callback = AdaLossCallback()
    trainer = fit(Tested(), callback, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.test(Tested(), regression_loader(), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    fit(Tested(lambda p: torch.optim.SGD(p, lr=0.3)), callback, max_epochs=1)  # any warning is an error


def test_pytorch_lightning_works_too() -> None:
    """In a process of its own: the two namespaces register the same things twice."""
    script = """
import math, torch, warnings
import pytorch_lightning as pl
from adaloss_lightning import AdaLossCallback
class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net, self.losses = torch.nn.Linear(3, 1), []
    def training_step(self, batch, batch_idx):
        loss = self.net(batch).square().mean()
        self.losses.append(loss.detach().double().item())
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
model = Model()
trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False, callbacks=[AdaLossCallback()])
trainer.fit(model, torch.utils.data.DataLoader(torch.ones(8, 3), batch_size=2))
assert abs(trainer.optimizers[0].b[0].item() - math.sqrt(1 + sum(model.losses))) < 1e-12
assert abs(float(trainer.callback_metrics["adaloss/b"]) - math.sqrt(1 + sum(model.losses))) < 1e-6
callback = AdaLossCallback(auto=True)
again = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
                   enable_progress_bar=False, enable_model_summary=False, callbacks=[callback])
again.fit(model, torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=2))
assert callback.found["lr"] == again.optimizers[0].param_groups[0]["lr"] != 0.1
print("ok", len(model.losses))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("ok 8"), done.stderr
