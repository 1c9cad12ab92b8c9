"""Table 1 of the paper beside our runs, point by point."""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from adaloss_lightning.tracking.reports.results import Cell, Results


class Accuracy(NamedTuple):
    """Test accuracy in percent, mean and sample standard deviation over the runs; no deviation for a single one."""

    mean: float
    deviation: float | None


Point = Accuracy | Literal["diverged"] | None  # None where there is no run

TITLES = {
    "adaloss": "AdaLoss",
    "adagrad_norm": "AdaGrad-Norm",
    "adagrad_norm_authors": "AdaGrad-Norm of the authors' code",
    "sgd_constant": "SGD-Constant",
    "sgd_decay_sqrt": "SGD-DecaySqrt",
    "adamloss": "AdamLoss",
    "adamw": "AdamW",
}
B0S = (0.01, 0.1, 1.0, 10.0, 100.0)
VIT = "vit_small_patch16_224"
RESNET = "resnet50.fb_swsl_ig1b_ft_in1k"
ROWS = {"adagrad_norm_authors": "adagrad_norm"}  # methods of ours that repeat a row of the paper under another name

PaperRow = dict[float, Point]  # by b0; the paper's N/A is a divergence


def _row(values: tuple[tuple[float, float | None] | None, ...]) -> PaperRow:
    return {b0: Accuracy(*value) if value else "diverged" for b0, value in zip(B0S, values, strict=True)}


# ViT-S/16: Table 1 of arXiv 2109.08282. ResNet-50: the README of the authors' repository. Three runs a point.
PAPER: dict[str, dict[str, PaperRow]] = {
    VIT: {
        "adaloss": _row(((90.65, 0.09), (90.64, 0.15), (90.58, 0.12), (90.50, 0.17), (89.62, 0.12))),
        "adagrad_norm": _row(((68.34, 2.87), (86.27, 0.43), (89.33, 0.02), (90.83, 0.17), (89.99, 0.11))),
        "sgd_constant": _row((None, None, (83.21, 0.81), (90.36, 0.11), (89.85, 0.14))),
        "sgd_decay_sqrt": _row(((90.76, 0.04), (90.50, 0.16), (90.52, 0.07), (90.44, 0.19), (89.58, 0.06))),
    },
    RESNET: {
        "adaloss": _row(((84.0, 0.51), (84.29, 0.27), (83.96, 0.64), (84.26, 0.44), (83.03, 0.19))),
        "adagrad_norm": _row(((64.57, 1.70), (68.24, 2.55), (80.13, 1.06), (83.02, 0.79), (83.32, 0.20))),
        "sgd_constant": _row(((2.33, 0.35), (26.02, 6.45), (63.36, 6.69), (81.02, 0.94), (83.53, 0.13))),
        "sgd_decay_sqrt": _row(((83.66, 0.13), (83.70, 0.38), (83.98, 0.13), (84.79, 0.20), (83.10, 0.29))),
    },
}

# Params of the experiment: the paper's, those that only the authors' code has (`presets/authors.yaml`), each method's.
SETTINGS = {
    "data.source": "cifar100",
    "model.pretrained": "True",
    "trainer.max_epochs": "10",
    "steps": "7040",  # 10 epochs of 45,000 images, 64 a step
    "trainer.precision": "32-true",
}
CODE = {
    "data.augment": "crop",
    "data.split_by_seed": "True",
    "model.images.mean": "[0.5071, 0.4867, 0.4408]",
    "model.images.std": "[0.2675, 0.2565, 0.2761]",
    "model.images.interpolation": "bilinear",
    "model.images.crop_pct": "0.875",
}
_SGD = {"lr": "0.1", "optimizer.weight_decay": "0.0001", "optimizer.momentum": "0"}
_SCALED = _SGD | {"optimizer.scale": "gradient"}  # weight decay is not divided
METHODS = {
    "adaloss": _SCALED | {"optimizer": "AdaLoss", "optimizer.alpha": "1", "optimizer.c": "0"},
    "adagrad_norm": _SGD | {"optimizer": "AdaGradNorm", "optimizer.granularity": "channel"},
    "adagrad_norm_authors": {"lr": "0.1", "optimizer": "AuthorsAdaGradNorm", "optimizer.undivided": "0.0001"},
    "sgd_constant": _SCALED | {"optimizer": "AdaLoss", "optimizer.alpha": "0"},
    "sgd_decay_sqrt": _SCALED | {"optimizer": "SGDDecaySqrt", "optimizer.form": "root"},
}
UNSET = (
    "trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.limit_test_batches",
    "trainer.gradient_clip_val", "lr_scheduler", "data.train_transform", "model.options",
    "model.images.input_size", "model.images.crop_mode",
)  # fmt: skip
ALLOWED = "model.options.pretrained_cfg_overlay.file"  # the weights may come from a file


