"""Optimizers that change in mid-training: replaced, tuned, stepped by the module, resumed."""

import math
import warnings
import weakref
from typing import Any

import lightning.pytorch as pl
import momo
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.tuner import Tuner

from adaloss_lightning import AdaLoss, AdaLossCallback, AdamLoss, LossAdaptive
from tests.callback.models import Regression, fit, optimizer_of, regression_loader
from tests.callback.test_true_loss import SpyPrecision


class Replaces(Regression):
    """Starts its second epoch with a fresh optimizer."""

    def __init__(self, hook: str, make_optimizer: Any = None) -> None:
        super().__init__(make_optimizer)
        self.hook = hook
        self.is_replaced = False

    def replace(self, hook: str) -> None:
        if hook == self.hook and self.current_epoch == 1 and not self.is_replaced:
            self.is_replaced = True
            self.trainer.strategy.setup_optimizers(self.trainer)

    def on_train_epoch_start(self) -> None:
        self.replace("on_train_epoch_start")

    def on_train_batch_start(self, *arguments: Any) -> None:
        self.replace("on_train_batch_start")

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.replace("training_step")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, lr=0.1), lambda p: AdaLoss(p, lr=0.1)])
def test_an_optimizer_replaced_in_mid_training_is_adapted_as_at_the_start(make: Any) -> None:
    model = Replaces("on_train_epoch_start", make)
    trainer = fit(model, AdaLossCallback())
    expected = math.sqrt(1 + sum(model.true_losses[4:]))
    assert optimizer_of(trainer).b[0].item() == pytest.approx(expected, rel=1e-12)
    assert float(trainer.callback_metrics["adaloss/b"]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("auto", [False, True])
def test_an_optimizer_replaced_in_mid_training_has_the_eta_and_the_warm_up_of_the_start(auto: bool) -> None:
    callback = AdaLossCallback(lr="auto" if auto else 0.7, alpha=0.0, warmup=2)
    rates: list[float] = []

    class Notes(Replaces):
        def on_train_batch_end(self, *_: Any) -> None:
            rates.append(self.trainer.optimizers[0].effective_lr[0].item())  # type: ignore[attr-defined]

    fit(Notes("on_train_epoch_start"), callback)
    eta = callback.found["lr"]
    assert rates == pytest.approx([eta / 2, eta, eta, eta] * 2)


def test_optimizers_that_are_replaced_again_and_again_have_the_eta_and_the_warm_up_of_the_start() -> None:
    """... although a new one may lie where one that is gone has lain, and then has its ``id``."""
    rates: list[float] = []

    class Each(Regression):
        def on_train_epoch_start(self) -> None:
            self.trainer.strategy.setup_optimizers(self.trainer)

        def on_train_batch_end(self, *_: Any) -> None:
            rates.append(self.trainer.optimizers[0].effective_lr[0].item())  # type: ignore[attr-defined]

    fit(Each(), AdaLossCallback(lr=0.01, alpha=0.0, warmup=2), max_epochs=12)
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.01] * 12)


@pytest.mark.parametrize("hook", ["on_train_batch_start", "training_step"])
def test_an_optimizer_replaced_within_a_batch_is_adapted_from_the_next_one_on(hook: str) -> None:
    model = Replaces(hook)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(model, AdaLossCallback())
    # from training_step on it is too late to step another one: the old one, which is adapted, takes that step
    unadapted = sum("SGD takes one step at its own rate" in str(one.message) for one in caught)
    assert unadapted == (hook == "on_train_batch_start")
    expected = math.sqrt(1 + sum(model.true_losses[5:]))
    assert optimizer_of(trainer).b[0].item() == pytest.approx(expected, rel=1e-12)


class StepsItsOwn(Regression):
    def __init__(self, wrap: Any = lambda optimizer: optimizer) -> None:
        super().__init__(lambda p: torch.optim.SGD([self.net.weight], lr=0.1))
        self.own = wrap(torch.optim.SGD([self.net.bias], lr=0.1))

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.own.step(**({"loss": 1.0} if isinstance(self.own, LossAdaptive) else {}))


