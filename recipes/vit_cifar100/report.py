"""Table 1 beside our runs: `python -m recipes.vit_cifar100.report --experiment NAME --out DIR`."""

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipes.shared.claims import Always, Claim, Mean, claims_table
from recipes.shared.cli import run_from_shell
from recipes.shared.figures import MARKERS, panels, styled
from recipes.shared.reports import Report, report_on_runs, table
from recipes.shared.spreads import seed_spreads
from recipes.vit_cifar100.table1 import ROWS, TITLES, Accuracy, Comparison, Point, spread

METRIC = "test/acc"
LEARNED = 0.1  # accuracy; 100 classes
FIGURE_FILE = "table1.png"
_FOOT = 0.03  # height of the crosses, in units of the axes


def main(args: list[str] | None = None) -> None:
    """Writes `table1.md` and `table1.png`, and prints the first."""
    about = "The paper's Table 1 beside the newest sweep of an experiment."
    report_on_runs("vit_cifar100", about, lambda results: report(Comparison.of(results)), args, METRIC)


def report(comparison: Comparison) -> Report:
    """The table, the settings that differ, the paper's claims where our runs can test them, and the figure."""
    results = comparison.results
    parts = [
        "Test accuracy in % of the best validation epoch, mean ± standard deviation. "
        f"Experiment {results.experiment}, seeds {', '.join(results.seeds)}.\n"
        f"Network: {', '.join(comparison.networks)}. Machine: {', '.join(comparison.machines)}; a run took "
        f"{comparison.minutes:.1f} minutes (median).",
        _table(comparison),
    ]
    if comparison.differences:
        parts.append("These runs are not the experiment of Table 1:")
        parts.append("\n".join(f"- {difference}" for difference in comparison.differences))
    not_tested = "What the paper says about Table 1 is not tested by these runs."
    parts.append(claims_table(claims(comparison)) if comparison.is_table1 else not_tested)
    parts.append(f"![{METRIC} against b0]({FIGURE_FILE})")
    text = "\n\n".join(part.rstrip() for part in parts) + "\n"
    return Report("table1.md", text, {FIGURE_FILE: draw(comparison)})


def claims(comparison: Comparison) -> list[Claim]:
    """What the paper reads from Table 1, decided seed by seed by runs that repeat it."""
    paper, results = comparison.paper, comparison.results
    rows = {method: paper[row] for method in comparison.methods if (row := ROWS.get(method, method)) in paper}
    ours = {method: spread(comparison.ours_whole(method, b0) for b0 in row) for method, row in rows.items()}
    theirs = {method: spread(row.values()) for method, row in paper.items()}
    spreads = {method: seed_spreads(results, method) for method in rows}
    seeds = [seed for seed in spreads["adaloss"] if all(seed in found for found in spreads.values())]
    lost = [b0 for b0, value in paper["sgd_constant"].items() if value == "diverged"]
    gaps = [comparison.cell("sgd_constant", b0).gaps for b0 in lost]
    ends = [[one.get(seed, "value") for one in gaps] for seed in results.seeds]
    known = [end for end in ends if set(end) <= {"value", "diverged"}]
    ran = all(comparison.cell("sgd_constant", b0).seeds for b0 in lost)
    return [
        Claim(
            "Table 1",
            "AdaLoss depends least on b0",
            "best minus worst accuracy over b0 smaller than that of every other method, paired by seed",
            [Mean(f"{TITLES[method]} less AdaLoss, points",
                  [100 * _less(found[seed].width, spreads["adaloss"][seed].width) for seed in seeds], low=0.0)
             for method, found in spreads.items() if method != "adaloss" and seeds],
            f"best minus worst mean, ours: {_spreads(ours)}; the paper's: {_spreads(theirs)}",
            learned=[spreads["adaloss"][seed].best > LEARNED for seed in seeds],
        ),
        Claim(
            "Table 1",
            f"SGD-Constant diverges for b0 = {' and '.join(f'{b0:g}' for b0 in lost)}",
            "every run of both diverged",
            [Always("both diverged", [set(end) == {"diverged"} for end in known])] if ran and known else [],
            ", ".join(_our_text(comparison, "sgd_constant", b0) for b0 in lost),
        ),
    ]  # fmt: skip


