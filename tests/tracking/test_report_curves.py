"""Curves over steps, against histories written with MLflow's own client and numbers worked out by hand."""

import itertools
import math
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric
from mlflow.tracking import MlflowClient
from werkzeug.serving import make_server

from adaloss_lightning.tracking.reports.axes import log_ticks
from adaloss_lightning.tracking.reports.curves import Curves, average, quantities, read_curves
from adaloss_lightning.tracking.reports.figures import draw_curves
from adaloss_lightning.tracking.reports.histories import HistoryReader
from adaloss_lightning.tracking.reports.report import write_report
from adaloss_lightning.tracking.reports.results import collect
from tests.tracking.report_runs import SWEEP, write_parent, write_point, write_sweep

LOSSES = {"1": {0: 4.0, 10: 2.0, 20: 1.0}, "2": {0: 2.0, 10: 1.0, 20: 3.0}}


def write_histories(client: MlflowClient, experiment: str = "e") -> None:
    parent = write_parent(client, experiment)
    for method in ("adaloss", "adam"):
        for seed, loss in LOSSES.items():
            value = "diverged" if method == "adam" else 0.9
            rate = {step: 1.0 / (step + 1) for step in loss}
            histories = {"train/loss": loss, "val/acc": {10: 0.5}, "adaloss/b": loss, "adaloss/effective_lr": rate}
            write_point(client, parent, SWEEP | {"method": method, "b0": "0.1", "seed": seed}, value, histories)
    stopped = {"train/loss": {0: 100.0}}
    write_point(client, parent, SWEEP | {"method": "adaloss", "b0": "10.0", "seed": "1"}, "KILLED", stopped)


def by_metric(curves: list[Curves]) -> dict[str, Curves]:
    return {one.metric: one for one in curves}


def test_mean_and_range_over_the_seeds_that_have_a_value(client: MlflowClient) -> None:
    write_histories(client)
    curves = by_metric(read_curves(collect(client, "e")))
    assert list(curves) == ["train/loss", "val/acc", "adaloss/b", "adaloss/effective_lr"]
    loss = curves["train/loss"].by_point["adaloss", 0.1]
    assert (loss.steps.tolist(), loss.mean.tolist()) == ([0, 10, 20], [3.0, 1.5, 2.0])
    assert (loss.low.tolist(), loss.high.tolist()) == ([2.0, 1.0, 1.0], [4.0, 2.0, 3.0])
    assert curves["val/acc"].by_point["adaloss", 0.1].mean.tolist() == [50.0]
    assert ("adaloss", 10.0) not in curves["train/loss"].by_point  # it was killed
    diverged = curves["train/loss"].by_point["adam", 0.1]
    assert diverged.is_diverged
    assert diverged.mean.tolist() == [3.0, 1.5, 2.0]
    assert not loss.is_diverged


def test_curves_of_accuracies_are_in_percent_also_where_they_were_logged_so(client: MlflowClient) -> None:
    for experiment, scale in (("shares", 1.0), ("percent", 100.0)):
        parent = write_parent(client, experiment)
        history = {"val/acc": {0: 0.01 * scale, 10: 0.5 * scale}}
        write_point(client, parent, SWEEP | {"method": "adam", "b0": "0.1", "seed": "1"}, scale * 0.5, history)
        (one,) = read_curves(collect(client, experiment))
        assert one.by_point["adam", 0.1].mean.tolist() == pytest.approx([1.0, 50.0])
        assert one.axis.scale == "error"
        assert one.heading == "val/acc in %, log axis of the error"


@pytest.mark.parametrize(
    ("histories", "steps", "mean", "high"),
    [
        # interpolated, but within their own range only
        (
            [{0: 0.0, 10: 10.0, 20: 20.0}, {5: 1.0, 15: 3.0}],
            [0, 5, 10, 15, 20],
            [0.0, (5 + 1) / 2, (10 + 2) / 2, (15 + 3) / 2, 20.0],
            [0.0, 5.0, 10.0, 15.0, 20.0],
        ),
        # what is no number is passed over; the largest double is MLflow's infinity
        ([{0: 1.0, 1: math.nan, 2: 3.0, 3: 1.7976931348623157e308}], [0, 1, 2], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([{0: math.nan}], [], [], []),
    ],
)
def test_an_average_interpolates_seeds_with_other_steps(
    histories: list[dict[int, float]], steps: list[float], mean: list[float], high: list[float]
) -> None:
    curve = average([pd.Series(history) for history in histories], size=10, is_diverged=False)
    assert (curve.steps.tolist(), curve.mean.tolist(), curve.high.tolist()) == (steps, mean, high)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        ({0: 1e3, 1: 1e9, 2: 1e12}, "diverged"),
        ({0: 30.0, 1: 1e9, 2: 1e12}, 0.1),  # it stayed finite, so no tag says it
        (dict.fromkeys(range(50), 1.0) | {7: 1e12}, 0.9),  # one enormous value
    ],
)
def test_a_run_that_went_wild_sets_no_scale(client: MlflowClient, loss: dict[int, float], value: float | str) -> None:
    parent = write_parent(client)
    for method, b0 in itertools.product(("adaloss", "adam"), ("0.1", "10")):
        is_wild = (method, b0) == ("adam", "10")
        histories = {"train/loss": loss if is_wild else {0: 2.0, 1: 1.0, 2: 0.5}, "adaloss/b": {0: 3.0}}
        if is_wild and value != 0.9:
            histories["adaloss/b"] = loss
        params = SWEEP | {"method": method, "b0": b0, "seed": "1"}
        write_point(client, parent, params, value if is_wild else 0.9, histories)
    curves = by_metric(read_curves(collect(client, "e")))
    low, high = curves["train/loss"].limits
    assert 0.5 <= low < high <= 2.0
    assert curves["adaloss/b"].limits == (3.0, 3.0)
    assert curves["train/loss"].by_point["adam", 10.0].mean.max() == 1e12  # its curve leaves the axis


