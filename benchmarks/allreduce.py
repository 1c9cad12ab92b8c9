"""Share of the loss's all-reduce that hides behind backward: `python -m benchmarks.allreduce [--steps N] [--rows N]`.

Two ranks (gloo, one thread and one core each) train one network under DistributedDataParallel. Three ways take turns in
a random order: the all-reduce begins before backward (what AdaLossCallback does), within the step, or not at all. The
table gives rank 0's medians over the steps, of the step alone (which waits for the all-reduce) and of backward and
step; exposed is what the step alone takes longer than without an all-reduce. Where backward sleeps, as a process does
whose accelerator computes, a core is free for gloo's threads.
"""

import random
import statistics
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from adaloss_lightning import AdaLoss
from benchmarks.common import Columns, Row, arguments, print_table, write_json
from benchmarks.ranks import on_ranks

WAYS = ("before backward", "within the step", "none")
WARM_UP = 10
COLUMNS: Columns = {
    "backward": "{backward}",
    "all-reduce of the loss": "{way}",
    "all-reduces a step": "{all_reduces:g}",
    "step, us": "{step_us:.0f}",
    "exposed, us": "{exposed_us:+.0f}",
    "backward and step, us": "{both_us:.0f}",
}


class Sleep(torch.autograd.Function):
    """The identity, whose backward takes its time."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, seconds: float) -> torch.Tensor:  # noqa: D102
        ctx.seconds = seconds
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: D102
        if ctx.seconds:
            time.sleep(ctx.seconds)
        return gradient, None


def train(rank: int, ranks: int, backward: str, steps: int, rows: int, sleep_ms: float) -> list[Row]:
    """The rows of one kind of backward, as this rank sees them."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    model = DistributedDataParallel(net)
    optimizer = AdaLoss(net.parameters(), lr=0.01)
    x, y = torch.randn(rows, 256), torch.randint(0, 10, (rows,))
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    counts = dict.fromkeys(WAYS, 0)
    way = WAYS[0]
    all_reduce = dist.all_reduce

    def counted(*arguments: Any, **options: Any) -> Any:
        counts[way] += 1
        return all_reduce(*arguments, **options)

    dist.all_reduce = counted  # DistributedDataParallel's own go through C++
    order = random.Random(0)  # the same on all ranks
    for step in range(-WARM_UP, steps):
        for way in order.sample(WAYS, len(WAYS)):
            loss = torch.nn.functional.cross_entropy(Sleep.apply(model(x), sleep_ms / 1e3), y)
            begin = time.perf_counter()
            optimizer.record_loss(loss, is_global=way == "none")
            if way == "before backward":
                optimizer.begin_sync()
            loss.backward()
            middle = time.perf_counter()
            optimizer.step()
            end = time.perf_counter()
            optimizer.zero_grad()
            if step >= 0:
                times[way].append((1e6 * (end - middle), 1e6 * (end - begin)))
    dist.all_reduce = all_reduce
    medians = {way: [statistics.median(column) for column in zip(*times[way], strict=True)] for way in WAYS}
    return [
        {
            "backward": backward,
            "way": way,
            "all_reduces": counts[way] / (WARM_UP + steps),
            "step_us": alone,
            "exposed_us": alone - medians["none"][0],
            "both_us": both,
        }
        for way, (alone, both) in medians.items()
    ]


def main() -> None:
    parser = arguments("allreduce", __doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=512, help="of each rank's batch, where backward computes")
    parser.add_argument(
        "--sleep-ms", type=float, default=5.0, help="of backward, where it sleeps; its batch has 16 rows"
    )
    options = parser.parse_args()
    kinds = [("computes", options.rows, 0.0), (f"sleeps {options.sleep_ms:g} ms", 16, options.sleep_ms)]
    measured = (row for kind, rows, sleep in kinds for row in on_ranks(train, 2, kind, options.steps, rows, sleep))
    rows = print_table(measured, COLUMNS)
    write_json(options.json, "allreduce", rows, columns={"": COLUMNS}, ranks=2, threads=1)


if __name__ == "__main__":
    main()
