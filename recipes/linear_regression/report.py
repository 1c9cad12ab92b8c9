"""`python -m recipes.linear_regression.report --out DIR`: Figure 1, Lemma 1, Theorem 1, and which claims hold."""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from tqdm.auto import tqdm

from recipes.linear_regression.batched import ADAPTIVE, METHODS, Problems
from recipes.linear_regression.claims import (
    figure_1_claims,
    lemma_1_claims,
    proposition_1_claims,
    span,
    theorem_1_claims,
)
from recipes.linear_regression.figures import DEEPEST, draw_figure_1, draw_lemma_1, draw_theorem_1
from recipes.linear_regression.studies import (
    C_S,
    STEPS,
    WINDOWS,
    Comparison,
    Study,
    accuracies,
    compare,
    crossings,
    figure_1,
    proposition_1,
)
from recipes.shared.claims import Claim, claims_table
from recipes.shared.cli import run_from_shell, torch_threads
from recipes.shared.reports import Report, computing_parser, report_on_numbers, table, this_machine

N, D = 1000, 800  # of Figure 1: the size of its picture in the paper
THEORY_N, THEORY_D = 100, 20  # well conditioned, so that every b0 gets from 1 to 1e-60 within ACCURACY_STEPS
DISTANCES = (1.0, 1e-2, 1e-4)
CROSSING_STEPS = 1000
ACCURACY_STEPS = 20_000
SHAPES = "100x20,100x80,1000x200,1000x800"
SHAPE_DISTANCES = (0.1, 1.0, 10.0)
SHAPE_SEEDS = 4


def main(args: list[str] | None = None) -> None:
    """Runs the studies, writes `claims.md`, the four figures and `numbers.json`, and prints the first.

    Raises:
        SystemExit: Arguments that make no sense.
        StoreError: The folder cannot be written.
    """
    options = _parse(args)
    with torch_threads(options.threads):
        report_on_numbers(options, lambda: _study(options), _report)


def _study(options: argparse.Namespace) -> Study:
    seeds = range(1, options.seeds + 1)
    b0 = torch.logspace(-4, 4, options.points, dtype=torch.float64)
    runs = 2 * len(METHODS) + len(ADAPTIVE) + len(ADAPTIVE) * len(options.shapes) * len(SHAPE_DISTANCES)
    total = runs * STEPS + len(ADAPTIVE) * (ACCURACY_STEPS + len(DISTANCES) * CROSSING_STEPS)
    sweeps, starts, seconds = {}, {}, {}
    with tqdm(total=total, unit="step", mininterval=0.5, disable=None) as bar:
        by_rows = Problems.draw(seeds, N, D, STEPS).in_eigenbasis()
        for setting, problems in (("full_batch", replace(by_rows, rows=None)), ("stochastic", by_rows)):
            started = time.perf_counter()
            sweeps[setting] = figure_1(problems, b0, bar.update)
            seconds[setting] = time.perf_counter() - started
            starts[setting] = problems.loss(problems.start.unsqueeze(2)).mean().item()
        theory = Problems.draw(seeds, THEORY_N, THEORY_D).in_eigenbasis()
        multiples = torch.tensor([1e-6, 1e-4, 1e-2, 0.5, 2.0, 10.0, 30.0], dtype=torch.float64)
        targets = torch.logspace(0, -60, 31, dtype=torch.float64)
        timed = accuracies(theory, multiples, targets, ACCURACY_STEPS, bar.update)
        below = torch.logspace(-9, -0.05, 31, dtype=torch.float64)
        found = crossings(theory, below, DISTANCES, CROSSING_STEPS, bar.update)
        above = torch.tensor([1.0, 2.0, 5.0, 10.0], dtype=torch.float64)
        constant = proposition_1(by_rows, above, bar.update)
        compared = [
            compare(problems, b0[b0 < 1][::3], distance, bar.update)
            for problems in (Problems.draw(seeds[:SHAPE_SEEDS], n, d, STEPS).in_eigenbasis() for n, d in options.shapes)
            for distance in SHAPE_DISTANCES
        ]
    machine = f"{this_machine()}, threads: {options.threads}"
    return Study(len(seeds), b0, sweeps, starts, found, timed, constant, compared, machine, seconds)


