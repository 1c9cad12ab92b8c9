"""`adaloss ui` as a process in a shell, and the Chromium that looks at its pages."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.limits import HANG_S
from tests.ports import free_port

APP = [sys.executable, "-m", "adaloss_lightning.tracking.console.app"]
MISSING = "needs Debian's packages chromium and chromium-driver"


def has_chromium() -> bool:
    return all(map(shutil.which, ("chromium", "chromedriver")))


@contextmanager
def started_chromium(
    profile: Path, width: int = 1900, height: int = 1400, logged: Mapping[str, str] | None = None
) -> Iterator[webdriver.Chrome]:
    """A headless Chromium with an empty profile, that keeps these logs."""
    options = webdriver.ChromeOptions()
    options.set_capability("goog:loggingPrefs", dict(logged or {}))
    options.binary_location = shutil.which("chromium") or ""
    flags = "headless=new disable-gpu disable-quic no-first-run disable-background-networking disable-component-update "
    flags += f"disable-sync hide-scrollbars window-size={width},{height} user-data-dir={profile}"
    for flag in [*flags.split(), "no-sandbox"]:  # which root, containers and Ubuntu refuse it; the pages are our own
        options.add_argument(f"--{flag}")
    with webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver") or "")) as started:
        started.set_page_load_timeout(HANG_S)
        started.set_script_timeout(HANG_S)
        started.command_executor.client_config.timeout = HANG_S  # of each request to chromedriver
        yield started


@contextmanager
def running_ui(*options: str) -> Iterator[list[str]]:
    """`adaloss ui` as a process; what it prints about addresses, all of it once the browser has been called."""
    command = [*APP, "ui", "--port", str(free_port()), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield [process.stdout.readline().strip() for _ in range(2)]
        finally:
            process.terminate()


def wait_for_text(chromium: webdriver.Chrome, *texts: str) -> str:
    def page(driver: webdriver.Chrome) -> str:
        return driver.find_element(By.TAG_NAME, "body").text

    WebDriverWait(chromium, HANG_S).until(lambda driver: all(text in page(driver) for text in texts), str(texts))
    return page(chromium)


def click(chromium: webdriver.Chrome, selector: str, by: str = By.CSS_SELECTOR) -> None:
    """Click an element once it is there and nothing is over it."""
    patient = WebDriverWait(chromium, HANG_S, ignored_exceptions=[WebDriverException])
    patient.until(lambda driver: driver.find_element(by, selector).click() is None, selector)


def visit(chromium: webdriver.Chrome, url: str) -> None:
    chromium.get("about:blank")  # MLflow's pages differ in what follows the #: that alone would load nothing again
    chromium.get(url)
