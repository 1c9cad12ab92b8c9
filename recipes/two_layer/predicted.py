"""`python -m recipes.two_layer.predicted --method adaloss`: predictions of the theory beside a run."""

import math
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from adaloss_lightning.theory.gram import h_empirical, h_infinity, lambda_0, spectral_norm
from recipes.shared import numbers
from recipes.shared.claims import t_interval
from recipes.shared.cli import run_from_shell, torch_threads
from recipes.shared.figures import COLOURS, panels, styled
from recipes.shared.reports import Report, require_writable, table
from recipes.two_layer.baselines import du_rate, gradient_descent, residual_adaloss
from recipes.two_layer.data import Batch
from recipes.two_layer.descent import MakeOptimizer, adaloss, descend, new_network, training_set
from recipes.two_layer.monitor import Start

METHODS = ("adaloss", "residual_adaloss", "gradient_descent", "du_gradient_descent")
_SEEDS = (0, 1, 2)
_ROUNDING = 1e-25  # of L at the start: below it float64 goes no further, and the line bends
_DISTANCES = {
    "weight_distance": "max_r norm(w_r(k) - w_r(0))",
    "activation_changes": "share of changed activations",
    "gram_drift": "norm(H(k) - H(0))",
}


@dataclass(frozen=True)
class Trace:
    """A run of one seed: by step, `losses` and `predicted`, and the three distances; `bounds` are those of Du et al."""

    losses: list[float]
    predicted: list[float]
    rates: list[float]
    distances: dict[str, list[float]]
    bounds: dict[str, float]

    def fitted(self, losses: list[float]) -> float:
        """Slope of log L per step by least squares, over the second half of the steps above rounding."""
        count = next((k for k, loss in enumerate(losses) if loss <= _ROUNDING * losses[0]), len(losses))
        half = count // 2
        return float(np.polyfit(np.arange(half, count), np.log(losses[half:count]), 1)[0])


def predicted_losses(h: Tensor, residual: Tensor, rates: list[float]) -> list[float]:
    """L under a constant H: u(k+1) - y = (I - rate_k H)(u(k) - y)."""
    losses = [float(residual.square().sum() / 2)]
    for rate in rates:
        residual = residual - rate * (h @ residual)
        losses.append(float(residual.square().sum() / 2))
    return losses


def bounds(h: Tensor, residual: Tensor, width: int) -> dict[str, float]:
    r"""Bounds for all k; the last two are for the mean over W(0).

    - R = 4 sqrt(n) norm(y - u(0)) / (sqrt(m) lambda_0), Corollary 4.1 of Du et al. It presumes their width.
    - A pattern changes only if abs(<w_r(0), x_i>) <= R, whose probability is at most 2 R / sqrt(2 pi).
    - An entry of H moves by at most the sum of two such shares, and the norm of H by at most the largest sum of a row,
      n entries: about that, as the mean of the largest row is more than the largest mean.
    """
    n = len(h)
    radius = 4 * math.sqrt(n / width) * float(residual.norm()) / float(lambda_0(h))
    share = 2 * radius / math.sqrt(2 * math.pi)
    return {"weight_distance": radius, "activation_changes": min(1.0, share), "gram_drift": 2 * n * share}


def trace(batch: Batch, make: MakeOptimizer, lr: float, width: int, steps: int, seed: int) -> Trace:
    """Trains one network step by step and measures it after each."""
    x, y = batch
    network = new_network(x.shape[1], width, seed)
    start, h0 = Start.of(network, x, y), h_empirical(x, network.w)
    residual = network(x).detach() - y
    optimizer = make(network)
    seen, rates = [start.distances(network)], []
    for _ in range(steps):
        run = descend(network, batch, lambda _: optimizer, steps=1)
        rates.append(lr / run.b[0])
        seen.append(start.distances(network))
    distances = {name: [row[name] for row in seen] for name in _DISTANCES}
    losses = [row["loss"] for row in seen]
    return Trace(
        losses, predicted_losses(h0, residual, rates), rates, distances, bounds(h_infinity(x), residual, width)
    )


@dataclass(frozen=True)
class Prediction:
    """Runs of a method from several seeds, on n inputs of dimension n whose H-infinity has the eigenvalue lambda_0."""

    method: str
    n: int
    width: int
    lr: float
    lambda_0: float
    runs: list[Trace]

    def slopes(self) -> dict[str, list[float]]:
        """Slopes of log L per step, of each seed."""
        return {
            "predicted from H(0)": [run.fitted(run.predicted) for run in self.runs],
            "measured": [run.fitted(run.losses) for run in self.runs],
        }


