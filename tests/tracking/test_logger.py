"""BufferedMLFlowLogger against what the store holds afterwards, read with MLflow's own client."""

import json
import logging
import math
import pickle
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from mlflow.entities import Metric, Run
from mlflow.exceptions import MlflowException, RestException
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger, StoreError
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.logger.delivery import Delivery
from adaloss_lightning.tracking.logger.recovery import waiting
from adaloss_lightning.tracking.metrics import has_diverged
from adaloss_lightning.tracking.names import MAX_TAG, entry_name
from adaloss_lightning.tracking.non_finite import merged, non_finite_at_the_end
from adaloss_lightning.tracking.store import lock_file, open_store
from tests.limits import HANG_S, wait_for
from tests.ports import free_port
from tests.tracking.training import Line, end_of_process, runs_of, trainer


def only_run(client: MlflowClient) -> Run:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (run,) = client.search_runs(experiments)
    return run


Disturb = Callable[[Callable[[int], object]], list[int]]


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> Disturb:
    """Lets a test do something before each call that delivers a batch, given the call's number; returns the calls."""
    log_batch = MlflowClient.log_batch

    def disturb(before: Callable[[int], object]) -> list[int]:
        calls: list[int] = []

        def disturbed_log_batch(client: MlflowClient, *args: Any, **kwargs: Any) -> None:
            calls.append(len(calls) + 1)
            before(calls[-1])
            log_batch(client, *args, **kwargs)

        monkeypatch.setattr(MlflowClient, "log_batch", disturbed_log_batch)
        return calls

    return disturb


def test_building_it_touches_no_store(folder: Path) -> None:
    BufferedMLFlowLogger("x", tags={"a": "b"})
    assert not list(folder.iterdir())


def test_everything_arrives_once_in_order_and_in_few_calls(client: MlflowClient, disturbed: Disturb) -> None:
    logger = BufferedMLFlowLogger("x", run_name="mine", tags={"who": "me"}, prefix="p")
    logged = threading.Event()
    counted = disturbed(lambda call: logged.wait(HANG_S))
    for step in range(1500):
        logger.log_metrics({"a": step * 0.5, "b": -float(step)}, step)
    logged.set()
    assert logger.flush()
    history = client.get_metric_history(str(logger.run_id), "p-a")
    assert [(metric.step, metric.value) for metric in history] == [(step, step * 0.5) for step in range(1500)]
    assert len(client.get_metric_history(str(logger.run_id), "p-b")) == 1500
    assert len(counted) <= 4  # 3000 entries at most 1000 a call, and what the thread took while this was logging
    run = only_run(client)
    assert run.info.run_name == "mine"
    assert run.data.tags["who"] == "me"
    assert run.info.status == "RUNNING"


def test_params_are_flattened_and_long_values_cut(client: MlflowClient, caplog: pytest.LogCaptureFixture) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_hyperparams({"a": {"b": 1}, "long": "x" * 9999, **{f"p{i}": i for i in range(250)}})
    assert logger.flush()
    params = only_run(client).data.params
    assert params["a/b"] == "1"
    assert params["long"] == "x" * 6000
    assert len(params) == 252
    assert "cut to the 6000 characters that MLflow takes: long" in caplog.text


NAMES = ["损失", "точность", "top@1", "top%1", "val:loss", "a//b", "a/b", "top1", "a_u0040_b", "a@b", "_"]
NAMES += ["w" * 251, "w" * 252]


def test_names_that_differ_stay_different(client: MlflowClient, caplog: pytest.LogCaptureFixture) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({name: float(index) for index, name in enumerate(NAMES)}, 0)
    logger.log_hyperparams({name: index for index, name in enumerate(NAMES)})
    logger.log_tags({name: index for index, name in enumerate(NAMES)})
    logger.finalize("success")
    data = only_run(client).data
    assert sorted(data.metrics.values()) == [float(index) for index in range(len(NAMES))]
    assert sorted(map(int, data.params.values())) == list(range(len(NAMES)))
    restored = {re.sub("_u([0-9a-f]{4})_", lambda found: chr(int(found[1], 16)), name): name for name in data.metrics}
    assert {name: data.metrics[restored[name]] for name in NAMES[:-2]} == {name: i for i, name in enumerate(NAMES[:-2])}
    assert {"损失", "точность", "val:loss", "a/b", "top1"} <= data.metrics.keys()  # MLflow takes them as they are
    assert {data.tags[name] for name in data.metrics} == {str(index) for index in range(len(NAMES))}
    assert caplog.text.count("MLflow does not take the name") == 1
    assert entry_name("") not in {"", *map(entry_name, [*NAMES, entry_name("")])}


