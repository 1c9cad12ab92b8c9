"""Diagnosis of a run: each line on one that has the illness, and none on a healthy one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from adaloss_lightning import AdaLoss, AdaLossCallback, AdamLoss
from adaloss_lightning.callback import auto
from adaloss_lightning.callback.diagnosis import History
from adaloss_lightning.optim.probe import Found
from tests.callback.models import Regression, fit, regression_loader
from tests.callback.test_true_loss import SpyPrecision

EPOCHS = 20  # of four steps


def said(
    callback: AdaLossCallback, make: Any, caplog: pytest.LogCaptureFixture, model: Any = Regression, **options: Any
) -> list[str]:
    caplog.clear()
    with caplog.at_level("INFO"):
        fit(model(make), callback, **{"max_epochs": EPOCHS, **options})
    lines = [record.getMessage() for record in caplog.records]
    return [line.removeprefix("AdaLossCallback: ") for line in lines if line.startswith("AdaLossCallback")]


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.1)


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=0.05)


class Floor(Regression):
    """A loss that cannot fall below 30."""

    def compute_loss(self, batch: Any) -> Any:
        return super().compute_loss(batch) + 30


def adaptive(parameters: Any) -> Any:
    return AdaLoss(parameters, lr=0.3)


@pytest.mark.parametrize("options", [{}, {"warmup": 100}])
@pytest.mark.parametrize("make", [sgd, adam])
def test_who_wraps_an_optimizer_is_told_what_lr_means_now(
    make: Any, options: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lines = said(AdaLossCallback(**options), make, caplog, max_epochs=1)
    assert len(lines) == 1 + len(options)  # and what was chosen
    eta = make([torch.nn.Parameter(torch.ones(1))]).param_groups[0]["lr"]
    first = Regression()
    first.compute_loss(next(iter(regression_loader())))
    b = 1 + first.true_losses[0]  # of both rules: s
    means = f"lr {eta:g} is eta: steps now run at {eta / math.sqrt(b):.2g} and falling."
    assert lines[-1] == f"{means} AdaLossCallback(auto=True) finds it."


@pytest.mark.filterwarnings("ignore:This run cools down to 0")
@pytest.mark.parametrize("before", [True, False])
def test_who_resumes_is_told_only_where_the_callback_is_new(
    before: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    callback = AdaLossCallback(cooldown=0.5) if before else None
    fit(Regression(sgd), callback, max_epochs=1).save_checkpoint(tmp_path / "one.ckpt")
    caplog.clear()
    with caplog.at_level("INFO"):
        again = AdaLossCallback(cooldown=0.5) if before else AdaLossCallback()
        fit(Regression(sgd), again, max_epochs=2, ckpt_path=tmp_path / "one.ckpt")
    assert caplog.text.count("is eta: steps now run at") == (0 if before else 1)


@pytest.mark.parametrize(("callback", "make"), [
    (lambda: AdaLossCallback(), adaptive),
    (lambda: AdaLossCallback(), lambda p: AdamLoss(p, lr=0.3)),
])  # fmt: skip
def test_who_took_an_adaptive_optimizer_is_told_nothing(
    callback: Any, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert said(callback(), make, caplog) == []


def test_who_chooses_is_told_nothing_but_what_was_chosen(caplog: pytest.LogCaptureFixture) -> None:
    lines = said(AdaLossCallback(auto=True), adam, caplog)
    assert len(lines) == 1
    assert lines[0].startswith("lr ")
    assert "found in" in lines[0]


def test_a_rate_that_came_to_nothing_in_the_first_epoch(caplog: pytest.LogCaptureFixture) -> None:
    loader = regression_loader(batches=60)
    ill = said(AdaLossCallback(), lambda p: torch.optim.Adam(p, lr=1e-3), caplog, Huge, loader=loader, max_epochs=1)
    early = [line for line in ill if "a hundredth of lr=0.001 or less, and the loss has hardly moved" in line]
    assert len(early) == 1
    assert early[0].startswith("steps run at ")
    healthy = said(AdaLossCallback(), sgd, caplog, loader=loader, max_epochs=1)
    assert not any("hardly moved" in line for line in healthy)


class Huge(Regression):
    """A loss of order 1e5, as on raw regression targets."""

    def compute_loss(self, batch: Any) -> Any:
        return 1e4 * super().compute_loss(batch)


def test_b_that_never_moved(caplog: pytest.LogCaptureFixture) -> None:
    lines = said(AdaLossCallback(b0=1e4), lambda p: torch.optim.SGD(p, lr=1e3), caplog)
    assert lines[-1].startswith("b stayed at its start, 1e+04: the losses add next to nothing to b0=10000")
    assert lines[-1].endswith("Lower b0, or use alpha='auto'.")
    # also in units of the first loss
    lines = said(AdaLossCallback(b0=1e4, alpha="auto"), lambda p: torch.optim.SGD(p, lr=1e4), caplog)
    assert any(line.startswith("b stayed at its start") for line in lines)
    assert not any("stayed" in line for line in said(AdaLossCallback(), sgd, caplog))
    # who wants a constant rate has it
    assert not any("stayed" in line for line in said(AdaLossCallback(alpha=0.0), sgd, caplog))


def test_a_rate_that_has_decayed_while_the_loss_still_falls(caplog: pytest.LogCaptureFixture) -> None:
    ill = said(AdaLossCallback(b0=0.01), lambda p: torch.optim.SGD(p, lr=0.02), caplog)
    assert ill[-1].startswith("the rate has fallen ")
    assert ill[-1].endswith("Raise lr, lower alpha, or leave both to auto=True.")
    healthy = said(AdaLossCallback(b0=0.01), lambda p: torch.optim.SGD(p, lr=0.3), caplog)
    assert not any("has fallen" in line for line in healthy)


def test_a_loss_with_a_floor(caplog: pytest.LogCaptureFixture) -> None:
    lines = said(AdaLossCallback(), adaptive, caplog, Floor, max_epochs=60)
    floor = [line for line in lines if "feeds b all the same" in line]
    assert len(floor) == 1
    c = float(floor[0].rpartition("c=")[2].rstrip("."))
    assert 20 < c < 32
    healed = said(AdaLossCallback(), lambda p: AdaLoss(p, lr=0.3, c=c), caplog, Floor, max_epochs=60)
    assert not any("feeds b" in line for line in healed)


class Spoiled(Regression):
    """Two of three losses are not finite."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.compute_loss(batch) * (math.nan if len(self.true_losses) % 3 else 1.0)