def test_a_module_that_steps_an_optimizer_of_its_own_is_warned_once() -> None:
    with pytest.warns(
        UserWarning, match=r"SGD steps parameters of StepsItsOwn.*LossAdaptive\(SGD\(\.\.\.\)\)"
    ) as caught:
        fit(StepsItsOwn(), AdaLossCallback())
    assert len([one for one in caught if "steps parameters" in str(one.message)]) == 1
    fit(StepsItsOwn(LossAdaptive), AdaLossCallback())  # adapted by its owner: nothing to say


def test_the_steps_of_the_search_for_eta_are_not_those_of_a_stranger(recwarn: pytest.WarningsRecorder) -> None:
    class Lookahead(torch.optim.Optimizer):
        """Steps the optimizer in it."""

        def __init__(self, inner: torch.optim.Optimizer) -> None:
            self.optimizer = inner
            super().__init__(inner.param_groups, {})
            self.param_groups = inner.param_groups

        def step(self, closure: Any = None) -> Any:
            return self.optimizer.step(closure)

    model = Regression(lambda p: LossAdaptive(Lookahead(torch.optim.SGD(p, lr=0.1))))
    fit(model, AdaLossCallback(lr="auto"), accumulate_grad_batches=2)
    assert not [one for one in recwarn if "steps parameters" in str(one.message)]


def test_a_module_that_steps_the_optimizer_within_ours_is_warned() -> None:
    class StepsTheBase(Regression):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            self.kept = torch.optim.SGD(self.parameters(), lr=0.1)
            return self.kept

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.kept.zero_grad()
            self.manual_backward(self.compute_loss(batch))
            self.kept.step()

    with pytest.warns(UserWarning, match=r"SGD steps parameters of StepsTheBase at its own rate.*self\.optimizers\(\)"):
        fit(StepsTheBase(), AdaLossCallback())


def test_no_gradient_lives_on_beside_the_next_one() -> None:
    alive: list[bool] = []

    class Watches(Regression):
        def on_before_backward(self, loss: Any) -> None:
            alive.extend(reference() is not None for reference in self.gradients)

        def on_after_backward(self) -> None:
            self.gradients = [weakref.ref(p.grad) for p in self.parameters()]

        gradients: Any = ()

    fit(Watches(), AdaLossCallback())
    assert alive
    assert not any(alive)


def test_momo_is_fed_the_true_loss_and_not_wrapped(caplog: pytest.LogCaptureFixture) -> None:
    losses: list[float] = []

    class Momo(momo.Momo):
        def step(self, closure: Any = None, loss: Any = None) -> Any:
            losses.append(loss.item())
            return super().step(closure, loss)

    model = Regression(lambda p: Momo(p, lr=0.01))
    with caplog.at_level("INFO"):
        trainer = fit(model, AdaLossCallback(), accumulate_grad_batches=2, plugins=[SpyPrecision(2.0**4)])
    assert type(optimizer_of(trainer)) is Momo
    assert caplog.text.count("Momo uses the loss itself") == 1
    means = [sum(model.true_losses[i : i + 2]) / 2 for i in range(0, 8, 2)]
    assert losses == pytest.approx(means, rel=1e-6)
    assert not optimizer_of(trainer)._optimizer_step_pre_hooks


@pytest.mark.parametrize("auto", [False, True])
def test_an_optimizer_that_has_no_rate_is_fed(auto: bool) -> None:
    losses: list[float] = []

    class Polyak(torch.optim.SGD):
        """Takes its rate from the loss alone, as SPS_safe does."""

        def step(self, closure: Any = None, loss: Any = None) -> None:
            losses.append(loss.item())
            for p in self.param_groups[0]["params"]:
                p.data.add_(p.grad, alpha=-0.01 * loss.item())

    def polyak(parameters: Any) -> Polyak:
        optimizer = Polyak(parameters)
        del optimizer.param_groups[0]["lr"]
        return optimizer

    model = Regression(polyak)
    fit(model, AdaLossCallback(auto=auto))
    assert losses == pytest.approx(model.true_losses, rel=1e-6)


