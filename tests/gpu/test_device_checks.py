"""The checks of `benchmarks.gpu` that are right or wrong, on a real CUDA device. Skipped where none is."""

from contextlib import nullcontext

import pytest
import torch

from benchmarks.device_checks import (
    CASES,
    Regression,
    check_compiled,
    check_graph,
    check_nothing_waits,
    cuda_forbids_waiting,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("name", CASES)
def test_no_whole_step_waits(name: str) -> None:
    check_nothing_waits(CASES[name], Regression("cuda"), cuda_forbids_waiting)


def test_a_read_is_seen() -> None:
    x = torch.ones((), device="cuda")
    with cuda_forbids_waiting(), pytest.raises(RuntimeError, match="synchronizing"):
        x.item()
    assert torch.cuda.get_sync_debug_mode() == 0
    with pytest.raises(AssertionError, match="does not see"):
        check_nothing_waits(CASES["AdaLoss"], Regression("cuda"), nullcontext)


@pytest.mark.parametrize("name", CASES)
def test_a_cuda_graph_of_the_whole_step(name: str) -> None:
    check_graph(CASES[name], "cuda", steps=100)


def test_a_graph_that_is_not_replayed_is_seen() -> None:
    with pytest.raises(AssertionError, match=r"^s: "):
        check_graph(CASES["AdaLoss"], "cuda", capture=lambda step: lambda: None, steps=10)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # the tracer's
@pytest.mark.parametrize("name", CASES)
def test_the_compiled_step(name: str) -> None:
    check_compiled(CASES[name], "cuda", "inductor", steps=50)
