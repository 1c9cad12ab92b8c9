"""Schedulers and other callbacks beside ours."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch.optim import lr_scheduler

from adaloss_lightning import AdaLoss, AdaLossCallback, AdamLoss, LossAdaptive
from tests.callback.models import Regression, fit, optimizer_of, regression_loader
from tests.support.cells import cell
from tests.support.steps import ETA, ByHand, Watch, assert_steps

EPOCHS, STEPS = 3, 12
SEARCHED = 8  # no more than the epochs of the fit have
TOLERANCE = {"s_rtol": 1e-14, "rtol": 1e-13}  # float64 against float64, a few roundings


def trained(model: Regression, *callbacks: pl.Callback, **settings: Any) -> Watch:
    watch = Watch()
    settings = {"max_epochs": EPOCHS, "precision": "64-true", "callbacks": [watch, *callbacks], **settings}
    fit(model, AdaLossCallback(), regression_loader(dtype=torch.float64), **settings)
    return watch


def warm_up_then_cosine(optimizer: Any) -> Any:
    warm_up = lr_scheduler.LinearLR(optimizer, 0.25, total_iters=4)
    return lr_scheduler.SequentialLR(optimizer, [warm_up, lr_scheduler.CosineAnnealingLR(optimizer, 8)], [4])


SCHEDULERS: dict[str, Any] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR (chainable)": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "warm-up, then cosine (SequentialLR)": warm_up_then_cosine,
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 3), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, max_lr=0.2, total_steps=STEPS + 1, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
}


def etas_without_us(make: Any) -> list[float]:
    """The schedule of the same scheduler on an optimizer that has nothing to do with this package."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=ETA)
    scheduler = make(optimizer)
    etas = []
    for _ in range(STEPS):
        etas.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return etas


@cell(
    "Schedulers",
    "built in `configure_optimizers`, stepped at every batch; `LearningRateMonitor` shows eta",
    "the same scheduler on a plain optimizer, and each step in float64 at its eta",
)
@pytest.mark.parametrize("bare", [True, False], ids=["on an optimizer that is wrapped later", "on AdaLoss"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name: str, bare: bool, tmp_path: Path) -> None:
    def make(parameters: Any) -> Any:
        optimizer = (torch.optim.SGD if bare else AdaLoss)(parameters, lr=ETA)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": SCHEDULERS[name](optimizer), "interval": "step"}}

    model = Regression(make)
    monitor = pl.callbacks.LearningRateMonitor()
    logger = Memory(tmp_path)
    watch = trained(model, monitor, logger=logger, log_every_n_steps=1)
    etas = etas_without_us(SCHEDULERS[name])
    steps = ByHand(etas=etas).run(model, watch, [1] * EPOCHS)
    assert_steps(watch, steps, **TOLERANCE)
    for rate, eta, step in zip(watch.rates[1:], etas, steps, strict=True):
        assert rate == pytest.approx(eta / math.sqrt(step.s), rel=1e-14)
    shown = logger.values("lr-SGD" if bare else "lr-AdaLoss")
    assert shown == pytest.approx(etas, rel=1e-6)  # loggers get float32
    rates = logger.values("adaloss/effective_lr")
    assert rates == pytest.approx(watch.rates[1:], rel=1e-6)


class Memory(CSVLogger):
    """Keeps what it is given."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.given: list[dict[str, Any]] = []

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.given.append({key: float(value) for key, value in metrics.items()})
        super().log_metrics(metrics, step)

    def values(self, key: str) -> list[float]:
        return [row[key] for row in self.given if key in row]


@cell(
    "Schedulers",
    "`ReduceLROnPlateau` with a monitor",
    "each step in float64, eta falling where the monitored value stood still",
)
@pytest.mark.parametrize("monitor", ["plateau", "adaloss/b"])
def test_reduce_on_plateau(monitor: str) -> None:
    class Monitored(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("plateau", 1.0, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

    def make(parameters: Any) -> Any:
        optimizer = torch.optim.SGD(parameters, lr=ETA)
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}

    model = Monitored(make)
    watch = trained(model)
    # neither a constant nor b, which only grows, ever falls below its first value: eta halves from the third epoch on
    etas = [ETA] * 8 + [ETA / 2] * 4
    assert_steps(watch, ByHand(etas=etas).run(model, watch, [1] * EPOCHS), **TOLERANCE)
    assert optimizer_of(model.trainer).param_groups[0]["lr"] == ETA / 4


COMPANY = "Other callbacks"


@cell(COMPANY, "`EMAWeightAveraging`", "each step in float64, and the moving average of those weights")
@pytest.mark.skipif(not hasattr(pl.callbacks, "EMAWeightAveraging"), reason="Lightning has it since 2.6")
def test_moving_average() -> None:
    # Lightning puts the averaged weights into the module when training ends
    model = Regression()
    watch = trained(model, pl.callbacks.EMAWeightAveraging(decay=0.9))
    assert_steps(watch, ByHand().run(model, watch, [1] * EPOCHS), **TOLERANCE)
    average = watch.weights[1]
    for weights in watch.weights[2:]:
        average = 0.9 * average + 0.1 * weights
    ended = torch.cat([p.detach().flatten() for p in model.net.parameters()])
    # Lightning makes its copy before the module becomes float64
    torch.testing.assert_close(ended, average, rtol=1e-5, atol=1e-6)


@cell(
    COMPANY,
    "`StochasticWeightAveraging`: its schedule is eta's",
    "each step in float64 at the eta of its schedule, and the mean of the weights",
)
def test_stochastic_weight_averaging() -> None:
    model = Regression()
    swa = pl.callbacks.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1, annealing_epochs=1)
    watch = trained(model, swa, max_epochs=4)
    etas = [ETA] * 4 + [0.05] * 12  # it anneals in one epoch, so its first epoch is at its rate already
    assert_steps(watch, ByHand(etas=etas).run(model, watch, [1] * 4), **TOLERANCE)
    # one average at the start of each epoch; Lightning counts the weights before training as the first
    mean = torch.stack([watch.weights[4 * epoch] for epoch in (0, 1, 2, 3)]).mean(0)
    ended = torch.cat([p.detach().flatten() for p in model.net.parameters()])
    torch.testing.assert_close(ended, mean, rtol=1e-5, atol=1e-6)  # in float32, as above


@cell(COMPANY, "`EarlyStopping` on `adaloss/b`", "the recurrence up to where it stopped")
def test_early_stopping_on_b() -> None:
    model = Regression()
    watch = trained(model, pl.callbacks.EarlyStopping("adaloss/b", mode="min", patience=1))
    assert len(model.true_losses) == 8, "b never falls, so it was to stop after the second epoch"
    assert_steps(watch, ByHand().run(model, watch, [1, 1]), **TOLERANCE)


@cell(COMPANY, "`ModelCheckpoint` on `adaloss/b`", "the recurrence up to the epoch that was kept")
@pytest.mark.parametrize("mode", ["min", "max"])
def test_model_checkpoint_on_b(mode: str, tmp_path: Path) -> None:
    save = pl.callbacks.ModelCheckpoint(tmp_path, monitor="adaloss/b", mode=mode)
    model = Regression()
    trained(model, save, enable_checkpointing=True)
    best = torch.load(save.best_model_path, weights_only=True)
    epochs = 1 if mode == "min" else EPOCHS  # b never falls
    s = 1 + sum(model.true_losses[: 4 * epochs])
    assert best["optimizer_states"][0]["param_groups"][0]["adaloss_s"].item() == pytest.approx(s, rel=1e-14)
    assert save.best_model_score.item() == pytest.approx(math.sqrt(s), rel=1e-6)  # float32


class Tunable(Regression):
    """Looks at its optimizer itself: Lightning's finder leaves out all callbacks while it searches."""

    lr = ETA

    def __init__(self, make: Any) -> None:
        super().__init__(lambda parameters: make(parameters, lr=self.lr))
        self.rates: list[tuple[float, float | None]] = []  # eta and effective rate

    def on_train_batch_end(self, *args: Any) -> None:
        optimizer: Any = self.trainer.optimizers[0]
        adaptive = isinstance(optimizer, LossAdaptive)
        self.rates.append((optimizer.param_groups[0]["lr"], optimizer.effective_lr[0].item() if adaptive else None))


def search_and_fit(model: Tunable, finder: str | None) -> Watch:
    """Train two epochs, after a search that leaves ``model.lr`` alone."""
    watch = Watch()
    callbacks: list[pl.Callback] = [AdaLossCallback(b0=2.0), watch]
    search: dict[str, Any] = {"min_lr": 1e-4, "max_lr": 1.0, "early_stop_threshold": None, "update_attr": False}
    if finder in ("callback before", "callback after"):
        of_lightning = pl.callbacks.LearningRateFinder(num_training_steps=SEARCHED, **search)
        callbacks.insert(0 if finder == "callback before" else 2, of_lightning)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, precision="64-true", callbacks=callbacks,
    )  # fmt: skip
    loader = regression_loader(dtype=torch.float64)
    if finder == "tuner":
        Tuner(trainer).lr_find(model, loader, num_training=SEARCHED, **search)
    trainer.fit(model, loader)
    return watch


