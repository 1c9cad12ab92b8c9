"""`python -m recipes.two_layer.report --out DIR`: the paper's claims about the two-layer network beside our runs."""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import torch
from tqdm import tqdm

from recipes.shared.claims import Claim, claims_table
from recipes.shared.cli import run_from_shell, torch_threads
from recipes.shared.reports import Report, computing_parser, report_on_numbers, this_machine
from recipes.two_layer import claims, experiments, figures
from recipes.two_layer.experiments import EPSILON, FLOOR, Setting, Study

LEAST_WIDTH = 256  # below, H(0) is far from H-infinity and the claims are not about such networks
_QUICK = Setting(
    n=10, dim=10, width=64, steps=40, factors=(0.1, 2.0), widths=(64, 256), seeds=1, sizes=(5, 10), b0s=(1.0, 100.0),
    marks=(10, 20), stochastic_width=32,
)  # fmt: skip


def main(args: list[str] | None = None) -> None:
    """Runs the experiments and writes `two_layer.md`, its four figures and `numbers.json`.

    Args:
        args: Command line; None takes the one of the process.

    Raises:
        StoreError: The folder cannot be written.
    """
    parser = computing_parser("two_layer", "The paper's claims about the two-layer network beside our runs.")
    parser.add_argument("--quick", action="store_true", help="sizes too small for the theory: shows that it runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    options = parser.parse_args(args)
    if options.jobs < 1:
        parser.error(f"Invalid --jobs={options.jobs}. Must be >= 1.")
    setting, jobs = (_QUICK, 1) if options.quick else (Setting(), options.jobs)
    with torch_threads(1):  # more gain nothing at this size
        report_on_numbers(options, lambda: study(setting, jobs), report)


def study(setting: Setting, jobs: int) -> Study:
    """Runs the four experiments with every seed, in as many processes."""
    began = time.perf_counter()
    # The longest ones first, so that no core is left with one of them at the end.
    four: tuple[Callable[[Setting, int], Any], ...]
    four = (experiments.stochastic, experiments.convergence, experiments.widths, experiments.norms)
    todo = [(experiment, seed) for experiment in four for seed in range(setting.seeds)]
    with tqdm(total=len(todo), desc="two_layer", unit="experiment", file=sys.stderr) as bar, _pool(jobs) as pool:
        futures = [pool.submit(experiment, setting, seed) for experiment, seed in todo]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        except BaseException:  # a failure, or Ctrl-C, ends the report with what is being run
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    results: list[Any] = [future.result() for future in futures]
    stochastic, convergence, widths, norms = (
        results[place : place + setting.seeds] for place in range(0, len(results), setting.seeds)
    )
    return Study(setting, convergence, widths, norms, stochastic, this_machine(), time.perf_counter() - began)


def _pool(jobs: int) -> Executor:
    if jobs == 1:
        return ThreadPoolExecutor(1)
    spawn = get_context("spawn")  # torch's threads do not survive a fork
    return ProcessPoolExecutor(jobs, spawn, initializer=torch.set_num_threads, initargs=(1,))


def report(found: Study) -> Report:
    """Draws the figures and judges the claims."""
    setting = found.setting
    pictures = {
        "convergence": figures.draw_convergence(found.convergence[0]),
        "widths": figures.draw_widths(found.widths[0]),
        "norms": figures.draw_norms(found.norms[0]),
        "stochastic": figures.draw_stochastic(found.stochastic[0], setting.b0s, setting.marks),
    }
    text = _markdown(found)
    return Report("two_layer.md", text, {f"two_layer_{name}.png": figure for name, figure in pictures.items()})


def judged(found: Study) -> list[Claim]:
    """All claims, with their evidence."""
    all_claims = [
        *claims.about_convergence(found.convergence),
        *claims.about_earlier_methods(found.convergence),
        *claims.about_widths(found.widths),
        *claims.about_norms(found.norms),
        *claims.about_stochastic(found.stochastic),
    ]
    return [replace(claim, is_toy=found.setting.width < LEAST_WIDTH) for claim in all_claims]


def _markdown(study: Study) -> str:
    setting, criticals = study.setting, [one.critical for one in study.convergence]
    lines = [
        "# Two-layer ReLU network",
        "",
        f"Data: {setting.n} normalized Gaussian inputs of dimension {setting.dim}, standard Gaussian labels. Network: "
        f"m = {setting.width}, fixed signs, float64. eta = {setting.lr:g}, alpha = {setting.alpha:g}, which is the "
        f"theorem's alpha = {(setting.alpha / 2) ** 0.5 / setting.n**0.25:.2g}. Full-batch runs have at most "
        f"{setting.steps} steps. Critical value b* = eta (lambda_0 + norm(H-infinity)) / 2 = "
        f"{min(criticals):.3g} to {max(criticals):.3g}, that is "
        f"C = 1. The global minimum counts as reached at L <= {EPSILON:g}.",
        "",
        f"Machine: {study.machine}, {study.seconds:.0f} s.",
        "",
        claims_table(judged(study)),
        "![Loss curves from b0 on both sides of the critical value](two_layer_convergence.png)",
        "",
        f"{setting.seeds} seeds, each with its own data and initialization; the figures show the first.",
        "",
        "Distances against the width, gradient descent with step 1 / norm(H-infinity) to the global minimum:",
        "",
        "![Distances from the start against the width](two_layer_widths.png)",
        "",
        f"Figure 5 (the fixed d is {setting.dim}):",
        "",
        "![Norm of H-infinity against n](two_layer_norms.png)",
        "",
        f"Figure 6 (m = {setting.stochastic_width}, rows drawn with replacement; a loss below {FLOOR:g} "
        f"counts as {FLOOR:g}):",
        "",
        "![AdaLoss and AdaGrad-Norm over b0](two_layer_stochastic.png)",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run_from_shell(main)