def test_where_all_diverged_all_set_the_scale(client: MlflowClient) -> None:
    write_sweep(client, {("adam", "0.1", "1"): "diverged"}, histories={"train/loss": {0: 1.0, 1: 1e9}})
    (curves,) = read_curves(collect(client, "e"))
    assert curves.limits[1] > 1e6


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.8, 12.0, ["1", "2", "5", "10"]),
        (0.04, 30.0, ["0.1", "1", "10"]),
        (2e-9, 4e7, ["10<sup>-8</sup>", "10<sup>-4</sup>", "10<sup>0</sup>", "10<sup>4</sup>"]),
        (1.1, 1.9, ["1.2", "1.4", "1.6", "1.8"]),
    ],
)
def test_a_log_axis_has_few_ticks(low: float, high: float, labels: list[str]) -> None:
    ticks = log_ticks(low, high)
    assert list(ticks.values()) == labels
    assert list(ticks) == pytest.approx([10.0 ** int(t[7:-6]) if "sup" in t else float(t) for t in labels])


@pytest.mark.parametrize(
    ("metric", "names", "expected"),
    [
        ("test/acc", {"train/loss", "val/acc", "test/acc"}, ["train/loss", "val/acc"]),
        ("test/acc", {"adaloss/loss", "test/acc"}, ["adaloss/loss", "test/acc"]),
        ("test/return", {"train/return", "test/return", "train/loss"}, ["train/loss", "train/return"]),
        ("train/loss", {"train/loss"}, ["train/loss"]),
        ("val/acc", {"val/acc", "adaloss/b/group1", "adaloss/b/group0"}, ["val/acc", "adaloss/b/group0"]),
        ("test/acc", set(), []),
    ],
)
def test_what_is_drawn_depends_on_what_there_is(metric: str, names: set[str], expected: list[str]) -> None:
    assert list(quantities(metric, names)) == expected


def test_the_figure_has_a_panel_for_each_row_and_quantity(client: MlflowClient) -> None:
    write_histories(client)
    results = collect(client, "e")
    figure = draw_curves(results, read_curves(results))
    assert len(figure.axes) == 2 * 4
    loss = figure.axes[0]
    np.testing.assert_allclose(loss.lines[0].get_xydata(), [[0, 3.0], [10, 1.5], [20, 2.0]])
    diverged = figure.axes[4]
    assert [line.get_marker() for line in diverged.lines] == ["None", "x"]
    assert diverged.lines[0].get_linestyle() == ":"


def test_a_long_history_is_sampled_evenly_with_both_ends(client: MlflowClient) -> None:
    run = write_point(client, write_parent(client), SWEEP | {"method": "adam", "b0": "1", "seed": "1"}, 0.9)
    for first in range(0, 4000, 1000):
        client.log_batch(run, [Metric("b", float(step), step, step) for step in range(first, first + 1000)])
    reader = HistoryReader(client, points=100)
    ((_, history),) = reader.read([run], "b")
    assert reader.affordable_runs(run, "b") == 200
    assert 90 <= len(history) <= 100
    assert (history.index[0], history.index[-1]) == (0, 3999)
    assert np.diff(history.index).max() <= 80
    np.testing.assert_array_equal(history, history.index)


def test_of_too_many_runs_the_first_seeds_are_read_and_the_page_says_so(
    client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HistoryReader, "affordable_runs", lambda reader, run_id, metric: 2)
    write_histories(client)
    results = collect(client, "e")
    curves = by_metric(read_curves(results))
    assert curves["train/loss"].most_seeds == 1
    assert curves["train/loss"].by_point["adaloss", 0.1].mean.tolist() == list(LOSSES["1"].values())
    write_report(results, folder)
    assert "of each point the first 1 of its 2;" in (folder / "report.html").read_text()


def test_of_a_step_that_was_logged_twice_the_last_value_counts(client: MlflowClient) -> None:
    run = write_point(client, write_parent(client), SWEEP | {"method": "adam", "b0": "1", "seed": "1"}, 0.9)
    client.log_batch(run, [Metric("b", 9.0, 1, 0), Metric("b", 1.0, 3, 0), Metric("b", 5.0, 2, 1)])
    ((_, history),) = HistoryReader(client, points=100).read([run], "b")
    assert history.to_dict() == {0: 1.0, 1: 5.0}


@pytest.fixture
def server(client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """MLflow's own tracking server on the test's database, in a thread: a process takes half a minute to start."""
    # Not before a store was opened, which keeps MLflow's deprecated use of SQLAlchemy quiet.
    from mlflow.server import BACKEND_STORE_URI_ENV_VAR, app, handlers

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # an error shows at once
    monkeypatch.setenv(BACKEND_STORE_URI_ENV_VAR, f"sqlite:///{folder}/mlflow.db")
    monkeypatch.setattr(handlers, "_tracking_store", None)
    http = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi is deprecated")  # MLflow 3.17's server imports it
def test_a_tracking_server_gives_the_same_curves(client: MlflowClient, server: str) -> None:
    write_histories(client)
    direct = by_metric(read_curves(collect(client, "e")))
    served = by_metric(read_curves(collect(MlflowClient(server), "e")))
    assert list(served) == list(direct)
    for name, curves in direct.items():
        assert served[name].by_point.keys() == curves.by_point.keys()
        for point, curve in curves.by_point.items():
            np.testing.assert_array_equal(served[name].by_point[point].mean, curve.mean)
