"""`adaloss ui` as a user meets it: a process in a shell, and Chromium."""

import contextlib
import json
import math
import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from adaloss_lightning.tracking import open_store
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.reports import comparison
from tests.limits import HANG_S, wait_for
from tests.ports import free_port
from tests.servers.browser import (
    APP,
    MISSING,
    click,
    has_chromium,
    running_ui,
    started_chromium,
    visit,
    wait_for_text,
)
from tests.servers.postgres import Postgres
from tests.servers.servers import TrackingServer, wait_for_health

# Data of the scatter plots on MLflow's page that have markers, one for each run.
SCATTERS = """
return [...document.querySelectorAll('.js-plotly-plot')].flatMap(plot => plot.data)
  .filter(trace => trace.type === 'scatter' && trace.mode === 'markers')
  .map(trace => ({x: trace.x, y: trace.y, colours: trace.marker.color}));
"""


def heights(driver: webdriver.Chrome, path: str) -> list[float]:
    return [element.location["y"] for element in driver.find_elements(By.XPATH, path)]


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    if not has_chromium():
        if os.environ.get("ADALOSS_REQUIRE_BROWSER") == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with started_chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def screenshots(pytestconfig: pytest.Config) -> Path:
    """Where pictures of the pages stay after the tests."""
    folder = pytestconfig.rootpath / "test-output" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File in which the user's browser, a program of ours, writes down what it was told to open."""
    program, file = folder / "browser.sh", folder / "opened.txt"
    program.write_text(f'#!/bin/sh\necho "$1" >> {file}\n')
    program.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{program} %s")
    return file


def add_sweep(
    client: MlflowClient, experiment: str, values: dict[str, list[float]], metric: str = "val/acc"
) -> dict[str, str]:
    """A sweep as the store holds it: method, value and identifier of its runs, keyed by name. 1.0 is a failed run's,
    0.99 and 0.01 are of runs that diverged.
    """
    experiment_id = client.create_experiment(experiment)
    parent = client.create_run(experiment_id, tags={"adaloss.kind": "sweep"}, run_name="sweep").info.run_id
    runs = {}
    for method, of_method in values.items():
        for place, value in enumerate(of_method):
            run = client.create_run(experiment_id, tags={"mlflow.parentRunId": parent}, run_name=f"{method} {value}")
            params = {"method": method, "b0": str(10.0**place), "seed": "1"}
            tags = [RunTag("diverged", "epoch 1")] if value in (0.99, 0.01) else []
            entries = [Param(*pair) for pair in params.items()]
            client.log_batch(run.info.run_id, [Metric(metric, value, 0, 0), Metric("z", 1.0, 0, 0)], entries, tags)
            client.set_terminated(run.info.run_id, "FAILED" if value == 1.0 else "FINISHED")
            runs[f"{method} {value}"] = run.info.run_id
    return runs


def facets_of(client: MlflowClient, url: str) -> dict[str, Any]:
    """What the address shows, as MLflow's page reads it: from its own query, or from the view that it names."""
    path, _, text = urlsplit(url).fragment.partition("?")
    query = {key: value for key, (value,) in parse_qs(text).items()}
    assert query.pop("compareRunsMode") == "CHART"
    key = query.pop("viewStateShareKey", None)
    if key is None:
        return query
    assert not query  # MLflow's page looks at the view only where the address says nothing
    experiment_id = re.fullmatch("/experiments/(.+)/runs", path)
    assert experiment_id is not None
    tag = client.get_experiment(experiment_id[1]).tags[f"mlflow.sharedViewState.{key}"]
    assert len(tag) <= 5000
    return dict(json.loads(tag))


