"""`python -m recipes.two_layer.report --out DIR`: the paper's claims about the two-layer network beside our runs."""

import sys
import time
from dataclasses import replace

from tqdm import tqdm

from recipes.shared.claims import Claim, claims_table
from recipes.shared.cli import run_from_shell, torch_threads
from recipes.shared.reports import Report, computing_parser, require_writable, this_machine
from recipes.two_layer import claims, experiments, figures
from recipes.two_layer.experiments import EPSILON, FLOOR, Setting

LEAST_WIDTH = 256  # below, H(0) is far from H-infinity and the claims are not about such networks
_QUICK = Setting(
    n=10, dim=10, width=64, steps=40, factors=(0.1, 2.0), widths=(64, 256), seeds=1, sizes=(5, 10), b0s=(1.0, 100.0),
    marks=(10, 20), stochastic_width=32,
)  # fmt: skip


def main(args: list[str] | None = None) -> None:
    """Runs the experiments and writes `two_layer.md` and its four figures.

    Args:
        args: Command line; None takes the one of the process.

    Raises:
        StoreError: The folder cannot be written.
    """
    parser = computing_parser("two_layer", "The paper's claims about the two-layer network beside our runs.")
    parser.add_argument("--quick", action="store_true", help="sizes too small for the theory: shows that it runs")
    options = parser.parse_args(args)
    require_writable(options.out)
    with torch_threads(1):  # more gain nothing at this size
        report(_QUICK if options.quick else Setting()).write(options.out)


def report(setting: Setting) -> Report:
    """Runs the four experiments."""
    began = time.process_time()
    with tqdm(total=setting.runs, desc="two_layer", unit="run", file=sys.stderr) as bar:
        seeds = range(setting.seeds)
        convergence = [experiments.convergence(setting, seed, bar.update) for seed in seeds]
        widths = [experiments.widths(setting, seed, bar.update) for seed in seeds]
        norms = [experiments.norms(setting, seed, bar.update) for seed in seeds]
        stochastic = [experiments.stochastic(setting, seed, bar.update) for seed in seeds]
    pictures = {
        "convergence": figures.draw_convergence(convergence[0]),
        "widths": figures.draw_widths(widths[0]),
        "norms": figures.draw_norms(norms[0]),
        "stochastic": figures.draw_stochastic(stochastic[0], setting.b0s, setting.marks),
    }
    found = [
        *claims.about_convergence(convergence),
        *claims.about_earlier_methods(convergence),
        *claims.about_widths(widths),
        *claims.about_norms(norms),
        *claims.about_stochastic(stochastic),
    ]
    found = [replace(claim, is_toy=setting.width < LEAST_WIDTH) for claim in found]
    text = _markdown(setting, [one.critical for one in convergence], found, time.process_time() - began)
    return Report("two_layer.md", text, {f"two_layer_{name}.png": figure for name, figure in pictures.items()})


def _markdown(setting: Setting, criticals: list[float], found: list[Claim], seconds: float) -> str:
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
        f"Machine: {this_machine()}, one thread; {seconds:.0f} s of computing time.",
        "",
        claims_table(found),
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
