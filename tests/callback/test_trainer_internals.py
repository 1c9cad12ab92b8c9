"""Lightning's private parts, as the callback uses them, beside what Lightning shows in public."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from adaloss_lightning.callback import trainer_internals as internals
from adaloss_lightning.callback.trainer_internals import callbacks_of, scaler_of


class Module(LightningModule):
    """Logs its own value at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.log("own", 1.0)
        return self.net(batch[0]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Asks(Callback):
    """Notes what the functions answer, in the hooks in which the callback asks."""

    def __init__(self) -> None:
        self.accumulating: list[bool] = []
        self.steps: list[int] = []
        self.times: list[bool] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self.accumulating.append(internals.is_accumulating(trainer))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.steps.append(trainer.global_step)
        self.times.append(internals.is_time_to_log(trainer))


class Keeps(DummyLogger):
    """Keeps at which steps the module's own value arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[int] = []

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        if "own" in metrics:
            self.arrived.append(step)


def fit(*callbacks: Callback, logger: Any = False, **options: Any) -> Trainer:
    """Two epochs of seven batches, or what `options` say."""
    trainer = Trainer(
        **{"max_epochs": 2, "accelerator": "cpu"} | options, callbacks=list(callbacks), logger=logger,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(TensorDataset(torch.randn(7, 2))))
    return trainer


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_is_accumulating_tells_before_backward_whether_global_step_will_stay(batches: int) -> None:
    asks = Asks()
    fit(asks, accumulate_grad_batches=batches)
    stays = [after == before for before, after in zip([0, *asks.steps], asks.steps, strict=False)]
    assert asks.accumulating == stays


@pytest.mark.parametrize("options", [{"log_every_n_steps": 3}, {"log_every_n_steps": 2, "accumulate_grad_batches": 2}])
def test_is_time_to_log_wherever_the_loggers_get_a_value(options: dict[str, int]) -> None:
    asks, logger = Asks(), Keeps()
    fit(asks, logger=logger, **options)
    steps = [step for step, is_time in zip(asks.steps, asks.times, strict=True) if is_time]
    assert logger.arrived
    assert {step + 1 for step in logger.arrived} <= set(steps)
    ends = asks.times[6::7]  # of the epochs, where a value is collected for the last time
    assert ends == [True, True]


def test_is_time_to_log_in_the_last_batch_of_a_run_that_ends_within_an_epoch() -> None:
    asks = Asks()
    fit(asks, max_epochs=-1, max_steps=4)
    assert asks.times == [False, False, False, True]


class Shows(Callback):
    """Logs and shows values, and forgets them again."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.log("logged", float(trainer.global_step))
        gone = ["shown1"] if trainer.global_step == 2 else []
        internals.show_in_callback_metrics(trainer, {f"shown{trainer.global_step}": torch.ones(())}, gone)
        assert "shown1" not in trainer.callback_metrics or trainer.global_step == 1
        assert f"shown{trainer.global_step}" in trainer.callback_metrics

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        internals.forget_logged(trainer, ["logged"])
        assert not any("logged" in key for key in trainer._results or ())  # what Lightning collects from


def test_values_are_shown_and_what_was_logged_is_forgotten(tmp_path: Any) -> None:
    trainer = fit(Shows(), logger=CSVLogger(tmp_path), max_epochs=1, log_every_n_steps=1)
    assert trainer.callback_metrics["logged"] == 7.0  # the loggers and the metrics have got what was forgotten
    assert "shown7" in trainer.callback_metrics


def test_callbacks_are_put_first() -> None:
    first, second = Asks(), Shows()
    trainer = Trainer(callbacks=[first, second], accelerator="cpu", logger=False, enable_checkpointing=False)
    internals.put_first(trainer, second)
    assert callbacks_of(trainer)[:2] == [second, first]
    assert scaler_of(trainer) is None


# -- for steps that leave no trace -------------------------------------------------------------------------------------


class Tries(Callback):
    """Calls a function in the first batch."""

    def __init__(self, call: Any) -> None:
        self.call = call

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx == 0:
            self.call(trainer, pl_module, batch)


class Counts(Callback):
    """Counts the hooks of a step."""

    calls = 0

    def on_before_backward(self, *_: Any) -> None:
        self.calls += 1

    on_before_optimizer_step = on_before_backward  # type: ignore[assignment]


def test_a_muted_step_calls_no_callback_and_logs_nothing() -> None:
    def step(trainer: Trainer, module: LightningModule, batch: Any) -> None:
        held = trainer.callbacks, trainer.loggers, trainer.should_stop  # type: ignore[attr-defined]
        with internals.muted(trainer, module):
            optimizer = trainer.optimizers[0]
            loss = trainer.strategy.training_step(*internals.step_arguments(trainer, batch, 0))
            trainer.strategy.backward(loss, optimizer)
            trainer.strategy.optimizer_step(optimizer, lambda: loss, module)
            module.logger.experiment.anything(1)  # type: ignore[union-attr]
            trainer.should_stop = True
        assert (trainer.callbacks, trainer.loggers, trainer.should_stop) == held  # type: ignore[attr-defined]
        assert not {"log", "log_dict"} & vars(module).keys()
        seen.append((counts.calls, trainer.global_step, len(trainer._results or ())))

    seen: list[Any] = []
    counts, logger = Counts(), Keeps()
    trainer = fit(counts, Tries(step), logger=logger, log_every_n_steps=1)
    assert seen == [(0, 0, 0)]
    assert counts.calls == 2 * trainer.global_step == 28
    assert logger.arrived


@pytest.mark.parametrize("size", [2, None])
def test_a_batch_and_the_arguments_of_training_step_are_those_of_the_loop(size: int | None) -> None:
    class Transfers(Module):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [2 * x for x in batch]

        def training_step(self, batch: Any) -> Any:  # type: ignore[override]  # without an index
            got.append(batch[0].clone())
            return self.net(batch[0]).square().mean()

    def ask(trainer: Trainer, module: LightningModule, batch: Any) -> None:
        loaders = internals.train_loaders(trainer)
        first, _, _ = next(iter(loaders))
        asked.append(internals.step_arguments(trainer, internals.to_device(trainer, first), 0))

    got: list[Tensor] = []
    asked: list[Any] = []
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[Tries(ask)], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Transfers(), DataLoader(TensorDataset(torch.randn(6, 2)), batch_size=size))
    assert len(asked[0]) == 1
    assert torch.equal(asked[0][0][0], got[0])


def test_the_scaler_of_tried_steps_is_a_copy() -> None:
    def look(trainer: Trainer, module: LightningModule, batch: Any) -> None:
        own = scaler_of(trainer)
        with internals.scaler_replaced(trainer) as fresh:
            scaler_of(trainer).scale(torch.ones(()))  # which makes its state
            scaler_of(trainer).update(3.0)
            fresh()
            seen.append(scaler_of(trainer).get_scale())
            assert scaler_of(trainer) is not own
        assert scaler_of(trainer) is own

    seen: list[float] = []
    fit(Tries(look), plugins=[MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=8.0))])
    assert seen == [8.0]


def test_who_draws_batches_itself_and_who_shows_progress() -> None:
    class Draws(Module):
        def training_step(self, dataloader_iter: Any) -> Any:  # type: ignore[override]
            return None

    assert internals.takes_iterator(Draws())
    assert not internals.takes_iterator(Module())
    quiet = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    assert internals.shows_progress(Trainer(**quiet))
    assert not internals.shows_progress(Trainer(**quiet, enable_progress_bar=False))
