"""Warm-up and cool-down keep pace with runs of any kind: accumulation that changes, manual steps, later fits."""

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from adaloss_lightning import AdaLoss, AdaLossCallback
from tests.callback.models import Regression, fit, optimizer_of, regression_loader
from tests.callback.test_mid_training import EitherWay

ETA = 1e-3


class Factors(pl.Callback):
    """What eta over the divisor was multiplied by in each step; b stands still, so this is warm-up and cool-down."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.steps = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step > self.steps:
            self.steps = trainer.global_step
            self.seen.append(optimizer_of(trainer).effective_lr[0].item() / ETA)  # type: ignore[attr-defined]


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=ETA)


def factors(model: pl.LightningModule, batches: int, *callbacks: pl.Callback, **options: Any) -> list[float]:
    """Of a fit with alpha=0, so that b stays 1."""
    seen = Factors()
    callback = AdaLossCallback(alpha=0.0, **options.pop("choices"))
    fit(model, callback, regression_loader(batches), callbacks=[*callbacks, seen], **options)
    return seen.seen


def test_cool_down_ends_with_the_run_where_accumulation_changes() -> None:
    schedule = GradientAccumulationScheduler({0: 1, 1: 4})
    found = factors(Regression(sgd), 8, schedule, choices={"cooldown": 0.5}, max_epochs=4)
    # of 8 + 3 * 2 steps; the last half of the run is two epochs of two steps
    assert found == pytest.approx([1.0] * 10 + [1.0, 0.75, 0.5, 0.25])


def test_warm_up_is_a_fifth_of_the_run_where_accumulation_changes() -> None:
    schedule = GradientAccumulationScheduler({0: 1, 1: 8})
    found = factors(Regression(sgd), 16, schedule, choices={"warmup": "auto"}, max_epochs=10)
    # 16 + 9 * 2 steps, of which all of the first epoch and two of the second are in the first fifth
    assert found[15] < 1.0
    assert found[18:] == [1.0] * 16


def test_weight_averaging_adds_no_epoch_to_the_cool_down() -> None:
    model = Regression(sgd)
    model.net = torch.nn.Sequential(torch.nn.BatchNorm1d(3), model.net)  # type: ignore[assignment]
    averaging = StochasticWeightAveraging(swa_lrs=ETA, swa_epoch_start=2, annealing_epochs=1)
    found = factors(model, 4, averaging, choices={"cooldown": 0.5}, max_epochs=4)
    assert found[:16] == pytest.approx([min(1.0, (16 - step) / 8) for step in range(16)])


@pytest.mark.parametrize(("micro", "steps"), [(1, 80), (8, 10)])
def test_manual_warm_up_is_a_fifth_of_the_steps_there_really_are(micro: int, steps: int) -> None:
    class ByHand(EitherWay):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            self.manual_backward(self.compute_loss(batch) / micro)
            if batch_idx % micro == micro - 1:
                optimizer.step()
                optimizer.zero_grad()

    found = factors(ByHand(False, sgd), 40, choices={"warmup": "auto"}, max_epochs=2)
    assert len(found) == steps
    assert found[0] < 0.1
    assert found[steps // 5 :] == [1.0] * (steps - steps // 5)


def test_manual_warm_up_of_many_steps_a_batch_is_not_over_with_the_first() -> None:
    class Passes(EitherWay):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            for _ in range(10):
                optimizer.zero_grad()
                self.manual_backward(self.compute_loss(batch))
                optimizer.step()

    found = factors(Passes(False, sgd), 20, choices={"warmup": "auto"}, max_epochs=2)  # 400 steps, a fifth is 80
    assert found[0] == pytest.approx(0.1)  # ten of the hundred of an optimizer without a beta2
    assert found[3] < 1.0 == found[9]


@pytest.mark.parametrize("options", [{"max_epochs": 4}, {"max_epochs": -1, "max_steps": 16}])
def test_manual_cool_down_ends_with_the_run(options: Any) -> None:
    found = factors(EitherWay(False, sgd), 4, choices={"cooldown": 0.5}, **options)
    assert found == pytest.approx([min(1.0, (16 - step) / 8) for step in range(16)])


def test_a_later_fit_of_the_same_trainer_has_its_own_cool_down() -> None:
    model, seen = Regression(sgd), Factors()
    trainer = fit(model, AdaLossCallback(auto=True, lr=ETA, alpha=0.0), regression_loader(20), callbacks=[seen])
    assert seen.seen[-1] == pytest.approx(1 / 10)  # a quarter of 40 steps cools down
    seen.seen.clear()
    trainer.fit_loop.max_epochs = 6
    trainer.fit(model, regression_loader(5))
    expected = [min(1.0, (step + 1) / 4, (20 - step) / 5) for step in range(20)]  # of its own 20 steps
    assert seen.seen == pytest.approx(expected)


def test_the_optimizer_is_left_as_it_was_after_the_run() -> None:
    model = Regression()
    optimizer = AdaLoss(model.parameters(), lr=ETA, alpha=0.0)
    model.make_optimizer = lambda _: optimizer
    fit(model, AdaLossCallback(cooldown=1.0))
    seen = Factors()
    fit(model, AdaLossCallback(), callbacks=[seen])
    assert seen.seen == [1.0] * 8


def test_attributes_of_other_callbacks_are_not_lightnings() -> None:
    class Mine(pl.Callback):
        time_remaining = 3.0
        swa_end = "epoch 1"

    found = factors(Regression(sgd), 4, Mine(), choices={"cooldown": 0.5}, max_epochs=2)
    assert found == pytest.approx([1.0] * 5 + [0.75, 0.5, 0.25])
