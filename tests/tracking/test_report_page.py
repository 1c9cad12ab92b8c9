"""The page of a report: complete in itself, safe whatever runs are called, and drawn by a real browser."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from plotly.offline import get_plotlyjs
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from adaloss_lightning.tracking.reports.report import write_report
from adaloss_lightning.tracking.reports.results import collect
from tests.limits import HANG_S
from tests.servers.browser import MISSING, has_chromium, started_chromium
from tests.tracking.report_runs import SWEEP, write_parent, write_point

EVIL = '</script><script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"><a href=//x>'


@pytest.fixture
def page(client: MlflowClient, folder: Path) -> Path:
    """The page of a sweep whose names are all hostile; of adam at b0 = 10 one seed diverged and one failed."""
    grid = SWEEP | {"sweep.methods": "adaloss,adam", "recipe": EVIL, "machine": "2 cores"}
    parent = write_parent(client, EVIL, grid | {"sweep.grid.o": EVIL})
    for method in ("adaloss", "adam"):
        for b0 in ("0.1", "10.0"):
            for seed in "12":
                value = {"1": "diverged", "2": "FAILED"}[seed] if (method, b0) == ("adam", "10.0") else 0.9
                loss = {step: 1.0 / (step + 1) for step in range(20)}
                params = grid | {"method": method, "b0": b0, "seed": seed, "grid.o": EVIL}
                write_point(client, parent, params, value, {"train/loss": loss, "adaloss/b": loss, "val/acc": {3: 0.5}})
    (found,) = [path for path in write_report(collect(client, EVIL), folder / "out") if path.suffix == ".html"]
    return found


class Loads(HTMLParser):
    """Collects tags, and every attribute that can load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loading: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loading += [(tag, name) for name, _ in attrs if name in ("src", "href", "srcset") or name.startswith("on")]


def test_the_page_loads_nothing_and_runs_no_script_but_its_own(page: Path) -> None:
    text = page.read_text()
    own = text.replace(get_plotlyjs(), "")
    assert len(own) < len(text) / 10
    parsed = Loads()
    parsed.feed(text)
    assert parsed.loading == []
    assert parsed.tags.count("script") == 3  # the data, plotly and the page's own
    assert "a" not in parsed.tags
    assert not re.search(r"https?:|@import|url\(|<link|<iframe", own)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', own)
    assert "default-src 'none'" in policy
    assert re.findall(r"script-src (.*)", policy)[0].count("'sha256-") == 2
    data = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', own)
    assert len(json.loads(data[0])) == 1 + 3 * 2


def test_the_page_says_what_was_run_and_what_is_missing(page: Path) -> None:
    text = page.read_text()
    for expected in (
        '<td class="best">90.0 <small>± 0.0</small></td>',
        "b0 = 10: seed 1 diverged, seed 2 failed",
        '<th scope="row">Machine</th><td>2 cores</td>',
        '<th scope="row">Runs</th><td>8: 7 finished, 1 failed</td>',
        "mean ± sample standard deviation over 2 seeds",
    ):
        assert expected in text


@pytest.fixture
def browser(folder: Path) -> Iterator[webdriver.Chrome]:
    if not has_chromium():
        pytest.skip(MISSING)
    logged = {"performance": "ALL", "browser": "ALL"}
    with started_chromium(folder / "profile", 1200, 3000, logged) as chrome:
        yield chrome


def test_a_browser_draws_every_plot_and_asks_for_nothing(page: Path, browser: webdriver.Chrome) -> None:
    browser.get(page.as_uri())
    plots = len(browser.find_elements(By.CSS_SELECTOR, ".plot"))
    assert plots == 1 + 3 * 2
    WebDriverWait(browser, HANG_S).until(lambda b: len(b.find_elements(By.CSS_SELECTOR, ".plot .main-svg")) >= plots)
    assert browser.title.startswith("Robustness over b0: </script>")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    # chrome: is the browser's own empty tab, data: and blob: lie within the page.
    assert {url for url in asked if not url.startswith(("chrome", "data:", "blob:"))} == {page.as_uri()}
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    # Both rows have 20 steps of loss at b0 = 0.1; adam has none at b0 = 10 but those of the seed that diverged.
    shown = "return [...document.querySelectorAll('[data-figure^=curves-0] .scatterlayer')].map(e => e.children.length)"
    assert browser.execute_script(shown) == [4, 4]


OVERLAPS = """
const boxes = [...document.querySelectorAll('.plot')].flatMap(plot => ['xtick', 'ytick'].map(axis =>
  [...plot.querySelectorAll(`.${axis} text`)].map(text => [text.getBoundingClientRect(), text.textContent])));
const touch = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
return [boxes.map(of => of.length), boxes.flatMap(of => of.flatMap(([box, label], at) =>
  of.slice(at + 1).filter(([other]) => touch(box, other)).map(([, other]) => [label, other])))];
"""


def test_tick_labels_are_few_and_do_not_touch(client: MlflowClient, folder: Path, browser: webdriver.Chrome) -> None:
    b0s = [f"{10.0**power:g}" for power in range(-7, 8)]
    grid = SWEEP | {"sweep.b0": ",".join(b0s), "sweep.seeds": "1"}
    parent = write_parent(client, "e", grid)
    for power, b0 in zip(range(-7, 8), b0s, strict=True):
        for method in ("adaloss", "adam"):
            b = {step * 1000: 10.0 ** (power + 0.01 * step) for step in range(100)}
            loss = {step: 2.0 * 0.9**step for step in b}
            params = grid | {"method": method, "b0": b0, "seed": "1"}
            write_point(client, parent, params, 0.9, {"val/loss": {0: 10.0**power}, "adaloss/b": b, "train/loss": loss})
    write_report(collect(client, "e", "val/loss"), folder)
    browser.set_window_size(1280, 3000)
    browser.get((folder / "report.html").as_uri())
    plots = len(browser.find_elements(By.CSS_SELECTOR, ".plot"))
    WebDriverWait(browser, HANG_S).until(
        lambda b: (
            len(b.find_elements(By.CSS_SELECTOR, ".plot .ytick"))
            and len(b.find_elements(By.CSS_SELECTOR, ".plot .main-svg")) >= plots
        )
    )
    counts, overlaps = browser.execute_script(OVERLAPS)
    assert overlaps == []
    assert all(2 <= count <= 8 for count in counts)


def test_boxes_choose_the_b0_and_the_rows(page: Path, browser: webdriver.Chrome) -> None:
    browser.get(page.as_uri())
    lines = "return document.querySelectorAll('[data-figure=curves-0-0] .scatterlayer .trace').length"
    WebDriverWait(browser, HANG_S).until(lambda b: b.execute_script(lines) == 4)  # for each b0 a band and a mean
    browser.find_element(By.CSS_SELECTOR, "input[data-b0='1']").click()
    WebDriverWait(browser, HANG_S).until(lambda b: b.execute_script(lines) == 2)
    browser.find_element(By.CSS_SELECTOR, "button[data-none=row]").click()
    assert not any(panel.is_displayed() for panel in browser.find_elements(By.CSS_SELECTOR, ".panel"))
    browser.find_element(By.CSS_SELECTOR, "input[data-row='1']").click()
    assert [panel.is_displayed() for panel in browser.find_elements(By.CSS_SELECTOR, ".panel")] == [False, True] * 3
