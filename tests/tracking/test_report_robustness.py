"""The robustness table over hand-computed cases, in every format, for grids and for several experiments."""

import re
from dataclasses import replace
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import SweepError
from adaloss_lightning.tracking.reports.panels import against_b0
from adaloss_lightning.tracking.reports.report import Report, markdown_table, text_table
from adaloss_lightning.tracking.reports.results import Cell, Gap, Results, collect, collect_all
from adaloss_lightning.tracking.reports.robustness import Robustness, robustness
from tests.tracking.report_runs import FULL, SWEEP, Value, write_parent, write_point, write_sweep

B0S = [0.01, 0.1, 1.0, 10.0, 100.0]


def rows_of(rows: dict[str, list[float | Gap | None]], metric: str = "test/acc") -> dict[str, Robustness]:
    """Of one seed; None is a b0 that the row's grid does not have."""
    cells = {}
    for method, values in rows.items():
        for b0, value in zip(B0S, values, strict=True):
            cells[method, b0] = Cell(
                values=[value] if isinstance(value, float) else [], gaps={"1": value} if isinstance(value, str) else {}
            )
    return robustness(Results("e", metric, list(rows), B0S, ["1"], cells, None))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.5, 0.98, 0.99, 0.985, 0.5], "2.0"),  # 0.99 - 0.98 is a hair more than 0.01 in binary
        ([0.5, 0.979, 0.99, 0.985, 0.5], "1.0"),
        ([0.99, 0.99, 0.99, 0.99, 0.5], "≥ 3.0"),  # the grid ends
        ([0.99, 0.5, 0.99, 0.985, 0.5], "1.0"),  # of two runs around equal bests the wider
        ([0.5, 0.985, 0.99, "diverged", 0.99], "1.0"),
        ([0.5, 0.985, 0.99, "killed", 0.99], "≥ 1.0"),  # what is behind the gap is not known
        ([None, 0.5, 0.99, 0.98, None], "≥ 1.0"),  # its own grid ends there
        (["diverged"] * 5, "None"),
    ],
)
def test_width_within_a_point_of_the_rows_own_best(values: list[float | Gap | None], text: str) -> None:
    assert str(rows_of({"adam": values})["adam"].own) == text


def test_width_within_a_point_of_the_best_of_all_rows() -> None:
    rows = rows_of(
        {
            "flat": [0.97, 0.97, 0.97, 0.97, 0.97],
            "best": [0.10, 0.97, 0.99, 0.98, 0.10],
            "near": [0.10, 0.98, 0.985, 0.97, 0.10],
        }
    )
    widths = {name: (str(row.own), str(row.overall)) for name, row in rows.items()}
    assert widths == {"flat": ("≥ 4.0", "None"), "best": ("1.0", "1.0"), "near": ("1.0", "1.0")}


def test_of_a_loss_one_percent_of_the_best_counts() -> None:
    row = rows_of({"adam": [3.0, 2.03, 2.0, 2.02, 2.019]}, "val/loss")["adam"]
    assert (str(row.own), row.worst, row.best) == ("≥ 2.0", 3.0, 2.0)


@pytest.mark.parametrize("metric", ["val/acc1", "test_f1", "val/accuracy_epoch"])
def test_an_accuracy_in_percent_is_the_same_report_as_one_that_is_a_share(metric: str) -> None:
    b0s, means = [0.1, 1.0, 10.0], {"a": [0.974, 0.98, 0.971], "b": [0.5, 1.0000001, 0.969]}  # a mean in float32
    reports = []
    for scale in (1.0, 100.0):
        cells = {
            (row, b0): Cell([scale * of[i], scale * of[i]]) for row, of in means.items() for i, b0 in enumerate(b0s)
        }
        results = Results("e", metric, list(means), b0s, ["1", "2"], cells, None)
        sums, panel = robustness(results), against_b0(results)
        assert (sums["a"].best, sums["a"].worst) == pytest.approx((scale * 0.98, scale * 0.971))
        assert [str(sums["a"].own), str(sums["b"].own), str(sums["a"].overall)] == ["≥ 2.0", "0.0", "None"]
        assert panel.lines[0].mean == pytest.approx([97.4, 98.0, 97.1])
        assert panel.y.limits == pytest.approx(against_b0(replace(results)).y.limits)
        reports.append((text_table(results), panel.lines[0].notes, panel.y.title))
    assert reports[0] == reports[1]
    assert "97.4 ± 0.0" in reports[0][0]
    assert "within 1 point of" in reports[0][0]
    assert reports[0][2] == f"{metric} in %"


