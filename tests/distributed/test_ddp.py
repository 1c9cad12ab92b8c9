"""Two gloo ranks against one process with the doubled batch."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import cases
from tests.limits import HANG_S, RENDEZVOUS

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", RENDEZVOUS]
    done = subprocess.run(
        [*command, "-m", "tests.distributed.worker", str(folder)],
        capture_output=True, text=True, timeout=HANG_S, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return tuple(torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))


def assert_same(one: dict[str, Any], other: dict[str, Any], rtol: float) -> None:
    for mine, theirs in zip([*one["weights"], one["b"]], [*other["weights"], other["b"]], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=rtol)


def assert_identical(ranks: tuple[Results, Results], case: str) -> None:
    zero, one = ranks[0][case], ranks[1][case]
    assert torch.equal(zero["b"], one["b"])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(zero["weights"], one["weights"], strict=True))


# float64 throughout: what is left between one process and two is the order in which means are summed
RTOL = 1e-12


@pytest.mark.parametrize(("name", "accumulate"), cases.LIGHTNING)
def test_lightning(ranks: tuple[Results, Results], name: str, accumulate: int) -> None:
    control = cases.train_with_lightning(name, accumulate, 0, 1)
    case = f"lightning {name} {accumulate}"
    assert_identical(ranks, case)
    assert_same(ranks[0][case], control, RTOL)
    assert ranks[0][case]["logged"].keys() == control["logged"].keys()
    for key, value in control["logged"].items():
        assert ranks[0][case]["logged"][key] == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize("name", cases.PLAIN)
@pytest.mark.parametrize("way", ["argument", "closure", "global"])
def test_a_plain_loop(ranks: tuple[Results, Results], name: str, way: str) -> None:
    case = f"plain {name} {way}"
    assert_identical(ranks, case)
    assert_same(ranks[0][case], cases.train_plainly(name, 0, 1, way), RTOL)


@pytest.mark.parametrize("name", ["adaloss", "adamloss"])
def test_without_the_callback_ranks_do_not_drift(ranks: tuple[Results, Results], name: str) -> None:
    assert_identical(ranks, f"no callback {name}")
    assert_same(ranks[0][f"no callback {name}"], cases.train_with_lightning(name, 1, 0, 1), RTOL)


def test_a_loss_that_is_not_finite_on_one_rank_skips_the_step_on_both(ranks: tuple[Results, Results]) -> None:
    assert_identical(ranks, "spoiled")
    assert_same(ranks[0]["spoiled"], cases.train_plainly("adaloss", 0, 1, spoiled=3), RTOL)


def test_what_the_averaging_is_for(ranks: tuple[Results, Results]) -> None:
    """Without it the ranks drift apart, and nothing but b and the weights shows it."""
    for case in ("unsynced", "alone"):
        assert not torch.equal(ranks[0][case]["b"], ranks[1][case]["b"])
        assert not torch.equal(ranks[0][case]["weights"][0], ranks[1][case]["weights"][0])


def test_ranks_that_see_different_data_find_the_same_lr(ranks: tuple[Results, Results]) -> None:
    assert_identical(ranks, "auto")
    zero, one = (each["auto"] for each in ranks)
    assert (zero["found"], zero["lr"]) == (one["found"], one["lr"])
    control = cases.train_with_auto(0, 1)
    assert zero["found"] == control["found"]
    assert zero["lr"] == pytest.approx(control["lr"], rel=1e-12)
    assert_same(zero, control, 1e-9)  # its eta is a power of ten times what the first loss makes of it
