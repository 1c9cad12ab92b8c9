"""`adaloss ui` as a user meets it: a process in a shell, and Chromium."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from adaloss_lightning.tracking import comparison, open_store
from adaloss_lightning.tracking.app import main
from tests.ports import free_port
from tests.servers.postgres import Postgres
from tests.servers.servers import TrackingServer, wait_for_health

PATIENCE_S = 60


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        reason = "needs Debian's packages chromium and chromium-driver"
        if os.environ.get("ADALOSS_REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tmp_path_factory.mktemp("chromium")
    flags = [
        "--headless=new",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1900,1400",
        f"--user-data-dir={profile}",
    ]
    for flag in [*flags, *(["--no-sandbox"] if os.geteuid() == 0 else [])]:
        options.add_argument(flag)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as started:
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


def add_sweep(client: MlflowClient, experiment: str, accuracies: dict[str, list[float]]) -> dict[str, str]:
    """A sweep as the store holds it: method, accuracy and identifier of its runs, keyed by name."""
    experiment_id = client.create_experiment(experiment)
    parent = client.create_run(experiment_id, tags={"adaloss.kind": "sweep"}, run_name="sweep").info.run_id
    runs = {}
    for method, values in accuracies.items():
        for value in values:
            run = client.create_run(experiment_id, tags={"mlflow.parentRunId": parent}, run_name=f"{method} {value}")
            client.log_batch(run.info.run_id, [Metric("val/acc", value, 0, 0)], [Param("method", method)])
            client.set_terminated(run.info.run_id, "FAILED" if value == 1.0 else "FINISHED")
            runs[f"{method} {value}"] = run.info.run_id
    return runs


def ids_in(url: str, experiment_id: str) -> list[str]:
    """Runs of a comparison page's address, read as MLflow's page does."""
    query = parse_qs(urlsplit(url).fragment.partition("?")[2])
    assert json.loads(query["experiments"][0]) == [experiment_id]
    return list(json.loads(query["runs"][0]))


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


@contextmanager
def running_ui(*options: str) -> Iterator[list[str]]:
    """`adaloss ui` as a process; what it prints about addresses, all of it once the browser has been called."""
    command = [sys.executable, "-m", "adaloss_lightning.tracking.app", "ui", "--port", str(free_port()), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield [process.stdout.readline().strip() for _ in range(2)]
        finally:
            process.terminate()


def wait_for_text(chromium: webdriver.Chrome, *texts: str) -> str:
    def page(driver: webdriver.Chrome) -> str:
        return driver.find_element(By.TAG_NAME, "body").text

    WebDriverWait(chromium, PATIENCE_S).until(lambda driver: all(text in page(driver) for text in texts), str(texts))
    return page(chromium)


def visit(chromium: webdriver.Chrome, url: str) -> None:
    chromium.get("about:blank")  # MLflow's pages differ in what follows the #: that alone would load nothing anew
    chromium.get(url)


def test_the_browser_opens_at_the_comparison_of_the_last_sweep(
    client: MlflowClient, module: str, opened: Path, screenshots: Path, chromium: webdriver.Chrome
) -> None:
    add_sweep(client, "an earlier one", {"adaloss": [0.5]})
    sweep = ["sweep", "--recipe", module, "--methods", "adaloss,adamloss", "--b0", "0.1,1"]
    assert main([*sweep, "--experiment", "b0 & methods"]) == 0
    experiment = client.get_experiment_by_name("b0 & methods")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "params.method LIKE '%'")
    assert len(runs) == 4

    with running_ui() as (server, comparison):
        url = comparison.rpartition(" ")[2]
        deadline = time.monotonic() + PATIENCE_S
        while not opened.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert opened.read_text().split() == [url]
        base = server.split()[2]
        assert url.startswith(f"{base}/#/compare-runs?")
        listening = {
            c.laddr.ip for c in psutil.net_connections() if c.status == "LISTEN" and c.laddr.port == port_of(base)
        }
        assert listening == {"127.0.0.1"}

        visit(chromium, url)
        names = [run.info.run_name for run in runs]
        page = wait_for_text(chromium, "Comparing 4 Runs from 1 Experiment", *names, "adaloss/b", "val/acc")
        for run in runs:
            assert f"{run.data.metrics['adaloss/b']:.4g}" in page  # as MLflow rounds
            assert f"{run.data.metrics['val/acc']:.3f}" in page
        rows = chromium.find_elements(By.TAG_NAME, "tr")
        params = {cells[0]: cells[1:] for cells in ([c.text for c in row.find_elements(By.XPATH, "*")] for row in rows)}
        assert sorted(zip(params["b0"], params["method"], strict=True)) == [
            ("0.1", "adaloss"),
            ("0.1", "adamloss"),
            ("1.0", "adaloss"),
            ("1.0", "adamloss"),
        ]
        chromium.save_screenshot(screenshots / "comparison.png")
        metric = chromium.find_element(By.LINK_TEXT, "adaloss/b")
        chromium.execute_script("arguments[0].scrollIntoView({block: 'center'})", metric)
        chromium.save_screenshot(screenshots / "comparison-metrics.png")

        visit(chromium, f"{base}/#/experiments/{experiment.experiment_id}/runs")
        wait_for_text(chromium, f"sweep {module}")
        chromium.find_element(By.XPATH, f"//*[@role='row'][contains(., 'sweep {module}')]//button").click()
        wait_for_text(chromium, f"sweep {module}", *names)
        chromium.save_screenshot(screenshots / "runs.png")


def test_nothing_to_compare_is_the_plain_ui(client: MlflowClient) -> None:
    assert comparison.compare_last_sweep(client, "http://h") is None
    add_sweep(client, "just started", {})
    assert comparison.compare_last_sweep(client, "http://h") is None


def test_one_run_is_shown_on_its_own_page(client: MlflowClient) -> None:
    (run_id,) = add_sweep(client, "one", {"adaloss": [0.5]}).values()
    found = comparison.compare_last_sweep(client, "http://u:secret@h/mlflow/")
    experiment = client.get_experiment_by_name("one")
    assert found is not None
    assert experiment is not None
    assert found.url == f"http://h/mlflow/#/experiments/{experiment.experiment_id}/runs/{run_id}"
    assert "secret" not in found.text


def test_of_many_runs_the_best_of_each_method_are_shown(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "MAX_RUNS", 5)
    # A failed run is no good, whatever its accuracy was.
    runs = add_sweep(client, "many", {"a": [0.1, 1.0, 0.3, 0.2], "b": [0.9], "c": [0.4, 0.5]})
    found = comparison.compare_last_sweep(client, "http://h")
    experiment = client.get_experiment_by_name("many")
    assert found is not None
    assert experiment is not None
    chosen = ids_in(found.url, experiment.experiment_id)
    assert {name for name, run_id in runs.items() if run_id in chosen} == {"a 0.3", "a 0.2", "b 0.9", "c 0.5", "c 0.4"}
    assert chosen == [run_id for run_id in runs.values() if run_id in chosen]
    assert "5 best of the 7 runs of 'sweep'" in found.text


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
    assert sorted(ids_in(url, experiment.experiment_id)) == sorted(runs.values())
    assert url.startswith(f"{server.url}/#/compare-runs?")
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
    command = [sys.executable, "-m", "adaloss_lightning.tracking.app", "ui", "--no-browser", "--host", "0.0.0.0"]
    out, err = folder / "out", folder / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen([*command, "--port", str(port)], stdout=stdout, stderr=stderr)
    try:
        wait_for_health(f"http://127.0.0.2:{port}", process, err)  # an address it was not told of by name
        lines = [other.cmdline() for other in psutil.Process(process.pid).children(recursive=True)]
        assert any("uvicorn" in line for line in lines)
        assert "secret-word" not in str(lines)
    finally:
        process.terminate()
        process.wait(30)
    assert f"warning: whoever reaches port {port} of 0.0.0.0 can read and change all runs." in err.read_text()
    assert "secret-word" not in out.read_text() + err.read_text()