class EitherWay(Regression):
    """The same training under automatic and under manual optimization."""

    def __init__(self, automatic: bool, make_optimizer: Any) -> None:
        super().__init__(make_optimizer)
        self.automatic_optimization = automatic

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.compute_loss(batch)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss


class Around(torch.optim.Optimizer):
    """As Lookahead: an optimizer around another one, whose groups it shares."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner = inner
        super().__init__(inner.param_groups, {})
        self.param_groups = inner.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.inner.zero_grad(set_to_none)


@pytest.mark.parametrize("automatic", [True, False])
def test_an_adaptive_optimizer_in_another_one_is_fed_and_not_adapted_twice(automatic: bool) -> None:
    model = EitherWay(automatic, lambda p: Around(AdaLoss(p, lr=0.1)))
    trainer = fit(model, AdaLossCallback())
    inner = optimizer_of(trainer).inner
    assert type(optimizer_of(trainer)) is Around
    assert inner.b[0].item() == pytest.approx(math.sqrt(1 + sum(model.true_losses)), rel=1e-12)
    assert float(trainer.callback_metrics["adaloss/b"]) == pytest.approx(inner.b[0].item(), rel=1e-6)


@pytest.mark.parametrize("automatic", [True, False])
@pytest.mark.parametrize("make", [torch.optim.Adam, AdamLoss])
def test_the_batch_size_is_scaled_without_the_callback(make: Any, automatic: bool, tmp_path: Any) -> None:
    class Model(EitherWay):
        batch_size = 2

        def train_dataloader(self) -> Any:
            return regression_loader(batches=16 // self.batch_size, batch_size=self.batch_size)

    model = Model(automatic, lambda p: make(p, lr=0.01))
    before = model.net.weight.detach().clone()
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path, callbacks=[AdaLossCallback()],
    )  # fmt: skip
    Tuner(trainer).scale_batch_size(model, steps_per_trial=2, max_trials=2)
    assert torch.equal(model.net.weight, before)
    assert "adaloss/b" not in trainer.callback_metrics
    model.true_losses.clear()
    trainer.fit(model)
    assert model.batch_size in (4, 8)  # Lightning 2.5 doubles once more
    assert optimizer_of(trainer).b[0].item() == pytest.approx(1 + sum(model.true_losses), rel=1e-12)


def plateau(parameters: Any, lr: float) -> Any:
    optimizer = torch.optim.SGD(parameters, lr=lr)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e9, threshold_mode="abs")
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "adaloss/loss"}}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
# old: a checkpoint that does not say what was configured
@pytest.mark.parametrize(("by_hand", "old"), [(False, False), (False, True), (True, False)])
def test_a_rate_that_the_training_moved_is_no_change_of_settings(by_hand: bool, old: bool, tmp_path: Any) -> None:
    class ByHand(Regression):
        def on_train_epoch_end(self) -> None:
            if by_hand:
                self.trainer.optimizers[0].param_groups[0]["lr"] *= 0.5

    def trained(lr: float, epochs: int, ckpt_path: Any = None) -> list[str]:
        make = (lambda p: torch.optim.SGD(p, lr=lr)) if by_hand else (lambda p: plateau(p, lr))
        saves = ModelCheckpoint(tmp_path, "{epoch}", save_last=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer = pl.Trainer(
                max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False,
                enable_model_summary=False, callbacks=[AdaLossCallback(), saves],
            )  # fmt: skip
            trainer.fit(ByHand(make), regression_loader(), ckpt_path=ckpt_path)
        assert trainer.optimizers[0].param_groups[0]["lr"] < 0.1
        return [str(one.message) for one in caught if "Resuming with" in str(one.message)]

    assert trained(0.1, 3) == []
    path = tmp_path / "last.ckpt"
    if old:
        checkpoint = torch.load(path, weights_only=True)
        del checkpoint["adaloss_lightning"]
        torch.save(checkpoint, path)
    assert trained(0.1, 4, path) == []
    if not old:
        assert len(trained(0.2, 5, tmp_path / "last.ckpt")) == 1, "that one is a change"
