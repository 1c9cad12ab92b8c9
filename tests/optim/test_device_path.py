"""The path for accelerators: it reads nothing back, and it gives the numbers of the path for the CPU.

There is no accelerator here. Fake tensors carry ``cuda`` as their device through everything but the kernels, and an
operation that would wait for the device shows up in a dispatch mode; the numbers are compared on the CPU.
"""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode

from adaloss_lightning import AdaLoss, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt
from adaloss_lightning.optim.engine._fused import reads_tensor_rates

from .methods import METHODS, equal, give_gradients, make_parameters, snapshot, train

aten = torch.ops.aten
READS = (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default, aten.equal.default)


class NoWaiting(TorchDispatchMode):
    """Raises at whatever makes the host wait for the device; the fused kernels, which fake tensors lack, do nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.fused: list[dict[str, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in (aten._fused_sgd_, aten._fused_adam_, aten._fused_adamw_, aten._fused_adagrad_):
            names = [argument.name for argument in func._schema.arguments]
            self.fused.append({**dict(zip(names, args, strict=False)), **kwargs})
            return None
        tensors = [x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)]
        on_device = any(x.device.type == "cuda" for x in tensors)
        if on_device and func in READS:
            raise AssertionError(f"{func} waits for the device")
        result = func(*args, **kwargs)
        if on_device and isinstance(result, Tensor) and result.device.type == "cpu":
            raise AssertionError(f"{func} copies to the host")
        if (
            isinstance(result, Tensor)
            and result.device.type == "cuda"
            and not on_device
            and func is aten._to_copy.default
        ):
            assert kwargs.get("non_blocking"), f"{func} waits for the copy"
        return result


needs_fake_cuda = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13),
    reason="torch 2.7 aborts where a fake tensor is to be on a CUDA device that is not there",
)


def on_cuda() -> list[Parameter]:
    return [Parameter(torch.empty(4, 3, device="cuda")), Parameter(torch.empty(5, device="cuda"))]


def fake_step(optimizer: Any, params: list[Parameter], loss: Any) -> None:
    for p in params:
        p.grad = torch.empty_like(p)
    optimizer.step(loss=loss)


def warming(optimizer: Any) -> Any:
    optimizer.warm_up(10)
    optimizer.cool(0.5)
    return optimizer


METHODS_ON_CUDA: dict[str, Any] = {
    "AdaLoss": lambda params, **kw: AdaLoss(params, **kw),
    "AdaLoss momentum": lambda params, **kw: AdaLoss(params, momentum=0.9, **kw),
    "AdaLoss gradient": lambda params, **kw: AdaLoss(params, scale="gradient", **kw),
    "AdamLoss": lambda params, **kw: AdamLoss(params, **kw),
    "AdamLoss amsgrad": lambda params, **kw: AdamLoss(params, amsgrad=True, decoupled_weight_decay=True, **kw),
    "LossAdaptive(AdamW fused)": lambda params, lr=0.1: LossAdaptive(torch.optim.AdamW(params, lr=lr, fused=True)),
    "AdaLoss auto": lambda params, **kw: AdaLoss(params, alpha="auto", c=0.5, **kw),
    "AdamLoss auto": lambda params, **kw: warming(AdamLoss(params, alpha="auto", **kw)),
    "AdamLoss auto groups": lambda params, **kw: warming(
        AdamLoss([{"params": [p]} for p in params], alpha="auto", c=0.5, **kw)
    ),
    "AdaLoss gradient warming": lambda params, **kw: warming(AdaLoss(params, scale="gradient", **kw)),
}


@needs_fake_cuda
@pytest.mark.parametrize("name", METHODS_ON_CUDA)
def test_a_step_never_waits(name: str) -> None:
    with FakeTensorMode():
        params = on_cuda()
        optimizer = METHODS_ON_CUDA[name](params)
        loss = torch.empty((), device="cuda", requires_grad=True) * 2
        with NoWaiting() as watch:
            for given in (loss, 3.0, loss.detach().double(), loss.detach().reshape(1).bfloat16()):
                fake_step(optimizer, params, given)
            optimizer.record_loss(loss)
            fake_step(optimizer, params, None)
    assert len(watch.fused) == 5 * len(optimizer.param_groups)
    for call in watch.fused:
        if name != "AdaLoss gradient":
            assert call["lr"].dtype == torch.float32  # as which the kernels read it
        assert call["found_inf"] is not None  # how a loss that is not finite stops the kernel
    assert all(s.device.type == "cuda" and s.dtype == torch.float64 for s in optimizer.b)


@needs_fake_cuda
@pytest.mark.parametrize("name", METHODS_ON_CUDA)
def test_reading_b_and_the_rate_never_waits(name: str) -> None:
    with FakeTensorMode():
        params = on_cuda()
        optimizer = METHODS_ON_CUDA[name](params)
        with NoWaiting():
            for _ in range(2):
                tensors = [*optimizer.b, *optimizer.effective_lr]
                assert all(t.device.type == "cuda" and t.shape == () for t in tensors)
                fake_step(optimizer, params, torch.empty((), device="cuda"))
            assert optimizer.last_loss.device.type == "cuda"


class Reads(TorchDispatchMode):
    """Counts how often the host reads the device. A list is read number by number here; nothing overflowed in it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.count += args[0].device.type == "cuda"
            return 0.0 if self.count == 2 else 1.0
        return func(*args, **(kwargs or {}))


