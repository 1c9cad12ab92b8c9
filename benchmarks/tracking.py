"""What tracking costs a training, and how fast it delivers: `python -m benchmarks.tracking [--rounds N] [--points N]`.

Loop: trainings of the same model without a logger, with a logger that does nothing, and with BufferedMLFlowLogger to a
tracking server on this machine, in turn, each logging five metrics at every step. The server computes on the same
cores. A row compares each training with the one without a logger right before it; medians over the rounds.

Delivery: so many points of five metrics through BufferedMLFlowLogger, until the server has them all, beside one
`log_batch` of MLflow's client for each point, of which the first thousand are timed.
"""

import argparse
import itertools
import logging
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger
from tests.servers.servers import TrackingServer

METRICS = 5
WARM_UP = 100  # in which the run is created
ONE_BY_ONE = 1000


class Model(pl.LightningModule):
    """Layers wide enough for a step of some milliseconds; notes when each batch begins."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(*(torch.nn.Linear(width, width) for _ in range(3)))
        self.begins: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: D102
        self.begins.append(time.perf_counter())
        loss = self.net(batch).square().mean()
        self.log_dict({f"m{index}": loss for index in range(METRICS)})
        return loss

    def configure_optimizers(self) -> Any:  # noqa: D102
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Repeated:
    """The same batch again and again."""

    def __init__(self, batch: torch.Tensor, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[torch.Tensor]:
        yield from itertools.repeat(self.batch, self.count)


class Silent(DummyLogger):
    """What Lightning itself takes to hand metrics over."""

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        pass


def step_ms(logger: Logger | bool, steps: int, size: int, width: int) -> float:
    """Mean milliseconds of a step, from the first request after the warm-up to the last one."""
    torch.manual_seed(0)
    model = Model(width)
    batch = torch.randn(size, width)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=logger, enable_checkpointing=False, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, Repeated(batch, steps + WARM_UP))
    return 1e3 * (model.begins[-1] - model.begins[WARM_UP]) / (steps - 1)


def race(url: str, rounds: int, steps: int, size: int, width: int) -> None:
    loggers = {
        "nothing": lambda: False,
        "a logger that does nothing": Silent,
        "BufferedMLFlowLogger": lambda: BufferedMLFlowLogger("loop", tracking_uri=url),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in loggers}
    for _ in range(rounds):
        for name, make in loggers.items():
            without = step_ms(False, steps, size, width)
            times[name].append((step_ms(make(), steps, size, width), without))
    print(f"| every step to | with, ms | without, ms | ratio | spread of the ratio | added, us |\n|---|{'---:|' * 5}")
    for name, pairs in times.items():
        ratios = sorted(one / two for one, two in pairs)
        one, two = (statistics.median(side) for side in zip(*pairs, strict=True))
        added = 1e3 * statistics.median(a - b for a, b in pairs)
        spread = f"{ratios[len(ratios) // 4]:.3f} to {ratios[-1 - len(ratios) // 4]:.3f}"
        print(
            f"| {name} | {one:.2f} | {two:.2f} | {statistics.median(ratios):.3f} | {spread} | {added:+.0f} |",
            flush=True,
        )


def deliver(url: str, points: int) -> None:
    logger = BufferedMLFlowLogger("delivery", tracking_uri=url)
    values = {f"m{index}": 0.1 * index for index in range(METRICS)}
    begin = time.perf_counter()
    for step in range(points):
        logger.log_metrics(values, step)
    logged = time.perf_counter() - begin
    if not logger.flush(3600):
        raise RuntimeError("The server did not take everything within an hour.")
    ours = time.perf_counter() - begin
    client, run_id = MlflowClient(url), str(logger.run_id)
    logger.finalize()
    if len(client.get_metric_history(run_id, "m0")) != points:
        raise RuntimeError("The server does not have every point once.")
    run = client.create_run(client.get_run(run_id).info.experiment_id)
    begin = time.perf_counter()
    for step in range(ONE_BY_ONE):
        client.log_batch(run.info.run_id, [Metric(key, value, 0, step) for key, value in values.items()])
    one_by_one = (time.perf_counter() - begin) / ONE_BY_ONE
    every = points * one_by_one
    print(f"\n{points} points of {METRICS} metrics: logged in {logged:.1f} s ({1e6 * logged / points:.0f} us a point),")
    print(
        f"all of them at the server after {ours:.1f} s. One call a point takes {1e3 * one_by_one:.1f} ms, {every:.0f} s"
    )
    print(f"for all of them: {every / ours:.0f} times as long.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000, help="of each training")
    parser.add_argument("--size", type=int, default=256, help="of the batch")
    parser.add_argument("--width", type=int, default=512, help="of the layers")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--points", type=int, default=100_000)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    cores = len(os.sched_getaffinity(0))
    print(
        f"torch {torch.__version__} with {options.threads} threads, lightning {pl.__version__}, {cores} cores of",
        end=" ",
    )
    print(f"{platform.machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        home = Path(folder, "server")
        home.mkdir()
        with TrackingServer(home) as server:
            race(server.url, options.rounds, options.steps, options.size, options.width)
            deliver(server.url, options.points)


if __name__ == "__main__":
    main()