def test_tags_are_stored_as_every_database_holds_them_and_changes_are_reported(
    client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_tags({"a@b": 1, "mlflow.runName": "n" * 300})
    logger.finalize("success")
    run = only_run(client)
    assert (run.data.tags["a_u0040_b"], run.info.run_name) == ("1", "n" * 250)
    assert "the name 'a@b'. It is logged as 'a_u0040_b'" in caplog.text
    assert "MLflow's databases hold 250" in caplog.text


def test_training_does_not_wait_for_a_store_that_hangs(client: MlflowClient, disturbed: Disturb) -> None:
    logged, ended = threading.Event(), []
    logger = BufferedMLFlowLogger("x")
    hanging = disturbed(lambda call: ended.append(logged.wait(HANG_S)))
    for step in range(2000):
        logger.log_metrics({"a": float(step)}, step)
    assert logger.flush(timeout=0.2) is False
    assert len(hanging) <= 1  # all 2000 were taken beside the one that hangs
    logged.set()
    assert logger.flush() is True
    assert all(ended)
    assert [m.value for m in client.get_metric_history(str(logger.run_id), "a")] == [float(s) for s in range(2000)]


class HangsWithRuns(BaseHTTPRequestHandler):
    """A tracking server that knows the experiment, and answers no question for a run until `released`."""

    asked, released = threading.Event(), threading.Event()

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "/runs/" in self.path:
            self.asked.set()
            self.released.wait()
        experiment = {"experiment_id": "1", "name": "x", "lifecycle_stage": "active"}
        body = json.dumps({"experiments": [], "experiment": experiment}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.mark.parametrize("is_known", [True, False])
def test_a_server_that_hangs_holds_up_no_run_of_another_store(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # of the server that is gone at the end
    server = ThreadingHTTPServer(("127.0.0.1", 0), HangsWithRuns)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    HangsWithRuns.asked.clear()
    HangsWithRuns.released.clear()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        hanging = BufferedMLFlowLogger("x", tracking_uri=url, run_id="a" * 32 if is_known else None)
        hanging.log_metrics({"a": 1.0}, 1)
        assert HangsWithRuns.asked.wait(HANG_S)
        for state in ({}, {"run_key": "of a checkpoint"}):
            logger = BufferedMLFlowLogger("x")
            logger.continue_run(state)
            logger.log_metrics({"a": 1.0}, 1)
            assert logger.flush(HANG_S)
            logger.finalize("success")
    finally:
        HangsWithRuns.released.set()
        server.shutdown()
        server.server_close()
        end_of_process()
    assert len(runs_of(client, "x")) == 2
    assert len(list(Path().glob("*.lock"))) == 1  # that of the store


def test_a_store_that_never_comes_back_is_said_and_not_raised(
    client: MlflowClient, folder: Path, disturbed: Disturb, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(call: int) -> None:
        raise ConnectionError("gone for good")

    logger = BufferedMLFlowLogger("x", finalize_timeout=0.3)
    disturbed(fail)
    with caplog.at_level(logging.WARNING, "adaloss_lightning"):
        trainer(logger).fit(Line(lambda step: wait_for(lambda: step < 3 or "gone for good" in caplog.text)))
    messages = [record.message for record in caplog.records if record.name.startswith("adaloss_lightning")]
    outage, end = messages  # said once when it began, although it was tried again and again, and once at the end
    assert "gone for good" in outage
    assert "Records left: 5" in end  # 4 steps, and how the run ended
    assert "adaloss sync" in outage
    assert "adaloss sync" in end
    end_of_process()
    (spool,) = waiting([folder / ".adaloss"])
    assert len((spool / "00000001.jsonl").read_text().splitlines()) == 5


def test_the_end_of_a_run_waits_for_a_new_store_to_be_opened(folder: Path) -> None:
    uri = f"sqlite:///{folder}/new.db"
    with FileLock(lock_file(uri)):  # as another process holds it that makes the tables
        logger = BufferedMLFlowLogger("x", tracking_uri=uri, finalize_timeout=0.5)
        logger.log_metrics({"a": 1.0}, 0)
        ending = threading.Thread(target=logger.finalize, args=("success",))
        ending.start()
        ending.join(1.5)
        assert ending.is_alive()
    ending.join(HANG_S)
    assert logger.flush(HANG_S)
    (run,) = runs_of(open_store(uri), "x")
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"a": 1.0})


def test_the_runs_left_for_a_dead_store_hold_up_the_end_of_the_process_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    deliveries: list[Delivery] = []
    leave = Delivery.leave
    monkeypatch.setattr(Delivery, "leave", lambda delivery: (deliveries.append(delivery), leave(delivery)))
    for uri in (here, here, elsewhere):
        logger = BufferedMLFlowLogger("x", tracking_uri=uri, finalize_timeout=0.1)
        logger.log_metrics({"a": 1.0})
        logger.finalize("success")
    deliveries[0].close(patience=0.1)
    assert [delivery.is_given_up for delivery in deliveries] == [True, True, False]  # the second waits no more
    end_of_process()


def test_what_the_store_refuses_holds_up_nothing_else(client: MlflowClient, caplog: pytest.LogCaptureFixture) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_hyperparams({"a": 1})
    assert logger.flush()
    logger.log_hyperparams({"z": 1, "a": 2, "b": 3})
    logger.log_text("x", "folder/b.txt")
    logger.log_text("x", "folder")
    logger.log_metrics({"m": 1.0})
    with caplog.at_level(logging.WARNING, "adaloss_lightning"):
        logger.finalize("success")
    run = only_run(client)
    assert run.data.params == {"a": "1", "b": "3", "z": "1"}
    assert run.data.metrics == {"m": 1.0}
    assert run.info.status == "FINISHED"
    assert "a='2'" in caplog.text
    assert "artifact 'folder'" in caplog.text
    assert main(["sync"]) == 0


@pytest.mark.parametrize("answer", [RestException({}), MlflowException("failed with error code 413 != 200")])
def test_batches_that_are_too_large_for_a_proxy_are_halved(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, answer: MlflowException
) -> None:
    log_batch = MlflowClient.log_batch

    def refused(self: MlflowClient, run_id: str, metrics: Sequence[Metric], **rest: Any) -> None:
        if len(metrics) > 30:
            raise answer
        log_batch(self, run_id, metrics, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", refused)
    logger = BufferedMLFlowLogger("x")
    for step in range(100):
        logger.log_metrics({f"m{index}": float(step) for index in range(5)}, step)
    logger.finalize()
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "m0")] == list(range(100))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), torch.tensor(float("nan"))])
def test_non_finite_values_become_a_tag_and_never_a_number(client: MlflowClient, bad: float) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"loss": 0.5, "acc": 1.0}, 1)
    logger.log_metrics({"loss": bad, "acc": 1.0}, 7)
    logger.log_metrics({"loss": bad, "acc": bad}, 8)
    logger.log_metrics({"acc": 1.0}, 9)
    logger.flush()
    assert only_run(client).data.tags["non_finite"] == "loss (step 7), acc (step 8)"
    logger.finalize("success")
    run = only_run(client)
    assert run.data.tags["non_finite"] == "loss (step 7, to the end at step 8), acc (step 8)"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(1, 0.5)]
    assert client.search_runs([run.info.experiment_id], "metrics.loss < 0.1") == []


