"""docs/comparing_runs.md: its filters find the runs that it says, and its code runs."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.servers.screenshots import SWEEP
from tests.tracking.report_runs import FULL, Key, Value, write_parent, write_point

PAGE = (Path(__file__).parents[2] / "docs" / "comparing_runs.md").read_text()
VALUES = FULL | {("adam", "0.1", "1"): "diverged", ("adam", "10.0", "2"): "FAILED"}
EXPECTED: dict[str, Callable[[Key, Value], bool]] = {
    "tags.`adaloss.kind` = 'point'": lambda point, value: True,
    "params.method = 'adaloss' and params.b0 = '0.1'": lambda point, value: point[:2] == ("adaloss", "0.1"),
    "params.method LIKE 'ada%' and metrics.`test/acc` > 0.97": lambda point, value: (
        isinstance(value, float) and value > 0.97
    ),
    "params.seed = '1' and attributes.status = 'FINISHED' and tags.diverged IS NULL": lambda point, value: (
        point[2] == "1" and value not in ("FAILED", "diverged")
    ),
    "tags.diverged IS NOT NULL": lambda point, value: value == "diverged",
    "attributes.status = 'FAILED'": lambda point, value: value == "FAILED",
    "params.`grid.optimizer.lr` = '0.1'": lambda point, value: point[2] == "1",  # as `store` has it
}


@pytest.fixture
def store(client: MlflowClient) -> MlflowClient:
    parent = write_parent(client, "demo")
    for (method, b0, seed), value in VALUES.items():
        lr = "0.1" if seed == "1" else "1.0"
        write_point(client, parent, {"method": method, "b0": b0, "seed": seed, "grid.optimizer.lr": lr}, value)
    return client


def test_page_has_the_filters_that_are_tested() -> None:
    assert re.findall(r"^\| ``(.*?)`` \|", PAGE, re.MULTILINE) == list(EXPECTED)


@pytest.mark.parametrize("text", EXPECTED)
def test_filter_finds_what_the_page_says(store: MlflowClient, text: str) -> None:
    experiment = store.get_experiment_by_name("demo")
    assert experiment is not None
    runs = store.search_runs([experiment.experiment_id], text)
    found = [tuple(run.data.params[name] for name in ("method", "b0", "seed")) for run in runs]
    assert sorted(found) == sorted(point for point, value in VALUES.items() if EXPECTED[text](point, value))


def test_code_makes_the_table_of_means(store: MlflowClient) -> None:
    (code,) = re.findall("```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["table"]["mean"].loc["adaloss"].to_dict() == pytest.approx({"0.1": 0.97, "10.0": 0.99})
    assert names["table"]["std"].loc["adam", "0.1"] == pytest.approx(0.6 / 2**0.5)  # 0.1 and 0.7


def test_pictures_are_of_the_sweep_that_the_page_shows() -> None:
    (command,) = re.findall(r"^adaloss (sweep (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
    assert shlex.split(command.replace("\\\n", "")) == list(SWEEP)
    for picture in re.findall(r"\]\((figures/.*?)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / picture).stat().st_size < 150_000