def _report(study: Study) -> Report:
    figures = {
        f"figure_1_{setting}": draw_figure_1(
            study.b0,
            runs,
            study.start_loss[setting],
            f"Figure 1, {_words(setting)}: n = {N}, d = {D}, {study.seeds} seeds"
            f" (geometric mean and range; below {DEEPEST:g}: drawn there; x: above 10 times the start)",
        )
        for setting, runs in study.figure_1.items()
    }
    figures |= {"lemma_1": draw_lemma_1(study.found, study.timed), "theorem_1": draw_theorem_1(study.timed)}
    text = _document(study, claims_table(judged(study)), comparison_table(study.compared))
    text += "".join(f"![{_words(name)}]({name}.png)\n" for name in figures)
    return Report("claims.md", text, {f"{name}.png": figure for name, figure in figures.items()})


def judged(study: Study) -> list[Claim]:
    """All claims, with their evidence."""
    return [
        *figure_1_claims(study.b0, study.figure_1["stochastic"]),
        *lemma_1_claims(study.found, study.timed),
        *theorem_1_claims(study.timed),
        *proposition_1_claims(study.constant),
    ]


def comparison_table(compared: Sequence[Comparison]) -> str:
    """What becomes of the claims about b0 < 1 on other problems, in Markdown."""
    losses = [f"loss, steps {span(window)}" for window in range(len(WINDOWS))]
    rows = (
        [
            f"{one.n} x {one.d}",
            f"{one.distance:g}",
            *(f"{value:.2g}" for value in (*one.loss_ratio.tolist(), one.rate_ratio[-1].item())),
        ]
        for one in compared
    )
    return table(["n x d", "distance of the start", *losses, f"1/b, steps {span(-1)}"], rows)


def _document(study: Study, claims: str, compared: str) -> str:
    points = f"{len(study.b0)} b0 x {len(METHODS)} methods x {study.seeds} seeds x {STEPS:,} steps"
    took = ", ".join(f"{_words(name)} {value:.1f} s" for name, value in study.seconds.items())
    return (
        "# Claims of the paper on linear regression\n\n"
        f"Gaussian X ({N} x {D}; Lemma 1, Theorem 1 and Corollary 1: {THEORY_N} x {THEORY_D}) and w*, w_0 = 0, eta = 1,"
        f" c_s = {C_S:g}, float64; seeds 1 to {study.seeds}. {study.machine}.\n"
        f"Figure 1, {points}: {took}.\n\n{claims}\n"
        "The claims about b0 < 1 on other problems: AdaLoss relative to AdaGrad-Norm, geometric mean over"
        f" {min(SHAPE_SEEDS, study.seeds)} seeds and b0 < 1, one row a step, distance as a multiple of norm(w*);"
        f" below 1 AdaLoss is ahead.\n\n{compared}\n"
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = computing_parser("linear_regression", "Figure 1, Lemma 1, Theorem 1, and which claims hold.")
    parser.add_argument("--seeds", type=int, default=10, help="problems to average over (default: 10)")
    parser.add_argument("--points", type=int, default=25, help="b0 from 1e-4 to 1e4 (default: 25)")
    parser.add_argument("--shapes", type=_shapes, default=SHAPES, help="problems to compare on (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args(args)
    for name, least in (("seeds", 1), ("points", 2), ("threads", 1)):
        if getattr(options, name) < least:
            parser.error(f"Invalid --{name}={getattr(options, name)}. Must be >= {least}.")
    return options


def _shapes(text: str) -> list[tuple[int, int]]:
    shapes = [tuple(int(part) for part in shape.split("x") if part.isdecimal()) for shape in text.split(",")]
    if any(len(shape) != 2 or not shape[0] >= shape[1] >= 1 for shape in shapes):
        raise argparse.ArgumentTypeError(f"Invalid --shapes={text}. Must be n x d with n >= d >= 1, such as {SHAPES}.")
    return [(n, d) for n, d in shapes]


if __name__ == "__main__":
    run_from_shell(main)
