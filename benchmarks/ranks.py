"""Ranks of one gloo group on this machine, the latency of an all-reduce between them, and a model of it for more."""

import math
import os
import socket
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import spawn

from benchmarks.common import Row

MODEL = (
    "t(n) = a + b * ceil(log2 n), fitted by least squares to the measured ranks. Assumptions: one message of 8 bytes, "
    "so that latency is all there is and bandwidth none; a tree, or recursive doubling, of ceil(log2 n) hops; every "
    "hop as slow as those measured, between processes of one machine through gloo over its loopback; a core for every "
    "rank, which a machine with fewer cores than ranks did not have; no rank arrives late. A ring of one message would "
    "take n - 1 hops instead."
)


def on_ranks(function: Callable[..., Any], ranks: int, *arguments: Any) -> Any:
    """What `function(rank, ranks, *arguments)` returns on rank 0. Each rank has one thread and a core of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    returned = get_context("spawn").SimpleQueue()
    spawn(_run, args=(ranks, port, returned, function, arguments), nprocs=ranks)
    return returned.get()


def _run(
    rank: int, ranks: int, port: int, returned: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0), reverse=True)
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    if ranks > 1:
        dist.init_process_group("gloo")
    result = function(rank, ranks, *arguments)
    if ranks > 1:
        dist.destroy_process_group()
    if rank == 0:
        returned.put(result)


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
    """Messages that follow one another."""
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
