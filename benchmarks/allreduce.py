"""How much of the loss's all-reduce hides behind backward: `python -m benchmarks.allreduce [--steps N] [--rows N]`.

Two ranks (gloo, one thread each) train one network under DistributedDataParallel. Three ways take turns, step by step:
the all-reduce begins before backward (what AdaLossCallback does), within the step, or not at all. The time is that of
backward and step together; the table gives rank 0's medians over the steps.
"""

import argparse
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


def train(rank: int, ranks: int, port: int, steps: int, rows: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    model = DistributedDataParallel(net)
    optimizer = AdaLoss(net.parameters(), lr=0.01)
    x, y = torch.randn(rows, 256), torch.randint(0, 10, (rows,))
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    calls = 0
    all_reduce = dist.all_reduce

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return all_reduce(*arguments, **options)

    dist.all_reduce = counted  # DistributedDataParallel's own go through C++
    for step in range(-10, steps):
        for way in WAYS:
            loss = torch.nn.functional.cross_entropy(model(x), y)
            dist.barrier()
            calls = 0
            begin = time.perf_counter()
            optimizer.record_loss(loss, is_global=way == "none")
            if way == "before backward":
                optimizer.begin_sync()
            loss.backward()
            optimizer.step()
            spent = 1e6 * (time.perf_counter() - begin)
            optimizer.zero_grad()
            assert calls == (way != "none"), f"{calls} all-reduces in one step"
            if step >= 0:
                times[way].append(spent)
    if rank == 0:
        medians = {way: statistics.median(values) for way, values in times.items()}
        early, late, never = (medians[way] for way in WAYS)
        print("| all-reduce of the loss | backward and step, us |")
        print("|---|---:|")
        for way, median in medians.items():
            print(f"| {way} | {median:.0f} |")
        print(f"\nOne all-reduce a step. Backward hides {1 - (early - never) / (late - never):.0%} of it.")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rows", type=int, default=512, help="of each rank's batch")
    options = parser.parse_args()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(train, args=(2, port, options.steps, options.rows), nprocs=2)


if __name__ == "__main__":
    main()
