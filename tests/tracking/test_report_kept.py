"""`runs.json`: a report drawn from the file of an earlier one is that report."""

import json
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import StoreError
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.reports.kept import dumps, keep, loads, read
from adaloss_lightning.tracking.reports.results import collect
from tests.tracking.report_runs import FULL, GAPS, write_sweep

DRAWN = {"train/loss": {step: 2.0 / (step + 1) for step in range(50)}, "adaloss/b": {0: 1.0, 49: 7.123456789}}


def without_the_time(page: bytes) -> list[str]:
    return [line for line in page.decode().splitlines() if " UTC" not in line]


@pytest.mark.parametrize("values", [FULL, GAPS], ids=["full", "gaps"])
def test_a_report_from_the_file_is_the_report_from_the_store(
    client: MlflowClient, folder: Path, values: dict[tuple[str, str, str], float | str | None]
) -> None:
    write_sweep(client, values, histories=DRAWN)
    assert main(["report", "--experiment", "e", "--out", "first"]) == 0
    (folder / "mlflow.db").unlink()
    assert main(["report", "--runs", "first/runs.json", "--out", "second"]) == 0
    names = {path.name for path in Path("first").iterdir()}
    assert names == {"report.md", "report.tex", "report.png", "curves.png", "report.html", "runs.json"}
    for name in names - {"report.html"}:
        assert Path("first", name).read_bytes() == Path("second", name).read_bytes()
    first, second = (without_the_time(Path(out, "report.html").read_bytes()) for out in ("first", "second"))
    assert first == second
    assert not Path("mlflow.db").exists()


def test_the_file_has_what_runs_share_once_and_a_run_a_line(client: MlflowClient) -> None:
    write_sweep(client, FULL, histories=DRAWN)
    content = dumps(keep(collect(client, "e")))
    kept = json.loads(content)
    assert kept["params"] == {"sweep.methods": "adaloss,adam", "sweep.b0": "0.1,10", "sweep.seeds": "1,2"}
    assert content.count(b"\n") == len(FULL) + 2
    line = kept["runs"][0]
    assert line["params"] == {"method": "adaloss", "b0": "0.1", "seed": "1"}
    assert line["histories"]["adaloss/b"] == [[0, 49], [1.0, 7.12345679]]


def test_a_loss_that_overflowed_at_the_end_still_has_diverged(client: MlflowClient) -> None:
    write_sweep(client, FULL, histories={"train/loss": {0: 1.0, 1: np.inf}})
    results = loads(dumps(keep(collect(client, "e"))))
    assert all(cell.is_diverged for cell in results.cells.values())


def test_what_is_not_finite_is_null_and_files_that_have_nan_are_read(client: MlflowClient) -> None:
    write_sweep(client, FULL, histories={"grad/ratio": {0: 1.0, 1: np.nan}, "train/loss": {0: np.nan, 1: 1.0}})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    results = keep(collect(client, "e"))
    content = dumps(results)
    line = json.loads(content, parse_constant=refuse)["runs"][0]
    assert line["metrics"]["grad/ratio"] is None
    assert line["histories"]["train/loss"] == [[0, 1], [None, 1.0]]
    older = content.replace(b"null", b"NaN").replace(b'"missing":NaN', b'"missing":null')
    for read_again in (loads(content), loads(older)):
        assert dumps(read_again) == content
        assert all(len(cell.values) == 2 for cell in read_again.cells.values())


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"experiment": "e", "runs": []}'])
def test_another_file_is_refused(folder: Path, content: str) -> None:
    Path("runs.json").write_text(content)
    with pytest.raises(StoreError, match=r"Cannot read runs\.json: .*Must be a runs\.json that `adaloss report`"):
        read(Path("runs.json"))
    assert main(["report", "--runs", "none.json"]) == 2


@pytest.mark.parametrize("option", [["--metric=val/loss"], ["--minimize"], ["--tracking-uri=sqlite:///x.db"]])
def test_options_of_a_store_are_refused_beside_the_file(
    folder: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--runs", "runs.json", *option]) == 2
    assert "Invalid options beside --runs" in capsys.readouterr().err