def _less(theirs: float, ours: float) -> float:
    return 0.0 if theirs == ours else theirs - ours  # also where both diverged


@styled
def draw(comparison: Comparison) -> Figure:
    """Accuracy against b0, the paper's beside ours, each on its own scale. Bars are standard deviations."""
    figure, ((left, right),) = panels(9.6, 4.2, 1, 2, sharex=True)
    other = " (not the settings of Table 1)" if comparison.differences else ""
    sides = {
        left: ("the paper's" if comparison.paper else "the paper has no such runs", comparison.theirs),
        right: (f"ours, {comparison.results.experiment}{other}", comparison.ours),
    }
    for axes, (title, value) in sides.items():
        axes.set(title=title, xlabel="$b_0$ (x at the foot: diverged)", ylabel="test accuracy in %", xscale="log")
        for index, method in enumerate(comparison.methods):
            _curve(axes, index, method, {b0: value(method, b0) for b0 in comparison.b0s})
        axes.set_xticks(comparison.b0s, [f"{b0:g}" for b0 in comparison.b0s])
        axes.minorticks_off()
        axes.margins(y=0.1)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return figure


def _curve(axes: Axes, index: int, method: str, points: dict[float, Point]) -> None:
    style: dict[str, Any] = {"color": f"C{index}", "markersize": 5}
    known = {b0: point for b0, point in points.items() if isinstance(point, Accuracy)}
    lost = [b0 for b0, point in points.items() if point == "diverged"]
    if known or lost:
        means = [point.mean for point in known.values()]
        bars = [point.deviation or 0.0 for point in known.values()]
        marker, label = MARKERS[index % len(MARKERS)], TITLES.get(method, method)
        axes.errorbar(list(known), means, bars, marker=marker, capsize=3, label=label, **style)
    # The limits of the axes are not known yet, so crosses stand at a height of the axes.
    axes.plot(lost, [_FOOT] * len(lost), "x", transform=axes.get_xaxis_transform(), **style | {"markersize": 8})


def _table(comparison: Comparison) -> str:
    head = ["b0"]
    for method in comparison.methods:
        title = TITLES.get(method, method)
        head += [f"{title}, paper", f"{title}, ours"] if method in comparison.paper else [f"{title}, ours"]
    rows = []
    for b0 in comparison.b0s:
        row = [f"{b0:g}"]
        for method in comparison.methods:
            if method in comparison.paper:
                row.append(_text(comparison.theirs(method, b0), {"diverged": "N/A", None: "-"}))
            row.append(_our_text(comparison, method, b0))
        rows.append(row)
    return table(head, rows, names=0)


def _our_text(comparison: Comparison, method: str, b0: float) -> str:
    cell = comparison.cell(method, b0)
    reasons = ", ".join(sorted(set(cell.gaps.values()) - {"no run"})) or "not run"
    text = _text(comparison.ours(method, b0), {"diverged": reasons, None: reasons})
    return f"{text} ({len(cell.values)} of {len(comparison.results.seeds)} runs)" if cell.values and cell.gaps else text


def _text(point: Point, otherwise: dict[str | None, str]) -> str:
    if not isinstance(point, Accuracy):
        return otherwise[point]
    return f"{point.mean:.2f}" if point.deviation is None else f"{point.mean:.2f} ± {point.deviation:.2f}"


def _spreads(values: dict[str, float | None]) -> str:
    texts = {None: "not known", math.inf: "diverges"}
    return ", ".join(f"{TITLES[method]} {texts.get(value) or f'{value:.2f}'}" for method, value in values.items())


if __name__ == "__main__":
    run_from_shell(main)
