"""The robustness table over hand-computed cases, in every format, for grids and for several experiments."""

import re

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.reports.report import Report, markdown_table, text_table
from adaloss_lightning.tracking.reports.results import Cell, Gap, Results, collect, collect_all
from adaloss_lightning.tracking.reports.robustness import Robustness, robustness
from tests.tracking.report_runs import FULL, SWEEP, write_parent, write_point, write_sweep

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
    rows = rows_of({"adam": [3.0, 2.03, 2.0, 2.02, 2.019]}, "val/loss")
    assert str(rows["adam"].own) == "≥ 2.0"
    assert (rows["adam"].worst, rows["adam"].best) == (3.0, 2.0)


def test_a_b0_where_one_seed_diverged_is_the_worst_and_never_the_best() -> None:
    cells = {("adam", b0): Cell([0.9, 0.9]) for b0 in B0S}
    cells["adam", 1.0] = Cell([0.99], {"2": "diverged"})
    row = robustness(Results("e", "test/acc", ["adam"], B0S, ["1", "2"], cells, None))["adam"]
    assert (row.worst, row.best) == (None, 0.9)
    assert str(row.own) == "≥ 1.0"


def test_latex_is_escaped_and_the_best_is_bold(client: MlflowClient) -> None:
    grid = SWEEP | {"sweep.methods": r"a_b&c%\x,adam"}
    parent = write_parent(client, r"50% {of} #1_^~$", grid)
    for (method, b0, seed), value in FULL.items():
        name = r"a_b&c%\x" if method == "adaloss" else method
        write_point(client, parent, grid | {"method": name, "b0": b0, "seed": seed}, value)
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
    parent = write_parent(client, "e", grid)
    write_point(client, parent, grid | {"method": "a|b", "b0": "0.1", "seed": "1"}, 0.9)
    results = collect(client, "e")
    assert r"| a\|b | 90.0 (1/2) |" in markdown_table(results)
    assert "| &lt;img>?\\[31m |" in markdown_table(results)
    assert "\x1b" not in text_table(results) + markdown_table(results)


def test_many_b0_stand_in_rows(client: MlflowClient) -> None:
    b0s = [f"{2.0**power:g}" for power in range(12)]
    grid = SWEEP | {"sweep.b0": ",".join(b0s), "sweep.seeds": "1"}
    parent = write_parent(client, "e", grid)
    for index, b0 in enumerate(b0s):
        write_point(client, parent, grid | {"method": "adaloss", "b0": b0, "seed": "1"}, 0.9 + 0.001 * index)
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
    parent = write_parent(client, "second", grid)
    for seed in "12":
        write_point(client, parent, grid | {"method": "adam", "b0": "1", "seed": seed}, 0.8)
    results = collect_all(client, ["first", "second", "first"])
    assert results.methods == ["first: adaloss", "first: adam", "second: adam"]
    assert results.b0s == [0.1, 1.0, 10.0]
    assert results.gaps() == ["second: adam, b0 = 1: seed 3 no run"]
    rows = [re.split(r"\s{2,}", line.strip()) for line in text_table(results).splitlines() if line.startswith("second")]
    assert rows[0][:6] == ["second: adam", "-", "80.0 ± 0.0 (2/3)", "-", "80.0", "80.0"]
    assert text_table(results).startswith("Experiments first, second: test/acc in %, higher is better, mean ± sample")
    assert "over 2 to 3 seeds" in text_table(results)


@pytest.mark.parametrize("status", ["KILLED", "FAILED", "RUNNING"])
def test_a_finished_run_beats_a_newer_one_that_did_not(client: MlflowClient, status: str) -> None:
    parent = write_parent(client)
    params = SWEEP | {"method": "adam", "b0": "0.1", "seed": "1"}
    write_point(client, parent, params, 0.7, start_time=1000)
    write_point(client, parent, params, 0.8, start_time=2000)
    write_point(client, parent, params, status, start_time=3000)
    assert collect(client, "e").cells["adam", 0.1].values == [0.8]


def test_without_a_finished_one_the_newest_run_says_why(client: MlflowClient) -> None:
    parent = write_parent(client)
    params = SWEEP | {"method": "adam", "b0": "0.1", "seed": "1"}
    write_point(client, parent, params, "FAILED", start_time=1000)
    write_point(client, parent, params, "KILLED", start_time=2000)
    assert collect(client, "e").cells["adam", 0.1].gaps["1"] == "killed"


def test_a_value_that_is_no_number_is_a_divergence(client: MlflowClient) -> None:
    parent = write_parent(client)
    for seed, value in (("1", float("nan")), ("2", float("inf"))):
        write_point(client, parent, SWEEP | {"method": "adam", "b0": "0.1", "seed": seed}, value)
    assert collect(client, "e").cells["adam", 0.1].gaps == {"1": "diverged", "2": "diverged"}
