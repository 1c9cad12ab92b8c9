"""Checks and times on a GPU: `python -m benchmarks.gpu [--device cuda|cpu] [--json PATH]`.

Checks: no step waits for the device, a CUDA graph replays the whole step, a compiler traces it without a break. Step
times beside torch's fused optimizers, as shares of the bandwidth of a copy measured in the same run; images per second
of a fine-tuning of ViT-S/16. `--device cpu` runs all that makes sense there at toy sizes: it tests the harness, and its
times mean nothing. The exit code is 1 where anything failed.
"""

import sys
import traceback
from collections.abc import Callable, Iterator

import torch

from benchmarks.common import Columns, Row, arguments, print_table, vit_small_net, write_json
from benchmarks.device_checks import (
    CASES,
    Regression,
    check_compiled,
    check_graph,
    check_nothing_waits,
    cuda_forbids_waiting,
)
from benchmarks.device_time import PAIRS, NoRoom, copy_bandwidth, problems, step_time
from benchmarks.fine_tuning import Setting, fine_tuning, vit_toy

CHECKS: Columns = {"check": "{check}", "optimizer": "{optimizer}", "verdict": "{verdict}"}
STEPS: Columns = {
    "problem": "{problem}",
    "ours": "{ours}",
    "beside": "{beside}",
    "ours, us": "{ours_us:.1f}",
    "theirs, us": "{theirs_us:.1f}",
    "ratio": "{ratio:.3f}",
    "quartiles": "{ratio_low:.3f} to {ratio_high:.3f}",
    "launch, us": "{ours_launch_us:.0f}, theirs {theirs_launch_us:.0f}",
    "of the bandwidth": "{bandwidth:.0%}",
    "verdict": "{verdict}",
}
TUNING: Columns = {
    "training": "{way}",
    "images/s": "{images_per_s:.0f}",
    "of SGD's": "{of_sgd:.3f}",
    "verdict": "{verdict}",
}


class Skipped(Exception):  # noqa: N818
    """What does not apply here, with the reason."""


def judged(row: Row, measure: Callable[[], Row | None]) -> Row:
    """The row with what `measure` returns, and with a verdict: passed, skipped or failed, and why."""
    try:
        return {**row, "verdict": "passed", **(measure() or {})}
    except (Skipped, NoRoom) as reason:
        return {**row, "verdict": f"skipped: {reason}"}
    except Exception as error:  # whatever it is, the other parts go on and the exit code tells
        traceback.print_exc()
        why = next(iter(str(error).strip().splitlines()), "")
        return {**row, "verdict": f"failed: {type(error).__name__}: {why}"}


def checks(device: str, steps: int, backend: str) -> Iterator[Row]:
    """A row for each check of each optimizer."""

    def never_waits(name: str) -> None:
        if device == "cpu":
            raise Skipped("on the CPU there is nothing to wait for; the tests run it on fake CUDA tensors")
        check_nothing_waits(CASES[name], Regression(device), cuda_forbids_waiting)

    def graph(name: str) -> None:
        if device == "cpu":
            raise Skipped("the CPU has no CUDA graphs")
        check_graph(CASES[name], device, steps=steps)

    def compiled(name: str) -> None:
        check_compiled(CASES[name], device, backend, steps)

    parts = {
        "no wait for the device in 100 steps": never_waits,
        f"a CUDA graph of the whole step, {steps:,} replays": graph,
        f"torch.compile({backend!r}), {steps:,} steps under a scheduler": compiled,
    }
    for part, check in parts.items():
        for name in CASES:
            yield judged({"table": "checks", "check": part, "optimizer": name}, lambda: check(name))  # noqa: B023


def step_times(device: str, bandwidth: float, pairs: int) -> Iterator[Row]:
    """A row for each problem and pair."""
    for problem in problems(device):
        for pair in PAIRS:
            row = {"table": "steps", "problem": problem.name, "ours": pair.ours, "beside": pair.beside}
            yield judged(row, lambda: step_time(device, problem, pair, bandwidth, pairs))  # noqa: B023


def trainings(device: str) -> Iterator[Row]:
    """A row for each way to train."""
    toy = Setting(vit_toy, images=16, batch=4, steps=3, rounds=2, warm_up=1)
    setting = toy if device == "cpu" else Setting(vit_small_net, images=224, batch=256, steps=100, rounds=3)
    rows: list[Row] = []
    failed = judged({"table": "tuning", "way": "all"}, lambda: rows.extend(fine_tuning(device, setting)))
    yield from [{"table": "tuning", **row} for row in rows] or [failed]


def main(args: list[str] | None = None) -> int:
    """The exit code: 1 where anything failed, 2 where the device is not there."""
    parser = arguments("gpu", __doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--backend", help="of torch.compile: inductor, on the CPU aot_eager")
    options = parser.parse_args(args)
    toy = options.device == "cpu"
    if not toy and not torch.cuda.is_available():
        print("No CUDA device. `--device cpu` tests the harness at toy sizes.", file=sys.stderr)
        return 2
    name = "the CPU, toy sizes: a test of the harness" if toy else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {name}\n")
    backend = options.backend or ("aot_eager" if toy else "inductor")
    rows = print_table(checks(options.device, 20 if toy else 1000, backend), CHECKS)
    bandwidth = copy_bandwidth(options.device)
    print(f"A copy reads and writes {bandwidth / 1e9:.0f} GB/s.\n")
    rows += print_table(step_times(options.device, bandwidth, 10 if toy else 100), STEPS)
    rows += print_table(trainings(options.device), TUNING)
    columns = {"checks": CHECKS, "steps": STEPS, "tuning": TUNING}
    write_json(options.json, "gpu", rows, columns=columns, device=name, copy_gb_s=round(bandwidth / 1e9))
    return int(any(row["verdict"].startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
