"""How much of the loss's all-reduce hides behind backward: `python -m benchmarks.allreduce [--steps N] [--rows N]`.

Two ranks (gloo, one thread each) train one network under DistributedDataParallel. Three ways take turns in a random
order: the all-reduce begins before backward (what AdaLossCallback does), within the step, or not at all. The table
gives rank 0's medians over the steps, of the step alone (which waits for the all-reduce) and of backward and step.
`--sleep-ms` lets backward sleep, as a process does whose accelerator computes: then a core is free for gloo's threads.
"""

import argparse
import os
import platform
import random
import socket
import statistics
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from adaloss_lightning import AdaLoss

WAYS = ("before backward", "within the step", "none")


class Sleep(torch.autograd.Function):
    """The identity, whose backward takes its time."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seconds: float) -> torch.Tensor:  # noqa: D102
        ctx.seconds = seconds
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: D102
        time.sleep(ctx.seconds)
        return gradient, None


def train(rank: int, ranks: int, port: int, steps: int, rows: int, sleep_ms: float) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    model = DistributedDataParallel(net)
    optimizer = AdaLoss(net.parameters(), lr=0.01)
    x, y = torch.randn(rows, 256), torch.randint(0, 10, (rows,))
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    calls = 0
    all_reduce = dist.all_reduce

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return all_reduce(*arguments, **options)

    dist.all_reduce = counted  # DistributedDataParallel's own go through C++
    order = random.Random(0)  # the same on all ranks
    for step in range(-10, steps):
        for way in order.sample(WAYS, len(WAYS)):
            loss = torch.nn.functional.cross_entropy(Sleep.apply(model(x), sleep_ms / 1e3), y)
            calls = 0
            begin = time.perf_counter()
            optimizer.record_loss(loss, is_global=way == "none")
            if way == "before backward":
                optimizer.begin_sync()
            loss.backward()
            middle = time.perf_counter()
            optimizer.step()
            end = time.perf_counter()
            optimizer.zero_grad()
            assert calls == (way != "none"), f"{calls} all-reduces in one step"
            if step >= 0:
                times[way].append((1e6 * (end - middle), 1e6 * (end - begin)))
    if rank == 0:
        print(f"torch {torch.__version__}, {ranks} ranks on {os.cpu_count()} cores of {platform.machine()}\n")
        print("| all-reduce of the loss | step, us | backward and step, us |")
        print("|---|---:|---:|")
        medians = {way: [statistics.median(column) for column in zip(*times[way], strict=True)] for way in WAYS}
        for way, (alone, both) in medians.items():
            print(f"| {way} | {alone:.0f} | {both:.0f} |")
        early, late, never = (medians[way][0] for way in WAYS)
        print(
            f"\nOne all-reduce a step. Of the {late - never:.0f} us that a step waits for it, begun early it waits",
            end=" ",
        )
        print(f"{early - never:.0f}.")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rows", type=int, default=512, help="of each rank's batch")
    parser.add_argument("--sleep-ms", type=float, default=0.0, help="that backward sleeps")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(train, args=(2, port, options.steps, options.rows, options.sleep_ms), nprocs=2)


if __name__ == "__main__":
    main()
