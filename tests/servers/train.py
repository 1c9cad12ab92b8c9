"""Trainings at the same time, a process each, logged to MLflow and, to compare with, by Lightning's own CSVLogger."""

import multiprocessing
import sys

from lightning.pytorch.loggers import CSVLogger

from adaloss_lightning.tracking import BufferedMLFlowLogger
from tests.limits import HANG_S
from tests.tracking.training import Line, trainer

EPOCHS = 25


def train(name: str) -> None:
    loggers = [
        BufferedMLFlowLogger("together", run_name=name, finalize_timeout=HANG_S),
        CSVLogger(".", name="csv", version=name),
    ]
    trainer(loggers, max_epochs=EPOCHS, enable_checkpointing=False).fit(Line())


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")  # imports take seconds and would set the trainings apart
    processes = [context.Process(target=train, args=[name]) for name in sys.argv[1:]]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
