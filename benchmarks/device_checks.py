"""Checks of a step on an accelerator: it waits for nothing, a CUDA graph replays it, a compiler traces it.

Each check trains a small regression in float64 and raises with the reason where something does not hold. Everything
about a device comes in as an argument, so that the checks themselves are tested where there is none.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
import torch._dynamo
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from adaloss_lightning import AdaLoss, AdamLoss, LossAdaptive

ETA, B0 = 0.05, 2.0
WARM_UP = 3  # steps in which state is made and kernels are loaded
Step = Callable[[], Any]


class Case(NamedTuple):
    """An optimizer of ours, and the one of torch that has to give the same numbers at the rates of the paper."""

    ours: Callable[..., LossAdaptive]
    torch: Callable[..., Optimizer]
    start: float  # of s
    capturing: dict[str, bool]  # what torch asks for in a CUDA graph


CASES: dict[str, Case] = {
    "AdaLoss": Case(AdaLoss, SGD, B0**2, {}),
    "AdamLoss": Case(AdamLoss, partial(Adam, betas=(0.9, 0.99)), B0, {"capturable": True}),
    "LossAdaptive(AdamW)": Case(
        lambda params, lr, b0, **options: LossAdaptive(AdamW(params, lr, **options), b0=b0),
        AdamW,
        B0**2,
        {"capturable": True},
    ),
}


class Regression:
    """Ten batches in turn, each copied to where a graph finds it; noise keeps the loss, and so b, moving.

    Args:
        device: Where all of it lies; the numbers are the same everywhere.
    """

    def __init__(self, device: str) -> None:
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.x, self.y = torch.empty(16, 6, dtype=torch.float64), torch.empty(16, 1, dtype=torch.float64)
        self.xs, noise = draw(10, 16, 6), draw(10, 16, 1)
        self.ys = self.xs.sum(-1, keepdim=True).sin() + noise
        weights = [0.4 * draw(6, 8), torch.zeros(8, dtype=torch.float64), 0.4 * draw(8, 1)]
        self.x, self.y, self.xs, self.ys = (t.to(device) for t in (self.x, self.y, self.xs, self.ys))
        self.weights = [torch.nn.Parameter(w.to(device)) for w in weights]

    def load(self, index: int) -> None:
        """Make this the batch of the next loss."""
        self.x.copy_(self.xs[index % len(self.xs)])
        self.y.copy_(self.ys[index % len(self.ys)])

    def loss(self) -> Tensor:
        """Mean squared error of two layers."""
        w, v, u = self.weights
        return torch.nn.functional.mse_loss(torch.tanh(self.x @ w + v) @ u, self.y)

    def backward(self, loss: Tensor) -> None:
        """The gradients of the loss, in place of those before."""
        for p in self.weights:
            p.grad = None
        loss.backward()

    def step(self, optimizer: LossAdaptive) -> None:
        """The whole step: forward, backward, optimizer."""
        loss = self.loss()
        self.backward(loss)
        optimizer.step(loss=loss)


def decay(index: int) -> float:
    """The schedule of eta, as a factor."""
    return 1 / (1 + index / 100)


def by_hand(case: Case, steps: int) -> tuple[Tensor, list[Tensor]]:
    """The s of each step and the weights after all, from the recurrence in Python floats and torch's own optimizer."""
    training = Regression("cpu")
    optimizer = case.torch(training.weights, lr=ETA, foreach=False, fused=False)
    s, seen = case.start, []
    for index in range(steps):
        training.load(index)
        loss = training.loss()
        training.backward(loss)
        s += abs(loss.item())
        seen.append(s)
        optimizer.param_groups[0]["lr"] = ETA * decay(index) / math.sqrt(s)
        optimizer.step()
    return torch.tensor(seen, dtype=torch.float64), [w.detach() for w in training.weights]


def require_numbers(case: Case, seen: Tensor, training: Regression, rtol: float = 1e-5) -> None:
    """Raise unless s moved as it does by hand, and the weights with it.

    An accelerator's kernels read the rate in float32. Rates that are off by 6e-8 in each of 1,000 steps moved s by 1e-9
    of it and the weights by 4e-8.
    """
    expected, weights = by_hand(case, len(seen))
    torch.testing.assert_close(seen.cpu(), expected, rtol=1e-6, atol=0, msg=lambda text: f"s: {text}")
    found = [w.detach().cpu() for w in training.weights]
    torch.testing.assert_close(found, weights, rtol=rtol, atol=rtol, msg=lambda text: f"weights: {text}")


def read_s(optimizer: LossAdaptive) -> Tensor:
    """The accumulator, on its device."""
    s: Tensor = optimizer.param_groups[0]["adaloss_s"]
    return s


# -- no wait for the device --------------------------------------------------------------------------------------------


