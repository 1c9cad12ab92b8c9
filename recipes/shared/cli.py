"""RecipeCLI: the command line of all recipes, a LightningCLI whose runs are tracked in MLflow."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jsonargparse.typing import PositiveInt
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from adaloss_lightning.tracking import (
    BufferedMLFlowLogger,
    LogEveryEpoch,
    RememberRun,
    TrackingError,
    log_model,
    sigterm_raises,
)
from adaloss_lightning.tracking.callbacks import mlflow_loggers
from adaloss_lightning.tracking.logger.lightning_internals import checkpoint_to_resume
from adaloss_lightning.tracking.logger.resume import match_states, read_run_states
from adaloss_lightning.tracking.tags import EVALUATIONS, KIND_TAG
from recipes.shared.callbacks import LogConfig, StopOnDivergence
from recipes.shared.params import run_params
from recipes.shared.settings import require_checkpoint, require_optimizer, settings_refused

log = logging.getLogger(__name__)


class RecipeCLI(LightningCLI):
    """LightningCLI with the tracking defaults of the project.

    - Logger: `BufferedMLFlowLogger` on the default store, the experiment named after the recipe. Any logger can be
      given instead (`--trainer.logger`), or none (`--trainer.logger false`).
    - The recipe's `defaults.yaml` is always read first, so a method's YAML holds only what is special to it.
    - `--checkpoint.*` configures the ModelCheckpoint that keeps the best validation epoch in the run's artifacts.
    - `fit` ends with the test of that epoch, in the same run.
    - The run is FINISHED, FAILED or KILLED as the command ended.

    Args:
        recipe: Name of the recipe: its experiment's default name and the run's param `recipe`.
        model_class: The LightningModule.
        datamodule_class: The LightningDataModule.
        args: Command line; None takes the one of the process.
        links: Settings of the data that are settings of the model too, such as `{"data.dim": "model.dim"}`.
    """

    def __init__(
        self,
        recipe: str,
        model_class: type[LightningModule],
        datamodule_class: type[LightningDataModule],
        args: ArgsType = None,
        links: Mapping[str, str] | None = None,
    ) -> None:
        self.recipe = recipe
        self._configs = Path(__file__).parents[1] / recipe
        self._links = links or {}
        logger = {
            "class_path": "adaloss_lightning.tracking.BufferedMLFlowLogger",
            "init_args": {"experiment_name": recipe},
        }
        with warnings.catch_warnings():
            _ignore_what_users_cannot_change()
            super().__init__(
                model_class,
                datamodule_class,
                save_config_callback=LogConfig,
                # Lightning's way asserts a log folder, which a database store does not have.
                save_config_kwargs={"save_to_log_dir": False},
                trainer_defaults={"logger": logger, "callbacks": [StopOnDivergence(), RememberRun(), LogEveryEpoch()]},
                parser_kwargs=self._parser_settings(),
                args=args,
            )

    def _parser_settings(self) -> dict[str, Any]:
        command = f"python -m recipes.{self.recipe}"
        # A usage that lists every option is 70 lines on top of each error.
        own = {
            name: {
                "default_config_files": [str(self._configs / "defaults.yaml")],
                "usage": f"{command} {name} --config FILE [--OPTION VALUE ...]",
            }
            for name in self.subcommands()
        }
        return {"prog": command, **own}

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Offers fit, validate and test."""
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds `--method`, `--threads`, `--log_model` and `--checkpoint.*`, and links what data and model share."""
        parser.add_argument("--method", type=str | None, default=None, help="Name of the method in tables and filters.")
        parser.add_argument("--threads", type=PositiveInt | None, default=None, help="CPU threads torch computes with.")
        about = "Whether fit ends with logging the tested network as an MLflow model with its signature."
        parser.add_argument("--log_model", type=bool, default=False, help=about)
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {"checkpoint.monitor": "val/acc", "checkpoint.mode": "max", "checkpoint.filename": "{epoch}"}
        )
        for source, target in self._links.items():
            parser.link_arguments(source, target)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses `args` or the process's command line.

        Raises:
            SettingError: There is no such checkpoint, or nothing to train with.
        """
        super().parse_arguments(parser, args)
        subcommand = self.config["subcommand"]
        require_checkpoint(self.config[subcommand].ckpt_path)
        if subcommand == "fit":
            require_optimizer(self.config[subcommand].optimizer, self._configs)

    def instantiate_classes(self) -> None:
        """Builds everything.

        Raises:
            SettingError: Something refuses what it was given.
        """
        with settings_refused():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Builds the trainer, with `enable_checkpointing=False` without the checkpoint of `--checkpoint.*`."""
        if self.config[self.subcommand].trainer.enable_checkpointing is False:
            self._parser(self.subcommand).callback_keys.remove("checkpoint")
        return super().instantiate_trainer(**kwargs)

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Trains, then tests the best validation epoch; a resumed checkpoint continues its run."""
        loggers, path = mlflow_loggers(self.trainer), checkpoint_to_resume(self.trainer, kwargs.get("ckpt_path"))
        if path is not None and loggers and self.trainer.is_global_zero:
            states = match_states(read_run_states(path), [logger.place for logger in loggers])
            for logger, state in zip(loggers, states, strict=True):
                logger.continue_run(state)
        with self._tracked():
            self.trainer.fit(model, **kwargs)
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
            verbose = bool(self.trainer.progress_bar_callback)
            self.trainer.test(model, datamodule=self.datamodule, ckpt_path=best or None, verbose=verbose)
        if self.config["fit"].log_model:
            self._log_model(model)

    def _log_model(self, model: LightningModule) -> None:
        # After the run has ended as it did: what cannot be exported takes nothing from it.
        batch = self.datamodule.on_after_batch_transfer(next(iter(self.datamodule.val_dataloader())), 0)
        for logger in mlflow_loggers(self.trainer) if self.trainer.is_global_zero else []:
            if logger.run_id is None:
                raise TrackingError("Cannot log the model: the store is away. Log it later: tracking.log_model.")
            log_model(logger.run_id, model, batch[0][:2], tracking_uri=logger.tracking_uri)

    def validate(self, model: LightningModule, **kwargs: Any) -> None:
        """Evaluates on the validation set."""
        self._evaluate(self.trainer.validate, model, kwargs)

    def test(self, model: LightningModule, **kwargs: Any) -> None:
        """Evaluates on the test set."""
        self._evaluate(self.trainer.test, model, kwargs)

    def _evaluate(self, evaluate: Callable[..., object], model: LightningModule, given: Mapping[str, Any]) -> None:
        if not given.get("ckpt_path"):
            log.warning(
                "The network has its initial parameters. To %s a trained one give its --ckpt_path.", self.subcommand
            )
        with self._tracked():
            evaluate(model, **given)

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        with _process_group_ended(), ExitStack() as stack:
            stack.enter_context(sigterm_raises())
            stack.enter_context(torch_threads(self.config[self.subcommand].threads))
            for logger in mlflow_loggers(self.trainer):
                stack.enter_context(logger.hold())
                params = run_params(self.recipe, self.config[self.subcommand].as_dict())
                logger.suggest_name(_name_of(str(self.subcommand), params))
                logger.log_hyperparams(params)
                if self.subcommand in EVALUATIONS:
                    logger.log_tags({KIND_TAG: self.subcommand})
                self._keep_checkpoints_in(logger)
            yield

    def _keep_checkpoints_in(self, logger: BufferedMLFlowLogger) -> None:
        # Left to itself, Lightning adds two more folders, the experiment's and the run's identifiers.
        if self.config[self.subcommand].trainer.fast_dev_run or logger.save_dir is None:
            return
        for callback in self.trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(Path(logger.save_dir, "checkpoints"))