@pytest.mark.parametrize("values", [[0.5, 250.0], [0.5, -0.1]])
def test_what_has_the_name_of_an_accuracy_and_is_none_is_shown_as_it_is(values: list[float]) -> None:
    cells = {("a", b0): Cell([value]) for b0, value in zip([0.1, 1.0], values, strict=True)}
    results = Results("e", "val/acc", ["a"], [0.1, 1.0], ["1"], cells, None)
    assert " in %" not in text_table(results)
    assert against_b0(results).y.scale != "error"


def test_a_b0_where_one_seed_diverged_is_the_worst_and_never_the_best() -> None:
    cells = {("adam", b0): Cell([0.9, 0.9]) for b0 in B0S} | {("adam", 1.0): Cell([0.99], {"2": "diverged"})}
    row = robustness(Results("e", "test/acc", ["adam"], B0S, ["1", "2"], cells, None))["adam"]
    assert (row.worst, row.best, str(row.own)) == (None, 0.9, "≥ 1.0")


def test_latex_is_escaped_and_the_best_is_bold(client: MlflowClient) -> None:
    grid = SWEEP | {"sweep.methods": r"a_b&c%\x,adam"}
    values = {(r"a_b&c%\x" if method == "adaloss" else method, *more): FULL[method, *more] for method, *more in FULL}
    write_sweep(client, values, r"50% {of} #1_^~$", grid)
    text = Report(collect(client, r"50% {of} #1_^~$")).latex().decode()
    assert r"Experiment 50\% \{of\} \#1\_\textasciicircum{}\textasciitilde{}\$: test/acc in \%" in text
    assert r"    method & $b_0 = 0.1$ & $b_0 = 10$ & worst & best & width, own best & width, best of all \\" in text
    assert (
        r"    a\_b\&c\%\textbackslash{}x & \textbf{97.0} $\pm$ 1.4 & \textbf{99.0} $\pm$ 0.0 & \textbf{97.0}"
        r" & \textbf{99.0} & 0.0 & 0.0 \\"
    ).replace("0.0 & 0.0", r"$\geq$ 0.0 & $\geq$ 0.0") in text
    assert [line.strip() for line in text.splitlines() if "rule" in line] == [r"\toprule", r"\midrule", r"\bottomrule"]


def test_names_cannot_break_a_markdown_table_or_steer_a_terminal(client: MlflowClient) -> None:
    grid = SWEEP | {"sweep.methods": "a|b,<img>\x1b[31m"}
    write_sweep(client, {("a|b", "0.1", "1"): 0.9}, grid=grid)
    results = collect(client, "e")
    assert r"| a\|b | 90.0 (1/2) |" in markdown_table(results)
    assert "| &lt;img>?\\[31m |" in markdown_table(results)
    assert "\x1b" not in text_table(results) + markdown_table(results)


def test_many_b0_stand_in_rows(client: MlflowClient) -> None:
    b0s = [f"{2.0**power:g}" for power in range(12)]
    grid = SWEEP | {"sweep.b0": ",".join(b0s), "sweep.seeds": "1"}
    write_sweep(client, {("adaloss", b0, "1"): 0.9 + 0.001 * index for index, b0 in enumerate(b0s)}, grid=grid)
    lines = markdown_table(collect(client, "e")).splitlines()
    assert lines[2] == "| b0 | adaloss | adam |"
    assert "| b0 = 2048 | 91.1 | - |" in lines
    assert max(map(len, text_table(collect(client, "e")).splitlines()[2:16])) < 80


def test_further_options_of_a_grid_are_rows_of_their_own(client: MlflowClient) -> None:
    grid = SWEEP | {"sweep.grid.optimizer.lr": "0.1,0.02", "sweep.grid.model.sizes": "[1,2]", "sweep.seeds": "1"}
    parent = write_parent(client, "e", grid)
    for lr, value in (("0.1", 0.9), ("0.02", 0.7)):
        options = {"grid.optimizer.lr": lr, "grid.model.sizes": "[1,2]"}
        write_point(client, parent, grid | options | {"method": "adam", "b0": "0.1", "seed": "1"}, value)
    results = collect(client, "e")
    assert results.methods == [
        f"{method}, sizes=[1,2], lr={lr}" for method in ("adaloss", "adam") for lr in ("0.1", "0.02")
    ]
    assert [results.cells[row, 0.1].values for row in results.methods] == [[], [], [0.9], [0.7]]
    assert "adaloss, sizes=[1,2], lr=0.1, b0 = 10: seed 1 no run" in results.gaps()


