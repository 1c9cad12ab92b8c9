"""Many parameter groups are one vector to the accumulators, whatever happens to the groups in between."""

import pytest
import torch

from adaloss_lightning import AdaLoss, LossAdaptive
from adaloss_lightning.optim.engine.host_step import MANY

COUNTS = (2, MANY - 1, MANY, 3 * MANY)


def parameter(value: float = 1.0) -> torch.nn.Parameter:
    w = torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))
    w.grad = torch.ones_like(w)
    return w


def adaloss(count: int) -> AdaLoss:
    groups = [
        {"params": [parameter()], "lr": 0.1 + index, "adaloss_b0": 1.0 + index, "adaloss_alpha": 0.5 * (index % 3)}
        for index in range(count)
    ]
    return AdaLoss(groups, c=0.25)


def accumulators(optimizer: LossAdaptive) -> list[float]:
    return [group["adaloss_s"].item() for group in optimizer.param_groups]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("way", ["replaced", "data", "filled", "shared"])
def test_an_accumulator_that_is_changed_by_hand_counts(count: int, way: str) -> None:
    optimizer = adaloss(count)
    optimizer.step(loss=1.0)
    group = optimizer.param_groups[-1]
    if way == "replaced":
        group["adaloss_s"] = torch.tensor(100.0, dtype=torch.float64)
    elif way == "data":
        group["adaloss_s"].data = torch.tensor(100.0, dtype=torch.float64)
    else:
        if way == "shared":
            group["adaloss_s"].share_memory_()
        group["adaloss_s"].fill_(100.0)
    others = accumulators(optimizer)[:-1]
    optimizer.step(loss=1.0)
    assert accumulators(optimizer)[-1] == 100.0 + 0.75 * group["adaloss_alpha"]
    grown = [s + 0.75 * one["adaloss_alpha"] for s, one in zip(others, optimizer.param_groups, strict=False)]
    assert accumulators(optimizer)[:-1] == grown
