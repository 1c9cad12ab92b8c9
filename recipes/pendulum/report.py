"""`python -m recipes.pendulum.report --experiment NAME --out DIR`: the paper's Figure 3 from our runs."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence

import gymnasium
import torch

from adaloss_lightning.tracking import open_store
from adaloss_lightning.tracking.reports.report import markdown_table, png, write_files
from adaloss_lightning.tracking.reports.results import Results
from recipes.pendulum.curves import Curve, arrange, read_curves
from recipes.pendulum.figure import draw
from recipes.shared.cli import run_from_shell
from recipes.shared.reports import folder_of, store_report_parser

REPORT_FILE, FIGURE_FILE = "pendulum.md", "pendulum_returns.png"


def main(args: list[str] | None = None) -> None:
    """Writes the figure and the tables.

    Raises:
        SweepError: The experiment does not exist, or has no runs of this recipe.
        StoreError: The store cannot be opened or the folder not be written.
    """
    options = store_report_parser("pendulum", "The paper's Figure 3 from the runs of an experiment.").parse_args(args)
    curves = read_curves(open_store(options.tracking_uri, reading=True), options.experiment)
    text = as_markdown(curves, options.experiment)
    files = {REPORT_FILE: text.encode(), FIGURE_FILE: png(draw(curves))}
    sys.stdout.writelines(f"wrote {path}\n" for path in write_files(folder_of(options), files))


def as_markdown(curves: Sequence[Curve], experiment: str) -> str:
    """The report: figure, return at the end, frames until the pendulum stays up, and what the paper claims."""
    results = arrange(curves, experiment)
    parts = [
        "# Inverted pendulum swing-up (the paper's Figure 3)",
        f"![mean return of the last 50 episodes against frames]({FIGURE_FILE})",
        "Curves: mean over seeds; bands: from the worst to the best seed; dashed: -200.",
        markdown_table(results).rstrip(),
        "Thousands of frames until the mean return of the last 50 episodes was above -200, seed by seed:",
        "\n".join(_solved_table(curves, results)),
        "\n".join(_claim(results)),
        _origin(curves),
    ]
    return "\n\n".join(parts) + "\n"


def _solved_table(curves: Sequence[Curve], results: Results) -> list[str]:
    head = ["method", *(f"b0 = {b0:g}" for b0 in results.b0s)]
    rows = [
        [panel, *(_solved([c for c in curves if (c.panel, c.b0) == (panel, b0)]) for b0 in results.b0s)]
        for panel in results.methods
    ]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---", *("---:" for _ in results.b0s)], *rows)]


def _solved(curves: Sequence[Curve]) -> str:
    frames = [curve.solved_at for curve in curves if not curve.gap]
    return ", ".join("never" if frame is None else f"{frame / 1000:.0f}" for frame in frames) or "-"


def _claim(results: Results) -> list[str]:
    lines = [
        "The paper: AdamLoss is robust over a range of b0 where Adam is very sensitive. Here, best less worst mean:",
        "",
    ]
    widths: dict[str, float] = {}
    for panel in results.methods:
        means = [cell.mean for cell in results.row(panel)]
        known = [mean for mean in means if mean is not None]
        if len(known) < 2 or len(known) < len(means):
            lines.append(f"- {panel}: unknown, for it has no value at {len(means) - len(known)} of {len(means)} b0.")
            continue
        widths[panel] = max(known) - min(known)
        lines.append(f"- {panel}: {widths[panel]:.0f} (worst {min(known):.0f}, best {max(known):.0f})")
    if {"adamloss", "adam"} <= widths.keys():
        holds = widths["adamloss"] < widths["adam"]
        lines += ["", f"The claim {'holds' if holds else 'does not show'} in these runs."]
    return lines


def _origin(curves: Sequence[Curve]) -> str:
    seconds = [curve.seconds for curve in curves if curve.seconds is not None and not curve.gap]
    frames = sorted({curve.frames[-1] for curve in curves if curve.frames and not curve.gap})
    text = f"Data: gymnasium {gymnasium.__version__}, Pendulum-v1; {len(curves)} runs"
    if frames:
        text += f" of {' or '.join(f'{count:,}' for count in frames)} frames"
    if seconds:
        text += f", {min(seconds):.0f} to {max(seconds):.0f} s each (median {statistics.median(seconds):.0f} s)"
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    return f"{text}. The report was written on this machine: {machine}."


if __name__ == "__main__":
    run_from_shell(main)