@contextmanager
def cuda_forbids_waiting() -> Iterator[None]:
    """Let CUDA raise at whatever makes the host wait for it."""
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def require_detector(training: Regression, watch: Callable[[], AbstractContextManager[Any]]) -> None:
    """Raise unless `watch` sees a read of a loss."""
    loss = training.loss().detach()
    try:
        with watch():
            loss.item()
    except (RuntimeError, AssertionError):
        return
    raise AssertionError("the detector does not see loss.item()")


def check_nothing_waits(
    case: Case, training: Regression, watch: Callable[[], AbstractContextManager[Any]], steps: int = 100
) -> None:
    """Raise if a whole training step, or reading b after it, makes the host wait.

    Args:
        case: The optimizer.
        training: What it trains.
        watch: A context that raises where the host waits.
        steps: How many are watched, after those that make state.
    """
    require_detector(training, watch)
    optimizer = case.ours(training.weights, ETA, b0=B0, fused=True)
    for index in range(WARM_UP + steps):
        with watch() if index >= WARM_UP else nullcontext():
            training.load(index)
            training.step(optimizer)
            _ = optimizer.b, optimizer.effective_lr, optimizer.last_loss


# -- a CUDA graph ------------------------------------------------------------------------------------------------------


def cuda_capture(step: Step) -> Step:
    """The step as a CUDA graph. It is not run, only recorded."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@contextmanager
def cuda_warming_up() -> Iterator[None]:
    """A stream of its own, as CUDA wants for what runs before a capture."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def check_graph(
    case: Case,
    device: str,
    capture: Callable[[Step], Step] = cuda_capture,
    warming_up: Callable[[], AbstractContextManager[None]] = cuda_warming_up,
    steps: int = 1000,
) -> None:
    """Raise unless replays of one recorded step, under a schedule of eta, give the numbers of as many eager ones.

    Args:
        case: The optimizer.
        device: Where it trains.
        capture: Records a step and returns what replays it.
        warming_up: The context of the eager steps before.
        steps: How many replays.
    """
    training = Regression(device)
    eta = torch.tensor(ETA, dtype=torch.float64, device=device)  # a tensor: a graph keeps the value of a number
    optimizer = case.ours(training.weights, eta, b0=B0, fused=True, **case.capturing)
    scheduler = LambdaLR(optimizer, decay)
    seen = torch.zeros(WARM_UP + steps, dtype=torch.float64, device=device)

    def run(step: Step, index: int) -> None:
        training.load(index)
        step()
        seen[index].copy_(read_s(optimizer))
        scheduler.step()

    whole = partial(training.step, optimizer)
    with warnings.catch_warnings(), warming_up():
        warnings.filterwarnings("ignore", message=".*capturable=True.*")  # and not captured yet
        for index in range(WARM_UP):
            run(whole, index)
    replay = capture(whole)
    for index in range(WARM_UP, len(seen)):
        run(replay, index)
    require_numbers(case, seen, training)


# -- torch.compile -----------------------------------------------------------------------------------------------------


def check_compiled(case: Case, device: str, backend: str = "inductor", steps: int = 1000) -> None:
    """Raise if the compiled optimizer step breaks its graph, is compiled again, or gives other numbers.

    The first step makes the state, the second is the first that finds it: from the third on nothing may be compiled.
    The base is not fused, because torch does not trace into its fused optimizers; the compiler fuses by itself. eta is
    a tensor, as torch advises, and its scheduler belongs to the base, since torch does not trace what a scheduler wraps
    around `step`.
    """
    training = Regression(device)
    eta = torch.tensor(ETA, dtype=torch.float64, device=device)
    optimizer = case.ours(training.weights, eta, b0=B0, fused=False)
    scheduler = LambdaLR(optimizer.base, decay)
    require_compilable(training, optimizer, scheduler, case, backend, steps)


def require_compilable(
    training: Regression, optimizer: LossAdaptive, scheduler: LambdaLR, case: Case, backend: str, steps: int
) -> None:
    """The check itself, of whatever optimizer and scheduler."""
    torch._dynamo.reset()
    compiled: Any = torch.compile(lambda loss: optimizer.step(loss=loss), backend=backend, fullgraph=True)
    seen = []
    try:
        for index in range(steps):
            training.load(index)
            loss = training.loss()
            training.backward(loss)
            # torch.no_grad: the compiler then knows of no backward through the step that it would have to prepare
            with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=index >= 2):
                compiled(loss)
            seen.append(read_s(optimizer).clone())
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", message="Detected call of .lr_scheduler"
                )  # no one told it of the step
                scheduler.step()
    finally:
        torch._dynamo.reset()
    # under the compiler torch's unfused Adam computes 1 - beta2**t in float32, which is off by 1e-4 of it at first
    require_numbers(case, torch.stack(seen), training, rtol=1e-4)