def shown_by(client: MlflowClient, experiment: str, facets: dict[str, Any]) -> list[str]:
    """Names of the runs that the store finds for the facets, in their order."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    order = [f"{facets['orderByKey']} {'ASC' if facets['orderByAsc'] in (True, 'True') else 'DESC'}"]
    return [
        run.info.run_name for run in client.search_runs([found.experiment_id], facets["searchFilter"], 1, 50, order)
    ]


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def test_the_browser_opens_at_the_sweeps_metric_against_b0_and_method(
    client: MlflowClient, module: str, opened: Path, screenshots: Path, chromium: webdriver.Chrome
) -> None:
    add_sweep(client, "an earlier one", {"adaloss": [0.5]})
    sweep = ["sweep", "--recipe", module, "--methods", "adaloss,adamloss", "--b0", "0.1,1"]
    assert main([*sweep, "--experiment", "b0 & methods"]) == 0
    experiment = client.get_experiment_by_name("b0 & methods")
    assert experiment is not None
    best_first = client.search_runs([experiment.experiment_id], "params.b0 LIKE '%'", 1, 50, ["metrics.`val/acc` DESC"])
    names = [run.info.run_name for run in best_first]
    assert len(names) == 4

    with running_ui() as (server, comparison):
        url = comparison.rpartition(" ")[2]
        wait_for(lambda: opened.exists() and opened.read_text().endswith("\n"))
        assert opened.read_text().split() == [url]
        base = server.split()[2]
        assert url.startswith(f"{base}/#/experiments/{experiment.experiment_id}/runs?")
        listening = {
            c.laddr.ip for c in psutil.net_connections() if c.status == "LISTEN" and c.laddr.port == port_of(base)
        }
        assert listening == {"127.0.0.1"}

        visit(chromium, url)
        title = "val/acc against b0 and method"
        wait_for_text(chromium, title, *names, "log10_b0 vs. val/acc", "Parallel Coordinates", "4 matching runs")
        # The scatter: one point a run, as high as its accuracy, b0 to the right, and a colour for each method.
        points = "return document.querySelectorAll('.scatterlayer .trace.scatter path.point').length"
        WebDriverWait(chromium, HANG_S).until(lambda driver: driver.execute_script(points) == 4)
        (scatter,) = chromium.execute_script(SCATTERS)
        expected = [
            (math.log10(float(run.data.params["b0"])), run.data.metrics["val/acc"], run.data.tags["mlflow.runColor"])
            for run in best_first
        ]
        assert sorted(zip(map(float, scatter["x"]), scatter["y"], scatter["colours"], strict=True)) == sorted(expected)
        colours = {run.data.params["method"]: run.data.tags["mlflow.runColor"] for run in best_first}
        assert len(set(colours.values())) == 2
        # The list: the best first.
        links = "return [...document.querySelectorAll(\"a[href*='/runs/']\")].map(link => link.innerText)"
        assert [text for text in chromium.execute_script(links) if text in names] == names
        # The sweep's own charts stand above MLflow's.
        patient = WebDriverWait(chromium, HANG_S, ignored_exceptions=[WebDriverException])  # React replaces elements
        own = [f"//*[starts-with(text(), '{name}')]" for name in (title, "log10_b0 vs. val/acc")]
        lowest = max(patient.until(partial(heights, path=path))[0] for path in own)
        # MLflow draws a chart of its own once it comes into view.
        (others,) = patient.until(lambda driver: (heights(driver, "//*[text()='adaloss/b']"),))
        assert all(lowest < other for other in others)
        chromium.save_screenshot(screenshots / "comparison.png")

        visit(chromium, f"{base}/#/experiments/{experiment.experiment_id}/runs")
        wait_for_text(chromium, f"sweep {module}")
        click(chromium, f"//*[@role='row'][contains(., 'sweep {module}')]//button", By.XPATH)
        wait_for_text(chromium, f"sweep {module}", *names)
        chromium.save_screenshot(screenshots / "runs.png")


def test_nothing_to_compare_is_the_plain_ui(client: MlflowClient) -> None:
    assert comparison.compare_last_sweep(client, "http://h") is None
    add_sweep(client, "just started", {})
    assert comparison.compare_last_sweep(client, "http://h") is None


@pytest.mark.parametrize(
    ("metric", "names"),
    [("val/acc", ["b 0.9", "c 0.5", "a 0.3", "a 0.2"]), ("val/loss", ["a 0.2", "a 0.3", "c 0.5", "b 0.9"])],
)
def test_runs_with_a_value_are_shown_the_best_first(client: MlflowClient, metric: str, names: list[str]) -> None:
    # The value of a run that failed or diverged is no good, however good it was.
    add_sweep(client, "many", {"a": [0.3, 1.0, 0.2], "b": [0.9, 0.99], "c": [0.01, 0.5]}, metric)
    found = comparison.compare_last_sweep(client, "http://u:secret@h/mlflow/")
    assert found is not None
    assert found.url.startswith("http://h/mlflow/#/experiments/")
    assert "secret" not in found.text
    facets = facets_of(client, found.url)
    assert shown_by(client, "many", facets) == names
    parent = found.url.rpartition("viewStateShareKey=")[2]
    assert f"Points of run 'sweep' ({parent}), best {metric} first (4 of 7): " in found.text
    (section,) = facets["compareRunSections"]
    assert section["name"].endswith("lower is better" if metric == "val/loss" else "higher is better")
    scatter, parallel, bar = facets["compareRunCharts"]
    assert (scatter["xaxis"]["key"], scatter["yaxis"]["key"]) == ("b0", metric)  # of a sweep of an earlier version
    assert (parallel["selectedParams"], parallel["selectedMetrics"]) == (["method", "b0"], [metric])
    assert bar["metricKey"] == metric


def test_without_a_value_to_compare_all_runs_are_shown(client: MlflowClient) -> None:
    runs = add_sweep(client, "bad", {"a": [1.0, 0.99]})
    found = comparison.compare_last_sweep(client, "http://h")
    assert found is not None
    assert sorted(shown_by(client, "bad", facets_of(client, found.url))) == sorted(runs)
    add_sweep(client, "other", {"a": [0.5]}, "score")  # nothing to compare by itself
    found = comparison.compare_last_sweep(client, "http://h")
    assert found is not None
    assert facets_of(client, found.url)["searchFilter"].startswith("tags.`mlflow.parentRunId` = ")


def test_a_store_that_takes_no_view_is_shown_with_mlflows_own_charts(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: MlflowClient, *args: object) -> None:
        raise MlflowException("attempt to write a readonly database")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    add_sweep(client, "read-only", {"a": [0.5, 0.7]})
    found = comparison.compare_last_sweep(client, "http://h")
    assert found is not None
    assert shown_by(client, "read-only", facets_of(client, found.url)) == ["a 0.7", "a 0.5"]


def test_runs_on_a_server_are_compared_in_its_own_ui(
    server: TrackingServer, opened: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_store(server.url)
    runs = add_sweep(client, f"on a server {opened}", {"a": [0.1, 0.2]})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url.replace("//", "//user:secret@"))
    assert main(["ui", "--no-browser"]) == 0
    assert not opened.exists()
    assert main(["ui"]) == 0
    url = opened.read_text().strip()
    experiment = client.get_experiment_by_name(f"on a server {opened}")
    assert experiment is not None
    assert url.startswith(f"{server.url}/#/experiments/{experiment.experiment_id}/runs?")
    assert sorted(shown_by(client, experiment.name, facets_of(client, url))) == sorted(runs)
    printed = capsys.readouterr()
    assert url in printed.out
    assert "secret" not in printed.out + printed.err


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", ""])
def test_a_host_that_is_not_this_machine_is_refused(
    folder: Path, host: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ui", "--host", host, "--port", str(free_port())]) == 2
    error = capsys.readouterr().err
    assert host in error
    assert "--host" in error


def test_others_may_look_only_when_told_and_a_password_stays_out_of_command_lines(
    folder: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.create_database("ui", "secret-word"))
    port = free_port()
    command = [*APP, "ui", "--no-browser", "--host", "0.0.0.0"]
    out, err = folder / "out", folder / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=stdout, stderr=stderr)
    try:
        wait_for_health(f"http://127.0.0.2:{port}", process, err)  # an address it was not told of by name
        lines = []
        for other in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # one that has ended meanwhile
                lines.append(other.cmdline())
        assert any("uvicorn" in line for line in lines)
        assert "secret-word" not in str(lines)
    finally:
        process.terminate()
        process.wait(HANG_S)
    assert f"warning: anyone who reaches port {port} of 0.0.0.0 can read and change all runs." in err.read_text()
    assert "secret-word" not in out.read_text() + err.read_text()
