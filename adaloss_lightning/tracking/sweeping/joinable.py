"""Check, before the first run, that points can be trained together."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.core.hooks import ModelHooks
from lightning.pytorch.plugins import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn

from adaloss_lightning.callback import AdaLossCallback
from adaloss_lightning.rate_adaptive import RateAdaptive
from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.log_every_epoch import LogEveryEpoch
from adaloss_lightning.tracking.remember import RememberRun
from adaloss_lightning.tracking.sweeping.joint_fit import EXAMPLE_METRICS, TRAINING_LOSS
from adaloss_lightning.tracking.sweeping.joint_seed import Seed

_SERVED = (AdaLossCallback, LogEveryEpoch, ModelCheckpoint, ModelSummary, ProgressBar, RememberRun, SaveConfigCallback)
_HONOURED = ("on_train_epoch_end",)  # a callback's hook that a joint training calls
# Arguments of Trainer that change how it trains, and the one value of each that `--together` supports.
_USUAL = {
    "accumulate_grad_batches": 1, "fast_dev_run": False, "gradient_clip_val": None, "max_steps": -1, "min_epochs": None,
    "min_steps": None, "overfit_batches": 0.0, "reload_dataloaders_every_n_epochs": 0, "val_check_interval": 1.0,
}  # fmt: skip
_CONFIGURE = ("configure_model", "configure_callbacks", "configure_gradient_clipping", "optimizer_step")
_CHECKPOINT = {
    "dirpath": None, "save_top_k": 1, "save_last": None, "_every_n_train_steps": 0, "_train_time_interval": None,
    "_every_n_epochs": 1,
}  # fmt: skip


def require_joinable(seed: Seed, datamodule: object, ckpt_path: object) -> None:
    """Raises SweepError with the first reason why this training cannot be one of several in one.

    Args:
        seed: What a command line has built.
        datamodule: What it gave to `fit` for data, if it is a datamodule.
        ckpt_path: The checkpoint that it would go on with.
    """
    reasons = [*_of_model(seed.model), *_of_trainer(seed.trainer), *_of_callbacks(seed), *_of_optimizer(seed)]
    reasons += _of_data(seed, datamodule)
    if ckpt_path is not None:
        reasons.append("it goes on with a checkpoint (ckpt_path)")
    if reasons:
        raise refusal(reasons[0])


def refusal(reason: str) -> SweepError:
    """The error for the user."""
    return SweepError(f"--together cannot train these points: {reason}. Leave out --together to run them one by one.")


def _overridden(value: object, parent: type, names: list[str]) -> list[str]:
    return [name for name in names if getattr(type(value), name, None) is not getattr(parent, name)]


def _hooks(parent: type) -> list[str]:
    """What is called while a model is trained and validated."""
    others = ("test", "predict", "exception", "checkpoint", "sanity")
    return [name for name in dir(parent) if name.startswith("on_") and not any(word in name for word in others)]


def _of_model(model: LightningModule) -> Iterator[str]:
    name = type(model).__name__
    for method in (TRAINING_LOSS, EXAMPLE_METRICS):
        if not callable(getattr(model, method, None)):
            yield f"{name} has no method {method}(batch), see docs/sweeps.md"
    if not model.automatic_optimization:
        yield f"{name} optimizes by hand (automatic_optimization = False)"
    for hook in _overridden(model, LightningModule, [*_hooks(ModelHooks), *_CONFIGURE]):
        yield f"{name} overrides {hook}, which would not be called"


def _of_trainer(trainer: Trainer) -> Iterator[str]:
    if trainer.world_size != 1 or not isinstance(trainer.strategy, SingleDeviceStrategy):
        yield f"they use {trainer.world_size} devices with {type(trainer.strategy).__name__}, and it uses one"
    if type(trainer.precision_plugin) is not Precision:
        yield f"it trains in 32 bits, and they ask for precision={trainer.precision}"
    for option, usual in _USUAL.items():
        value = getattr(trainer, option)
        if (type(value), value) != (type(usual), usual):  # a val_check_interval of 1, not 1.0, is every batch
            yield f"trainer.{option}={value} is not supported"
    if not trainer.max_epochs or trainer.max_epochs < 0:
        yield f"trainer.max_epochs={trainer.max_epochs} has no end"


def _of_callbacks(seed: Seed) -> Iterator[str]:
    trainer = seed.trainer
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        hooks = [
            hook for hook in _overridden(callback, Callback, ["setup", *_hooks(Callback)]) if hook not in _HONOURED
        ]
        if hooks and not isinstance(callback, _SERVED):
            yield f"the callback {type(callback).__name__} has {hooks[0]}, which would not be called"
    if len(trainer.checkpoint_callbacks) > 1:
        yield "they have several ModelCheckpoint callbacks"
    for checkpoint in trainer.checkpoint_callbacks:
        if not isinstance(checkpoint, ModelCheckpoint):
            yield f"it cannot save with {type(checkpoint).__name__}"
            continue
        for option, usual in _CHECKPOINT.items():
            if (value := getattr(checkpoint, option)) != usual:
                yield f"a ModelCheckpoint with {option.strip('_')}={value} is not supported"


def _of_optimizer(seed: Seed) -> Iterator[str]:
    optimizer = seed.optimizer
    if not isinstance(optimizer, RateAdaptive):
        yield f"configure_optimizers returns {_named(optimizer)}. Must be an optimizer of adaloss_lightning alone"


def _named(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dictionary of {', '.join(map(str, value))}"
    return f"a {type(value).__name__}" if isinstance(value, list | tuple) else type(value).__name__


def _of_data(seed: Seed, datamodule: object) -> Iterator[str]:
    for source in (seed.model, datamodule):
        parent = LightningModule if isinstance(source, nn.Module) else LightningDataModule
        if isinstance(source, parent):
            for hook in _overridden(
                source, parent, ["on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device"]
            ):
                yield f"{type(source).__name__} overrides {hook}, which would not be called"
    for loader in (seed.train_loader, seed.val_loader):
        if loader != [] and (not hasattr(loader, "__len__") or isinstance(loader, list | tuple | dict)):
            yield f"it needs one data loader that knows its length, and got {type(loader).__name__}"
