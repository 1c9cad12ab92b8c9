"""Does b_t cross the critical value eta lambda_max / 2 during training, and stay above it?

The theorems say so of linear regression and of two-layer networks. Here AdaLoss and AdaGrad-Norm, both around plain
SGD, train four networks from a small and from a large b0, while `SharpnessCallback` measures the largest Hessian
eigenvalue on fixed batches. Seeds are runs of their own; intervals are Student's t with 95 %, on the mean over seeds.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from matplotlib.figure import Figure

from adaloss_lightning import AdaGradNorm, AdaLoss, AdaLossCallback, SharpnessCallback
from benchmarks.common import Row, arguments, print_table, write_json
from benchmarks.lightning_loop import silence, trainer
from recipes.digits.data import DigitsData
from recipes.digits.module import DigitsModule
from recipes.python_gpt.data import PythonData
from recipes.python_gpt.module import GPTModule
from recipes.shared.claims import t_interval
from recipes.shared.figures import COLOURS, panels, shared_legend, styled

METHODS: dict[str, Callable[..., torch.optim.Optimizer]] = {"AdaLoss": AdaLoss, "AdaGrad-Norm": AdaGradNorm}
FACTORS = (0.01, 10.0)  # b0, in critical values at the start of the first seed
COLUMNS = {
    "network": "{network}",
    "method": "{method}",
    "b0 / critical": "{factor:g}",
    "crossed at step": "{crossed}",
    "then above": "{above}",
    "b / critical, least after crossing": "{least}",
    "b / critical, last": "{last}",
    "sharpness, last / first": "{sharper}",
    "training loss, last / first": "{loss}",
}


class Network(NamedTuple):
    """A network with its data, and how long and how closely it is looked at."""

    module: Callable[[], pl.LightningModule]
    data: Callable[[], pl.LightningDataModule]
    lr: float  # eta of the recipe
    steps: int
    every: int  # steps from measurement to measurement
    batches: int  # of each measurement


NETWORKS = {
    "digits, MLP": Network(lambda: DigitsModule("mlp"), DigitsData, 10.0, 204, 12, 8),
    "digits, CNN": Network(lambda: DigitsModule("cnn"), DigitsData, 10.0, 204, 12, 8),
    "digits, ViT": Network(lambda: DigitsModule("vit"), DigitsData, 10.0, 204, 17, 2),
    "python_gpt": Network(GPTModule, PythonData, 3.0, 240, 24, 1),
}


def run(network: Network, method: str, b0: float, seed: int) -> Row:
    """What was measured in one run: lists over the measurements, and the loss of each step."""
    pl.seed_everything(seed, verbose=False)
    module: Any = network.module()
    module.configure_optimizers = lambda: METHODS[method](module.parameters(), lr=network.lr, b0=b0)
    sharpness = SharpnessCallback(network.every, network.batches, tolerance=0.05, max_products=20)
    losses = Losses()
    fitter = trainer(
        max_epochs=-1,
        max_steps=network.steps,
        accelerator="cpu",
        logger=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=[AdaLossCallback(), sharpness, losses],
    )
    fitter.fit(module, datamodule=network.data())
    names = ("step", "lambda_max", "error", "b", "critical_b")
    measured = {name: [entry[name] for entry in sharpness.history] for name in names} | {"loss": losses.values}
    return {name: [float(f"{value:.5g}") for value in values] for name, values in measured.items()}


class Losses(pl.Callback):
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes in the step's loss."""
        self.values.append(float(outputs["loss"]))


def critical_at_start(network: Network, seed: int) -> float:
    """The critical value before the first step."""
    begun = run(network._replace(steps=1, every=2), "AdaLoss", 1.0, seed)
    return float(begun["critical_b"][0])


