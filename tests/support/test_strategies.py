"""Several processes against the equations written out in one."""

import functools
import math
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from adaloss_lightning import AdaLossCallback
from tests.callback.models import Regression, fit
from tests.ranks import launched, results
from tests.support import cases, reference
from tests.support.cells import cell

# float64 throughout: what is left is the order in which means are summed over rows, ranks and micro-batches
RTOL = 1e-11
Ranks = list[dict[str, Any]]


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    return results(tmp_path_factory, "tests.support.worker", 3)


@pytest.fixture(scope="session")
def spawned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launched(tmp_path_factory, "tests.support.spawned")


@functools.cache
def control(optimizer: str, ranks: int, **settings: Any) -> reference.Outcome:
    return reference.train(optimizer, ranks, **settings)


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (other["s"], other["rate"]) == (one["s"], one["rate"])
    assert all(torch.equal(a, b) for a, b in zip(other["weights"], one["weights"], strict=True))


def agreed(ranks: Ranks, case: str) -> dict[str, Any]:
    """What rank 0 got, after a look that the others got just that."""
    got = [rank[case] for rank in ranks]
    assert "error" not in got[0], got[0]["error"]
    for other in got[1:]:
        assert_equal(got[0], other)
    return got[0]


def assert_equations(got: dict[str, Any], expected: reference.Outcome) -> None:
    assert got["s"] == pytest.approx(expected.s, rel=RTOL)
    assert got["rate"] == pytest.approx(expected.rates[-1], rel=RTOL)
    assert got["loss"] == pytest.approx(expected.losses[-1], rel=RTOL)
    for ours, theirs in zip(got["weights"], expected.weights, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=RTOL, atol=RTOL)
    if got["logged"]:
        assert got["logged"]["adaloss/loss"] == pytest.approx(expected.losses[-1], rel=1e-6)  # held in float32
        assert got["logged"]["adaloss/effective_lr"] == pytest.approx(expected.rates[-1], rel=1e-6)


@cell("Strategies", "`ddp`, 3 ranks on gloo", "the equations written out in float64, one process")
@pytest.mark.parametrize(("optimizer", "accumulate"), cases.DDP)
def test_ddp_with_three_ranks(ranks: Ranks, optimizer: str, accumulate: int) -> None:
    got = agreed(ranks, f"{optimizer} {accumulate}")
    assert {"adaloss/loss", "adaloss/b", "adaloss/effective_lr"} == set(got["logged"])
    assert_equations(got, control(optimizer, 3, accumulate=accumulate))


@cell("Strategies", "`ddp` without the callback: the optimizer averages by itself", "the equations")
@pytest.mark.parametrize("optimizer", ["adaloss", "adamloss"])
def test_ddp_without_the_callback(ranks: Ranks, optimizer: str) -> None:
    assert_equations(agreed(ranks, f"no callback {optimizer}"), control(optimizer, 3))


@cell(
    "Strategies", "`ddp`, 3 ranks: `AdaLossCallback(auto=True)`, and `find_lr` in a plain loop, find one eta",
    "one process with the tripled batch",
)  # fmt: skip
def test_ranks_that_see_different_data_find_the_same_lr(ranks: Ranks) -> None:
    got, control = agreed(ranks, "auto"), cases.train_with_auto(0, 1)
    assert {(*rank["auto"]["found"].values(), rank["auto"]["lr"]) for rank in ranks} == {
        (*got["found"].values(), got["lr"])
    }
    assert got["found"] == control["found"]
    assert got["lr"] == pytest.approx(control["lr"], rel=1e-12)
    # its eta is a power of ten times what the first loss makes of it
    assert (got["s"], got["rate"]) == pytest.approx((control["s"], control["rate"]), rel=1e-9)
    torch.testing.assert_close(got["weights"], control["weights"], rtol=1e-9, atol=1e-9)


@cell(
    "Strategies",
    '`ddp`, 3 ranks: `alpha="auto"`, the loss times 1e-4 and 1e4, under Lightning and in a plain loop',
    "the weights of the loss as it is",
)  # fmt: skip
@pytest.mark.parametrize("way", ["unit", "plain unit"])
def test_ranks_do_without_the_unit_of_the_loss(ranks: Ranks, way: str) -> None:
    small, plain, large = (agreed(ranks, f"{way} {unit:g}") for unit in cases.UNITS)
    assert not torch.equal(plain["weights"][0], reference.network()[0].weight)
    for other in (small, large):
        assert other["s"] == pytest.approx(plain["s"], rel=RTOL)
        torch.testing.assert_close(other["weights"], plain["weights"], rtol=RTOL, atol=RTOL)


