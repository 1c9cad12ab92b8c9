"""The all-reduce of one loss: its latency on a few ranks of this machine, and a model of it for more."""

import math
import statistics
import time
from collections.abc import Iterable

import torch
import torch.distributed as dist

from benchmarks.common import Row
from benchmarks.ranks import on_ranks

MODEL = (
    "t(n) = a + b * ceil(log2 n), fitted by least squares to the measured ranks. Assumptions: one message of 8 bytes, "
    "so that latency is all there is and bandwidth none; a tree, or recursive doubling, of ceil(log2 n) hops; every "
    "hop as slow as those measured, between processes of one machine through gloo over its loopback; a core for every "
    "rank, which a machine with fewer cores than ranks did not have; no rank arrives late. A ring of one message would "
    "take n - 1 hops instead."
)


def all_reduce_us(rank: int, ranks: int, repeats: int) -> float:
    """Median time of one all-reduce of one float64, on this rank."""
    if ranks == 1:
        dist.init_process_group("gloo")
    loss, taken = torch.ones((), dtype=torch.float64), []
    for index in range(-20, repeats):
        begin = time.perf_counter()
        dist.all_reduce(loss)
        if index >= 0:
            taken.append(1e6 * (time.perf_counter() - begin))
    if ranks == 1:
        dist.destroy_process_group()
    return statistics.median(taken)


def hops(ranks: int) -> int:
    """How many messages follow one another."""
    return math.ceil(math.log2(ranks))


def modelled(measured: dict[int, float], more: Iterable[int]) -> list[Row]:
    """A row for each number of ranks: what was measured, and what the model says."""
    slope, intercept = statistics.linear_regression([hops(n) for n in measured], list(measured.values()))
    return [
        {"table": "ranks", "count": n, "measured_us": measured.get(n), "model_us": intercept + slope * hops(n)}
        for n in [*measured, *more]
    ]


def ranks(counts: Iterable[int], more: Iterable[int], repeats: int) -> list[Row]:
    """The all-reduce of one loss, measured and modelled."""
    return modelled({n: on_ranks(all_reduce_us, n, repeats) for n in counts}, more)
