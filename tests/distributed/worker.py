"""One rank: runs every case and saves what it got. Started by torchrun from the tests."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.distributed import cases


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    results: dict[str, Any] = {}
    for name in cases.PLAIN:
        for way in ("argument", "closure", "global"):
            results[f"plain {name} {way}"] = cases.train_plainly(name, rank, ranks, way)
    results["spoiled"] = cases.train_plainly("adaloss", rank, ranks, spoiled=3)
    results["unsynced"] = cases.train_plainly("adaloss", rank, ranks, sync_loss=False)
    alone = [dist.new_group([index]) for index in range(ranks)][rank]
    results["alone"] = cases.train_plainly("adaloss", rank, ranks, process_group=alone)
    for name, accumulate in cases.LIGHTNING:
        results[f"lightning {name} {accumulate}"] = cases.train_with_lightning(name, accumulate, rank, ranks)
    for name in ("adaloss", "adamloss"):
        results[f"no callback {name}"] = cases.train_with_lightning(name, 1, rank, ranks, callback=False)
    results["auto"] = cases.train_with_auto(rank, ranks)
    torch.save(results, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
