"""Table 1 of the paper, and how far runs are comparable with it."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple


class Accuracy(NamedTuple):
    """Test accuracy in percent, mean and sample standard deviation over the runs; no deviation for a single one."""

    mean: float
    deviation: float | None


TITLES = {
    "adaloss": "AdaLoss",
    "adagrad_norm": "AdaGrad-Norm",
    "sgd_constant": "SGD-Constant",
    "sgd_decay_sqrt": "SGD-DecaySqrt",
    "adamloss": "AdamLoss",
    "adamw": "AdamW",
}
B0S = (0.01, 0.1, 1.0, 10.0, 100.0)
VIT = "vit_small_patch16_224"
RESNET = "resnet50.fb_swsl_ig1b_ft_in1k"

PaperRow = dict[float, Accuracy | None]  # by b0; None is the paper's N/A, a divergence


def _row(values: tuple[tuple[float, float | None] | None, ...]) -> PaperRow:
    return {b0: Accuracy(*value) if value else None for b0, value in zip(B0S, values, strict=True)}


# ViT-S/16: Table 1 of arXiv 2109.08282, three runs a point. ResNet-50: the authors' repository, one number a point.
PAPER: dict[str, dict[str, PaperRow]] = {
    VIT: {
        "adaloss": _row(((90.65, 0.09), (90.64, 0.15), (90.58, 0.12), (90.50, 0.17), (89.62, 0.12))),
        "adagrad_norm": _row(((68.34, 2.87), (86.27, 0.43), (89.33, 0.02), (90.83, 0.17), (89.99, 0.11))),
        "sgd_constant": _row((None, None, (83.21, 0.81), (90.36, 0.11), (89.85, 0.14))),
        "sgd_decay_sqrt": _row(((90.76, 0.04), (90.50, 0.16), (90.52, 0.07), (90.44, 0.19), (89.58, 0.06))),
    },
    RESNET: {
        "adaloss": _row(((84.0, None), (84.3, None), (84.0, None), (84.3, None), (83.0, None))),
    },
}

# Params of a run that Table 1 fixes, for every method, and for those that are in it.
SETTINGS = {
    "data.source": "cifar100",
    "model.pretrained": "True",
    "trainer.max_epochs": "10",
    "steps": "7040",  # 10 epochs of 45,000 images, 64 a step
}
RATES = {"lr": "0.1", "optimizer.weight_decay": "0.0001"}


def differences(runs: Iterable[Mapping[str, str]]) -> list[str]:
    """Where the params of `runs` are not Table 1's, a sentence each; empty for runs that repeat it.

    Args:
        runs: Params of each run, as MLflow keeps them.
    """
    found = set()
    for params in runs:
        wanted = SETTINGS | (RATES if params.get("method") in PAPER[VIT] else {})
        for name, value in wanted.items():
            if params.get(name) != value:
                found.add(f"{name} is {params.get(name, 'unknown')}, in Table 1 {value}")
        if params.get("model.name") not in PAPER:
            found.add(f"model.name is {params.get('model.name', 'unknown')}, in Table 1 {VIT}")
    return sorted(found)
