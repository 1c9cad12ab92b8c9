"""The hyper-parameters that the callback logs, with Lightning's own MLflow logger, which takes each only once."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import MLFlowLogger
from mlflow import MlflowClient
from torch.optim import lr_scheduler

from adaloss_lightning import AdaLossCallback
from adaloss_lightning.tracking import open_store
from tests.callback.models import Regression, fit, optimizer_of

URI = "sqlite:///mlflow.db"


@pytest.fixture(autouse=True)
def store(folder: Path) -> None:
    open_store(URI)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_what_was_set_is_logged_as_it_was_at_the_start(folder: Path) -> None:
    class Plateau(Regression):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=1e9)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "train/loss"}}

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("train/loss", loss, on_epoch=True)
            return loss

    def logged(ckpt_path: Any, epochs: int) -> Any:
        logger = MLFlowLogger("e", tracking_uri=URI, run_id=runs[0] if runs else None)
        save = pl.callbacks.ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        trainer = fit(
            Plateau(), AdaLossCallback(), callbacks=[save], enable_checkpointing=True, logger=logger,
            max_epochs=epochs, ckpt_path=ckpt_path, log_every_n_steps=1,
        )  # fmt: skip
        runs.append(logger.run_id)
        return trainer

    runs: list[Any] = []
    assert optimizer_of(logged(None, 3)).param_groups[0]["lr"] < 0.1
    logged(folder / "epoch=2.ckpt", 4)  # MLflow takes no other value of a param
    client = MlflowClient(URI)
    assert client.get_run(runs[0]).data.params["adaloss/lr"] == "0.1"


def test_a_logger_that_takes_no_second_value_of_a_param_stops_no_run(folder: Path) -> None:
    logger = MLFlowLogger("e", tracking_uri=URI)
    model, callback = Regression(), AdaLossCallback(lr="auto")
    fit(model, callback, logger=logger, log_every_n_steps=1)
    with pytest.warns(UserWarning, match="MLFlowLogger did not take the settings of AdaLossCallback"):
        trainer = fit(model, callback, logger=logger, log_every_n_steps=1, max_epochs=3)
    assert trainer.global_step == 12
