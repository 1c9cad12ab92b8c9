"""Records as version 0.1.0 writes them: what it has left in a spool is delivered."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.logger.records import (
    End,
    Metrics,
    Params,
    Record,
    Running,
    Sample,
    StagedFiles,
    Tags,
    Text,
    from_line,
    to_line,
)  # fmt: skip

SPOOLS = Path(__file__).with_name("spools_0_1_0")  # written by its logger, but for the names FOLDER and RUN
LINES: list[tuple[Record, bytes]] = [
    (Metrics({"a": 1 / 3}, time=1, step=2), b'{"m":{"a":0.3333333333333333},"t":1,"s":2}\n'),
    (Sample({"a": 1.0}, time=1, number=2), b'{"m":{"a":1.0},"t":1,"n":2}\n'),
    (Params({"a": "b"}), b'{"p":{"a":"b"}}\n'),
    (Tags({"a": "b"}), b'{"g":{"a":"b"}}\n'),
    (Text("\u00fc", "a.txt"), b'{"text":"\\u00fc","file":"a.txt"}\n'),
    (StagedFiles(), b'{"mirror":true}\n'),
    (Running(), b'{"status":"RUNNING"}\n'),
    (End("KILLED", time=1), b'{"status":"KILLED","t":1}\n'),
]


@pytest.mark.parametrize(("record", "line"), LINES)
def test_record_is_the_line_of_version_0_1_0(record: Record, line: bytes) -> None:
    assert to_line(record) == line
    assert from_line(line) == record


def test_record_of_a_later_version_is_refused_and_half_a_line_is_none() -> None:
    assert from_line(b'{"m":{"a":') is None
    with pytest.raises(ValueError, match="Must be one that this version knows"):
        from_line(b'{"z":1}\n')


@pytest.mark.parametrize("root", [".adaloss", "mlruns/.spool"])  # the second one before 0.1.0
@pytest.mark.parametrize(("case", "status"), [("ended", "FAILED"), ("resumed", "FINISHED"), ("killed", "KILLED")])
def test_spool_of_version_0_1_0_is_delivered(
    folder: Path, client: MlflowClient, root: str, case: str, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = client.create_run(client.create_experiment("x"), run_name="resumed").info.run_id
    spool = folder / root / "20261129-222334-19020-04c91e5c"
    shutil.copytree(SPOOLS / case, spool)
    text = (spool / "header.json").read_text().replace("FOLDER", str(folder / "files")).replace('"RUN"', f'"{run_id}"')
    (spool / "header.json").write_text(text)
    (spool.parent / "create.lock").touch()
    staged = Path(json.loads(text)["staged"])
    staged.mkdir(parents=True)
    if case == "ended":
        (staged / "plot.txt").write_text("plot")

    assert main(["sync", "--tracking-uri", client.tracking_uri]) == 0
    (run,) = client.search_runs([client.get_experiment_by_name("x").experiment_id], f"attributes.run_name = '{case}'")
    assert f"delivered to run '{case}' ({run.info.run_id})" in capsys.readouterr().out
    assert not spool.exists()
    assert not Path("mlruns", ".spool").exists()
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in losses] == [(0, 1 / 3), (2**40, 1e-300)]
    samples = client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    assert [(point.step, point.value) for point in samples] == [(0, 12.5), (1, 13.5)]
    assert run.data.params == {"lr": "0.1", "net/width": "3"}
    assert run.data.tags["non_finite"].startswith("acc (step 1099511627776")
    assert run.info.status == status
    names = [artifact.path for artifact in client.list_artifacts(run.info.run_id)]
    assert names == (["notes", "plot.txt"] if case == "ended" else [])
