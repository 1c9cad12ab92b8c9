"""What each of several worker processes may use of this machine: its share of the cores, and a GPU."""

import os
from collections.abc import Mapping


def environment_of(slot: int, jobs: int, environ: Mapping[str, str], cores: int, gpus: int) -> dict[str, str]:
    """Environment variables that hold worker `slot` to its share. They count only before torch is imported.

    Args:
        slot: Number of the worker, from 0.
        jobs: How many workers there are.
        environ: The sweep's own environment: a smaller OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES are respected.
        cores: Cores this process may run on.
        gpus: GPUs torch sees in this process.
    """
    threads = max(1, cores // jobs)
    asked = environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        threads = min(threads, int(asked))
    gpu = gpu_of(slot, environ.get("CUDA_VISIBLE_DEVICES"), gpus)
    return {"OMP_NUM_THREADS": str(threads)} | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {})


def gpu_of(slot: int, visible: str | None, gpus: int) -> str | None:
    """Value of CUDA_VISIBLE_DEVICES for worker `slot`: one GPU each, shared in turn where there are more workers.

    Args:
        slot: Number of the worker, from 0.
        visible: CUDA_VISIBLE_DEVICES of the sweep: indices or identifiers. None: not set.
        gpus: GPUs torch sees. Fewer than `visible` names where one of those is not there: CUDA stops at it.

    Returns:
        None where there is no GPU to hand out.
    """
    names = [str(index) for index in range(gpus)] if visible is None else [name.strip() for name in visible.split(",")]
    names = names[:gpus]
    return names[slot % len(names)] if names else None


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_gpus() -> int:
    """GPUs torch sees. Counting them leaves CUDA untouched."""
    import torch

    return torch.cuda.device_count()