def _name_of(subcommand: str, params: Mapping[str, Any]) -> str:
    """Names a run as sweeps name their points: method, b0 and seed, after the subcommand if that is not fit."""
    settings = [f"{name}={params[name]}" for name in ("b0", "seed") if name in params]
    return " ".join([*([] if subcommand == "fit" else [subcommand]), str(params["method"]), *settings])


@contextmanager
def _process_group_ended() -> Iterator[None]:
    """Ends the process group that began in the block, if the block ends well.

    At the interpreter's end a thread of gloo may abort a rank that has finished (pytorch issue 190489), and Lightning
    ends groups on NCCL only. After an error the other ranks may never come, and there is nothing to wait for.
    """
    was_there = dist.is_available() and dist.is_initialized()
    yield
    if not was_there and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Lets torch compute with `count` CPU threads; None keeps as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)  # the next run of a sweep may want its own


def run_from_shell(main: Callable[[], None]) -> None:
    """Runs a `main` for `python -m`: an error that the user can put right is one line on stderr and exit code 2."""
    try:
        main()
    except TrackingError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def _ignore_what_users_cannot_change() -> None:
    # LightningCLI warns of `args` in a process with a command line of its own, as every sweep and test has.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended")
    # The recipes' data lie in memory or come with enough workers; a roll-out needs the policy as it is now.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # Lightning 2.6 calls what torch 2.15 and jsonargparse 4.53 have deprecated.
    warnings.filterwarnings("ignore", message=r".*LeafSpec\)` is deprecated", category=FutureWarning)
    jsonargparse = r"(?s).*(JsonargparseDepr|deprecated in v4.*removed in v5)"
    warnings.filterwarnings("ignore", message=jsonargparse, category=DeprecationWarning)
    # LogEveryEpoch shortens the interval that Lightning finds too long.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")
    # Every run has a folder of its own, so a checkpoint that is loaded again always comes from another one.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