def predict(method: str, n: int = 20, width: int = 4096, steps: int = 60, lr: float = 10.0) -> Prediction:
    """Runs a method from three seeds."""
    batch = training_set(n, n)
    h = h_infinity(batch[0])
    constant = {"gradient_descent": 1 / float(spectral_norm(h)), "du_gradient_descent": du_rate(h)}
    lr = constant.get(method, lr)
    fed = residual_adaloss if method == "residual_adaloss" else adaloss
    make = gradient_descent(lr) if method in constant else fed(lr, 1.0)
    return Prediction(
        method, n, width, lr, float(lambda_0(h)), [trace(batch, make, lr, width, steps, seed) for seed in _SEEDS]
    )


def report(found: Prediction) -> Report:
    """Writes the page of a method."""
    runs, stem = found.runs, f"two_layer_predicted_{found.method}"
    ends = [2 * math.log(abs(1 - run.rates[-1] * found.lambda_0)) for run in runs]
    rows = [[f"slope of log L, {text}", *spread(values)] for text, values in found.slopes().items()]
    rows.append(["2 log(1 - rate lambda_0), where the slope ends", *spread(ends)])
    reached = [
        [text, *spread([run.distances[name][-1] for run in runs]), f"{max(run.bounds[name] for run in runs):.3g}"]
        for name, text in _DISTANCES.items()
    ]
    lines = [
        f"# Predicted and measured: {found.method}",
        "",
        f"n = d = {found.n}, m = {found.width}, {len(runs[0].rates)} full-batch steps, eta = {found.lr:.3g}, "
        f"seeds {_SEEDS}: mean and 95 % interval over the seeds, Student's t. Slopes are per step, fitted to the "
        "second half.",
        "",
        table(["rate", "mean", "+/-"], rows),
        table(["distance after the last step", "mean", "+/-", "largest bound"], reached),
        "The bounds are those of wide networks, from Du et al. At this width they are loose; a share is at most 1.",
        "",
        f"![Predicted and measured]({stem}.png)",
    ]
    return Report(f"{stem}.md", "\n".join(lines) + "\n", {f"{stem}.png": draw(runs)})


@styled
def draw(runs: list[Trace]) -> Figure:
    """Loss, and the three distances with their bounds, of each seed."""
    figure, (axes,) = panels(13, 3.6, 1, 4)
    for seed, (run, colour) in enumerate(zip(runs, COLOURS, strict=False)):
        axes[0].plot(run.losses, color=colour, label=f"measured, seed {seed}")
        axes[0].plot(run.predicted, color=colour, linestyle="--", label="predicted, H(0)" if seed == 0 else None)
        for ax, name in zip(axes[1:], _DISTANCES, strict=True):
            ax.plot(range(1, len(run.losses)), run.distances[name][1:], color=colour)  # zero at the start
            ax.axhline(run.bounds[name], color=colour, linestyle=":", label="bound" if seed == 0 else None)
    for ax, title in zip(axes, ("L", *_DISTANCES.values()), strict=True):
        ax.set(title=title, xlabel="step", yscale="log")
    axes[0].legend()
    axes[1].legend()
    return figure


def main(args: list[str] | None = None) -> None:
    """Runs a method, and writes its page and the numbers that it shows."""
    parser = ArgumentParser("python -m recipes.two_layer.predicted", description=__doc__, allow_abbrev=False)
    parser.add_argument("--method", choices=METHODS, default="adaloss", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=60, help="full-batch steps (default: %(default)s)")
    parser.add_argument("--width", type=int, default=4096, help="hidden units (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/two_layer"), help="(default: %(default)s)")
    options = parser.parse_args(args)
    for name, least in (("steps", 4), ("width", 1)):
        if getattr(options, name) < least:
            parser.error(f"Invalid --{name}={getattr(options, name)}. Must be >= {least}.")
    require_writable(options.out)
    with torch_threads(1):
        text = numbers.dumps(predict(options.method, width=options.width, steps=options.steps))
    report(numbers.loads(text)).write(options.out, {f"two_layer_predicted_{options.method}.json": text.encode()})


def spread(values: list[float]) -> tuple[str, str]:
    """Mean over the seeds and half of its 95 % interval."""
    mean, _, high = t_interval(values)
    return f"{mean:.3g}", f"{high - mean:.2g}"


if __name__ == "__main__":
    run_from_shell(main)
