"""Table 1 beside our runs: `python -m recipes.vit_cifar100.report --experiment NAME --out DIR`."""

import sys

from adaloss_lightning.tracking import open_store
from adaloss_lightning.tracking.reports.report import png, write_files
from recipes.shared.cli import run_from_shell
from recipes.shared.reports import folder_of, store_report_parser
from recipes.vit_cifar100.comparison import METRIC, Comparison, compare
from recipes.vit_cifar100.table1 import TITLES, Accuracy

TABLE_FILE, FIGURE_FILE = "table1.md", "table1.png"


def markdown(comparison: Comparison) -> str:
    """The table, the settings that differ, and which claims of the paper our runs show."""
    results = comparison.results
    lines = [
        "Test accuracy in % of the best validation epoch, mean ± standard deviation. "
        f"Experiment {results.experiment}, seeds {', '.join(results.seeds)}.",
        f"Network: {', '.join(comparison.networks)}. Machine: {', '.join(comparison.machines)}; a run took "
        f"{comparison.minutes:.1f} minutes (median).",
        "",
        *("| " + " | ".join(row) + " |" for row in _rows(comparison)),
        "",
    ]
    if comparison.differences:
        lines += ["These runs are not the experiment of Table 1:", ""]
        lines += [*(f"- {difference}" for difference in comparison.differences), ""]
    return "\n".join([*lines, *claims(comparison), "", f"![{METRIC} against b0]({FIGURE_FILE})", ""])


def claims(comparison: Comparison) -> list[str]:
    """What the paper reads from Table 1, and whether our runs show it; nothing is judged from any other runs."""
    if not comparison.is_table1:
        return ["What the paper says about Table 1 is not tested by these runs."]
    spreads = {method: comparison.spread(method) for method in comparison.paper}
    known = [spread for spread in spreads.values() if spread is not None]
    shown = ", ".join(f"{TITLES[method]} {_spread(spread)}" for method, spread in spreads.items())
    flattest = spreads["adaloss"] == min(known) if len(known) == len(spreads) else None
    lost = [b0 for b0, value in comparison.paper["sgd_constant"].items() if value is None]
    is_known = all(comparison.is_whole("sgd_constant", b0) for b0 in lost)
    all_lost = all(comparison.ours("sgd_constant", b0) == "diverged" for b0 in lost) if is_known else None
    paper = ", ".join(f"{TITLES[method]} {_spread(_paper_spread(comparison, method))}" for method in spreads)
    return [
        f"- AdaLoss depends least on b0: {_verdict(flattest)}. Best minus worst mean, ours: {shown}; "
        f"the paper's: {paper}.",
        f"- SGD-Constant diverges for b0 = {' and '.join(f'{b0:g}' for b0 in lost)}: {_verdict(all_lost)}.",
    ]


def main(args: list[str] | None = None) -> None:
    """Writes `table1.md` and `table1.png`, and prints the first.

    Raises:
        TrackingError: There is no such store or experiment, it has no test accuracy or runs of another recipe, or the
            folder cannot be written.
    """
    from recipes.vit_cifar100.figure import draw

    about = "The paper's Table 1 beside the newest sweep of an experiment."
    options = store_report_parser("vit_cifar100", about).parse_args(args)
    comparison = compare(open_store(options.tracking_uri, reading=True), options.experiment)
    table = markdown(comparison)
    files = {TABLE_FILE: table.encode(), FIGURE_FILE: png(draw(comparison))}
    written = write_files(folder_of(options), files)
    sys.stdout.writelines([f"{table}\n", *(f"wrote {path}\n" for path in written)])


def _rows(comparison: Comparison) -> list[list[str]]:
    head = ["b0"]
    for method in comparison.methods:
        title = TITLES.get(method, method)
        head += [f"{title}, paper", f"{title}, ours"] if method in comparison.paper else [f"{title}, ours"]
    rows = [head, ["---:"] * len(head)]
    for b0 in comparison.b0s:
        row = [f"{b0:g}"]
        for method in comparison.methods:
            if method in comparison.paper:
                row.append(_paper_text(comparison, method, b0))
            row.append(_our_text(comparison, method, b0))
        rows.append(row)
    return rows


def _paper_text(comparison: Comparison, method: str, b0: float) -> str:
    point = comparison.theirs(method, b0)
    return _text(point) if isinstance(point, Accuracy) else "N/A" if point == "diverged" else "-"


def _our_text(comparison: Comparison, method: str, b0: float) -> str:
    point, cell = comparison.ours(method, b0), comparison.cell(method, b0)
    if isinstance(point, Accuracy):
        seeds = len(comparison.results.seeds)
        return f"{_text(point)} ({len(cell.values)} of {seeds} runs)" if cell.gaps else _text(point)
    reasons = sorted(set(cell.gaps.values()) - {"no run"})
    return ", ".join(reasons) or "not run"


def _text(value: Accuracy) -> str:
    return f"{value.mean:.2f}" if value.deviation is None else f"{value.mean:.2f} ± {value.deviation:.2f}"


def _paper_spread(comparison: Comparison, method: str) -> float:
    values = comparison.paper[method].values()
    means = [value.mean for value in values if value is not None]
    return max(means) - min(means) if len(means) == len(values) else float("inf")


def _spread(value: float | None) -> str:
    return "not known" if value is None else "diverges" if value == float("inf") else f"{value:.2f}"


def _verdict(holds: bool | None) -> str:
    return {True: "holds", False: "does not hold", None: "not tested, runs are missing"}[holds]


if __name__ == "__main__":
    run_from_shell(main)