@dataclass(frozen=True)
class Comparison:
    """Our runs, the paper's numbers for their network, and what the two do not have in common.

    Attributes:
        results: Our runs.
        paper: The paper's numbers by method and b0; empty for a network that it did not run.
        networks: Networks of our runs.
        machines: Machines of our runs.
        minutes: Median time of a run.
        differences: Settings that are not Table 1's.
    """

    results: Results
    paper: Mapping[str, PaperRow]
    networks: list[str]
    machines: list[str]
    minutes: float
    differences: list[str]

    @classmethod
    def of(cls, results: Results) -> "Comparison":
        """Compares the finished runs of `results`."""
        runs = [run for run in results.runs.values() if run.info.status == "FINISHED"]
        params = [run.data.params for run in runs]
        networks = sorted({one.get("model.name", "unknown") for one in params})
        minutes = [(run.info.end_time - run.info.start_time) / 60_000 for run in runs]
        return cls(
            results=results,
            paper=PAPER.get(networks[0], {}) if len(networks) == 1 else {},
            networks=networks,
            machines=sorted({one.get("machine", "unknown") for one in params}),
            minutes=statistics.median(minutes or [0.0]),
            differences=differences(params),
        )

    @property
    def methods(self) -> list[str]:
        """The paper's methods and ours, a method that repeats a row right after it."""
        found = {*self.paper, *self.results.methods}
        return [*(one for one in TITLES if one in found), *(one for one in self.results.methods if one not in TITLES)]

    @property
    def b0s(self) -> list[float]:
        """Every b0 of the paper or of ours."""
        return sorted({b0 for row in self.paper.values() for b0 in row} | set(self.results.b0s))

    @property
    def is_table1(self) -> bool:
        """Whether our runs are the experiment of Table 1, so that they can test its claims."""
        return not self.differences and self.networks == [VIT]

    def cell(self, method: str, b0: float) -> Cell:
        """Our runs of a point; an empty cell where there are none."""
        return self.results.cells.get((method, b0), Cell())

    def theirs(self, method: str, b0: float) -> Point:
        """The paper's value."""
        return self.paper.get(method, {}).get(b0)

    def ours(self, method: str, b0: float) -> Point:
        """Our value over the seeds that have one."""
        cell = self.cell(method, b0)
        if cell.mean is None:
            return "diverged" if cell.is_diverged else None
        return Accuracy(100 * cell.mean, None if cell.deviation is None else 100 * cell.deviation)

    def ours_whole(self, method: str, b0: float) -> Point:
        """Our value over all seeds: diverged where one diverged, None where a run is missing or failed."""
        gaps = set(self.cell(method, b0).gaps.values())
        return self.ours(method, b0) if not gaps else "diverged" if gaps == {"diverged"} else None


def spread(points: Iterable[Point]) -> float | None:
    """Best minus worst mean, in percentage points: infinite with a divergence, None with a point missing."""
    points = list(points)
    if None in points:
        return None
    means = [point.mean for point in points if isinstance(point, Accuracy)]
    return max(means) - min(means) if len(means) == len(points) else math.inf


def differences(runs: Iterable[Mapping[str, str]]) -> list[str]:
    """Names each param of `runs` that is not Table 1's, or that the paper leaves open and is not the authors' code's.

    Returns nothing for runs that repeat the experiment: a method's YAML with `presets/authors.yaml` after it.

    Args:
        runs: Params of each run, as MLflow keeps them.
    """
    found = set()
    for params in runs:
        paper = SETTINGS | METHODS.get(params.get("method", ""), {})
        for source, wanted in (("Table 1", paper), ("the authors' code", CODE)):
            for name, value in wanted.items():
                if not _is_same(params.get(name), value):
                    found.add(f"{name} is {params.get(name, 'unknown')}, in {source} {value}")
        given = {name: value for name, value in params.items() if name.startswith(UNSET) and name != ALLOWED}
        found |= {f"{name} is {value}, in Table 1 not set" for name, value in given.items()}
        if params.get("model.name") not in PAPER:
            found.add(f"model.name is {params.get('model.name', 'unknown')}, in Table 1 {VIT}")
    return sorted(found)


def _is_same(found: str | None, wanted: str) -> bool:
    """Whether two params say the same: numbers by value, all else letter by letter."""
    try:
        return found is not None and float(found) == float(wanted)
    except ValueError:
        return found == wanted
