"""Tables and figures, over runs written with MLflow's own client."""

import itertools
import json
import os
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from matplotlib.text import Annotation, Text
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import SweepError
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.reports.figures import draw
from adaloss_lightning.tracking.reports.plots import against_b0
from adaloss_lightning.tracking.reports.report import markdown_table, text_table
from adaloss_lightning.tracking.reports.results import Cell, Results, collect
from adaloss_lightning.tracking.reports.robustness import robustness
from tests.tracking.report_runs import FULL, GAPS, Value, write_parent, write_sweep


def test_mean_and_deviation_over_seeds(client: MlflowClient) -> None:
    parent = write_sweep(client, FULL)
    results = collect(client, "e")
    assert results.parent_id == parent
    assert (results.metric, results.methods, results.b0s) == ("test/acc", ["adaloss", "adam"], [0.1, 10.0])
    for method in results.methods:
        for b0 in results.b0s:
            values = [FULL[method, str(b0), seed] for seed in "12"]
            cell = results.cells[method, b0]
            assert cell.mean == pytest.approx(statistics.mean(values))
            assert cell.deviation == pytest.approx(statistics.stdev(values))
    adam = robustness(results)["adam"]
    assert (adam.worst, adam.best) == (pytest.approx(0.6), pytest.approx(0.91))
    assert results.gaps() == []
    adam = robustness(collect(client, "e", "val/loss"))["adam"]  # of a loss the largest is the worst
    assert (adam.worst, adam.best) == (pytest.approx(0.4), pytest.approx(0.09))


def test_the_tables_show_the_numbers_and_say_what_is_missing(client: MlflowClient) -> None:
    write_sweep(client, GAPS)
    results = collect(client, "e")
    text = text_table(results)
    rows = {line.split()[0]: re.split(r"\s{2,}", line.strip()) for line in text.splitlines() if "  " in line}
    assert rows["method"] == ["method", "b0=0.1", "b0=10", "worst", "best", "width, own best", "width, best of all"]
    assert rows["adaloss"] == ["adaloss", "98.0 (1/2)", "99.0 (1/2)", "98.0", "99.0", "≥ 2.0", "≥ 2.0"]
    assert rows["adam"] == ["adam", "diverged", "90.0 (1/2)", "diverged", "90.0", "≥ 0.0", "-"]
    for sentence in (
        "adaloss, b0 = 0.1: seed 2 no run",
        "adaloss, b0 = 10: seed 1 killed",
        "adam, b0 = 0.1: seed 1 diverged, seed 2 diverged",
        "adam, b0 = 10: seed 2 failed",
    ):
        assert sentence in text
        assert f"- {sentence}" in markdown_table(results)
    assert "| adam | diverged | 90.0 (1/2) | diverged | 90.0 | ≥ 0.0 | - |" in markdown_table(results)


def test_the_figure_draws_the_means_and_marks_every_gap(client: MlflowClient) -> None:
    write_sweep(client, GAPS)
    (axes,) = draw(collect(client, "e")).axes
    curves = {line.get_label(): line for line in axes.lines if line.get_label() != "_gap"}
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(curves["adaloss"].get_xydata(), [[0.1, 98.0], [10.0, 99.0]])
    np.testing.assert_allclose(curves["adam"].get_xydata(), [[0.1, np.nan], [10.0, 90.0]])
    marks = [(line.get_xdata()[0], line.get_marker()) for line in axes.lines if line.get_label() == "_gap"]
    assert sorted(marks) == [(0.1, "o"), (0.1, "x"), (10.0, "o"), (10.0, "o")]
    assert {text.get_text() for text in axes.texts} == {"adaloss", "adam", "o no value\nx diverged"}


def test_a_loss_that_exploded_is_named_at_the_edge_and_sets_no_scale(client: MlflowClient) -> None:
    write_sweep(client, FULL)  # the loss is 1 - the accuracy
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    (run, *_) = client.search_runs([experiment.experiment_id], "params.method = 'adam' and params.b0 = '0.1'")
    client.log_metric(run.info.run_id, "val/loss", 1e14, step=9)
    results = collect(client, "e", "val/loss")
    axes = draw(results).axes[0]
    low, high = axes.get_ylim()
    assert low < 0.01 < 0.1 < high < 1.0
    assert "5e+13 $\\uparrow$" in [text.get_text() for text in axes.texts]
    plot = against_b0(results).to_plotly_json()["layout"]
    low, high = plot["yaxis"]["range"]
    assert low < 0.01 < 0.1 < high < 1.0
    assert [note["text"] for note in plot["annotations"]] == ["5e+13 ↑"]


def test_labels_of_curves_that_meet_do_not_cover_each_other(client: MlflowClient) -> None:
    write_sweep(client, dict.fromkeys(FULL, 0.98))
    figure = draw(collect(client, "e"))
    figure.canvas.draw()
    first, second = (text.get_window_extent() for text in figure.axes[0].texts)
    assert not first.overlaps(second)


