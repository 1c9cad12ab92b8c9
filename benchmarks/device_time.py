"""Steps on a device beside torch's fused optimizers, and how much of the device's bandwidth they reach."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from adaloss_lightning import AdaLoss, AdamLoss
from benchmarks.common import (
    Comparison,
    Make,
    Parameters,
    Row,
    Step,
    steps_of,
    take_turns,
    tiny,
    vit_small,
    with_gradients,
)

TARGET = 1.02
SPIN = 100_000_000  # cycles that a device is kept busy, about 50 ms: longer than the host takes to launch a step


class NoRoom(Exception):  # noqa: N818
    """The device has too little memory for a problem."""


class Problem(NamedTuple):
    """Parameters whose step is timed."""

    name: str
    make: Callable[[], Parameters]


def billion(dtype: torch.dtype) -> Parameters:
    """1.0 B parameters in 60 matrices and 60 biases, made where they are to lie."""
    return [
        torch.nn.Parameter(torch.full(shape, 0.01, dtype=dtype, device="cuda"))
        for _ in range(60)
        for shape in ((4096, 4096), (4096,))
    ]


def problems(device: str) -> Iterator[Problem]:
    """What is timed on this device."""
    if device == "cpu":
        yield Problem("20 tensors of 1,000", lambda: tiny(20, 1000))
        return
    yield Problem("ViT-S/16", lambda: [torch.nn.Parameter(p.detach().to(device)) for p in vit_small()])
    torch.cuda.empty_cache()  # what earlier problems left counts as free then
    for dtype, needed in ((torch.float32, 20), (torch.bfloat16, 10)):  # GB: parameters, gradients, two moments, spare
        if torch.cuda.mem_get_info()[0] > needed * 1e9:
            yield Problem(f"1 B parameters in {dtype}".replace("torch.", ""), lambda: billion(dtype))  # noqa: B023
            return
    yield Problem("1 B parameters", _no_room)


def _no_room() -> Parameters:
    raise NoRoom(f"needs 10 GB of the device, {torch.cuda.mem_get_info()[0] / 1e9:.0f} are free")


class Pair(NamedTuple):
    """An optimizer of ours, torch's, and how often a step reads or writes something of the size of the parameters."""

    ours: str
    beside: str
    make: Make
    make_theirs: Make
    passes: int


PAIRS = [
    Pair("AdaLoss", "SGD(fused)", lambda p: AdaLoss(p, 1e-3), lambda p: torch.optim.SGD(p, 1e-3, fused=True), 3),
    Pair("AdamLoss", "Adam(fused)", lambda p: AdamLoss(p, 1e-4), lambda p: torch.optim.Adam(p, 1e-4, fused=True), 7),
]


def cuda_time(step: Step) -> tuple[float, float]:
    """Microseconds that the device takes for a step, and that the host takes to launch it.

    The device is busy while the host launches, so that its time is that of kernels which follow one another at once.

    Raises:
        RuntimeError: If the device ran dry, that is if its time is not the kernels' alone.
    """
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(SPIN)
    begin.record()
    started = time.perf_counter()
    step()
    launch = 1e6 * (time.perf_counter() - started)
    end.record()
    if begin.query():
        raise RuntimeError(f"the host took {launch:.0f} us to launch a step, longer than the device was kept busy")
    end.synchronize()
    return 1e3 * begin.elapsed_time(end), launch


def cuda_turns(ours: Step, theirs: Step, pairs: int, warm_up: int = 5) -> Row:
    """Times both in pairs, in an order that alternates."""
    for _ in range(warm_up):  # the first steps load kernels, which takes the host long
        ours()
        theirs()
    found: list[list[tuple[float, float]]] = [[], []]
    for index in range(pairs):
        for which in (0, 1) if index % 2 else (1, 0):
            found[which].append(cuda_time((ours, theirs)[which]))
    (mine, my_launch), (other, other_launch) = (list(zip(*one, strict=True)) for one in found)
    launches = {"ours_launch_us": statistics.median(my_launch), "theirs_launch_us": statistics.median(other_launch)}
    return Comparison.of(zip(mine, other, strict=True)).row(**launches)


def copy_bandwidth(device: str) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.ones(2**28 if device == "cuda" else 2**20, device=device)  # 1 GiB, or 4 MiB
    target = torch.empty_like(source)
    copy: Step = lambda: target.copy_(source)  # noqa: E731
    turns = cuda_turns(copy, copy, 20) if device == "cuda" else take_turns(copy, copy, 20).row()
    return 2 * source.nbytes / (1e-6 * float(turns["ours_us"]))


def step_time(device: str, problem: Problem, pair: Pair, bandwidth: float, pairs: int) -> Row:
    """A step of ours beside torch's, on the same parameters, gradients and state."""
    parameters = with_gradients(problem.make())
    loss = torch.tensor(0.7, device=parameters[0].device)
    ours, theirs = steps_of(parameters, pair.make, pair.make_theirs, loss=loss)
    row = cuda_turns(ours, theirs, pairs) if device == "cuda" else take_turns(ours, theirs, pairs).row()
    moved = pair.passes * sum(p.nbytes for p in parameters)
    row["bandwidth"] = moved / (1e-6 * row["ours_us"]) / bandwidth
    if device == "cpu":
        row["verdict"] = "measured"
    elif row["ratio"] > TARGET:
        row["verdict"] = f"failed: ratio above {TARGET}"
    return row