def looked_for(make: Any, finder: str, caplog: pytest.LogCaptureFixture) -> tuple[Tunable, list[float]]:
    """The model after search and fit, which has to be that of a fit alone, and the searched losses."""
    model, alone = Tunable(make), Tunable(make)
    with caplog.at_level("INFO"):
        watch = search_and_fit(model, finder)
    plain = search_and_fit(alone, None)
    # Lightning 2.5 takes the batches that its finder callback searched for an epoch of the fit, which is then shorter
    fitted = len(watch.s)
    assert fitted > 4
    assert watch.s == plain.s[:fitted]
    assert all(torch.equal(a, b) for a, b in zip(watch.weights, plain.weights[:fitted], strict=True))
    assert "made without AdaLossCallback" not in caplog.text, "the fit resumed nothing"
    searched = model.true_losses[:SEARCHED]
    assert model.true_losses[SEARCHED:] == alone.true_losses[: fitted - 1]
    etas = [eta for eta, _ in model.rates[:SEARCHED]]
    assert etas == sorted(etas)
    assert etas[-1] > 100 * etas[0]
    return model, searched


FINDERS = pytest.mark.parametrize("finder", ["tuner", "callback before", "callback after"])


@cell(
    COMPANY, "learning rate finder, also with an optimizer that the callback wraps: it looks for eta, with b growing "
    "as it does", "the rate of each step it tries; then a fit, bit for bit that of a run without it",
)  # fmt: skip
@FINDERS
@pytest.mark.parametrize(
    ("make", "start"), [(AdaLoss, 1.0), (AdamLoss, 1.0), (torch.optim.SGD, 4.0), (torch.optim.Adam, 2.0)]
)
def test_learning_rate_finder(
    make: Any, start: float, finder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)  # the finder keeps a checkpoint there while it searches
    model, losses = looked_for(make, finder, caplog)
    # the finder has moved eta on when a batch ends
    etas = [1e-4] + [eta for eta, _ in model.rates[: SEARCHED - 1]]
    s = start  # b0 is 2 where the callback wraps
    for eta, (_, rate), loss in zip(etas, model.rates, losses, strict=False):
        s += loss
        assert rate == pytest.approx(eta / math.sqrt(s), rel=1e-12)
