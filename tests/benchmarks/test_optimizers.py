"""Optimizers that are compared do what their names say, and take as much memory as the page has."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common import Make, copy_with_gradients, step_of, tiny
from benchmarks.memory import Memory, memory_of, memory_of_optimizer
from benchmarks.optimizers import ADAM, ADAMW, OURS, PEERS, SGD, TORCH, SGDAndRead, grouped

ALL = OURS | TORCH | PEERS


def after_steps(make: Make, count: int = 3) -> torch.Tensor:
    torch.manual_seed(0)
    parameters = copy_with_gradients(tiny(5))
    step = step_of(make(parameters))
    for _ in range(count - 1):
        step()
    return torch.stack([p.detach() for p in parameters])


@pytest.mark.parametrize("name", ALL)
def test_each_steps(name: str) -> None:
    after = after_steps(ALL[name])
    torch.manual_seed(0)
    assert after.isfinite().all()
    assert not torch.equal(after, torch.stack([p.detach() for p in tiny(5)]))


@pytest.mark.parametrize("family", [SGD, ADAM, ADAMW], ids=["SGD", "Adam", "AdamW"])
def test_torch_runs_in_the_implementation_that_the_name_says(family: dict[str, Make]) -> None:
    flags = {"for-loop": (False, False), "foreach": (True, None), "fused": (None, True)}
    for name, make in family.items():
        group = make(tiny(1)).param_groups[0]
        assert (group["foreach"], group["fused"]) == flags[name.split("(")[1].rstrip(")")]
    loop, foreach, fused = (after_steps(make) for make in family.values())
    assert torch.allclose(loop, foreach, rtol=1e-5)  # float32, another order of operations
    assert torch.allclose(loop, fused, rtol=1e-5)


def test_ours_run_on_fused_kernels() -> None:
    for name in ("AdaLoss", "AdamLoss", "LossAdaptive(AdamW)", "LossAdaptive(SGD)", "AdaGradNorm"):
        assert OURS[name](tiny(2)).param_groups[0]["fused"] is True, name


class Dots(TorchDispatchMode):
    """Notes the memory that each dot product reads."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[int, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.dot.default:
            self.read.append((args[0].data_ptr(), args[0].numel()))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("in_one", [False, True])
def test_sgd_and_read_reads_all_gradients_and_is_sgd(in_one: bool) -> None:
    parameters = copy_with_gradients(tiny(3))
    optimizer = SGDAndRead(parameters, in_one=in_one)
    gradients = [p.grad.fill_(2.0) for p in parameters if p.grad is not None]
    before = [p.detach().clone() for p in parameters]
    with Dots() as dots:
        optimizer.step()
    where = [gradient.data_ptr() for gradient in gradients]
    assert dots.read == ([(where[0], 12)] if in_one else [(one, 4) for one in where])
    assert not in_one or where == [where[0], where[0] + 16, where[0] + 32]  # bytes: one block
    assert all(torch.allclose(p, old - 1e-3 * 2) for p, old in zip(parameters, before, strict=True))


def test_groups_share_out_all_parameters() -> None:
    parameters = tiny(7)
    groups = grouped(SGD["SGD(fused)"], 3)(parameters).param_groups
    assert [len(group["params"]) for group in groups] == [3, 2, 2]
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in parameters}


# -- memory ------------------------------------------------------------------------------------------------------------


def test_memory_counts_what_is_kept_and_the_most_that_was_there() -> None:
    def run() -> torch.Tensor:
        kept = torch.empty(100, dtype=torch.float64)
        torch.empty(1000, dtype=torch.float32)  # gone at once
        return kept

    memory, _ = memory_of(run)
    assert memory == Memory(peak=800 + 4000, kept=800)


def test_memory_of_adam_is_its_state() -> None:
    memory = memory_of_optimizer(tiny(10), ADAM["Adam(for-loop)"])
    assert memory.kept == 10 * (2 * 4 * 4 + 4)  # two averages of each tensor, and its step count
    assert memory.peak > memory.kept


@pytest.mark.parametrize(
    ("ours", "beside", "groups"),
    [
        ("LossAdaptive(SGD)", "SGD(fused)", 1),
        ("AdaLoss", "SGD(fused)", 10),
        ("AdamLoss", "Adam(fused)", 10),
        ("LossAdaptive(AdamW)", "AdamW(fused)", 100),  # so many advance as one vector
    ],
)
def test_a_group_takes_at_most_64_bytes_over_its_base(ours: str, beside: str, groups: int) -> None:
    mine = memory_of_optimizer(tiny(groups), grouped(OURS[ours], groups))
    base = memory_of_optimizer(tiny(groups), grouped(TORCH[beside], groups))
    assert 8 * groups <= mine.kept - base.kept <= 64 * groups  # 8: s itself
    assert mine.peak - base.peak <= 64 * groups
