"""Trainings against a real tracking server that dies, hangs, fails or was never there: everything arrives, once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger, RememberRun
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.logger.recovery import waiting
from tests.limits import HANG_S, wait_for
from tests.ports import free_port
from tests.servers.proxy import Fate, Proxy
from tests.servers.servers import TrackingServer
from tests.tracking.training import Line, end_of_process, runs_of, trainer

STEPS = 40


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """A server for all tests here: what a test stops or suspends, it starts or resumes."""
    with TrackingServer(tmp_path_factory.mktemp("steady")) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own repetitions, up to four minutes a call, would only make these tests long."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def the_run(url: str, experiment: str) -> tuple[MlflowClient, Run]:
    client = MlflowClient(url)
    (run,) = runs_of(client, experiment)  # one: none was made twice
    return client, run


def values(client: MlflowClient, run: Run, metric: str = "train/loss") -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))


def fit(logger: BufferedMLFlowLogger, disturb: Callable[[int], object] = lambda step: None) -> list[tuple[int, float]]:
    """Trains for `STEPS` steps; returns what a logger that keeps everything has seen."""
    seen: list[tuple[int, float]] = []

    class Watched(Line):
        def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
            seen.append((self.global_step - 1, float(self.trainer.callback_metrics["train/loss"])))

        def training_step(self, batch: list, batch_idx: int):
            self.disturb(self.global_step)
            x, y = batch
            loss = (self.weight * x - y).square().mean()
            self.log("train/loss", loss)
            return loss

    trainer(logger, max_epochs=STEPS // 4).fit(Watched(disturb))
    assert len(seen) == STEPS
    return seen


def test_a_server_that_dies_and_one_that_hangs(steady: TrackingServer) -> None:
    logger = BufferedMLFlowLogger("dies", tracking_uri=steady.url, finalize_timeout=HANG_S)
    flushed: list[bool] = []
    deeds = {
        8: lambda: flushed.append(logger.flush()),  # so that something is there already
        9: steady.stop,
        18: steady.start,
        20: lambda: flushed.append(logger.flush()),
        21: steady.suspend,
        30: steady.resume,
    }
    seen = fit(logger, lambda step: deeds.get(step, lambda: None)())
    assert flushed == [True, True]
    client, run = the_run(steady.url, "dies")
    assert values(client, run) == seen
    assert run.info.status == "FINISHED"


def test_a_server_that_was_never_there_gets_everything_from_sync(
    steady: TrackingServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steady.stop()
    before = int(time.time() * 1000)
    logger = BufferedMLFlowLogger(
        "never", tracking_uri=steady.url, run_name="mine", tags={"a": "b"}, finalize_timeout=1
    )
    logger.log_hyperparams({"lr": 0.1})
    logger.log_text("hello", "notes/hello.txt")
    seen = fit(logger)
    after = int(time.time() * 1000)
    assert logger.run_id is None
    end_of_process()
    assert main(["sync"]) == 1
    assert "nothing answers" in capsys.readouterr().out
    steady.start()
    assert main(["sync"]) == 0
    assert f"records delivered to run 'mine' ({the_run(steady.url, 'never')[1].info.run_id})" in capsys.readouterr().out
    client, run = the_run(steady.url, "never")
    assert values(client, run) == seen
    assert run.data.params == {"lr": "0.1"}
    assert run.data.tags["a"] == "b"
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert before <= run.info.start_time <= run.info.end_time <= after  # not the time of the delivery
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id, "notes")}
    assert names == {"notes/hello.txt"}
    assert main(["sync"]) == 0
    assert "Nothing waits" in capsys.readouterr().out


def test_what_cannot_be_delivered_is_discarded_on_request_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    logger = BufferedMLFlowLogger("unwanted", tracking_uri=nobody, finalize_timeout=1)
    logger.log_metrics({"a": 1.0}, 0)
    assert main(["sync", "--discard"]) == 0
    assert "delivers by itself" in capsys.readouterr().out  # it is in progress
    assert len(waiting()) == 1
    logger.finalize("success")
    end_of_process()
    assert main(["sync"]) == 1
    assert len(waiting()) == 1
    assert main(["sync", "--discard"]) == 0
    assert "discarded" in capsys.readouterr().out
    assert waiting() == []


def test_answers_that_get_lost_store_nothing_twice(steady: TrackingServer) -> None:
    asked: Counter[str] = Counter()

    def decide(method: str, path: str, headers: Mapping[str, str]) -> Fate:
        call = path.rpartition("/mlflow/")[2].partition("?")[0]
        asked[call] += 1
        # Of everything that changes the store, the first answers get lost: it has changed, and nobody knows.
        lost = {"runs/create": 1, "runs/log-batch": 2, "experiments/create": 1, "runs/update": 1}
        return "lose the answer" if asked[call] <= lost.get(call, 0) else "pass"

    with Proxy(steady.url, decide) as proxy:
        seen = fit(BufferedMLFlowLogger("lost", tracking_uri=proxy.url, finalize_timeout=HANG_S))
    assert asked["runs/create"] == 1
    assert asked["runs/log-batch"] >= 3
    client, run = the_run(steady.url, "lost")
    assert values(client, run) == seen
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("status", [500, 503, 403])
def test_a_server_that_answers_errors(steady: TrackingServer, status: int) -> None:
    refused = Counter[str]()

    def decide(method: str, path: str, headers: Mapping[str, str]) -> Fate:
        kind = "batch" if "log-batch" in path else "other"
        refused[kind] += 1
        return status if refused[kind] <= 3 else "pass"

    with Proxy(steady.url, decide) as proxy:
        seen = fit(BufferedMLFlowLogger(f"errors{status}", tracking_uri=proxy.url, finalize_timeout=HANG_S))
    client, run = the_run(steady.url, f"errors{status}")
    assert values(client, run) == seen
    assert run.info.status == "FINISHED"


KILLED = """
import sys
from adaloss_lightning.tracking import BufferedMLFlowLogger
logger = BufferedMLFlowLogger("killed", run_name=sys.argv[2], tracking_uri=sys.argv[1])
for step in range(10**9):
    logger.log_metrics({"a": step / 3, "b": -step}, step)
    print(step, flush=True)