@pytest.mark.parametrize("count", [24, 60])
def test_names_and_marks_of_many_rows_cover_nothing(count: int) -> None:
    rows = [f"adam, lr={index}" for index in range(count)]
    cells = {(row, b0): Cell([0.9 + 0.0001 * place]) for place, row in enumerate(rows) for b0 in (0.1, 1.0, 10.0)}
    cells |= {(row, b0): Cell(gaps={"1": "diverged"}) for row in rows for b0 in (0.1, 10.0)}
    figure = draw(Results("e", "test/acc", rows, [0.1, 1.0, 10.0], ["1"], cells, None))
    figure.draw_without_rendering()
    (axes,) = figure.axes
    key = next(text for text in axes.texts if text.get_text() == "x diverged")
    labels = [one for one in axes.texts if isinstance(one, Annotation)]
    # Of the names alone: the lines that lead to them may cross.
    names = sorted((Text.get_window_extent(label) for label in labels), key=lambda box: box.y0)
    drawn = min(count, 40)
    assert len(names) == drawn
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(names))
    assert names[0].y0 >= 0
    assert names[-1].y1 <= figure.bbox.height
    assert ("40 of 60 rows are drawn" in axes.get_title(loc="left")) == (count == 60)
    marks = [line.get_window_extent() for line in axes.lines if line.get_label() == "_gap"]
    assert len(marks) == 2 * drawn
    ticks = [label.get_window_extent() for label in axes.get_xticklabels()]
    for mark in marks:
        assert not any(mark.overlaps(other) for other in [key.get_window_extent(), *names, *ticks])
        assert not any(mark.overlaps(other) for other in marks if other is not mark)


def test_numbers_of_every_run_are_kept(client: MlflowClient, folder: Path) -> None:
    write_sweep(client, dict.fromkeys(FULL, 0.98) | {next(iter(FULL)): "FAILED"})
    assert main(["report", "--experiment", "e", "--out", "out"]) == 0
    kept = json.loads((folder / "out" / "runs.json").read_text())
    assert (kept["experiment"], kept["metric"]) == ("e", "test/acc")
    assert len(kept["runs"]) == len(FULL)
    assert [run["missing"] for run in kept["runs"]].count("failed") == 1
    assert {run["metrics"]["test/acc"] for run in kept["runs"] if not run["missing"]} == {0.98}
    assert all(run["row"] == run["params"]["method"] for run in kept["runs"])


@pytest.mark.parametrize("value", ["diverged", None, 1.0, "FAILED"])
def test_extreme_sweeps_are_reported_too(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str], value: Value
) -> None:
    write_sweep(client, dict.fromkeys(FULL, value))
    assert main(["report", "--experiment", "e", "--out", "out"]) == 0
    assert (folder / "out" / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "out" / "report.html").exists()
    assert ("adam, b0 = 10: seed 1 failed, seed 2 failed" in capsys.readouterr().out) == (value == "FAILED")


def test_the_newest_sweep_counts_unless_another_is_asked_for(client: MlflowClient) -> None:
    first = write_sweep(client, dict.fromkeys(FULL, 0.75))
    newest = write_sweep(client, dict.fromkeys(FULL, 0.25))
    for asked, expected, mean in ((None, newest, 0.25), (newest, newest, 0.25), (first, first, 0.75)):
        results = collect(client, "e", parent_id=asked)
        assert results.parent_id == expected
        assert {cell.mean for cell in results.cells.values()} == {mean}


def test_without_a_sweep_all_runs_count_and_of_two_the_newer(client: MlflowClient) -> None:
    identifier = client.create_experiment("e")
    for value in (0.1, 0.9):
        run = client.create_run(identifier, start_time=int(value * 10)).info.run_id
        for name, text in {"method": "adam", "b0": "1.0", "seed": "1"}.items():
            client.log_param(run, name, text)
        client.log_metric(run, "test/acc", value)
        client.set_terminated(run)
    client.set_terminated(client.create_run(identifier).info.run_id)  # something else
    results = collect(client, "e")
    assert results.parent_id is None
    assert results.cells["adam", 1.0].values == [0.9]


