"""Pages of the recipes have the numbers that the kept runs give."""

import statistics
from pathlib import Path

import pytest

from adaloss_lightning.tracking.reports.kept import read
from adaloss_lightning.tracking.reports.report import markdown_table
from adaloss_lightning.tracking.reports.results import Results
from recipes.linear_regression.report import judged as linear_regression
from recipes.lstm_news.report import report as lstm_news
from recipes.pendulum.report import report as pendulum
from recipes.shared import numbers
from recipes.shared.claims import claims_table
from recipes.two_layer.predicted import METHODS, spread
from recipes.two_layer.report import judged as two_layer

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results" / "paper"
JUDGED = {"linear_regression": linear_regression, "two_layer": two_layer}
TEXTS = {
    "digits": markdown_table,
    "pendulum": lambda results: pendulum(results).text,
    "pendulum_unit": markdown_table,
    "lstm_news": lambda results: lstm_news(results).text,
}


def kept(name: str) -> Results:
    return read(KEPT / f"{name}.json")


def page(recipe: str) -> str:
    return (ROOT / "docs" / f"{recipe}.md").read_text()


@pytest.mark.parametrize("name", TEXTS)
def test_the_tables_of_the_page_are_those_of_the_kept_runs(name: str) -> None:
    rows = [line for line in TEXTS[name](kept(name)).splitlines() if line.startswith("| ")]
    assert len(rows) > 4
    missing = set(rows) - set(page(name.removesuffix("_unit")).splitlines())
    assert not missing


@pytest.mark.parametrize("name", JUDGED)
def test_the_verdicts_of_the_page_are_those_of_the_kept_numbers(name: str) -> None:
    study = numbers.loads((KEPT / f"{name}.json").read_text("utf-8"))
    rows = [line for line in claims_table(JUDGED[name](study)).splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    assert not set(rows) - set(page(name).splitlines())


@pytest.mark.parametrize("method", METHODS)
def test_the_predictions_of_the_page_are_those_of_the_kept_numbers(method: str) -> None:
    found = numbers.loads((KEPT / f"two_layer_predicted_{method}.json").read_text("utf-8"))
    row = next(line for line in page("two_layer").splitlines() if line.startswith(f"| `{method}`"))
    cells = [" ± ".join(spread(slopes)).replace("-", "\N{MINUS SIGN}") for slopes in found.slopes().values()]
    assert row.endswith(f" | {' | '.join(cells)} |")


def losses_of(results: Results, method: str) -> str:
    """The cells of a method's losses, over its seeds."""
    runs = [results.runs[method, 1.0, seed] for seed in results.seeds]
    values = [[run.data.metrics[name] for run in runs] for name in ("val/loss", "test/loss")]
    return " | ".join(f"{statistics.fmean(several):.3f} ± {statistics.stdev(several):.3f}" for several in values)


def test_the_losses_of_python_gpt_are_those_of_the_kept_runs() -> None:
    results = kept("python_gpt")
    assert len(results.methods) == len(results.seeds) == 3
    for method in results.methods:
        eta = "found" if method == "auto" else f"{float(results.runs[method, 1.0, '1'].data.params['lr']):g}"
        assert f"| {method} | {eta} | {losses_of(results, method)} |" in page("python_gpt")


@pytest.mark.parametrize("name", ["adam", "auto"])
def test_the_losses_of_the_longer_python_gpt_are_those_of_the_kept_runs(name: str) -> None:
    results = kept(f"python_gpt_long_{name}")
    assert len(results.seeds) == 3
    for method in results.methods:
        eta = method.partition("lr=")[2] or "found"
        assert f"| {name} | {eta} | {losses_of(results, method)} |" in page("python_gpt")


@pytest.mark.parametrize("choice", ["gradient", "adam"])
def test_the_etas_of_digits_are_those_that_the_kept_runs_choose(choice: str) -> None:
    results = kept(f"digits_choice_{choice}")
    assert results.metric == "val/acc"
    means = {row: [cell.mean or 0.0 for cell in results.row(row)] for row in results.methods}
    for row, by_b0 in means.items():
        method, lr = row.split(", lr=")
        of_method = [other for other in means if other.startswith(f"{method}, ")]
        is_chosen = row == max(of_method, key=lambda other: (min(means[other]), sum(means[other])))
        eta, worst = (f"**{text}**" if is_chosen else text for text in (lr, f"{100 * min(by_b0):.1f}"))
        name = method if row == of_method[0] else ""
        assert f"| {name} | {eta} | {' / '.join(f'{100 * mean:.1f}' for mean in by_b0)} | {worst} |" in page("digits")
