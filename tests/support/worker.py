"""One rank: runs every case and saves what it got. Started by torchrun from the tests."""

import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from adaloss_lightning import AdaLossCallback
from tests.limits import HANG_S
from tests.support import cases

Runs = dict[str, Callable[[], dict[str, Any]]]


def ddp(rank: int, ranks: int) -> Runs:
    runs: Runs = {}
    for name, accumulate in cases.DDP:
        runs[f"{name} {accumulate}"] = lambda name=name, accumulate=accumulate: cases.train_with_lightning(
            name, rank, ranks, accumulate=accumulate
        )
    for name in cases.SHARDED:
        runs[f"uneven {name}"] = lambda name=name: cases.train_with_lightning(name, rank, ranks, uneven=True)
        for way in cases.PLAIN:
            runs[f"plain {name} {way}"] = lambda name=name, way=way: cases.train_plainly(name, rank, ranks, way)
    for accumulate in (1, 3):
        runs[f"spoiled {accumulate}"] = lambda accumulate=accumulate: cases.train_with_lightning(
            "adaloss", rank, ranks, accumulate=accumulate, spoiled=True
        )
        runs[f"count {accumulate}"] = lambda accumulate=accumulate: cases.count_reductions(rank, ranks, accumulate)
        runs[f"norm {accumulate}"] = lambda accumulate=accumulate: cases.train_with_lightning(
            "adagrad_norm", rank, ranks, accumulate=accumulate
        )
    for name in ("adaloss", "adamloss"):
        runs[f"no callback {name}"] = lambda name=name: cases.train_with_lightning(name, rank, ranks, callbacks=[])
    groups = [dist.new_group([index]) for index in range(ranks)]
    for way, settings in {
        "sync_loss=False": {"sync_loss": False},
        "process_group": {"process_group": groups[rank]},
    }.items():
        runs[f"alone {way}"] = lambda settings=settings: cases.train_plainly(
            "adaloss", rank, ranks, cases.PLAIN[0], **settings
        )
    for unit in cases.UNITS:
        runs[f"unit {unit:g}"] = lambda unit=unit: cases.train_with_lightning(
            "bare_sgd", rank, ranks, unit=unit, callbacks=[AdaLossCallback(alpha="auto")]
        )
        runs[f"plain unit {unit:g}"] = lambda unit=unit: cases.train_plainly(
            "adaloss", rank, ranks, cases.PLAIN[0], unit=unit, alpha="auto"
        )
    runs["auto"] = lambda: cases.train_with_auto(rank, ranks)
    for name in cases.ZERO_REDUNDANT:
        runs[f"zero {name}"] = lambda name=name: cases.train_zero_redundant(name, rank, ranks)
    for way in cases.FABRIC:
        runs[f"fabric {way}"] = lambda way=way: cases.train_with_fabric(way, rank, ranks)
    runs["join"] = lambda: cases.step_within_join(rank, ranks)
    return runs


def fsdp2(rank: int, ranks: int, folder: Path) -> Runs:
    runs: Runs = {}
    for name in cases.SHARDED:
        for way in ("undisturbed", "spoiled", "resumed"):
            runs[f"sharded {way} {name}"] = lambda name=name, way=way: cases.train_sharded(name, rank, ranks, way)
        for way in ("lightning", "lightning resumed"):
            runs[f"sharded {way} {name}"] = lambda name=name, way=way: cases.train_sharded_with_lightning(
                name, rank, ranks, folder if "resumed" in way else None
            )
    return runs


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # a rank that fails alone keeps the others waiting: for less than the whole launch may take
    dist.init_process_group("gloo", timeout=timedelta(seconds=HANG_S / 3))
    results: dict[str, Any] = {}
    for case, run in {**ddp(rank, ranks), **fsdp2(rank, ranks, folder)}.items():
        try:
            results[case] = run()
        except Exception:  # of one case: the others have their own tests
            results[case] = {"error": traceback.format_exc()}
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