UNFUSED: dict[str, Any] = {
    "SGD": lambda params: torch.optim.SGD(params, lr=0.1, foreach=False),
    "SGD foreach": lambda params: torch.optim.SGD(params, lr=0.1, foreach=True),
    "Adam": lambda params: torch.optim.Adam(params, lr=0.1, foreach=False),
    "Adam foreach": lambda params: torch.optim.Adam(params, lr=0.1, foreach=True),
    "RMSprop": lambda params: torch.optim.RMSprop(params, lr=0.1, foreach=False),
    "RMSprop capturable": lambda params: torch.optim.RMSprop(params, lr=0.1, foreach=False, capturable=True),
    "AdaLoss": lambda params: AdaLoss(params, fused=False).base,
    "AdamLoss foreach": lambda params: AdamLoss(params, foreach=True).base,
}


@needs_fake_cuda
@pytest.mark.parametrize("check_finite", [True, False])
@pytest.mark.parametrize("name", UNFUSED)
def test_an_unfused_step_reads_the_device_once(name: str, check_finite: bool) -> None:
    """And not once for each parameter."""
    counts = []
    with FakeTensorMode():
        for size in (1, 4):
            params = [Parameter(torch.empty(3, device="cuda")) for _ in range(size)]
            optimizer = LossAdaptive(UNFUSED[name](params), check_finite=check_finite)
            with Reads() as reads:
                fake_step(optimizer, params, torch.empty((), device="cuda"))
            counts.append(reads.count)
    assert counts == [5, 5]  # numbers of one list: loss, overflow, warm-up, lr and s


class Own(torch.optim.SGD):
    """Of another package, and built on torch's."""


def test_whose_kernels_read_a_rate_on_the_host() -> None:
    params = [Parameter(torch.zeros(1))]
    assert reads_tensor_rates(Own(params))
    assert not reads_tensor_rates(Own(params, fused=True))
    assert not reads_tensor_rates(Idle(params))  # what another package's own step does with it is not known


@needs_fake_cuda
@pytest.mark.parametrize("name", ["AdamSqrt", "SGDDecaySqrt"])
def test_a_baseline_without_the_fused_kernel_reads_the_device_once(name: str) -> None:
    with FakeTensorMode():
        params = on_cuda()
        optimizer = {"AdamSqrt": AdamSqrt, "SGDDecaySqrt": SGDDecaySqrt}[name](params, lr=0.1, foreach=True)
        with Reads() as reads:
            fake_step(optimizer, params, None)
    assert reads.count == 5


UNREAD: dict[str, Any] = {
    "Adam": lambda params: LossAdaptive(torch.optim.Adam(params, capturable=True), check_finite=False),
    "RMSprop": lambda params: LossAdaptive(
        torch.optim.RMSprop(params, capturable=True, foreach=True), check_finite=False
    ),
    "SGD with divided gradients": lambda params: LossAdaptive(
        torch.optim.SGD(params, foreach=False), scale="gradient", check_finite=False
    ),
    "AdamSqrt": lambda params: AdamSqrt(params, capturable=True, fused=False),
}