def test_options_whose_last_names_are_the_same_keep_their_paths(client: MlflowClient) -> None:
    grid = SWEEP | {"sweep.grid.a.lr": "1", "sweep.grid.b.lr": "2"}
    write_parent(client, "e", grid)
    assert collect(client, "e").methods[0] == "adaloss, a.lr=1, b.lr=2"


def test_several_experiments_each_with_its_own_grid(client: MlflowClient) -> None:
    write_sweep(client, FULL, "first")
    grid = {"sweep.methods": "adam", "sweep.b0": "1", "sweep.seeds": "1,2,3"}
    write_sweep(client, {("adam", "1", seed): 0.8 for seed in "12"}, "second", grid)
    results = collect_all(client, ["first", "second", "first"])
    assert results.methods == ["first: adaloss", "first: adam", "second: adam"]
    assert results.b0s == [0.1, 1.0, 10.0]
    assert results.gaps() == ["second: adam, b0 = 1: seed 3 no run"]
    rows = [re.split(r"\s{2,}", line.strip()) for line in text_table(results).splitlines() if line.startswith("second")]
    assert rows[0][:6] == ["second: adam", "-", "80.0 ± 0.0 (2/3)", "-", "80.0", "80.0"]
    assert text_table(results).startswith("Experiments first, second: test/acc in %, higher is better, mean ± sample")
    assert "over 2 to 3 seeds" in text_table(results)


ASKED = {"adaloss.metric": "score", "adaloss.mode": "min"}
ANOTHER, OTHERWISE = {"adaloss.metric": "test/acc"}, ASKED | {"adaloss.mode": "max"}


@pytest.mark.parametrize(
    ("first", "second", "asked", "expected"),
    [
        (ASKED, ASKED, {}, "score, lower is better"),
        (ASKED, {}, {}, "score, lower is better"),  # the other sweep was told nothing
        (ASKED, ASKED, {"metric": "test/acc"}, "test/acc in %, higher is better"),
        (ASKED, ASKED, {"mode": "max"}, "score, higher is better"),
        (ASKED, ANOTHER, {}, "different metrics (first: score, second: test/acc). Give --metric."),
        (ASKED, ANOTHER, {"metric": "score"}, "score, lower is better"),
        (ASKED, OTHERWISE, {}, "different directions (first: min, second: max). Give --minimize or"),
        (ASKED, OTHERWISE, {"mode": "max"}, "score, higher is better"),
    ],
)  # fmt: skip
def test_several_experiments_are_compared_as_their_sweeps_were_told(
    client: MlflowClient, first: dict[str, str], second: dict[str, str], asked: dict[str, Any], expected: str
) -> None:
    grid = SWEEP | {"sweep.methods": "adam", "sweep.b0": "0.1", "sweep.seeds": "1"}
    for name, tags in {"first": first, "second": second}.items():
        parent = write_parent(client, name, grid)
        write_point(client, parent, grid | {"method": "adam", "b0": "0.1", "seed": "1"}, 0.9, {"score": {0: 0.5}})
        for tag, value in tags.items():
            client.set_tag(parent[1], tag, value)
    if "different" in expected:
        with pytest.raises(SweepError, match=re.escape(expected)):
            collect_all(client, ["first", "second"], **asked)
        return
    assert text_table(collect_all(client, ["first", "second"], **asked)).startswith(
        f"Experiments first, second: {expected}"
    )


@pytest.mark.parametrize(
    ("ends", "values", "gaps"),
    [
        ([0.7, 0.8, "KILLED"], [0.8], {}),
        ([0.7, 0.8, "FAILED"], [0.8], {}),
        ([0.7, 0.8, "RUNNING"], [0.8], {}),
        (["FAILED", "KILLED"], [], {"1": "killed"}),
        ([float("nan")], [], {"1": "diverged"}),
        ([float("inf")], [], {"1": "diverged"}),
    ],
)
def test_of_a_point_that_ran_again_the_newest_finished_run_counts(
    client: MlflowClient, ends: list[Value], values: list[float], gaps: dict[str, str]
) -> None:
    parent, params = (
        write_parent(client, params=SWEEP | {"sweep.seeds": "1"}),
        {"method": "adam", "b0": "0.1", "seed": "1"},
    )
    for place, end in enumerate(ends):
        write_point(client, parent, params, end, start_time=1000 * (place + 1))
    cell = collect(client, "e").cells["adam", 0.1]
    assert (cell.values, cell.gaps) == (values, gaps)
