"""The GPU harness at toy sizes, without a GPU: what it must let pass, and what it must not."""

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode

from adaloss_lightning import AdaLoss, LossAdaptive
from benchmarks import device_time, gpu
from benchmarks.common import PROBLEMS, Comparison
from benchmarks.device_checks import (
    B0,
    CASES,
    ETA,
    Case,
    Regression,
    check_compiled,
    check_graph,
    check_nothing_waits,
    decay,
    require_compilable,
)
from tests.optim.test_device_path import NoWaiting, needs_fake_cuda

tracing = pytest.mark.filterwarnings(  # of torch's tracer
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


# -- no wait for the device --------------------------------------------------------------------------------------------


class OnFakeCuda(Regression):
    """Its backward makes gradients of no value: autograd looks for the real device."""

    def backward(self, loss: torch.Tensor) -> None:
        for p in self.weights:
            p.grad = torch.empty_like(p)


class Reads(AdaLoss):
    """Looks at its loss on the host, from the fifth step on."""

    steps = 0

    def step(self, closure: Any = None, *, loss: Any = None) -> Any:
        self.steps += 1
        if self.steps > 4 and loss.item() == 0:
            return None
        return super().step(loss=loss)


class WithoutKernels(TorchDispatchMode):
    """Fake tensors lack the fused kernels. Those of the steps that are watched meet NoWaiting first."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return None if "_fused_" in func.name() else func(*args, **(kwargs or {}))


def watched(case: Case) -> None:
    with FakeTensorMode(), WithoutKernels():
        check_nothing_waits(case, OnFakeCuda("cuda"), NoWaiting, steps=4)


@needs_fake_cuda
@pytest.mark.parametrize("name", CASES)
def test_no_step_waits(name: str) -> None:
    watched(CASES[name])


@needs_fake_cuda
def test_a_step_that_waits_is_seen() -> None:
    with pytest.raises(AssertionError, match=r"_local_scalar_dense.* waits for the device"):
        watched(CASES["AdaLoss"]._replace(ours=Reads))


def test_a_detector_that_sees_nothing_is_not_believed() -> None:
    with pytest.raises(AssertionError, match="does not see"):
        check_nothing_waits(CASES["AdaLoss"], Regression("cpu"), nullcontext)


# -- a graph of the whole step -----------------------------------------------------------------------------------------


def on_cpu(case: Case, capture: Callable[[Any], Any], steps: int = 40) -> None:
    check_graph(case, "cpu", capture, nullcontext, steps)


@pytest.mark.parametrize("name", CASES)
def test_replays_that_are_steps_pass(name: str) -> None:
    on_cpu(CASES[name], lambda step: step)


class Forgets(AdaLoss):
    """Leaves s alone from the twentieth step on."""

    steps = 0

    def step(self, closure: Any = None, *, loss: Any = None) -> Any:
        self.steps += 1
        return super().step(loss=loss if self.steps < 20 else 0.0 * loss)


def frozen(params: Any, lr: torch.Tensor, **options: Any) -> LossAdaptive:
    """Keeps the eta of the capture: what a graph makes of an eta that is none of its tensors."""
    optimizer = AdaLoss(params, lr.item(), **options)
    optimizer.register_step_pre_hook(lambda *_: optimizer.param_groups[0].update(lr=ETA))
    return optimizer


@pytest.mark.parametrize(("ours", "capture", "message"), [
    (AdaLoss, lambda step: lambda: None, "^s: "), (Forgets, lambda step: step, "^s: "),
    (frozen, lambda step: step, "^(s|weights): "),
])  # fmt: skip
def test_check_graph_sees_replays_that_are_no_steps(ours: Any, capture: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        on_cpu(CASES["AdaLoss"]._replace(ours=ours), capture)


# -- torch.compile -----------------------------------------------------------------------------------------------------


@tracing
@pytest.mark.parametrize("name", CASES)
def test_the_compiled_step_is_one_graph_compiled_once(name: str) -> None:
    check_compiled(CASES[name], "cpu", "eager", steps=50)


class Changes(LambdaLR):
    """Changes after the fourth step what the graph was made for."""

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        self.optimizer.param_groups[0]["maximize"] = self.last_epoch == 4


def compiled(scheduler: type[LambdaLR] = LambdaLR, hook: Callable[..., None] | None = None) -> None:
    training = Regression("cpu")
    optimizer = AdaLoss(training.weights, torch.tensor(ETA), b0=B0, fused=False)
    if hook is not None:
        optimizer.register_step_pre_hook(hook)
    require_compilable(training, optimizer, scheduler(optimizer.base, decay), CASES["AdaLoss"], "eager", steps=6)


@tracing
def test_require_compilable_sees_a_second_compilation_and_a_break() -> None:
    with pytest.raises(torch._dynamo.exc.RecompileError, match="maximize"):
        compiled(scheduler=Changes)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        compiled(hook=lambda *_: torch._dynamo.graph_break())


# -- the command -------------------------------------------------------------------------------------------------------


@tracing
def test_the_command_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--backend", "eager", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    verdicts = [row["verdict"].split(":")[0] for row in rows]
    assert verdicts == ["skipped"] * 6 + ["passed"] * 3 + ["measured"] * (2 + 4)
    assert all(row["bandwidth"] > 0 for row in rows if row["table"] == "steps")
    assert all(row["images_per_s"] > 0 for row in rows if row["table"] == "tuning")
    printed = capsys.readouterr().out
    assert printed.count("| passed |") == 3
    assert "the CPU has no CUDA graphs" in printed


def test_one_part_that_fails_leaves_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("no kernel\nand more")

    monkeypatch.setattr(gpu, "check_compiled", refuse)
    monkeypatch.setattr(gpu, "fine_tuning", refuse)
    assert gpu.main(["--device", "cpu", "--json", str(tmp_path / "gpu.json")]) == 1
    printed = capsys.readouterr().out
    assert printed.count("failed: RuntimeError: no kernel |") == 4
    assert printed.count("| measured |") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_machine_without_cuda_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "--device cpu" in capsys.readouterr().err


def test_turns_on_a_device_alternate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a device is replaced: it takes what the step returns, and half of that to launch it."""
    monkeypatch.setattr(device_time, "cuda_time", lambda step: (step(), step() / 2))
    made: list[float] = []

    def step(us: float) -> Callable[[], float]:
        return lambda: made.append(us) or us

    row = device_time.cuda_turns(step(3.0), step(2.0), pairs=4, warm_up=1)
    assert made == [3, 2] + [2, 2, 3, 3, 3, 3, 2, 2] * 2
    assert [row[key] for key in ("ours_us", "theirs_us", "ratio", "added_us")] == [3.0, 2.0, 1.5, 1.0]
    assert (row["ours_launch_us"], row["theirs_launch_us"]) == (1.5, 1.0)


@pytest.mark.parametrize(("ratio", "verdict"), [(1.01, None), (1.03, "failed: ratio above 1.02")])
def test_the_target_is_judged_on_a_device(ratio: float, verdict: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a device is replaced, nothing else: a GPU judges what the CPU only measures."""
    turns = Comparison.of([(ratio, 1.0)] * 3).row()
    monkeypatch.setattr(device_time, "cuda_turns", lambda *_: dict(turns))
    problem = device_time.Problem("toy", PROBLEMS["2,000 tensors of 4"])
    row = device_time.step_time("cuda", problem, device_time.PAIRS[1], bandwidth=1e9, pairs=3)
    assert row.get("verdict") == verdict
    # 8,000 float32 numbers: parameter, gradient and two moments read, all but the gradient written
    assert row["bandwidth"] == pytest.approx(7 * 4 * 8000 / (1e-6 * ratio) / 1e9)
