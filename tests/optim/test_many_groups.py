"""Many parameter groups are one vector to the accumulators, whatever happens to the groups in between."""

import copy
import math

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


def after(optimizer: LossAdaptive, losses: list[float]) -> tuple[list[float], list[float]]:
    """s and the sum of all effective rates of each group, as an AdaLoss of one group each has them."""
    ends: tuple[list[float], list[float]] = ([], [])
    for group in optimizer.param_groups:
        s, way = group["adaloss_b0"] ** 2, 0.0
        for loss in losses:
            s = s + group["adaloss_alpha"] * abs(loss - group["adaloss_c"])
            way += group["lr"] / math.sqrt(s)
        ends[0].append(s)
        ends[1].append(way)
    return ends


def accumulators(optimizer: LossAdaptive) -> list[float]:
    return [group["adaloss_s"].item() for group in optimizer.param_groups]


@pytest.mark.parametrize("count", COUNTS)
def test_each_group_has_its_own_recurrence(count: int) -> None:
    optimizer, losses = adaloss(count), [0.7, 2.5, 0.1]
    for loss in losses:
        optimizer.step(loss=loss)
    s, way = after(optimizer, losses)
    assert accumulators(optimizer) == s
    assert [b.item() for b in optimizer.b] == [math.sqrt(x) for x in s]
    weights = [group["params"][0].item() for group in optimizer.param_groups]
    assert weights == pytest.approx([1.0 - x for x in way], rel=1e-14)


@pytest.mark.parametrize("count", COUNTS)
def test_a_group_may_join_and_settings_may_change(count: int) -> None:
    optimizer = adaloss(count)
    optimizer.step(loss=1.0)
    before = accumulators(optimizer)
    optimizer.add_param_group({"params": [parameter()], "adaloss_b0": 3.0})
    optimizer.param_groups[0]["adaloss_alpha"] = 4.0
    optimizer.step(loss=1.0)
    grown = [s + 0.75 * group["adaloss_alpha"] for s, group in zip([*before, 9.0], optimizer.param_groups, strict=True)]
    assert accumulators(optimizer) == grown


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


@pytest.mark.parametrize("count", COUNTS)
def test_copies_and_snapshots_stay_as_they_were(count: int) -> None:
    optimizer = adaloss(count)
    optimizer.step(loss=1.0)
    before = accumulators(optimizer)
    twin, saved = copy.deepcopy(optimizer), optimizer.state_dict()
    optimizer.step(loss=5.0)
    assert accumulators(twin) == [group["adaloss_s"].item() for group in saved["param_groups"]] == before
    twin.step(loss=5.0)
    assert accumulators(twin) == accumulators(optimizer) != before
    optimizer.load_state_dict(saved)
    assert accumulators(optimizer) == before
    optimizer.step(loss=5.0)
    assert accumulators(optimizer) == accumulators(twin)


@pytest.mark.parametrize("count", COUNTS)
def test_a_loss_that_is_not_finite_changes_no_group(count: int) -> None:
    optimizer = adaloss(count)
    optimizer.step(loss=1.0)
    before = accumulators(optimizer), [group["params"][0].item() for group in optimizer.param_groups]
    optimizer.step(loss=float("nan"))
    assert (accumulators(optimizer), [group["params"][0].item() for group in optimizer.param_groups]) == before
