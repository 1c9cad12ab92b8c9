"""Four processes open a store at the same moment; prints the identifiers of the experiment each of them got."""

import json
import multiprocessing
import sys

from adaloss_lightning.tracking import ensure_experiment, open_store

PROCESSES = 4
_context = multiprocessing.get_context("fork")  # imports take seconds and would set the processes apart


def rush(uri: str) -> str:
    _start.wait()
    return ensure_experiment(open_store(uri), "new")


if __name__ == "__main__":
    _start = _context.Barrier(PROCESSES)
    with _context.Pool(PROCESSES) as pool:
        print(json.dumps(pool.map(rush, [sys.argv[1]] * PROCESSES, chunksize=1)))