@cell("Strategies", "`ddp`, 3 ranks: AdaGradNorm, whose b is of the averaged gradient", "one process")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_adagrad_norm(ranks: Ranks, accumulate: int) -> None:
    got, control = (
        agreed(ranks, f"norm {accumulate}"),
        cases.train_with_lightning("adagrad_norm", 0, 1, accumulate=accumulate),
    )
    assert (got["s"], got["rate"]) == pytest.approx((control["s"], control["rate"]), rel=RTOL)
    torch.testing.assert_close(got["weights"], control["weights"], rtol=RTOL, atol=RTOL)


@cell(
    "Strategies", "`ddp`, 3 ranks, last batches of 4, 3 and 2 rows", "the equations, each rank's mean with equal weight"
)
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_uneven_last_batches(ranks: Ranks, optimizer: str) -> None:
    assert_equations(agreed(ranks, f"uneven {optimizer}"), control(optimizer, 3, uneven=True))


@cell(
    "Strategies", "`ddp`, 3 ranks, the loss of one is infinite: all leave out that step",
    "the equations without that step",
)  # fmt: skip
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_loss_that_is_not_finite_on_one_rank(ranks: Ranks, accumulate: int) -> None:
    expected = control("adaloss", 3, accumulate=accumulate, left_out=(cases.SPOILED // accumulate,))
    assert_equations(agreed(ranks, f"spoiled {accumulate}"), expected)


@cell(
    "Strategies", "`ddp`: one scalar all-reduce per optimizer step, begun before backward, waited for after it",
    "the order of events on each rank",
)  # fmt: skip
@pytest.mark.parametrize("accumulate", [1, 3])
def test_one_all_reduce_a_step_begun_before_backward(ranks: Ranks, accumulate: int) -> None:
    step = ["all_reduce", "backward", "backward ended", "wait", "batch end"]
    inner = ["backward", "batch end"]
    # four batches: four windows of one, or one of three and one of one
    expected = step * 4 if accumulate == 1 else inner * 2 + step * 2
    for rank in ranks:
        got = rank[f"count {accumulate}"]
        assert "error" not in got, got["error"]
        assert got["events"] == expected


@cell("Strategies", "`ddp_spawn`, 2 ranks", "the equations; what was logged reaches the main process")
@pytest.mark.parametrize(("optimizer", "accumulate"), cases.SPAWNED)
def test_ddp_spawn(spawned: Path, optimizer: str, accumulate: int) -> None:
    case = f"{optimizer} {accumulate}"
    both = [{case: torch.load(spawned / f"{case}.rank{rank}.pt", weights_only=True)} for rank in range(2)]
    got = agreed(both, case)
    assert_equations(got, control(optimizer, 2, accumulate=accumulate))
    assert torch.load(spawned / f"{case}.main.pt", weights_only=True) == got["logged"]


@cell(
    "Outside Lightning", "a plain loop over `DistributedDataParallel`, 3 ranks, uneven last batches; three ways to "
    "give the loss", "the equations",
)  # fmt: skip
@pytest.mark.parametrize("way", cases.PLAIN)
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_a_plain_ddp_loop(ranks: Ranks, optimizer: str, way: str) -> None:
    assert_equations(agreed(ranks, f"plain {optimizer} {way}"), control(optimizer, 3, uneven=True))


@cell(
    "Outside Lightning", "`sync_loss=False`, or a process group for each rank, on one module's ranks: they drift apart",
    "b and the weights, for nothing else shows it", "limit",
)  # fmt: skip
@pytest.mark.parametrize("way", ["sync_loss=False", "process_group"])
def test_what_the_averaging_is_for(ranks: Ranks, way: str) -> None:
    zero, one = (rank[f"alone {way}"] for rank in ranks[:2])
    assert zero["s"] != one["s"]
    assert not torch.equal(zero["weights"][0], one["weights"][0])


@cell(
    "Outside Lightning", "`ZeroRedundancyOptimizer`, 3 ranks, saved and loaded in mid-training by "
    "`consolidate_state_dict`", "the equations",
)  # fmt: skip
@pytest.mark.parametrize("optimizer", cases.ZERO_REDUNDANT, ids=cases.ZERO_REDUNDANT.get)
def test_zero_redundancy_optimizer(ranks: Ranks, optimizer: str) -> None:
    assert_equations(agreed(ranks, f"zero {optimizer}"), control(optimizer, 3))


@cell("Outside Lightning", "`Fabric(strategy='ddp')`, 3 ranks", "the equations")
@pytest.mark.parametrize("way", cases.FABRIC)
def test_fabric_with_three_ranks(ranks: Ranks, way: str) -> None:
    assert_equations(agreed(ranks, f"fabric {way}"), control("adaloss", 3))


@cell(
    "Set-up that is refused", "a step within torch's `Join`: ranks that have run out of batches average no loss",
    "the error on each rank before anything is sent or moved; outside `Join` the same module trains", "refused",
)  # fmt: skip
def test_join_is_refused(ranks: Ranks) -> None:
    for rank in ranks:
        got = rank["join"]
        assert "error" not in got, got["error"]
        assert "AdaLoss cannot average its loss over the ranks within torch's Join" in got["said"]
        assert "record_loss(loss, is_global=True)" in got["said"]
        assert got["untouched"]["b"] == 1.0
        for ours, theirs in zip(got["untouched"]["weights"], reference.network().parameters(), strict=True):
            assert torch.equal(ours, theirs.detach())
        assert got["b"] == pytest.approx(math.sqrt(1 + got["loss"]), rel=1e-15)
    assert len({rank["join"]["b"] for rank in ranks}) == 1


SHARDED = "Sharded parameters (FSDP2)"


@cell(SHARDED, "`fully_shard` in a plain loop, 3 ranks on gloo", "the equations")
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_fully_shard(ranks: Ranks, optimizer: str) -> None:
    got = agreed(ranks, f"sharded undisturbed {optimizer}")
    assert got["local"][0] == (2, 5), "the 6 rows of the first weight were to be on three ranks"
    assert_equations(got, control(optimizer, 3))


@cell(SHARDED, "`fully_shard`, the loss of one rank is infinite: all leave out that step", "the equations without it")
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_fully_shard_with_a_loss_that_is_not_finite(ranks: Ranks, optimizer: str) -> None:
    assert_equations(agreed(ranks, f"sharded spoiled {optimizer}"), control(optimizer, 3, left_out=(cases.SPOILED,)))


@cell(
    SHARDED,
    "`torch.distributed.checkpoint`'s optimizer state dict, saved and loaded in mid-training",
    "the same run undisturbed, bit for bit",
)
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_fully_shard_resumed(ranks: Ranks, optimizer: str) -> None:
    assert_equal(agreed(ranks, f"sharded resumed {optimizer}"), agreed(ranks, f"sharded undisturbed {optimizer}"))


@cell(SHARDED, "Lightning's `ModelParallelStrategy`, 3 ranks", "the equations")
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_model_parallel_strategy(ranks: Ranks, optimizer: str) -> None:
    got = agreed(ranks, f"sharded lightning {optimizer}")
    assert got["local"][0] == (2, 5)
    assert_equations(got, control(optimizer, 3))


@cell(SHARDED, "`ModelParallelStrategy` with `fit(ckpt_path=...)`", "the same run undisturbed, bit for bit")
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_model_parallel_strategy_resumed(ranks: Ranks, optimizer: str) -> None:
    resumed = agreed(ranks, f"sharded lightning resumed {optimizer}")
    assert_equal(resumed, agreed(ranks, f"sharded lightning {optimizer}"))


@cell(
    "Set-up that is refused", "strategies whose engine owns the optimizer step, as DeepSpeed's does",
    "no batch was trained; the message names another strategy", "refused",
)  # fmt: skip
def test_an_engine_that_owns_the_step_is_refused() -> None:
    # DeepSpeed itself needs a GPU: this is the property by which Lightning knows such an engine
    assert pl.strategies.DeepSpeedStrategy.handles_gradient_accumulation.fget(object()) is True

    class Engine(pl.strategies.SingleDeviceStrategy):
        handles_gradient_accumulation = pl.strategies.DeepSpeedStrategy.handles_gradient_accumulation

    model = Regression()
    with pytest.raises(MisconfigurationException, match=r"Engine: its engine owns the optimizer step.*strategy='ddp'"):
        fit(model, AdaLossCallback(), strategy=Engine("cpu"))
    assert model.true_losses == []