def rows(networks: dict[str, Network], seeds: Sequence[int]) -> Iterator[Row]:
    """One row for each network, method and b0, with the runs of all seeds in it."""
    for name, network in networks.items():
        critical = critical_at_start(network, seeds[0])
        for method, factor in product(METHODS, FACTORS):
            b0 = float(f"{factor * critical:.2g}")
            runs = [run(network, method, b0, seed) for seed in seeds]
            about = {"network": name, "method": method, "factor": factor, "b0": b0, "lr": network.lr}
            yield about | summary(runs) | {"runs": runs}


def summary(runs: Sequence[Row]) -> Row:
    """Text for the table: of the steps the range over seeds, of everything else the mean and its interval."""
    ratios = list(map(ratios_of, runs))
    crossings = [crossing(ratio) for ratio in ratios]
    after = [ratio[place:] for ratio, place in zip(ratios, crossings, strict=True) if place is not None]
    steps = [int(one["step"][place]) for one, place in zip(runs, crossings, strict=True) if place is not None]
    window = max(1, len(runs[0]["loss"]) // 20)
    return {
        "crossed": (f"{min(steps)} to {max(steps)}" if steps else "never")
        + (f", {len(runs) - len(steps)} never" if 0 < len(steps) < len(runs) else ""),
        "above": interval([100 * sum(value >= 1 for value in one) / len(one) for one in after], ".0f", " %"),
        "least": interval([min(one) for one in after]),
        "last": interval([ratio[-1] for ratio in ratios]),
        "sharper": interval([one["lambda_max"][-1] / one["lambda_max"][0] for one in runs]),
        "loss": interval([statistics.mean(one["loss"][-window:]) / one["loss"][0] for one in runs], ".2g"),
    }


def ratios_of(run: Row) -> list[float]:
    """Measurement by measurement, b over its critical value."""
    return [b / critical for b, critical in zip(run["b"], run["critical_b"], strict=True)]


def crossing(ratios: Sequence[float]) -> int | None:
    """Place of the first measurement with b at or above its critical value."""
    return next((place for place, ratio in enumerate(ratios) if ratio >= 1), None)


def interval(values: Sequence[float], form: str = ".2f", unit: str = "") -> str:
    """Mean and half of its 95 % interval; nothing where there are no values."""
    if not values:
        return ""
    mean, _, high = t_interval(values)
    return f"{mean:{form}}" + (f" ± {high - mean:{form}}" if len(values) > 1 else "") + unit


@styled
def draw(found: Sequence[Row]) -> Figure:
    """Draw b over its critical value against steps, one panel a network, one line a run."""
    names = list(dict.fromkeys(row["network"] for row in found))
    figure, (axes,) = panels(0.6 + 3.1 * len(names), 3.6, 1, len(names), sharey=True)
    for row in found:
        panel = axes[names.index(row["network"])]
        place = list(METHODS).index(row["method"])
        for one in row["runs"]:
            below = row["factor"] < 1
            label = f"{row['method']}, b0 {'below' if below else 'above'} it"
            panel.plot(
                one["step"], ratios_of(one), "-" if below else "--", color=COLOURS[place], linewidth=1.2, label=label
            )
    for name, panel in zip(names, axes, strict=True):
        panel.axhline(1, color="#444444", linewidth=1, zorder=1)
        panel.set(title=name, xlabel="step", yscale="log")
    axes[0].set_ylabel(r"$b_t\,/\,(\eta\lambda_{\max}/2)$")
    shared_legend(figure, "outside lower center", columns=4)
    return figure


def main() -> None:
    """Measure, print, and draw."""
    parser = arguments("sharpness", __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs a row")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="which to train")
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/sharpness.png"), help="where the figure goes")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    silence()
    warnings.filterwarnings("ignore")
    chosen = {name: NETWORKS[name] for name in given.networks}
    print(f"seeds: {given.seeds}\n")
    found = print_table(rows(chosen, range(1, given.seeds + 1)), COLUMNS)
    write_json(given.json, "sharpness", found, seeds=given.seeds)
    draw(found).savefig(given.figure, dpi=150)


if __name__ == "__main__":
    main()
