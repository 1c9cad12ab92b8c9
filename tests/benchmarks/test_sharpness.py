"""The benchmark of sharpness at a toy size: it measures what its table and its figure show."""

import math

from benchmarks.sharpness import NETWORKS, crossing, draw, interval, rows, run, summary


def test_rows_hold_every_run_and_start_at_the_asked_share_of_the_critical_value() -> None:
    network = NETWORKS["digits, MLP"]._replace(steps=2, every=1, batches=1)
    found = list(rows({"digits, MLP": network}, [1, 2]))
    assert [(row["method"], row["factor"]) for row in found] == [
        ("AdaLoss", 0.01), ("AdaLoss", 10.0), ("AdaGrad-Norm", 0.01), ("AdaGrad-Norm", 10.0)
    ]  # fmt: skip
    for row in found:
        assert [one["step"] for one in row["runs"]] == [[0, 1, 2]] * 2
        first = row["runs"][0]
        # Two digits of b0 are given, and power iteration stops at 5 %.
        assert math.isclose(first["b"][0] / first["critical_b"][0], row["factor"], rel_tol=0.15)
    assert len(draw(found).axes) == 1


def test_run_trains_for_more_than_an_epoch() -> None:
    network = NETWORKS["digits, MLP"]._replace(steps=36, every=40, batches=1)  # 34 steps make an epoch
    assert len(run(network, "AdaLoss", 100.0, seed=1)["loss"]) == 36


def test_summary_tells_runs_that_never_cross() -> None:
    crossed = {"step": [0, 5, 10], "b": [0.1, 2.0, 3.0], "critical_b": [1.0, 1.0, 6.0], "lambda_max": [4.0, 4.0, 2.0]}
    never = crossed | {"b": [0.1, 0.2, 0.3]}
    losses = {"loss": [2.0] * 19 + [1.0]}
    both = summary([crossed | losses, never | losses])
    assert both["crossed"] == "5 to 5, 1 never"
    assert both["above"] == "50 %"
    assert both["least"] == "0.50"
    assert both["sharper"] == "0.50 ± 0.00"
    assert both["loss"] == "0.5 ± 0"


def test_crossing_is_the_first_measurement_at_the_critical_value() -> None:
    assert crossing([0.5, 1.0, 0.9, 2.0]) == 1
    assert crossing([0.5, 0.9]) is None


def test_interval_is_students() -> None:
    assert interval([1.0, 2.0, 3.0]) == "2.00 ± 2.48"  # t(0.975; 2) = 4.303, deviation 1, root of 3
