"""Cost of tracking in a run, and the speed of its delivery: `python -m benchmarks.tracking [--steps N] [--points N]`.

Loop: one run logs five metrics at every step to a tracking server on this machine, one to a server that only waits for
as long in another process, and one to a logger that does nothing. Each loses its logger in every second ten steps; the
other steps are compared with those.

Delivery: `--points` points of five metrics go through BufferedMLFlowLogger until the server has them all, beside one
`log_batch` of MLflow's client a point, of which the first thousand are timed.
"""

import argparse
import math
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger
from adaloss_lightning.tracking.logger.records import Record
from adaloss_lightning.tracking.logger.stored_run import StoredRun
from adaloss_lightning.tracking.sweeps.executors.shares import available_cores
from benchmarks.common import Columns, Row, median_error, print_table
from benchmarks.lightning_loop import Repeated, Silent, silence, trainer
from tests.servers.proxy import Fate, Proxy
from tests.servers.servers import TrackingServer

METRICS = 5
WARM_UP = 100  # in which the run is created
ONE_BY_ONE = 1000
FAR_S = 0.15  # what a server takes for a thousand metrics
COLUMNS: Columns = {
    "logged to": "{name}",
    "a step, ms": "{step:.1f}",
    "handing over, us": "{handing_over:+.0f} +- {handing_over_error:.0f}",
    "delivering, us": "{delivering:+.0f} +- {delivering_error:.0f}",
    "the loop loses": "{loss:.1f} +- {loss_error:.1f} %",
}


class Model(pl.LightningModule):
    """One layer, and a wait as for an accelerator: a step computed here varies by more than what is measured."""

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.net, self.wait = torch.nn.Linear(8, 8), wait

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: D102
        time.sleep(self.wait)
        loss = self.net(batch).square().mean()
        self.log_dict({f"m{index}": loss for index in range(METRICS)})
        return loss

    def configure_optimizers(self) -> Any:  # noqa: D102
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Alternating(pl.Callback):
    """Gives the trainer its logger for ten steps and takes it away for ten, in the order off, on, on, off."""

    BLOCK = 10

    def __init__(self, logger: Logger) -> None:
        self.logger = logger
        self.begins: list[float] = []
        self.is_logged: list[bool] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:  # noqa: D102
        is_on = len(self.begins) // self.BLOCK % 4 in (1, 2)
        trainer.loggers = [self.logger] if is_on else []
        self.is_logged.append(is_on)
        self.begins.append(time.perf_counter())


@contextmanager
def noted_deliveries() -> Iterator[list[tuple[float, float]]]:
    """Begin and end of each call to the store inside the block."""
    calls: list[tuple[float, float]] = []
    send = StoredRun.send

    def timed(self: StoredRun, records: Sequence[Record]) -> None:
        begin = time.perf_counter()
        send(self, records)
        calls.append((begin, time.perf_counter()))

    with mock.patch.object(StoredRun, "send", timed):
        yield calls


@dataclass(frozen=True)
class Cost:
    """Milliseconds of a step that logs nothing, and microseconds that each logged step adds."""

    step: float
    handing_over: float
    handing_over_error: float
    delivering: float
    delivering_error: float

    @property
    def loss(self) -> float:
        """Percent that the loop loses."""
        return 0.1 * (self.handing_over + self.delivering) / self.step

    @property
    def loss_error(self) -> float:
        """Its standard error."""
        return 0.1 * math.hypot(self.handing_over_error, self.delivering_error) / self.step


@dataclass(frozen=True)
class Steps:
    """A run, step by step.

    Attributes:
        begins: Seconds at which each step began, and the last one ended.
        is_logged: Whether the logger was there.
        deliveries: Begin and end of each call to the store.
    """

    begins: np.ndarray
    is_logged: np.ndarray
    deliveries: Sequence[tuple[float, float]]

    @property
    def taken(self) -> np.ndarray:
        """Seconds."""
        return np.diff(self.begins)

    def during(self, call: tuple[float, float]) -> np.ndarray:
        """Which steps a delivery overlaps with."""
        return (self.begins[:-1] < call[1]) & (self.begins[1:] > call[0])

    def cost(self) -> Cost:
        """Cost of logging, from neighbouring steps alone, as the machine's own speed drifts.

        Means are of the middle half: now and then something else on the machine takes some milliseconds.
        Handing over: twenty logged steps against the twenty others around them, without the steps in which a delivery
        runs; the median of these differences and its standard error. Delivering: what the steps in which one runs take
        longer than those like them among the 400 around it; the median over deliveries, shared among all logged steps.
        """
        taken, is_logged = self.taken, self.is_logged
        hits = [hit for hit in map(self.during, self.deliveries) if hit.any()]
        is_usual = ~np.any(hits, axis=0) if hits else np.ones(len(taken), dtype=bool)
        differences = []
        for part in _parts(len(taken), 4 * Alternating.BLOCK):
            on, off = (taken[part][(is_logged[part] == kind) & is_usual[part]] for kind in (True, False))
            if min(len(on), len(off)) >= Alternating.BLOCK:
                differences.append(middle(on) - middle(off))
        excesses = [excess for hit in hits if (excess := self._excess(hit, is_usual)) is not None]
        share = len(hits) / int(is_logged.sum())
        return Cost(
            step=1e3 * middle(taken[~is_logged & is_usual]),
            handing_over=1e6 * float(np.median(differences)),
            handing_over_error=1e6 * median_error(differences),
            delivering=1e6 * share * float(np.median(excesses)) if excesses else 0.0,
            delivering_error=1e6 * share * median_error(excesses) if excesses else 0.0,
        )

    def _excess(self, hit: np.ndarray, is_usual: np.ndarray) -> float | None:
        """Seconds that the steps `hit` took longer; None where too few others are near."""
        place = int(np.argmax(hit))
        near = slice(max(0, place - 20 * Alternating.BLOCK), place + 20 * Alternating.BLOCK)
        total = 0.0
        for kind in (True, False):
            alike = self.is_logged[near] == kind
            usual = self.taken[near][alike & is_usual[near]]
            if len(usual) < Alternating.BLOCK:
                return None
            total += float(np.sum(self.taken[near][alike & hit[near]] - middle(usual)))
        return total