def test_the_tag_of_a_run_that_goes_on_keeps_what_an_earlier_process_said(client: MlflowClient) -> None:
    first = BufferedMLFlowLogger("x")
    first.log_metrics({"norm": math.nan, "loss": math.nan}, 3)
    first.finalize("success")
    again = BufferedMLFlowLogger("x", run_id=first.run_id)
    again.log_metrics({"norm": 1.0, "loss": 1.0, "other": math.inf}, 9)
    again.log_metrics({"loss": math.inf}, 10)
    again.log_metrics({"loss": 1.0}, 11)
    again.finalize("success")
    tag = only_run(client).data.tags["non_finite"]
    assert tag == "other (step 9, to the end at step 9), loss (step 3), norm (step 3, to the end at step 3)"
    assert non_finite_at_the_end(tag, {"norm": 9, "loss": 11}) == {"other"}
    many = ", ".join(f"{'m' * 200}{number} (step 1)" for number in range(30))
    for later in (many, merged(many, f"{many}, and 100 more")):  # what has no room is counted, and not added up
        assert merged(f"{many}, and 100 more", later).endswith(", and 100 more")


def test_the_tag_has_room_for_what_counts_however_many_metrics_are_not_finite(
    client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    norms = {f"norm/{'layer' * 20}/{number}": math.nan for number in range(150)}
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics(norms, 1)
    logger.log_metrics({"wer": math.nan, "val/loss": math.nan}, 2)
    logger.flush()
    assert only_run(client).data.tags["non_finite"].startswith("val/loss (step 2), norm/")
    logger.finalize("success")
    run = only_run(client)
    entry = "val/loss (step 2, to the end at step 2), "
    assert run.data.tags["non_finite"].startswith(entry)
    named, more = re.fullmatch(r"(.*), and (\d+) more", run.data.tags["non_finite"]).groups()
    assert named.count("(step") + int(more) == 152
    assert len(run.data.tags["non_finite"]) <= MAX_TAG
    assert has_diverged(run, None)
    assert not caplog.records


class Watched(Line):
    """Logs what several callbacks and a scheduler monitor."""

    def on_train_epoch_end(self) -> None:
        self.log_dict({"wer": 0.5, "score": 0.5, "both": 0.5, "train/loss": 1.0})
        for value in (math.nan, 0.0):
            self.logger.log_metrics({"rest": value, "both": value})

    def test_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("test/wer", 0.25)

    test_dataloader = Line.train_dataloader

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = super().configure_optimizers()
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "score"}}


