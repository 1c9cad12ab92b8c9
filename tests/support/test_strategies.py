"""Several processes against the equations written out in one."""

import fcntl
import functools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from adaloss_lightning import AdaLossCallback
from tests.callback.models import Regression, fit
from tests.limits import HANG_S, RENDEZVOUS
from tests.ports import free_port
from tests.support import cases, reference
from tests.support.cells import cell

ROOT = Path(__file__).parents[2]
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node=3", RENDEZVOUS)
# float64 throughout: what is left is the order in which means are summed over rows, ranks and micro-batches
RTOL = 1e-11
Ranks = list[dict[str, Any]]


def launched(factory: pytest.TempPathFactory, name: str, *arguments: str) -> Path:
    """The folder with what the launch left there. pytest's parallel workers share one launch."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / name
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            done = subprocess.run(
                [sys.executable, "-m", *arguments, str(folder)],
                capture_output=True, text=True, timeout=HANG_S, check=False, cwd=ROOT,
                env=os.environ | {"MASTER_PORT": str(free_port())},
            )  # fmt: skip
            (folder / "done").write_text("" if done.returncode == 0 else done.stderr[-4000:] or "failed")
    failure = (folder / "done").read_text()
    assert not failure, failure
    return folder


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = launched(tmp_path_factory, "ranks", *TORCHRUN, "-m", "tests.support.worker")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(3)]


@pytest.fixture(scope="session")
def spawned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launched(tmp_path_factory, "spawned", "tests.support.spawned")


@functools.cache
def control(optimizer: str, ranks: int, **settings: Any) -> reference.Outcome:
    return reference.train(optimizer, ranks, **settings)


def agreed(ranks: Ranks, case: str) -> dict[str, Any]:
    """What rank 0 got, after a look that the others got just that."""
    got = [rank[case] for rank in ranks]
    assert "error" not in got[0], got[0]["error"]
    for other in got[1:]:
        assert (other["s"], other["rate"]) == (got[0]["s"], got[0]["rate"])
        assert all(torch.equal(a, b) for a, b in zip(other["weights"], got[0]["weights"], strict=True))
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


@cell("Outside Lightning", "a plain loop over `DistributedDataParallel`, 3 ranks, uneven last batches", "the equations")
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_a_plain_ddp_loop(ranks: Ranks, optimizer: str) -> None:
    assert_equations(agreed(ranks, f"plain {optimizer}"), control(optimizer, 3, uneven=True))


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
    got, undisturbed = agreed(ranks, f"sharded resumed {optimizer}"), agreed(ranks, f"sharded undisturbed {optimizer}")
    assert (got["s"], got["rate"]) == (undisturbed["s"], undisturbed["rate"])
    assert all(torch.equal(a, b) for a, b in zip(got["weights"], undisturbed["weights"], strict=True))


@cell(SHARDED, "Lightning's `ModelParallelStrategy`, 3 ranks", "the equations")
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_model_parallel_strategy(ranks: Ranks, optimizer: str) -> None:
    got = agreed(ranks, f"sharded lightning {optimizer}")
    assert got["local"][0] == (2, 5)
    assert_equations(got, control(optimizer, 3))


@cell(SHARDED, "`ModelParallelStrategy` with `fit(ckpt_path=...)`", "the same run undisturbed, bit for bit")
@pytest.mark.parametrize("optimizer", cases.SHARDED)
def test_model_parallel_strategy_resumed(ranks: Ranks, optimizer: str) -> None:
    got, undisturbed = (
        agreed(ranks, f"sharded lightning resumed {optimizer}"),
        agreed(ranks, f"sharded lightning {optimizer}"),
    )
    assert (got["s"], got["rate"]) == (undisturbed["s"], undisturbed["rate"])
    assert all(torch.equal(a, b) for a, b in zip(got["weights"], undisturbed["weights"], strict=True))


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