def middle(values: np.ndarray) -> float:
    """Mean of the middle half."""
    quarter = len(values) // 4
    return float(np.mean(np.sort(values)[quarter : len(values) - quarter]))


def _parts(count: int, length: int) -> Iterator[slice]:
    for start in range(0, count - length + 1, length):
        yield slice(start, start + length)


def cost_of(logger: Logger, steps: int, wait: float) -> Cost:
    """Trains once."""
    torch.manual_seed(0)
    model, batch = Model(wait), torch.randn(2, 8)
    clock = Alternating(logger)
    run = trainer(accelerator="cpu", logger=False, callbacks=[clock], log_every_n_steps=1)
    with noted_deliveries() as calls:
        run.fit(model, Repeated(batch, WARM_UP + steps + 1))
    return Steps(np.array(clock.begins[WARM_UP:]), np.array(clock.is_logged[WARM_UP:-1]), calls).cost()


def _answer_from_afar(target: str, address: Any) -> None:
    def decide(method: str, path: str, headers: Mapping[str, str]) -> Fate:
        if not path.endswith("/runs/log-batch"):
            return "pass"
        time.sleep(FAR_S)
        return 200

    with Proxy(target, decide) as proxy:
        address.send(proxy.url)
        address.recv()


@contextmanager
def elsewhere(target: str) -> Iterator[str]:
    """A server like `target` on another machine: it takes as long for a batch, and computes nothing here."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_answer_from_afar, args=(target, there), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.kill()
        process.join()


def race(url: str, steps: int, waits: Sequence[float]) -> Iterator[Row]:
    """The rows of the costs: each wait, each server."""
    with elsewhere(url) as far:
        servers = {"a logger that does nothing": None, "a server on this machine": url, "a server elsewhere": far}
        for wait in waits:
            for name, uri in servers.items():
                logger: Logger = Silent()
                if uri is not None:
                    logger = BufferedMLFlowLogger("loop", tracking_uri=uri)
                    logger.log_metrics({"first": 0.0}, 0)  # the run is created before the clock starts
                    logger.flush()
                cost = cost_of(logger, steps, wait)
                yield {"name": name, **asdict(cost), "loss": cost.loss, "loss_error": cost.loss_error}


def deliver(url: str, points: int) -> None:
    """The time to deliver `points`, whole, beside one call for each."""
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
    print(
        f"{points} points of {METRICS} metrics: logged in {logged:.1f} s ({1e6 * logged / points:.0f} us a point), "
        f"all at the server after {ours:.1f} s.\nOne call a point takes {1e3 * one_by_one:.1f} ms, "
        f"{points * one_by_one:.0f} s for all of them: {points * one_by_one / ours:.0f} times as long."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=4000, help="of each training")
    parser.add_argument("--waits", type=float, nargs="+", default=[5, 10, 20], help="milliseconds in each step")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--workers", default="4", help="of the server; 4 is what `mlflow server` starts")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    silence()
    cores = available_cores()
    versions = f"torch {torch.__version__} with {options.threads} threads, lightning {pl.__version__}"
    print(f"{versions}, {options.workers} workers of the server, {cores} cores of {platform.machine()}\n")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        home = Path(folder, "server")
        home.mkdir()
        with TrackingServer(home, None, "--workers", options.workers) as server:
            print_table(race(server.url, options.steps, [1e-3 * wait for wait in options.waits]), COLUMNS)
            if options.points:
                deliver(server.url, options.points)


if __name__ == "__main__":
    main()