def test_a_run_says_what_its_callbacks_monitor_and_which_weights_it_tests(client: MlflowClient) -> None:
    callbacks = [
        ModelCheckpoint(monitor="wer", mode="min", save_weights_only=True),
        EarlyStopping("both", mode="min"),
        EarlyStopping("both", mode="max"),  # they contradict each other
    ]
    logger = BufferedMLFlowLogger("x", prefix="p")
    of_test = trainer(logger, callbacks=callbacks)
    with logger.hold():
        of_test.fit(module := Watched())
        of_test.test(module, verbose=False)
        logger.flush()
        assert only_run(client).data.tags["adaloss.tested"] == "last"
        of_test.test(module, ckpt_path="best", weights_only=True, verbose=False)
    tags = only_run(client).data.tags
    assert json.loads(tags["adaloss.monitors"]) == {"p-wer": "min", "p-score": "max", "p-both": None}
    assert tags["adaloss.tested"] == "best"
    assert tags["non_finite"].index("p-both") < tags["non_finite"].index("p-rest")


def raise_in_step_two(error: BaseException) -> Callable[[int], None]:
    def disturb(step: int) -> None:
        if step == 2:
            raise error

    return disturb


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [
        (ValueError("broken"), ValueError, "FAILED"),
        (KeyboardInterrupt(), SystemExit, "KILLED"),  # Lightning turns it into an exit
        (SIGTERMException(), SIGTERMException, "KILLED"),
        (SystemExit(3), SystemExit, "FAILED"),
    ],
)
@pytest.mark.parametrize("held", [False, True])
def test_the_run_ends_as_it_really_ended(
    client: MlflowClient, error: BaseException, raised: type[BaseException], status: str, held: bool
) -> None:
    logger = BufferedMLFlowLogger("x")
    with pytest.raises(raised), logger.hold() if held else nullcontext():
        trainer(logger).fit(Line(raise_in_step_two(error)))
    run = only_run(client)
    assert run.info.status == status
    assert run.info.end_time is not None
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 2  # what was logged before is kept


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_held_the_run_goes_on_after_fit_and_ends_as_the_block(client: MlflowClient, status: str) -> None:
    logger = BufferedMLFlowLogger("x")
    with nullcontext() if status == "FINISHED" else pytest.raises(ZeroDivisionError), logger.hold():
        trainer(logger).fit(Line())
        assert only_run(client).info.status == "RUNNING"
        _ = 1 / (status == "FINISHED")
    assert only_run(client).info.status == status


