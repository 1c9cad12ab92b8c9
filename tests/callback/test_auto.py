"""auto=True and its parts: what is chosen, that finding eta leaves no trace, and what is refused."""

import math
import random
import re
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset

from adaloss_lightning import AdaLossCallback, AdamLoss, LossAdaptive
from adaloss_lightning.callback import auto, probing
from tests.callback.models import Rates, Regression, fit, optimizer_of, regression_loader, seeded_linear
from tests.callback.test_mid_training import EitherWay
from tests.callback.test_true_loss import SpyPrecision
from tests.optim.methods import equal

REST: dict[str, Any] = {"alpha": "auto", "warmup": "auto", "cooldown": "auto"}  # all that auto=True is, but lr
BATCHES = 8  # of an epoch


# -- no trace ----------------------------------------------------------------------------------------------------------


class Augmented(Dataset[Any]):
    """Adds noise of torch, NumPy and a generator of its own."""

    def __init__(self) -> None:
        self.x = torch.randn(4 * BATCHES, 3, generator=torch.Generator().manual_seed(1))
        self.noise = np.random.default_rng(1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self.x[index]
        noise = float(np.random.rand()) + self.noise.normal() + random.random()
        return x + 0.1 * torch.randn(3) + 0.1 * noise, x.sum(0, keepdim=True)


class Stream(IterableDataset[Any]):
    """Counts how far it was read."""

    position = 0

    def __iter__(self) -> Iterator[Any]:
        for _ in range(4 * BATCHES):
            self.position += 1
            yield torch.full((3,), math.sin(self.position)) + torch.randn(3), torch.ones(1)


class Rows:
    """Iterable, and no more."""

    epoch = 0

    def __iter__(self) -> Iterator[Any]:
        self.epoch += 1
        for x in torch.randn(BATCHES, 4, 3):
            yield x + 0.1 * self.epoch, x.sum(1, keepdim=True)


class Busy(pl.LightningModule):
    """Draws random numbers, and changes and logs what a module can, in each training_step."""

    def __init__(self, optimizer: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.optimizer = optimizer
        self.mean = torchmetrics.MeanMetric()
        self.batches: list[float] = []
        self.count = 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.noise = 0.01  # as some modules prepare what their step needs

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.count += 1
        self.batches.append(x.double().sum().item())
        loss = nn.functional.mse_loss(self.net(x + self.noise * torch.randn_like(x)), y)
        self.mean(loss.detach())
        self.log("mean", self.mean)
        self.log_dict({"loss": loss, "random": random.random(), "numpy": float(np.random.rand())})
        self.logger.experiment.note(self.count)  # type: ignore[union-attr]
        x.zero_()  # a batch is the step's own
        return {"loss": loss, "other": 1}

    def configure_optimizers(self) -> Any:
        return self.optimizer(self)


class Memory(DummyLogger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: list[Any] = []
        self.params: list[dict[str, Any]] = []
        self.notes: list[int] = []

    @property
    def experiment(self) -> Any:
        return self

    def note(self, count: int) -> None:
        self.notes.append(count)

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        self.metrics.append((metrics, step))

    def log_hyperparams(self, params: dict[str, Any]) -> None:
        self.params.append(dict(params))


def adam(module: Any) -> Any:
    return torch.optim.AdamW(module.parameters(), lr=3e-4)


def sgd_in_groups(module: Any) -> Any:
    groups = [
        {"params": layer.parameters(), "lr": 0.1 + 0.1 * i} for i, layer in enumerate([module.net[0], module.net[4]])
    ]
    return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def scheduled(module: Any) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3 * BATCHES)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def shuffled(**options: Any) -> Any:
    return DataLoader(Augmented(), batch_size=4, **{"shuffle": True, **options})


CASES: dict[str, dict[str, Any]] = {
    "plain": {"loader": shuffled},
    "own generator": {"loader": lambda: shuffled(generator=torch.Generator().manual_seed(9))},
    "workers": {"loader": lambda: shuffled(num_workers=2, persistent_workers=True)},
    "stream": {"loader": lambda: DataLoader(Stream(), batch_size=4), "max_steps": 3 * BATCHES},
    "no DataLoader": {"loader": lambda: Rows()},
    "two loaders": {"loader": shuffled, "pair": True},
    "accumulation": {"loader": shuffled, "accumulate_grad_batches": 3},
    "clipping": {"loader": shuffled, "gradient_clip_val": 0.1},
    "fp16": {"loader": shuffled, "plugins": lambda: [SpyPrecision(2.0**20)]},
    "bf16": {"loader": shuffled, "precision": "bf16-mixed"},
    "groups of SGD": {"loader": shuffled, "optimizer": sgd_in_groups},
    "a scheduler": {"loader": shuffled, "optimizer": scheduled},
    "adaptive": {"loader": shuffled, "optimizer": lambda module: AdamLoss(module.parameters())},
    "compiled": {"loader": shuffled, "compiled": True},
    "limited": {"loader": shuffled, "limit_train_batches": 3},
}


def saved(trainer: pl.Trainer) -> Any:
    """What a checkpoint made now holds."""
    with tempfile.TemporaryDirectory() as folder:
        trainer.save_checkpoint(f"{folder}/now.ckpt")
        return torch.load(f"{folder}/now.ckpt", weights_only=False)


def outcome(case: dict[str, Any], callback: AdaLossCallback) -> dict[str, Any]:
    """All that a training leaves behind."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    options = dict(case)
    loader, logger = options.pop("loader")(), Memory()
    model = Busy(options.pop("optimizer", adam))
    if options.pop("pair", False):
        loader = {"a": loader, "b": shuffled()}
        step = model.training_step
        model.training_step = lambda batch, batch_idx: step(batch["a" if batch_idx % 2 else "b"], batch_idx)  # type: ignore[method-assign]
    if "plugins" in options:
        options["plugins"] = options["plugins"]()
    if options.pop("compiled", False):
        model.net = torch.compile(model.net, backend="eager")
    monitor = pl.callbacks.LearningRateMonitor("step")
    trainer = pl.Trainer(
        **{"max_epochs": 3, **options}, accelerator="cpu", logger=logger, log_every_n_steps=2,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[monitor, callback],
    )  # fmt: skip
    trainer.fit(model, loader)
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    own = loader["b"] if isinstance(loader, dict) else loader
    return {
        "weights": model.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "gradients": [p.grad for p in model.parameters()],
        "scheduler": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "scaler": None if scaler is None else scaler.state_dict(),
        "data": model.batches,
        "attributes": (model.count, model.training, sorted(vars(model))),
        "torch": torch.get_rng_state(),
        "numpy": [x.tolist() if isinstance(x, np.ndarray) else x for x in np.random.get_state()],
        "python": random.getstate(),
        "generator": own.generator.get_state() if getattr(own, "generator", None) else None,
        "position": getattr(getattr(own, "dataset", None), "position", None),
        "progress": (trainer.global_step, trainer.current_epoch, trainer.fit_loop.total_batch_idx),
        "logged": logger.metrics,
        "params": logger.params,
        "notes": logger.notes,
        "metrics": dict(trainer.callback_metrics),
        "found": callback.found,
        "checkpoint": saved(trainer),
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of the compiler
@pytest.mark.parametrize("name", CASES)
def test_finding_eta_leaves_no_trace_but_eta(name: str) -> None:
    found = outcome(CASES[name], AdaLossCallback(auto=True))
    by_hand = outcome(CASES[name], AdaLossCallback(lr=found["found"]["lr"], **REST))
    torch._dynamo.reset()
    for part, value in found.items():
        assert equal(value, by_hand[part]), part
    assert found["attributes"][0] == len(found["data"]) > 0


def test_that_the_comparison_would_show_another_eta() -> None:
    one, other = (outcome(CASES["plain"], AdaLossCallback(lr=lr, **REST)) for lr in (0.01, 0.0101))
    assert not equal(one["weights"], other["weights"])
    assert equal(one["data"], other["data"])


def test_each_run_of_the_probe_starts_at_the_scale_of_the_training() -> None:
    starts: list[float] = []

    class Notes(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if torch.equal(self.net.weight, initial) and batch_idx == 0:
                starts.append(self.trainer.precision_plugin.scaler.get_scale())  # type: ignore[union-attr]
            return self.compute_loss(batch)

    model = Notes()
    initial = model.net.weight.detach().clone()
    fit(model, AdaLossCallback(auto=True), plugins=[SpyPrecision(2.0**4, growth_interval=2)])
    assert len(starts) > 3
    assert set(starts) == {2.0**4}


def test_a_step_that_stops_the_trainer_where_its_loss_is_bad_stops_no_training() -> None:
    class Stops(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.compute_loss(batch)
            if self.trainer.global_step == 0 and loss > 60:  # in the probe alone
                stops.append(loss)
                self.trainer.should_stop = True
            return loss

    stops: list[Any] = []
    trainer = fit(Stops(), AdaLossCallback(lr="auto", warmup=6), max_epochs=3)
    assert stops
    assert trainer.global_step == 12


def test_a_module_whose_log_was_replaced_keeps_its_own() -> None:
    model = Regression()
    model.log = lambda *_, **__: None  # type: ignore[method-assign]
    own = model.log
    fit(model, AdaLossCallback(auto=True, log=False))
    assert model.log is own


# -- what is chosen ----------------------------------------------------------------------------------------------------


def test_found_is_complete_logged_once_and_in_the_checkpoint(tmp_path: Path) -> None:
    logger, callback = Memory(), AdaLossCallback(auto=True)
    model = Regression(lambda p: torch.optim.Adam(p, lr=1e-3))
    trainer = fit(model, callback, logger=logger, max_epochs=5)
    found = callback.found
    assert list(found) == ["lr", "alpha", "warmup", "cooldown"]
    assert found["lr"] == trainer.optimizers[0].param_groups[0]["lr"]
    assert (found["alpha"], found["warmup"], found["cooldown"]) == ("auto", 4, 0.25)  # a fifth of 20 steps
    assert trainer.optimizers[0].param_groups[0]["adaloss_alpha"] == "auto"
    assert len(logger.params) == 1
    expected = {"rule": "adamloss", "b0": 1.0, "c": 0.0, **found}
    assert logger.params[0] == {f"adaloss/{name}": value for name, value in expected.items()}
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert checkpoint["adaloss_lightning"]["auto"]["found"] == found
    found["lr"] = 0.0
    assert callback.found["lr"] > 0, "it is a copy"


def test_what_was_set_is_logged_without_auto_too(tmp_path: Path) -> None:
    model = Regression(lambda p: torch.optim.SGD(p, lr=0.25))
    logger = CSVLogger(tmp_path)
    trainer = fit(model, AdaLossCallback(b0=2.0), logger=logger)
    assert trainer.global_step == 8
    logger.save()
    said = (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()
    for line in (
        "adaloss/rule: adaloss",
        "adaloss/b0: 2.0",
        "adaloss/alpha: 1.0",
        "adaloss/c: 0.0",
        "adaloss/lr: 0.25",
    ):
        assert line in said, said


def test_hyper_parameters_of_the_module_stay_in_the_logger(tmp_path: Path) -> None:
    class Own(Regression):
        def __init__(self, width: int = 7) -> None:
            super().__init__()
            self.save_hyperparameters()

    logger = CSVLogger(tmp_path)
    fit(Own(), AdaLossCallback(auto=True), logger=logger)
    logger.save()
    said = (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()
    assert "width: 7" in said
    assert "adaloss/warmup: 1" in said


def test_one_line_says_what_was_chosen(caplog: pytest.LogCaptureFixture) -> None:
    callback = AdaLossCallback(auto=True)
    with caplog.at_level("INFO"):
        fit(Regression(), callback, max_epochs=5)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("AdaLossCallback: lr")]
    assert len(lines) == 1
    assert lines[0].startswith(f"AdaLossCallback: lr {callback.found['lr']:.3g}, found in ")
    assert lines[0].endswith("alpha auto; warm-up 4 steps; cool-down 25%.")


@pytest.mark.parametrize(("manual", "accumulated"), [(False, 1), (False, 2), (True, 1)])
def test_warm_up_and_cool_down_are_on_the_effective_rate(manual: bool, accumulated: int) -> None:
    rates = Rates()
    model = EitherWay(not manual, lambda p: torch.optim.SGD(p, lr=0.5))
    callback = AdaLossCallback(alpha=0.0, warmup=3, cooldown=0.5)
    fit(model, callback, callbacks=[rates], accumulate_grad_batches=accumulated, max_epochs=4)
    steps = 16 // accumulated
    expected = [
        0.5 * min(1.0, (t + 1) / 3) * min(1.0, (1 - t / steps) / 0.5) for t in range(steps)
    ]  # fmt: skip
    assert rates.rates[accumulated - 1 :: accumulated] == pytest.approx(expected, rel=1e-12)
    assert {eta for (eta,) in rates.etas} == {0.5}
    assert callback.found == {"lr": 0.5, "alpha": 0.0, "warmup": 3, "cooldown": 0.5}


@pytest.mark.parametrize(("options", "cooldown"), [
    ({}, 0.25),
    ({"max_steps": 6, "max_epochs": -1}, 0.25),
    ({"max_time": {"minutes": 100}}, 0.0),
])  # fmt: skip
def test_auto_cools_down_only_where_the_end_is_known(options: Any, cooldown: float) -> None:
    callback = AdaLossCallback(auto=True, lr="configured")
    fit(Regression(), callback, **options)
    assert callback.found["cooldown"] == cooldown


def test_auto_leaves_the_end_to_a_scheduler_of_the_module() -> None:
    def make(parameters: Any) -> Any:
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        return [optimizer], [lr_scheduler.StepLR(optimizer, 1, 0.5)]

    callback = AdaLossCallback(auto=True)
    trainer = fit(Regression(make), callback)
    assert callback.found["cooldown"] == 0.0
    assert optimizer_of(trainer).param_groups[0]["lr"] == pytest.approx(callback.found["lr"] / 4, rel=1e-12)


def test_each_part_may_be_switched_off() -> None:
    model, plain = Regression(), Regression()
    callback = AdaLossCallback(auto=True, alpha=1.0, lr="configured", warmup=0, cooldown=0)
    fit(model, callback)
    fit(plain, AdaLossCallback())
    assert torch.equal(model.net.weight, plain.net.weight)
    assert callback.found == {"lr": 0.1, "alpha": 1.0, "warmup": 0, "cooldown": 0.0}


def test_a_second_fit_finds_again() -> None:
    model, callback = Regression(), AdaLossCallback(auto=True)
    fit(model, callback, max_epochs=3)
    first = callback.found
    trainer = fit(model, callback, max_epochs=5)
    assert callback.found["warmup"] == 4 != first["warmup"]
    assert callback.found["lr"] == optimizer_of(trainer).param_groups[0]["lr"]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_fast_dev_run_finds_nothing() -> None:
    callback = AdaLossCallback(auto=True)
    model = Regression()
    fit(model, callback, fast_dev_run=True)
    assert callback.found["lr"] == 0.1
    assert len(model.true_losses) == 1


def test_training_at_what_auto_finds_works() -> None:
    model = Regression(lambda p: torch.optim.Adam(p, lr=1e-6))
    fit(model, AdaLossCallback(auto=True), max_epochs=40)
    assert sum(model.true_losses[-4:]) < 0.05 * sum(model.true_losses[:4])


def test_a_changing_accumulation_schedule() -> None:
    schedule = pl.callbacks.GradientAccumulationScheduler({0: 1, 1: 2})
    trainer = fit(Regression(), AdaLossCallback(auto=True), callbacks=[schedule])
    assert trainer.global_step == 4 + 2


# -- resuming ----------------------------------------------------------------------------------------------------------


def trained(folder: Path, epochs: int, callback: Any, ckpt_path: Any = None, lr: float = 0.01) -> Any:
    model = Regression(lambda p: torch.optim.Adam(p, lr=lr))
    save = pl.callbacks.ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=2)
    trainer = fit(
        model, callback, callbacks=[save], enable_checkpointing=True, max_epochs=epochs, ckpt_path=ckpt_path
    )  # fmt: skip
    optimizer: Any = optimizer_of(trainer)
    return model.state_dict(), optimizer.state_dict(), getattr(optimizer, "effective_lr", None), trainer.global_step


@pytest.fixture
def finds_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """From its call on, an error where eta is looked for."""

    def refuse() -> None:
        def find(*_: Any) -> None:
            raise AssertionError("it was not to look for lr")

        monkeypatch.setattr(auto, "find_lr_of", find)

    return refuse  # type: ignore[return-value]


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_resumed_in_its_warm_up_or_cool_down_goes_on_bit_for_bit(tmp_path: Path, finds_nothing: Any) -> None:
    def callback() -> AdaLossCallback:
        return AdaLossCallback(auto=True, warmup=7, cooldown=0.4)

    first = callback()
    whole = trained(tmp_path, 4, first)
    finds_nothing()
    # at the end of an epoch, so that the data go on where they were: in the warm-up, between, and in the cool-down
    for step in (4, 8, 12):
        again = callback()
        resumed = trained(tmp_path / "again", 4, again, tmp_path / f"step={step}.ckpt")
        assert equal(list(whole), list(resumed)), step
        assert again.found == first.found


def test_a_checkpoint_made_after_the_training_has_the_steps_of_it(tmp_path: Path) -> None:
    """As `OnExceptionCheckpoint` makes one: the warm-up of a resumed run goes by the steps of the whole run."""
    save = pl.callbacks.ModelCheckpoint(tmp_path, filename="last", every_n_epochs=1, save_on_train_epoch_end=True)
    callback = AdaLossCallback(auto=True)
    trainer = fit(Regression(), callback, callbacks=[save], enable_checkpointing=True, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    within, after = (torch.load(tmp_path / f"{name}.ckpt")["adaloss_lightning"] for name in ("last", "after"))
    assert after == within
    assert after["auto"]["asked"] == [4]


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_is_resumed_after_one_that_did_not_begin(tmp_path: Path, finds_nothing: Any) -> None:
    class Fails(pl.Callback):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            raise RuntimeError("not yet")

    callback = AdaLossCallback(auto=True)
    trained(tmp_path, 2, callback)
    found = dict(callback.found)
    with pytest.raises(RuntimeError, match="not yet"):
        fit(Regression(), callback, callbacks=[Fails()])
    finds_nothing()
    trained(tmp_path / "again", 2, callback, tmp_path / "step=4.ckpt")
    assert callback.found == found


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_batch_without_a_loss_is_left_out(accumulated: int) -> None:
    class Skips(Regression):
        is_skipping = True

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x = 100 * batch[0]  # so steep, and the loss so near its end, that the first rates are out
            return None if self.is_skipping and batch_idx == 0 else self.compute_loss((x, seeded_linear()(x) + 0.01))

    rates = []
    for is_skipping in (True, False):
        model, callback = Skips(torch.optim.Adam), AdaLossCallback(lr="auto")
        model.is_skipping = is_skipping
        fit(model, callback, max_epochs=1, accumulate_grad_batches=accumulated)
        rates.append(callback.found["lr"])
    assert 0.3 < rates[0] / rates[1] < 3.3


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory .* exists and is not empty")
def test_a_checkpoint_made_without_the_callback_keeps_its_eta(tmp_path: Path, finds_nothing: Any) -> None:
    trained(tmp_path, 1, None, lr=0.03)
    finds_nothing()
    callback = AdaLossCallback(auto=True)
    with pytest.warns(UserWarning, match=r"Resuming with lr=0.03 from the checkpoint, not 0.01"):
        _, state, _, _ = trained(tmp_path / "again", 3, callback, tmp_path / "step=4.ckpt")
    assert state["param_groups"][0]["lr"] == 0.03
    assert callback.found == {"lr": 0.03, "alpha": "auto", "warmup": 0, "cooldown": 0.0}


@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_that_goes_on_past_its_cool_down_is_warned(tmp_path: Path) -> None:
    trained(tmp_path, 2, AdaLossCallback(auto=True))
    with pytest.warns(UserWarning, match=r"cools down to 0 at epoch 2.*epoch 4"):
        trained(tmp_path / "again", 4, AdaLossCallback(auto=True), tmp_path / "step=8.ckpt")


RESUMED = r"Resuming with (.*)\. To use yours"


@pytest.mark.parametrize(("again", "lr", "said"), [
    ({"lr": 0.5}, 0.01, "lr={found!r} from the checkpoint, not 0.5"),
    ({}, 0.01, "lr={found!r} from the checkpoint, not 0.01"),
    ({"lr": "auto"}, 0.02, None),  # eta is the checkpoint's, as it is to be
    ({"lr": "auto", "warmup": 4}, 0.01, "warmup=0 from the checkpoint, not 4"),
    ({"lr": "auto", "cooldown": 0.5}, 0.01, "cooldown=0.0 from the checkpoint, not 0.5"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:The dirpath has changed", "ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_says_which_choices_count_for_nothing(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, again: Any, lr: float, said: str | None
) -> None:
    first = AdaLossCallback(lr="auto")
    trained(tmp_path, 1, first)
    eta = first.found["lr"]
    _, state, _, _ = trained(tmp_path / "again", 2, AdaLossCallback(**again), tmp_path / "step=4.ckpt", lr=lr)
    assert state["param_groups"][0]["lr"] == eta
    found = [re.search(RESUMED, str(one.message)) for one in recwarn]
    assert [one[1] for one in found if one] == ([] if said is None else [said.format(found=eta)])


def test_only_what_fit_resumes_is_taken_from_a_checkpoint(tmp_path: Path) -> None:
    class Tests(Regression):
        lr = 0.1

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.compute_loss(batch)

    trained(tmp_path, 1, AdaLossCallback(lr=0.3, warmup=2))
    callback, model = AdaLossCallback(cooldown=0.5), Tests()
    finder = pl.callbacks.LearningRateFinder(num_training_steps=3, update_attr=False)
    seen = Rates()
    trainer = fit(model, callback, callbacks=[finder, seen], default_root_dir=tmp_path)
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, regression_loader())  # the finder saves and loads a checkpoint of a run that has steps
    found = {"lr": 0.1, "alpha": 1.0, "warmup": 0, "cooldown": 0.5}
    assert callback.found == found
    etas = [rate * b for rate, b in zip(seen.rates, seen.bs, strict=True)]
    last = etas[8:]  # of eight steps; in a later fit the finder of Lightning 2.5 keeps as many batches as it tried
    assert len(last) in (5, 8)
    assert last == pytest.approx([0.1 * min(1.0, (8 - step) / 4) for step in range(8)][-len(last) :])
    with pytest.warns(UserWarning, match="callbacks used to create the checkpoint need to be provided"):
        trainer.test(model, regression_loader(), ckpt_path=tmp_path / "step=4.ckpt", verbose=False)
    assert callback.found == found


# -- manual optimization -----------------------------------------------------------------------------------------------


def test_manual_optimization_gets_all_but_eta_and_a_line_says_so(
    finds_nothing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    finds_nothing()
    callback = AdaLossCallback(auto=True)
    with caplog.at_level("INFO"):
        trainer = fit(EitherWay(False, lambda p: torch.optim.SGD(p, lr=0.1)), callback, max_epochs=5)
    assert callback.found == {"lr": 0.1, "alpha": "auto", "warmup": 4, "cooldown": 0.25}
    assert optimizer_of(trainer).param_groups[0]["adaloss_first_loss"] is not None
    assert "AdaLossCallback: lr 0.1, as configured (manual optimization: find_lr() finds it)" in caplog.text


def test_an_eta_may_be_given_under_manual_optimization() -> None:
    trainer = fit(EitherWay(False, lambda p: torch.optim.SGD(p, lr=0.1)), AdaLossCallback(lr=0.7))
    assert optimizer_of(trainer).param_groups[0]["lr"] == 0.7


def refused(model: Any, callback: AdaLossCallback, match: str, loader: Any = None, **options: Any) -> None:
    """It is refused, and nothing has changed."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainers: list[pl.Trainer] = []

    class Keeps(pl.Callback):
        def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
            trainers.append(trainer)

    with pytest.raises(MisconfigurationException, match=match):
        fit(model, callback, loader, callbacks=[Keeps()], **options)
    assert equal(dict(model.state_dict()), before)
    assert model.true_losses == []
    assert all(p.grad is None for p in model.parameters())
    (trainer,) = trainers
    assert trainer.global_step == 0
    for optimizer in trainer.optimizers:
        assert [group["lr"] for group in optimizer.param_groups] == [0.1] * len(optimizer.param_groups)
        assert not optimizer.state
        if isinstance(optimizer, LossAdaptive):
            assert [b.item() for b in optimizer.b] == [1.0]


def test_refuses_to_find_eta_under_manual_optimization() -> None:
    model = EitherWay(False, lambda p: torch.optim.SGD(p, lr=0.1))
    refused(model, AdaLossCallback(lr="auto"), r"cannot find lr under manual optimization.*find_lr\(\)")


@pytest.mark.parametrize("options", [{"max_epochs": -1}, {"max_time": {"minutes": 100}}])
def test_refuses_to_cool_down_where_the_end_is_unknown(options: Any) -> None:
    refused(Regression(), AdaLossCallback(cooldown=0.5), r"cannot cool down over the last 50%", **options)


@pytest.mark.parametrize("make", [
    lambda: iter(list(regression_loader())), lambda: (batch for batch in regression_loader()),
    lambda: DataLoader(Once(), batch_size=2), lambda: DataLoader(Locked(), batch_size=2),
])  # fmt: skip
def test_refuses_data_that_can_be_read_once_only(make: Any) -> None:
    refused(Regression(), AdaLossCallback(auto=True), r"cannot find lr: .* can be read once only", make())


def test_a_loader_that_keeps_its_place_in_a_member_trains_on_every_batch() -> None:
    class Source:
        """Goes on where it was left."""

        def __init__(self) -> None:
            self.batches = list(regression_loader(40))
            self.place = 0

        def __iter__(self) -> Any:
            while self.place < len(self.batches):
                self.place += 1
                yield self.batches[self.place - 1]

    class Loader:
        def __init__(self) -> None:
            self.source = Source()

        def __iter__(self) -> Any:
            return iter(self.source)

    models = Regression(), Regression()
    for model, lr in zip(models, ("auto", 0.1), strict=True):
        fit(model, AdaLossCallback(lr=lr), Loader(), max_epochs=1)
    assert len(models[1].true_losses) == 40
    assert models[0].trainer.global_step == 40

    class Open(Loader):
        def __init__(self) -> None:
            super().__init__()
            self.lock = threading.Lock()

    refused(Regression(), AdaLossCallback(lr="auto"), "Open can be read once only", Open())


def test_refuses_a_mapping_without_a_loss() -> None:
    class Forgets(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"Loss": super().training_step(batch, batch_idx)}

    with pytest.raises(MisconfigurationException, match=r"a dict with the keys 'Loss'. It must have 'loss'"):
        fit(Forgets(), AdaLossCallback(lr="auto"))


class Once(IterableDataset[Any]):
    """Is its own iterator."""

    left = 16

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return torch.ones(3), torch.ones(1)


class Locked(IterableDataset[Any]):
    """Holds what cannot be copied, such as an open stream."""

    def __init__(self) -> None:
        self.rows = (row for row in torch.ones(16, 3))

    def __iter__(self) -> Any:
        return ((row, row[:1]) for row in self.rows)


def test_refuses_batches_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_MOST_BYTES", 100)  # a batch is 2 * (3 + 1) * 4 = 32 bytes
    refused(Regression(), AdaLossCallback(auto=True), r"4 of the 25 batches that it tries take more than .* GiB")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_refuses_a_loss_that_is_never_finite(bad: float) -> None:
    class Bad(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.compute_loss(batch) * bad

    refused(Bad(), AdaLossCallback(auto=True), rf"cannot find lr: Invalid loss={bad} of the first batch")


@pytest.mark.filterwarnings("ignore:.*dataloader_iter")
def test_refuses_a_training_step_that_draws_its_batches_itself() -> None:
    class Draws(Regression):
        def training_step(self, dataloader_iter: Any) -> Any:
            batch, _, _ = next(dataloader_iter)
            return self.compute_loss(batch)

    refused(Draws(), AdaLossCallback(auto=True), r"draws its batches from a dataloader_iter")


def test_refuses_to_set_eta_where_all_are_zero() -> None:
    model = Regression(lambda p: torch.optim.SGD(p, lr=0.0))
    for callback in (AdaLossCallback(lr=0.1), AdaLossCallback(auto=True)):
        with pytest.raises(MisconfigurationException, match=r"cannot (set lr=0.1: it is 0|find lr: Invalid lr=0)"):
            fit(model, callback)


@pytest.mark.parametrize("at", [1, 30])
def test_an_interruption_changes_nothing(at: int) -> None:
    calls = 0

    class Interrupted(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise KeyboardInterrupt
            return self.compute_loss(batch)

    model = Interrupted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainers: list[pl.Trainer] = []

    class Keeps(pl.Callback):
        def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
            trainers.append(trainer)
            optimizer: Any = trainer.optimizers[0]
            assert optimizer.param_groups[0]["lr"] == 0.1
            assert optimizer.b[0].item() == 1.0

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(model, AdaLossCallback(auto=True), callbacks=[Keeps()])
    assert trainers
    assert equal(dict(model.state_dict()), before)
    assert model.true_losses == []


@pytest.mark.parametrize(("argument", "values", "right"), [
    ("lr", [0, -1.0, math.nan, math.inf, "Auto", "", True, [0.1]], "a number > 0, 'auto' or 'configured'"),
    ("warmup", [-1, 2.5, math.nan, math.inf, "Auto", True, [1]], "a whole number of steps >= 0, or 'auto'"),
    ("cooldown", [-0.1, 1.1, math.nan, math.inf, "Auto", True], "a share of the run, >= 0 and <= 1, or 'auto'"),
    ("alpha", ["Auto", ""], "a number >= 0, or 'auto'"),
    ("alpha", [-1, math.nan, math.inf], ""),
])  # fmt: skip
@pytest.mark.parametrize("is_auto", [False, True])
def test_refuses_bad_arguments(argument: str, values: list[Any], right: str, is_auto: bool) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"^Invalid {argument}=") as raised:
            AdaLossCallback(auto=is_auto, **{argument: value})
        assert right in str(raised.value)