@needs_fake_cuda
@pytest.mark.parametrize("name", UNREAD)
def test_an_unfused_step_that_never_waits(name: str) -> None:
    with FakeTensorMode():
        params = on_cuda()
        optimizer = UNREAD[name](params)
        with NoWaiting():
            for _ in range(2):
                fake_step(optimizer, params, torch.empty((), device="cuda"))


@needs_fake_cuda
@pytest.mark.parametrize("told", [{}, {"fused": False}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("saved_on", ["cpu", "cuda"])
@pytest.mark.parametrize("method", [AdamLoss, AdamSqrt])
def test_adams_step_counts_are_loaded_to_where_the_kernel_wants_them(method: Any, saved_on: str, told: Any) -> None:
    """torch keeps them on the host where it is not fused, and reads them there; its fused kernel takes none."""
    with FakeTensorMode():
        donor, params = on_cuda(), on_cuda()
        bare = torch.optim.Adam(donor, fused=saved_on == "cuda" or None)
        for p in donor:
            moments = {key: torch.zeros_like(p) for key in ("exp_avg", "exp_avg_sq")}
            bare.state[p] = {"step": torch.ones((), device=saved_on), **moments}
        optimizer = method(params, **told)
        optimizer.load_state_dict(bare.state_dict())
        steps = [optimizer.state[p]["step"] for p in params]
        assert [step.device.type for step in steps] == ["cpu" if told else "cuda"] * 2
        if not told:
            with NoWaiting() as watch:
                fake_step(optimizer, params, torch.empty((), device="cuda"))
            assert all(step.device.type == "cuda" for step in watch.fused[0]["state_steps"])


@needs_fake_cuda
@pytest.mark.parametrize("where", ["cpu", "cuda"])
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("name", ["AdaLoss", "AdamLoss", "LossAdaptive(AdamW fused)"])
def test_a_tensor_lr_of_any_kind(name: str, shape: tuple[int, ...], where: str) -> None:
    if where == "cpu" and shape == (1,):
        pytest.skip("torch itself refuses to mix devices but for 0-dim tensors")
    with FakeTensorMode():
        params = on_cuda()
        optimizer = METHODS_ON_CUDA[name](params)
        eta = torch.full(shape, 0.1, device=where)
        optimizer.param_groups[0]["lr"] = eta  # after construction, which looks at its value
        with NoWaiting() as watch:
            fake_step(optimizer, params, torch.empty((), device="cuda"))
    assert optimizer.param_groups[0]["lr"] is eta
    assert watch.fused[0]["lr"].device.type == "cuda"


def test_s_follows_the_parameters_on_load() -> None:
    saved = AdamLoss([Parameter(torch.empty(4))]).state_dict()
    assert saved["param_groups"][0]["adaloss_s"].device.type == "cpu"
    optimizer = AdamLoss([Parameter(torch.empty(4, device="meta"))])
    optimizer.load_state_dict(saved)
    assert optimizer.b[0].device.type == "meta"


@pytest.fixture
def device_path() -> Any:
    """Sends an optimizer on the CPU through the path for accelerators."""

    def send(optimizer: Any) -> Any:
        optimizer.host_arithmetic = optimizer.check_finite = False
        return optimizer

    return send


FUSED = [
    "AdaLoss",
    "AdaLoss momentum",
    "AdaLoss gradient",
    "AdamLoss",
    "LossAdaptive(AdamW fused)",
    "LossAdaptive(Adagrad fused)",
]


@pytest.mark.parametrize("first_step", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", FUSED)
def test_a_loss_that_is_not_finite_is_skipped_on_the_device(
    name: str, bad: float, first_step: bool, device_path: Any
) -> None:
    params, others = make_parameters(), make_parameters()
    optimizer, reference = device_path(METHODS[name](params, lr=0.1)), device_path(METHODS[name](others, lr=0.1))
    if not first_step:
        train(optimizer, params, range(2))
        train(reference, others, range(2))
    before = snapshot(optimizer, params)
    give_gradients(params, 0, factor=math.nan)
    optimizer.step(loss=torch.tensor(bad))
    assert equal(before[0], [p.detach() for p in params])
    assert optimizer.b[0].item() == before[1][0]["adaloss_s"].item() ** (1 if "AdamLoss" in name else 0.5)
    if not first_step:  # in the first the state is made, and must be as good as none
        assert equal(before[2], snapshot(optimizer, params)[2])
    train(optimizer, params, range(2, 5))
    train(reference, others, range(2, 5))
    assert equal([p.detach() for p in params], [p.detach() for p in others])


def test_stock_fused_sgd_starts_its_momentum_well_after_a_skipped_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torch leaves the buffer of a first step that found_inf skips uninitialized: seen where memory is not fresh."""
    monkeypatch.setattr("adaloss_lightning.optim.rate_adaptive.RateAdaptive.host_arithmetic", False)
    for _ in range(20):
        p, q = Parameter(torch.zeros(1000)), Parameter(torch.zeros(1000))
        waste = [torch.full((1000,), 1e20) for _ in range(8)]
        del waste  # what the allocator hands out next
        optimizer, reference = (LossAdaptive(torch.optim.SGD([w], lr=1.0, momentum=0.9, fused=True)) for w in (p, q))
        p.grad = torch.ones(1000)
        optimizer.step(loss=math.nan)
        for w, o in ((p, optimizer), (q, reference)):
            w.grad = torch.ones(1000)
            o.step(loss=3.0)
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("method", [AdaLoss, AdamLoss])
@pytest.mark.parametrize("lays", ["expanded", "strided"])
def test_a_group_that_falls_back_on_the_device_path(method: Any, lays: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that gives up its fused kernel gives up being skipped on the device, in the same step."""
    params = [Parameter(torch.zeros(4, dtype=torch.float64)) for _ in range(2)]
    optimizer, reference = method(params[:1], lr=0.1), method(params[1:], lr=0.1, fused=False)
    # only the look at the device is replaced: what LossAdaptive makes of it is what is tested
    monkeypatch.setattr("adaloss_lightning.optim.rate_adaptive.RateAdaptive.host_arithmetic", False)
    for _ in range(2):
        for p, o in zip(params, (optimizer, reference), strict=True):
            p.grad = torch.ones(1, dtype=torch.float64).expand(4) if lays == "expanded" else torch.ones(8).double()[::2]
            o.step(loss=torch.tensor(3.0))
    torch.testing.assert_close(*params, rtol=1e-12, atol=1e-13)
    assert not optimizer.param_groups[0]["fused"]


@pytest.mark.parametrize("name", ["AdaGradNorm", "AdaGradNorm channel", "SGDDecaySqrt", "AdamSqrt"])
def test_a_baseline_that_falls_back_on_the_device_path(name: str, device_path: Any) -> None:
    params = [Parameter(torch.zeros(4, dtype=torch.float64)) for _ in range(2)]
    optimizers = device_path(METHODS[name](params[:1], lr=0.1)), METHODS[name](params[1:], lr=0.1, fused=False)
    for _ in range(2):
        for p, optimizer in zip(params, optimizers, strict=True):
            p.grad = torch.ones(8).double()[::2]
            optimizer.step()
    torch.testing.assert_close(*params, rtol=1e-12, atol=1e-13)  # float64, a tensor lr on one side


@pytest.mark.parametrize("name", ["AdaGradNorm", "AdaGradNorm channel"])
@pytest.mark.parametrize("fused", [True, False])
def test_gradients_that_are_not_finite_change_nothing_on_the_device_path(
    name: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adaloss_lightning.optim.rate_adaptive.RateAdaptive.host_arithmetic", False)
    p = Parameter(torch.ones(3, 2))
    optimizer = METHODS[name]([p], lr=0.1, fused=fused)
    p.grad = torch.ones(3, 2)
    optimizer.step()
    before = snapshot(optimizer, [p])
    p.grad = torch.tensor([[1.0, math.nan], [1.0, 1.0], [math.inf, 1.0]])
    optimizer.step()
    assert equal(snapshot(optimizer, [p]), before)


COMPILED: dict[str, Any] = {
    "AdaLoss": lambda params: AdaLoss(params, momentum=0.9),
    "AdaLoss unfused": lambda params: AdaLoss(params, fused=False),
    "AdamLoss": lambda params: AdamLoss(params),
    "LossAdaptive(AdamW)": lambda params: LossAdaptive(torch.optim.AdamW(params, lr=torch.tensor(0.01))),
}


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)  # torch's tracer
def test_compiled_step(name: str) -> None:
    torch._dynamo.reset()
    params, others = make_parameters(), make_parameters()
    eager, optimizer = COMPILED[name](params), COMPILED[name](others)
    compiles = torch._dynamo.testing.CompileCounterWithBackend("eager")

    @torch.compile(backend=compiles)
    def step(loss: Tensor) -> None:
        optimizer.step(loss=loss)

    graphs_per_step = []
    for index in range(6):
        give_gradients(params, index)
        give_gradients(others, index)
        eager.step(loss=torch.tensor(0.5 + index))
        step(torch.tensor(0.5 + index))
        graphs_per_step.append(compiles.frame_count)
    for a, b in zip(params, others, strict=True):
        # under the compiler torch's unfused Adam keeps its step and bias corrections in float32
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert equal(eager.b, optimizer.b) or eager.b[0].item() == pytest.approx(optimizer.b[0].item(), rel=1e-14)
    recompiling_steps = sum(b > a for a, b in pairwise(graphs_per_step))
    assert recompiling_steps <= 2, graphs_per_step
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_step_of_gradients_that_no_fused_kernel_may_take() -> None:
    torch._dynamo.reset()
    value, gradient = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    p, q = (Parameter(value.to(memory_format=torch.channels_last, copy=True)) for _ in range(2))
    optimizer, reference = AdaLoss([p]), AdaLoss([q], fused=False)
    p.grad, q.grad = gradient.clone(), gradient.clone()
    torch.compile(lambda loss: optimizer.step(loss=loss), backend="eager")(torch.tensor(1.0))
    reference.step(loss=1.0)
    torch.testing.assert_close(p, q)  # float32; a wrong walk through memory is wrong by order 0.1
    torch._dynamo.reset()


class Idle(torch.optim.Optimizer):
    """Does nothing in a step, which it can on any device."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:
        pass


def test_s_follows_parameters_that_move_after_construction() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    optimizer = LossAdaptive(Idle([{"params": layer.parameters()} for layer in layers]), check_finite=False)
    optimizer.step(loss=1.0)
    for p in layers.parameters():  # as cuda() does: the parameters stay, and their data is elsewhere
        torch.utils.swap_tensors(p, Parameter(torch.empty(p.shape, device="meta")))
    assert optimizer.param_groups[0]["params"][0].device.type == "meta"
    for loss in (torch.empty((), device="meta"), 1.0):
        optimizer.step(loss=loss)
        assert [s.device.type for s in [*optimizer.b, *optimizer.effective_lr]] == ["meta"] * 4


def test_a_loss_that_s_cannot_hold_is_left_out(device_path: Any) -> None:
    params = make_parameters()
    optimizer = device_path(AdaLoss(params, lr=0.1, c=-1.5e308))
    before = snapshot(optimizer, params)
    give_gradients(params, 0)
    optimizer.step(loss=torch.tensor(1e308, dtype=torch.float64))
    assert equal(before[0], [p.detach() for p in params])
    assert optimizer.b[0].item() == 1


def test_adagrad_norm_per_channel_may_be_compiled() -> None:
    params, others = make_parameters(), make_parameters()
    optimizer, plain = (METHODS["AdaGradNorm channel"](each, lr=0.1) for each in (params, others))
    step = torch.compile(lambda: optimizer.step(), backend="eager")
    for index in range(3):
        give_gradients(params, index)
        give_gradients(others, index)
        step()
        plain.step()
    for mine, theirs in zip([*params, *optimizer.b], [*others, *plain.b], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)