"""


def wait_for_spools(count: int) -> None:
    """Until no more than `count` are left: spools of the past are delivered on a thread, whenever it comes to that."""
    wait_for(lambda: len(waiting()) <= count)


@pytest.mark.parametrize("by", ["sync", "the next run"])
def test_what_a_killed_run_logged_arrives_once_and_the_run_is_killed(
    steady: TrackingServer, folder: Path, by: str
) -> None:
    """By the next run where no server was there before."""
    name = f"killed, delivered by {by}"
    if by == "the next run":
        steady.stop()
    number = random.Random(by).randrange(2000, 20_000)
    command = [sys.executable, "-c", KILLED, steady.url, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout is not None
        for line in training.stdout:
            if int(line) >= number:
                training.send_signal(signal.SIGKILL)
                break
        told = number + 1 + len(training.stdout.readlines())
    if by == "sync":
        assert main(["sync"]) == 0
    else:
        assert len(waiting()) == 1
        steady.start()
        logger = BufferedMLFlowLogger("killed", run_name="next", tracking_uri=steady.url, finalize_timeout=HANG_S)
        logger.log_metrics({"a": 1.0})
        wait_for_spools(1)
        logger.finalize("success")
    client = MlflowClient(steady.url)
    runs = {run.info.run_name: run for run in runs_of(client, "killed")}
    assert {run.info.status for name, run in runs.items() if name == "next"} <= {"FINISHED"}
    run = runs[name]
    assert run.info.status == "KILLED"
    # What it said it had logged is there; one more, of which it could not say so, may be.
    a, b = values(client, run, "a"), values(client, run, "b")
    assert len(a) in (told, told + 1)
    assert a == [(step, step / 3) for step in range(len(a))]
    assert b == [(step, -float(step)) for step in range(len(a))]
    assert waiting() == []


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("is_away", [False, True])
def test_resuming_a_checkpoint_goes_on_with_its_run(steady: TrackingServer, folder: Path, is_away: bool) -> None:
    """Also when no store was there to give the run its number: the checkpoint knows the run's own key."""
    name = f"resumed {is_away}"
    if is_away:
        steady.stop()
    code = """
import os, signal, sys
import adaloss_lightning.tracking as tracking
from tests.tracking.training import Line, end_of_process, trainer
logger = tracking.BufferedMLFlowLogger(sys.argv[2], tracking_uri=sys.argv[1], finalize_timeout=1)
fitted = trainer(logger, callbacks=[tracking.RememberRun()])
fitted.fit(Line())
fitted.save_checkpoint("last.ckpt")
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, steady.url, name], check=False)
    if is_away:
        steady.start()
    logger = BufferedMLFlowLogger(name, tracking_uri=steady.url, resume_from="last.ckpt", finalize_timeout=HANG_S)
    trainer(logger, max_epochs=2, callbacks=[RememberRun()]).fit(Line(), ckpt_path="last.ckpt")
    wait_for_spools(0)  # this process delivers what the first training left, beside its own
    client, run = the_run(steady.url, name)
    assert [step for step, _ in values(client, run)] == list(range(8))
    assert run.info.status == "FINISHED"


def test_what_a_dead_training_left_does_not_bring_its_run_back_to_life(client: MlflowClient, folder: Path) -> None:
    """A sweep may have said how a point ended before what the point had logged arrives."""
    experiment = client.create_experiment("judged")
    run = client.create_run(experiment)
    code = """
