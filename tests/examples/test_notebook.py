"""The notebook of the examples in a real kernel: what its cells show, and what is in the store while it lives."""

import base64
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import nbformat
import pytest
from mlflow.entities import Run
from nbclient import NotebookClient

from adaloss_lightning.tracking import open_store
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.logger.recovery import waiting
from tests.examples.test_examples import EXAMPLES
from tests.limits import HANG_S

NOTEBOOK = EXAMPLES / "notebook.ipynb"
METHODS, B0S, SEEDS = ("AdaLoss", "SGD"), ("0.1", "1.0", "10.0"), ("1", "2", "3")


@dataclass
class Executed:
    """Outputs of the cells by their identifiers, and the folder that they ran in."""

    outputs: dict[str, list[Any]]
    folder: Path

    def data(self, cell: str, kind: str) -> list[str]:
        return [output.data[kind] for output in self.outputs[cell] if kind in output.get("data", {})]

    def text(self, cell: str, stream: str) -> str:
        return "".join(output.text for output in self.outputs[cell] if output.get("name") == stream)

    def runs(self, experiment: str) -> list[Run]:
        client = open_store(f"sqlite:///{self.folder}/mlflow.db")
        found = client.get_experiment_by_name(experiment)
        assert found is not None
        return list(client.search_runs([found.experiment_id]))


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executed]:
    """All cells, one after the other; their kernel lives as long as the tests."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=int(HANG_S),
        startup_timeout=int(HANG_S),
        iopub_timeout=int(HANG_S),
        kernel_name="python3",
        coalesce_streams=True,  # as Jupyter keeps them: a progress bar writes over itself
        resources={"metadata": {"path": str(folder)}},
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "ADALOSS_SPOOL"):
            patch.delenv(name, raising=False)
        with client.setup_kernel():
            for index, cell in enumerate(notebook.cells):
                client.execute_cell(cell, index)
            yield Executed({cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}, folder)


def test_notebook_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_notebook_finds_what_it_was_not_given(executed: Executed) -> None:
    (found,) = executed.data("auto", "text/plain")
    assert re.fullmatch(r"\{'lr': [\d.e-]+, 'alpha': 'auto', 'warmup': \d+, 'cooldown': 0.25\}", found)


def test_notebook_table_has_the_mean_lowest_and_highest_of_the_stored_seeds(executed: Executed) -> None:
    values = {
        tuple(run.data.params[name] for name in ("method", "b0", "seed")): run.data.metrics["val/acc"]
        for run in executed.runs("notebook-sweep")
    }
    assert set(values) == set(product(METHODS, B0S, SEEDS))
    (table,) = executed.data("table", "text/html")
    for method in METHODS:
        row = re.search(f"<th>{method}</th>(.*?)</tr>", table, re.DOTALL)
        assert row is not None
        of = [[values[method, b0, seed] for seed in SEEDS] for b0 in B0S]
        expected = [summary(seeds) for summary in (statistics.fmean, min, max) for seeds in of]
        shown = [float(field) for field in re.findall("<td>(.*?)</td>", row[1])]
        assert shown == pytest.approx(expected, abs=6e-4)  # it has three decimals


def test_notebook_shows_what_its_text_says_of_b0(executed: Executed) -> None:
    for run in executed.runs("notebook-sweep"):
        learns = run.data.params["method"] == "AdaLoss" or run.data.params["b0"] == "10.0"
        assert (run.data.metrics["val/acc"] > 0.8) == learns  # one of ten digits guessed: 0.1
        assert (run.data.metrics["val/acc"] < 0.3) != learns


def test_notebook_draws_curves_and_comparison(executed: Executed) -> None:
    for cell in ("curves", "figure"):
        (image,) = executed.data(cell, "image/png")
        assert len(base64.b64decode(image)) > 5000  # an empty axis has less


def test_notebook_runs_are_in_the_store_while_its_kernel_lives(
    executed: Executed, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = executed.runs("notebook") + executed.runs("notebook-sweep")
    assert [run.info.status for run in runs] == ["FINISHED"] * (1 + len(METHODS) * len(B0S) * len(SEEDS))
    monkeypatch.chdir(executed.folder)
    assert waiting() == []


def test_notebook_shows_a_short_progress_bar_and_no_warning(executed: Executed) -> None:
    assert re.search(r"Epoch 4: 100%.*val/acc=0\.\d+", executed.text("auto", "stdout"))
    for cell in executed.outputs:
        printed = executed.text(cell, "stdout") + executed.text(cell, "stderr")
        assert len(printed.splitlines()) < 50, printed
        assert not re.search("warn|error|deprecated", printed, re.IGNORECASE), printed


def test_notebook_runs_are_reported_as_its_last_cell_says(
    executed: Executed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(executed.folder)
    assert main(["report", "--experiment", "notebook-sweep"]) == 0
    printed = capsys.readouterr().out
    assert all(re.search(rf"^{method} .*±", printed, re.MULTILINE) for method in METHODS), printed
