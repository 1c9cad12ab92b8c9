"""Callbacks of every recipe's run: its configuration as an artifact, and an end to divergence."""

import math

from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from adaloss_lightning.tracking.address import storable
from adaloss_lightning.tracking.callbacks import mlflow_loggers


class LogConfig(SaveConfigCallback):
    """Keeps the full configuration as the artifact `config.yaml`: `fit --config` with that file repeats the run.

    It leaves out the checkpoint that the run resumed, and a user name and password in the store's address, which not
    every reader of the run may have.
    """

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Logs the file; Lightning calls this on rank 0, once."""
        config = self.parser.dump(_repeatable(self.config))
        for logger in mlflow_loggers(trainer):
            logger.log_text(config, self.config_filename)


class StopOnDivergence(Callback):
    """Ends a run whose loss is no longer a number: LossAdaptive would skip every remaining step anyway.

    Tags the run `diverged`, which reports show instead of an accuracy.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks once an epoch: a look at every step would make an accelerator wait."""
        losses = {name: float(trainer.callback_metrics.get(name, 0.0)) for name in ("train/loss", "val/loss")}
        bad = [f"{name} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        # One rank alone must not leave the others waiting for it.
        if not trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
            return
        trainer.should_stop = True
        for logger in mlflow_loggers(trainer):
            logger.log_tags({"diverged": f"epoch {trainer.current_epoch}: {', '.join(bad) or 'on another rank'}"})


def _repeatable(config: Namespace) -> Namespace:
    config = config.clone()
    config.ckpt_path = None  # with it `fit` would resume this run instead of making another one
    loggers = config.trainer.logger
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        settings = logger.get("init_args") if isinstance(logger, Namespace) else None
        if settings is not None and settings.get("tracking_uri"):
            settings.tracking_uri = storable(settings.tracking_uri)
    return config
