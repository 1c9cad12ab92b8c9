"""Every row of the benchmark of a step can be measured, and fills its table."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import step_time
from benchmarks.common import cell, tiny
from benchmarks.step_time import COLUMNS, Suite

MEASUREMENTS = (
    [
        one
        for one in Suite(pairs=2, seconds=0).measurements({"toy": lambda: tiny(3)})
        if one.table != "memory"  # takes long under the profiler
    ]
    + list(Suite(pairs=2, seconds=0).memory("toy", lambda: tiny(6), 2))[:1]
)


@pytest.mark.parametrize("measurement", MEASUREMENTS, ids=lambda one: f"{one.table} {one.ours} {one.beside}")
def test_measurement_fills_its_table(measurement: step_time.Measurement) -> None:
    row = json.loads(json.dumps(measurement.row()))
    assert all(cell(template, row) for template in COLUMNS[row["table"]].values())
    assert row.get("ratio", 1) > 0
    if row["table"] == "bandwidth":
        passes = {"AdaLoss": 3, "SGD(fused)": 3, "AdaGradNorm": 4, "AdamLoss": 7, "Adam(fused)": 7}[row["ours"]]
        assert row["megabytes"] == pytest.approx(passes * 4 * 12 / 1e6)
        assert row["share"] > 0


def test_step_time_compares_every_peer() -> None:
    pairs = {(one.ours, one.beside) for one in MEASUREMENTS if one.table == "step"}
    ways = ("for-loop", "foreach", "fused")
    assert pairs >= {("AdaLoss", f"SGD({way})") for way in ways}
    assert pairs >= {("AdamLoss", f"Adam({way})") for way in ways}
    assert pairs >= {("LossAdaptive(AdamW)", f"AdamW({way})") for way in ways}
    assert pairs >= {("AdaGradNorm", f"SGD({way})") for way in ways}
    peers = "Momo MomoAdam Prodigy DAdaptAdam DAdaptSGD AdamWScheduleFree SGDScheduleFree"
    assert pairs >= {("AdamLoss", peer) for peer in peers.split()}
    assert pairs >= {("AdaLoss", peer) for peer in ("Momo", "DAdaptSGD", "SGDScheduleFree")}


def test_part_is_written_only_where_json_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step_time, "RESULTS", tmp_path / "default")
    part = ["step_time", "--problems", "2,000 tensors of 4", "--only", "python: ", "--pairs", "2", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", part)
    step_time.main()
    assert "| warm |" in capsys.readouterr().out
    assert not (tmp_path / "default").exists()
    path = tmp_path / "part.json"
    monkeypatch.setattr(sys, "argv", [*part, "--json", str(path)])
    step_time.main()
    content = json.loads(path.read_text())
    assert [row["problem"] for row in content["rows"]] == ["warm", "swept between steps"]
    assert content["columns"] == COLUMNS
