"""Runs a function in several processes of this machine, which are ranks of one gloo group."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import spawn


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