def test_more_runs_than_one_page(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sweep(client, FULL)
    search = MlflowClient.search_runs

    def three_at_most(self: MlflowClient, *args: object, **kwargs: object) -> object:
        return search(self, *args, **(kwargs | {"max_results": min(3, int(str(kwargs["max_results"])))}))

    monkeypatch.setattr(MlflowClient, "search_runs", three_at_most)
    assert collect(client, "e").gaps() == []


def test_report_writes_its_files_and_overwrites_them(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(client, FULL, "a/../b")
    assert main(["report", "--experiment", "a/../b"]) == 0
    (written,) = (folder / "reports").iterdir()
    assert written.name.startswith("a____b-")
    files = {path.name for path in written.iterdir()}
    assert files == {"report.md", "report.tex", "report.png", "report.html", "runs.json"}
    output = capsys.readouterr().out
    assert "97.0 ± 1.4" in output
    assert {line.rpartition("/")[2] for line in output.splitlines() if line.startswith("wrote ")} == files
    assert main(["report", "--experiment", "a/../b"]) == 0


@pytest.mark.parametrize(
    ("experiment", "asked", "expected"),
    [
        ("f", {}, r"Unknown experiment 'f'.*Default, e"),
        ("e", {"metric": "acc"}, r"Unknown metric 'acc'.*test/acc, val/loss"),
        ("e", {"parent_id": "abc"}, r"Unknown sweep 'abc' in experiment 'e'"),
        ("Default", {}, "no runs"),
    ],
)
def test_unknown_names_list_what_there_is(
    client: MlflowClient, experiment: str, asked: dict[str, str], expected: str
) -> None:
    write_sweep(client, FULL)
    with pytest.raises(SweepError, match=expected):
        collect(client, experiment, **asked)


def test_a_sweep_that_was_killed_before_it_began_is_one_line(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parent(client, params={})
    assert main(["report", "--experiment", "e"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a sweep that was killed before it began" in line
    assert line.endswith("The same adaloss sweep command continues it.")


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(client, FULL)
    experiment = client.get_experiment_by_name("e")
    assert experiment is not None
    client.delete_experiment(experiment.experiment_id)
    assert main(["report", "--experiment", "e"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("adaloss: error: Experiment 'e' was deleted.")
    restore = error.partition("restore it: ")[2]
    subprocess.run(f"{sys.executable} -m {restore}", shell=True, check=True, capture_output=True)
    assert main(["report", "--experiment", "e"]) == 0


def test_a_reader_that_leaves_early_costs_nothing(client: MlflowClient, folder: Path) -> None:
    write_sweep(client, FULL)
    app = [sys.executable, "-m", "adaloss_lightning.tracking.console.app"]
    command = [*app, "report", "--experiment", "e", "--out", "out"]
    reading, writing = os.pipe()
    os.close(reading)  # before a word was written
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (folder / "out" / "report.html").exists()


@contextmanager
def nobody() -> Iterator[None]:
    """Inside the block the process may not do more than any user: root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def test_a_store_that_one_may_only_read_is_reported_elsewhere(
    client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(client, FULL)
    assert main(["report", "--experiment", "e", "--out", "first"]) == 0  # imports all that needs a folder for its cache
    expected = capsys.readouterr().out.partition("wrote")[0]
    with TemporaryDirectory() as shared, TemporaryDirectory() as out:
        Path(shared, "mlruns").mkdir()
        shutil.copy("mlflow.db", shared)
        Path(shared, "mlflow.db").chmod(0o444)
        Path(shared).chmod(0o555)
        Path(out).chmod(0o777)
        monkeypatch.chdir(shared)
        before = sorted(Path(shared).iterdir())
        with nobody():
            assert main(["report", "--experiment", "e", "--out", f"{out}/report"]) == 0
            assert capsys.readouterr().out.partition("wrote")[0] == expected
            assert main(["report", "--experiment", "e"]) == 2
        assert "Choose another folder with --out" in capsys.readouterr().err
        assert sorted(Path(shared).iterdir()) == before
        assert Path(out, "report", "report.html").exists()
        monkeypatch.chdir(folder)
        Path(shared).chmod(0o777)


@pytest.mark.parametrize("out", ["file", "file/out"])
def test_a_folder_that_cannot_be_written_is_one_line(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    write_sweep(client, FULL)
    (folder / "file").write_text("mine")
    assert main(["report", "--experiment", "e", "--out", out]) == 2
    error = capsys.readouterr().err
    assert f"Cannot write the report to {out}" in error
    assert "--out" in error
    assert error.count("\n") == 1
    assert (folder / "file").read_text() == "mine"


def test_an_error_leaves_the_old_report_as_it_was(client: MlflowClient, folder: Path) -> None:
    write_sweep(client, FULL)
    assert main(["report", "--experiment", "e", "--out", "out"]) == 0
    (folder / "out" / "report.html").unlink()
    (folder / "out" / "report.html").mkdir()  # the file that is written last
    before = {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.is_file()}
    write_sweep(client, dict.fromkeys(FULL, 0.5))
    assert main(["report", "--experiment", "e", "--out", "out"]) == 2
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.is_file()} == before
    assert len(list((folder / "out").iterdir())) == len(before) + 1  # and nothing temporary is left


def test_a_store_of_another_mlflow_is_refused_with_the_way_out(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep(client, FULL)
    other = folder / "other.db"
    with closing(sqlite3.connect(folder / "mlflow.db")) as source, closing(sqlite3.connect(other)) as copy:
        source.backup(copy)
        copy.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # of MLflow 1.0
        copy.commit()
    assert main(["report", "--experiment", "e", "--out", "out", "--tracking-uri", f"sqlite:///{other}"]) == 2
    error = capsys.readouterr().err
    assert "mlflow db upgrade" in error
    assert error.count("\n") == 1
    assert not (folder / "out").exists()
