"""Screenshots of the documentation, of a small real sweep: `python -m tests.servers.screenshots [FOLDER]`."""

import argparse
import contextlib
import io
import math
import os
import subprocess
import tempfile
from pathlib import Path

from mlflow.tracking import MlflowClient
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.limits import HANG_S
from tests.servers.browser import APP, click, running_ui, started_chromium, visit, wait_for_text

ROOT = Path(__file__).parents[2]
EXPERIMENT, METHODS, B0S, SEEDS = "demo", "adaloss,adamloss,sgd_constant,adam", "0.01,0.1,1,10,100", "1,2"
COUNT = math.prod(len(values.split(",")) for values in (METHODS, B0S, SEEDS))
SWEEP = ("sweep", "--recipe", "digits", "--experiment", EXPERIMENT, "--methods", METHODS, "--b0", B0S, "--seeds", SEEDS)
SWEEP += ("--", "--trainer.max_epochs", "4", "--trainer.log_every_n_steps", "2")
# Plotly's tools appear while the mouse is over a chart, or for good where there is no mouse. The rest is a chat.
HIDE = ".modebar-container, [data-assistant-ui] {display: none}"
STYLE = f"document.head.insertAdjacentHTML('beforeend', '<style>{HIDE}</style>')"
POINTS = "return document.querySelectorAll('.scatterlayer .trace.scatter path.point').length"
LINES = "return document.querySelectorAll('.scatterlayer .trace path.js-line').length"


def make_sweep(folder: Path) -> None:
    """A sweep of the digits and its report, as a user makes them, in an empty folder."""
    # The user and the folder's path are in the store; neither may say whose machine made the pictures.
    environment = os.environ | {"LOGNAME": "you", "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": ""}
    for command in (SWEEP, ("report", "--experiment", EXPERIMENT, "--out", "report")):
        subprocess.run([*APP, *command], cwd=folder, env=environment, check=True)


def save(chromium: webdriver.Chrome, path: Path) -> None:
    """Keep a picture of the page, in 256 colours, once two in a row are the same: charts are drawn in several steps."""
    chromium.execute_script(STYLE)
    mouse = ActionBuilder(chromium)
    mouse.pointer_action.move_to_location(1, 1)  # away from what it has clicked
    mouse.perform()
    last = b""

    def has_settled(driver: webdriver.Chrome) -> bool:
        nonlocal last
        before, last = last, driver.get_screenshot_as_png()
        return before == last

    WebDriverWait(chromium, HANG_S).until(has_settled)
    Image.open(io.BytesIO(last)).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def resize(chromium: webdriver.Chrome, height: int) -> None:
    size = {"width": 1440, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait_for_count(chromium: webdriver.Chrome, script: str, count: int) -> None:
    WebDriverWait(chromium, HANG_S).until(lambda driver: driver.execute_script(script) >= count, script)


def draw(store: Path, out: Path) -> None:
    """Take every picture of the sweep in `store`."""
    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "params.method = 'adaloss' and params.b0 = '0.01'")
    with (
        contextlib.chdir(store),
        tempfile.TemporaryDirectory() as profile,
        running_ui("--no-browser") as (server, comparison),
        started_chromium(Path(profile)) as chromium,
    ):
        resize(chromium, 900)
        url = comparison.rpartition(" ")[2]
        visit(chromium, url)
        # MLflow remembers these two choices.
        click(chromium, "[data-component-id='mlflow.assistant.chat_panel.close']")
        click(chromium, "//*[text()='Model training']", By.XPATH)

        visit(chromium, url)
        wait_for_text(chromium, f"{COUNT} matching runs", "log10_b0 vs. test/acc", "Parallel Coordinates")
        wait_for_count(chromium, POINTS, COUNT)
        click(chromium, "[data-component-id='mlflow.experiment_page.shared_view.dismiss']")
        click(chromium, "[aria-label='Toggle sidebar']")
        save(chromium, out / "ui_comparison.png")

        click(chromium, "label:has(input[value=TABLE])")
        wait_for_text(chromium, "Parameters", "seed")
        save(chromium, out / "ui_runs.png")

        resize(chromium, 620)  # the section adaloss alone
        page = server.split()[2]
        visit(chromium, f"{page}/#/experiments/{experiment.experiment_id}/runs/{runs[0].info.run_id}/model-metrics")
        wait_for_text(chromium, "effective_lr")
        wait_for_count(chromium, LINES, 3)
        save(chromium, out / "ui_run.png")

        resize(chromium, 1110)  # table and figure
        visit(chromium, (store / "report" / "report.html").as_uri())
        wait_for_count(chromium, LINES, METHODS.count(",") + 1)
        save(chromium, out / "ui_report.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "docs" / "figures")
    parser.add_argument("--store", type=Path, help="folder of the sweep of an earlier call, or a new one to keep")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        store = (arguments.store or Path(temporary)).resolve()
        if not (store / "report").exists():
            store.mkdir(exist_ok=True)
            make_sweep(store)
        draw(store, arguments.out.resolve())


if __name__ == "__main__":
    main()
