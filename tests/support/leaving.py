"""The end of ranks on gloo.

A thread of gloo may still hold a tensor of the last collective when the interpreter ends, and then aborts the process
("terminate called without an active exception", pytorch issue 190489). Lightning ends groups on NCCL only.
"""

import atexit
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist


def leave_group() -> None:
    """Ends gloo's threads."""
    if dist.is_initialized():
        dist.destroy_process_group()


class LeaveGroup(pl.Callback):
    """For ranks whose process is Lightning's, not ours."""

    def teardown(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        if dist.is_initialized():
            atexit.register(leave_group)
