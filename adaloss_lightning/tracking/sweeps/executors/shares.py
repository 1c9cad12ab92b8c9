"""Shares of this machine for worker processes: a part of the cores, and a GPU."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Devices:
    """What one point asks for with `trainer.devices`.

    Attributes:
        count: Processes that it trains in.
        are_named: Whether it names devices by their index, or takes all, and so has to see all of them.
    """

    count: int = 1
    are_named: bool = False

    @classmethod
    def of(cls, asked: object) -> "Devices":
        """Reads a value as Lightning does: `2`, `"2"`, `[0, 1]`, `"0,1"`, `-1`, `"auto"`."""
        if isinstance(asked, str) and "," in asked:
            asked = [index for index in asked.split(",") if index.strip()]
        if isinstance(asked, list | tuple):
            return cls(len(asked), are_named=True)
        if str(asked) == "-1":
            return cls(max(1, available_gpus()), are_named=True)
        return cls(int(str(asked))) if str(asked).isdigit() else cls()


ONE_DEVICE = Devices()


def environment_of(
    slot: int, jobs: int, environ: Mapping[str, str], cores: int, gpus: int, devices: Devices = ONE_DEVICE
) -> dict[str, str]:
    """Environment variables that hold worker `slot` to its share. They count only before torch is imported.

    Args:
        slot: Number of the worker, from 0.
        jobs: How many workers there are.
        environ: The sweep's own environment: a smaller OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES are respected.
        cores: Cores this process may run on.
        gpus: GPUs torch sees in this process.
        devices: What a point asks for. Its processes share the cores of their worker.
    """
    threads = max(1, cores // (jobs * devices.count))
    asked = environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        threads = min(threads, int(asked))
    shown = None if devices.are_named else gpus_of(slot, environ.get("CUDA_VISIBLE_DEVICES"), gpus, devices.count)
    return {"OMP_NUM_THREADS": str(threads)} | ({"CUDA_VISIBLE_DEVICES": shown} if shown is not None else {})


def gpus_of(slot: int, visible: str | None, gpus: int, count: int = 1) -> str | None:
    """Value of CUDA_VISIBLE_DEVICES for worker `slot`: `count` GPUs each, shared in turn where there are too few.

    Args:
        slot: Number of the worker, from 0.
        visible: CUDA_VISIBLE_DEVICES of the sweep: indices or identifiers. None: not set.
        gpus: GPUs torch sees. Fewer than `visible` names where one of those is not there: CUDA stops at it.
        count: GPUs of one worker.

    Returns:
        None where there is no GPU to hand out.
    """
    names = [str(index) for index in range(gpus)] if visible is None else [name.strip() for name in visible.split(",")]
    names = names[:gpus]
    share = [names[(slot * count + place) % len(names)] for place in range(min(count, len(names)))]
    return ",".join(share) if share else None


def available_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def available_gpus() -> int:
    """GPUs torch sees. Counting them leaves CUDA untouched."""
    import torch

    return torch.cuda.device_count()