def test_a_run_id_goes_on_with_that_run(client: MlflowClient) -> None:
    first = BufferedMLFlowLogger("x")
    first.log_hyperparams({"a": 1})
    first.log_metrics({"m": 1.0}, 1)
    first.finalize("success")
    again = BufferedMLFlowLogger("another", run_id=first.run_id)
    again.log_hyperparams({"a": 2, "b": 3})
    again.log_metrics({"m": 2.0}, 2)
    assert again.flush()
    assert only_run(client).info.status == "RUNNING"
    again.finalize("success")
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"a": "1", "b": "3"}  # MLflow never changes a param
    assert [m.value for m in client.get_metric_history(run.info.run_id, "m")] == [1.0, 2.0]


def test_only_rank_zero_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 1.0})
    logger.log_hyperparams({"a": 1})
    logger.log_tags({"a": "b"})
    logger.log_text("a", "a.txt")
    assert logger.save_dir is None
    assert logger.flush()
    with logger.hold():
        pass
    logger.finalize("success")
    assert not list(folder.iterdir())


def test_a_pickled_logger_goes_on_with_the_run(client: MlflowClient) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"m": 1.0}, 1)
    copy = pickle.loads(pickle.dumps(logger))
    logger.flush()
    copy.log_metrics({"m": 2.0}, 2)
    copy.finalize("success")
    assert only_run(client).data.metrics == {"m": 2.0}


def test_a_folder_for_the_store_as_in_lightnings_logger(folder: Path) -> None:
    logger = BufferedMLFlowLogger("x", save_dir="here")
    logger.log_metrics({"m": 1.0})
    logger.finalize("success")
    assert only_run(MlflowClient(f"sqlite:///{folder}/here/mlflow.db")).data.metrics == {"m": 1.0}
    assert Path(str(logger.save_dir)).is_relative_to(folder / "here" / "mlruns")


def test_an_unusable_store_is_said_before_training_which_goes_on(
    folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").touch()
    logger = BufferedMLFlowLogger("x", tracking_uri="sqlite:///file/mlflow.db")
    with caplog.at_level(logging.WARNING, "adaloss_lightning"):
        trainer(logger).fit(Line(lambda step: caplog.records or pytest.fail("training began and nothing was said")))
    assert "sqlite:////" in caplog.text
    assert "Not a directory" in caplog.text or "File exists" in caplog.text
    end_of_process()
    # The way out is the user's: another store.
    assert main(["sync", "--tracking-uri", "sqlite:///elsewhere.db"]) == 0
    client = MlflowClient(f"sqlite:///{folder}/elsewhere.db")
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 4


def test_an_address_that_is_none_is_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(StoreError, match="htp://x"):
        trainer(BufferedMLFlowLogger("x", tracking_uri="htp://x")).fit(Line())
    assert not list(folder.iterdir())


def test_text_that_no_store_takes_is_escaped_and_holds_up_nothing(client: MlflowClient) -> None:
    bad = "caf\udce9.csv"  # what Python makes of a file name in Latin-1
    logger = BufferedMLFlowLogger("e", run_name=f"of {bad}", tags={"who": bad})
    logger.log_hyperparams({"data": Path(bad), "nul": "a\0b"})
    logger.log_tags({"tag": bad})
    logger.log_text(f"about {bad}", "notes.txt")
    logger.log_metrics({"loss": 1.0}, 2**70)
    logger.finalize()
    run = only_run(client)
    shown = "caf\\udce9.csv"
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"of {shown}"
    assert run.data.params == {"data": shown, "nul": "a\\0b"}
    assert (run.data.tags["who"], run.data.tags["tag"]) == (shown, shown)
    assert Path(run.info.artifact_uri, "notes.txt").read_text() == f"about {shown}"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [2**63 - 1]