class Overflows(Regression):
    """Gradients that no scale keeps finite."""

    def on_after_backward(self) -> None:
        next(self.parameters()).grad[0, 0] = math.inf


def test_half_of_all_steps_skipped(caplog: pytest.LogCaptureFixture) -> None:
    lines = said(AdaLossCallback(), adaptive, caplog, Spoiled)
    assert len(lines) == 1
    assert lines[0].startswith("54 of 80 steps were skipped: the loss or the gradients were not finite.")
    plugins = [SpyPrecision(2.0**100, growth_interval=1000)]
    lines = said(AdaLossCallback(), adaptive, caplog, Overflows, plugins=plugins)
    assert any("80 of 80 steps were skipped" in line for line in lines), lines


def test_a_rate_that_was_left_to_auto_is_no_advice(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(auto, "find_lr_of", lambda *_: Found(0.02, 1, 0.0))  # too small, by way of exception
    for choice, is_said in ((0.02, True), ("auto", False)):
        lines = said(AdaLossCallback(b0=0.01, lr=choice), sgd, caplog)
        assert any("has fallen" in line for line in lines) == is_said
    (line,) = [
        line for line in said(AdaLossCallback(b0=0.01, lr=0.02, cooldown=1.0), sgd, caplog) if "has fallen" in line
    ]
    assert float(line.partition(" to ")[2].partition(",")[0]) > 1e-4  # eta over the divisor, not what cooled down


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_batches_without_a_loss_are_no_skipped_steps(caplog: pytest.LogCaptureFixture) -> None:
    class Sometimes(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx % 4 else super().training_step(batch, batch_idx)

    lines = said(AdaLossCallback(lr=0.1), sgd, caplog, Sometimes, max_epochs=60)
    assert not any("were skipped" in line for line in lines)


def test_every_step_of_a_batch_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    class Passes(Regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            for index in range(10):
                optimizer.zero_grad()
                self.manual_backward(self.compute_loss(batch) * (1.0 if index == 0 else math.nan))
                optimizer.step()

    lines = said(AdaLossCallback(lr=0.1), sgd, caplog, Passes, max_epochs=20)
    assert [line for line in lines if line.startswith("720 of 800 steps were skipped")]


def test_too_few_steps_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert said(AdaLossCallback(), adaptive, caplog, Spoiled, max_epochs=3) == []
    assert said(AdaLossCallback(), lambda p: AdaLoss(p, lr=1.0, b0=1e4), caplog, max_epochs=3) == []


def test_the_steps_of_the_probe_are_not_of_the_run(caplog: pytest.LogCaptureFixture) -> None:
    histories = []

    class Keeps(AdaLossCallback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            histories.append(self._fed[0].history)

    model = Regression(adam)
    fit(model, Keeps(auto=True), max_epochs=3)
    (history,) = histories
    assert history.asked == history.finite == 12
    assert history.means() == pytest.approx(model.true_losses, rel=1e-6)


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000])
def test_a_history_is_the_means_of_windows(count: int, tensor: bool) -> None:
    history, losses = History(), [math.sin(i) for i in range(count)]
    for loss in losses:
        history.add(torch.tensor(loss, dtype=torch.float64) if tensor else loss)
    means = history.means()
    width = 1
    while count // width >= 64:
        width *= 2
    expected = [sum(losses[i : i + width]) / width for i in range(0, count - width + 1, width)]
    assert means == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert history.finite == count
    assert len(means) < 64


@pytest.mark.parametrize("tensor", [False, True])
def test_losses_that_are_not_finite_are_left_out_of_a_history(tensor: bool) -> None:
    history = History()
    for index in range(128):
        loss = math.nan if index % 2 else 2.0
        history.add(torch.tensor(loss) if tensor else loss)
    assert history.finite == 64
    assert history.means() == pytest.approx([2.0] * len(history.means()))