import os, signal, sys
from adaloss_lightning.tracking import BufferedMLFlowLogger
logger = BufferedMLFlowLogger("judged", run_id=sys.argv[1])
logger.log_metrics({"a": 1.0}, 0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, run.info.run_id], check=False)
    client.set_terminated(run.info.run_id, "FAILED")
    assert main(["sync"]) == 0
    after = client.get_run(run.info.run_id)
    assert (after.info.status, after.data.metrics) == ("FAILED", {"a": 1.0})


def test_what_is_too_large_for_a_proxy_holds_up_no_other(
    steady: TrackingServer, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As nginx is before a server: it takes no body above `client_max_body_size`."""
    limit = 50_000
    refused: list[str] = []

    def decide(method: str, path: str, headers: Mapping[str, str]) -> Fate:
        if int(headers.get("Content-Length") or 0) <= limit:
            return "pass"
        refused.append(path)
        return 413

    (folder / "small.txt").write_text("small")
    (folder / "big.bin").write_bytes(bytes(2 * limit))
    with Proxy(steady.url, decide) as proxy:
        logger = BufferedMLFlowLogger("large", run_name="mine", tracking_uri=proxy.url, finalize_timeout=20)
        logger.log_artifact("big.bin")
        logger.log_artifact("small.txt", "notes")
        logger.log_artifact("small.txt")
        logger.log_text("x" * 2 * limit, "a.txt")
        logger.log_text("x", "b.txt")
        for step in range(1000):
            logger.log_metrics({"a": float(step)}, step)
        logger.log_tags({"note": "x" * 2 * limit})  # cut, and then small enough
        logger.finalize("success")
        client, run = the_run(steady.url, "large")
        assert any("log-batch" in path for path in refused)
        assert values(client, run, "a") == [(step, float(step)) for step in range(1000)]
        assert run.data.tags["note"] == "x" * 8000
        assert run.info.status == "FINISHED"
        names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
        assert names == {"notes", "small.txt", "b.txt"}
        end_of_process()
        assert main(["sync"]) == 1
        said = capsys.readouterr().out
        assert f"run 'mine' ({run.info.run_id})" in said
        assert "big.bin: 413" in said or "a.txt" in said
        limit = 10**9
        assert main(["sync"]) == 0
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert names == {"notes", "small.txt", "a.txt", "b.txt", "big.bin"}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_deletes_on_the_server_what_it_deletes_here(steady: TrackingServer, folder: Path) -> None:
    for epochs in (1, 2):
        path = "kept.ckpt" if epochs == 2 else None
        logger = BufferedMLFlowLogger("follows", tracking_uri=steady.url, finalize_timeout=HANG_S)
        fitted = trainer(logger, max_epochs=epochs, callbacks=[RememberRun()])
        fitted.fit(Line(), ckpt_path=path)
        fitted.save_checkpoint("kept.ckpt")
    client, run = the_run(steady.url, "follows")
    names = [artifact.path for artifact in client.list_artifacts(run.info.run_id, "checkpoints")]
    assert names == ["checkpoints/epoch=1-step=8.ckpt"]


NOTEBOOK = """
from adaloss_lightning.tracking import BufferedMLFlowLogger
logger = BufferedMLFlowLogger("notebook", run_name={name!r}, tracking_uri={url!r}, finalize_timeout=0.5)
logger.log_metrics({{"a": 1.0}}, 0)
logger.log_text("x", "notes.txt")
logger.finalize("success")
"""


@pytest.fixture
def kernel(folder: Path) -> Iterator[BlockingKernelClient]:
    """A real notebook kernel, which lives on after the runs in it."""
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(folder), startup_timeout=HANG_S)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_a_run_that_is_over_is_delivered_while_its_notebook_lives(
    steady: TrackingServer, kernel: BlockingKernelClient, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("by the kernel", "by sync"):
        steady.stop()
        code = NOTEBOOK.format(name=name, url=steady.url)
        assert kernel.execute_interactive(code, output_hook=print, timeout=HANG_S)["content"]["status"] == "ok"
        assert len(waiting()) == 1
        steady.start()
        capsys.readouterr()
        if name == "by sync":
            assert main(["sync"]) == 0
            assert "in progress" not in capsys.readouterr().out
        wait_for_spools(0)
        assert kernel.is_alive()
        client = MlflowClient(steady.url)
        (run,) = runs_of(client, "notebook", f"attributes.run_name = '{name}'")
        assert (run.info.status, run.data.metrics) == ("FINISHED", {"a": 1.0})
        assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["notes.txt"]


def test_what_waits_in_memory_alone_is_not_promised(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("ADALOSS_SPOOL", str(folder / "file"))  # no folder can be made there
    logger = BufferedMLFlowLogger("memory", tracking_uri=f"http://127.0.0.1:{free_port()}", finalize_timeout=0.5)
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    end_of_process()
    messages = [record.message for record in caplog.records if record.name.startswith("adaloss_lightning")]
    assert not [message for message in messages if "adaloss sync" in message]
    assert "lost if it ends before" in caplog.text
    assert f"2 records of run 'run-{logger.run_state['run_key'][:8]}' are lost" in messages[-1]


FULL_DISK = """
import resource, sys
import adaloss_lightning.tracking as tracking
from tests.tracking.training import Line, end_of_process, trainer
def fill(step):
    if step == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
logger = tracking.BufferedMLFlowLogger("full", tracking_uri=sys.argv[1], finalize_timeout=float(sys.argv[2]))
trainer(logger, enable_checkpointing=False, max_epochs=5).fit(Line(fill))
print("trained")
"""


def test_a_full_disk_is_said_and_training_goes_on(steady: TrackingServer, folder: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, steady.url, str(HANG_S)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert "trained" in done.stdout, done.stderr
    assert done.stderr.count("Cannot write to the spool") == 1
    client, run = the_run(steady.url, "full")
    assert len(values(client, run)) == 20
    assert run.info.status == "FINISHED"
