"""Private names of Lightning that the logger uses: a release that changes one of them fails here."""

from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.logger import _add_prefix
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger
from adaloss_lightning.tracking.logger import lightning_internals as internals
from tests.tracking.training import Line, trainer


def test_logger_has_every_attribute_of_lightnings(client: MlflowClient) -> None:
    theirs, ours = MLFlowLogger("x", tracking_uri=client.tracking_uri), BufferedMLFlowLogger("x")
    assert vars(theirs).keys() <= vars(ours).keys()
    for name in vars(theirs).keys() - {"_run_name", "_mlflow_client", "_tracking_uri", "_initialized"}:
        assert vars(theirs)[name] == vars(ours)[name], name


@pytest.mark.parametrize("given", [None, "kept/last.ckpt", "last", "best"])
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:`.fit.ckpt_path=None.` was called without a model")
def test_fit_in_progress_finds_what_lightning_resumes(folder: Path, given: str | None) -> None:
    """A logger is asked while a fit is set up, before Lightning says which checkpoint it resumes."""
    seen: list[Any] = []

    class Asked(CSVLogger):
        @property
        def name(self) -> str:
            if found := internals.fit_in_progress():
                seen.append(found)
            return "x"

    keep = ModelCheckpoint(folder / "kept", monitor="train/loss", save_last=True)
    trainer(CSVLogger("first"), callbacks=[keep]).fit(Line())
    resumed: list[str | None] = []

    class Resumed(Line):
        def on_fit_start(self) -> None:
            resumed.append(self.trainer.ckpt_path and str(self.trainer.ckpt_path))

    again = trainer(Asked("second"), callbacks=[keep], max_epochs=2)
    again.fit(Resumed(), ckpt_path=given)
    assert internals.fit_in_progress() is None
    assert seen
    assert {path and str(Path(path).absolute()) for _, path in seen} == {
        path and str(Path(path).absolute()) for path in resumed
    }
    assert {id(one) for one, _ in seen} == {id(again)}


def test_folder_of_checkpoints_is_asked_for_by_a_function_that_is_known(folder: Path) -> None:
    asked: list[bool] = []

    class Asked(CSVLogger):
        @property
        def version(self) -> str:
            asked.append(internals.is_for_checkpoint_folder())
            return "1"

    fitted = trainer(Asked("csv"))
    fitted.fit(Line())
    assert True in asked
    fitted.logger.version  # noqa: B018
    assert not asked[-1]


def test_settings_of_a_checkpoint_callback_have_their_private_names(folder: Path) -> None:
    callback = ModelCheckpoint(folder / "kept", every_n_train_steps=3)
    settings = internals.settings_of(callback)
    assert (len(settings), settings["_every_n_train_steps"]) == (6, 3)
    trainer(CSVLogger("csv"), callbacks=[callback]).fit(Line())
    assert internals.saved_by(callback) == {callback.best_model_path}
    assert vars(callback)["_last_checkpoint_saved"] == callback.best_model_path


def test_loggers_of_lightning_are_imitated() -> None:
    assert internals.prefixed("a", "p", "-") == next(iter(_add_prefix({"a": 1.0}, "p", "-"))) == "p-a"
    assert internals.prefixed("a", "", "-") == "a"
    assert internals.flat({"a": {"b": 1}, "c": None}) == {"a/b": 1, "c": None}
    internals.no_experiment().log_batch("whatever")
    module = Line()
    assert internals.trainer_of(module) is None
    module.trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    assert internals.trainer_of(module) is module.trainer


def test_experiment_of_a_store_that_is_away_takes_every_call(folder: Path) -> None:
    (folder / "file").touch()
    logger = BufferedMLFlowLogger("x", tracking_uri="sqlite:///file/mlflow.db", finalize_timeout=0.1)
    logger.experiment.log_param("no run", "a", 1)
    logger.finalize("success")
