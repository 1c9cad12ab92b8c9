"""How long a step takes, ours beside torch's own: `python -m benchmarks.step_time [--pairs N] [--threads N]`.

Each pair times one step of both optimizers, in an order that alternates, on the very same parameters, gradients and
state: two copies of 87 MB differ in speed by several percent just by where in memory they happen to lie. The table
gives medians over the pairs, and the medians of the pairs' ratios and differences.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, LossAdaptive

Parameters = list[torch.nn.Parameter]
Make = Callable[[Parameters], Any]

# what is compared, and the target of the project
COMPARISONS: list[tuple[str, Make, str, Make]] = [
    ("AdaLoss", lambda p: AdaLoss(p, lr=1e-3), "SGD(fused)", lambda p: torch.optim.SGD(p, lr=1e-3, fused=True)),
    ("AdamLoss", lambda p: AdamLoss(p, lr=1e-4), "Adam(fused)", lambda p: torch.optim.Adam(p, lr=1e-4, fused=True)),
    (
        "LossAdaptive(AdamW)",
        lambda p: LossAdaptive(torch.optim.AdamW(p, lr=1e-4, fused=True), rule="adamloss"),
        "AdamW(fused)",
        lambda p: torch.optim.AdamW(p, lr=1e-4, fused=True),
    ),
    ("AdaLoss", lambda p: AdaLoss(p, lr=1e-3), "SGD", lambda p: torch.optim.SGD(p, lr=1e-3)),
    ("AdamLoss", lambda p: AdamLoss(p, lr=1e-4), "Adam", lambda p: torch.optim.Adam(p, lr=1e-4)),
    ("AdaGradNorm", lambda p: AdaGradNorm(p, lr=1e-3), "SGD(fused)", lambda p: torch.optim.SGD(p, lr=1e-3, fused=True)),
]


def vit_small() -> Parameters:
    import timm

    return list(timm.create_model("vit_small_patch16_224", pretrained=False).parameters())


def tiny() -> Parameters:
    return [torch.nn.Parameter(torch.randn(4)) for _ in range(2000)]


PROBLEMS = {"ViT-S/16 (21.7 M parameters)": vit_small, "2,000 tensors of 4": tiny}


def copy_with_gradients(parameters: Parameters) -> Parameters:
    copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
    for p in copies:
        p.grad = torch.full_like(p, 1e-3)
    return copies


def compare(parameters: Parameters, ours: Make, theirs: Make, pairs: int) -> dict[str, float]:
    """Medians in microseconds."""
    copies = copy_with_gradients(parameters)
    one, other = ours(copies), theirs(copies)
    loss = torch.tensor(0.7)
    one.step(loss=loss) if hasattr(one, "record_loss") else one.step()
    other.state = one.state
    steps: tuple[Callable[[], Any], Callable[[], Any]] = (
        (lambda: one.step(loss=loss)) if hasattr(one, "record_loss") else one.step,
        other.step,
    )
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(-3, pairs):  # three pairs to warm up
        for which in (0, 1) if index % 2 else (1, 0):
            begin = time.perf_counter()
            steps[which]()
            if index >= 0:
                times[which].append(1e6 * (time.perf_counter() - begin))
    ratios = [mine / theirs for mine, theirs in zip(*times, strict=True)]
    return {
        "ours_us": statistics.median(times[0]),
        "theirs_us": statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "added_us": statistics.median(mine - theirs for mine, theirs in zip(*times, strict=True)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}, {options.pairs} pairs\n")
    print("| problem | ours | beside | ours, us | theirs, us | ratio | added, us |")
    print("|---|---|---|---:|---:|---:|---:|")
    rows: list[dict[str, Any]] = []
    for problem, make in PROBLEMS.items():
        parameters = make()
        for name, ours, other, theirs in COMPARISONS:
            row = compare(parameters, ours, theirs, options.pairs)
            rows.append({"problem": problem, "ours": name, "beside": other, **row})
            numbers = f"{row['ours_us']:.0f} | {row['theirs_us']:.0f} | {row['ratio']:.3f} | {row['added_us']:+.0f}"
            print(f"| {problem} | {name} | {other} | {numbers} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
