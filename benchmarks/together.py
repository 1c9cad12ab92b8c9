"""What `adaloss sweep --together` gains: `python -m benchmarks.together [--epochs N] [--networks mlp:64,cnn:16]`.

For each network the same sweep of the digits recipe (AdaLoss, `--b0s` values of b0 and `--seeds` seeds) runs as
`adaloss sweep` does it: one by one, with `--jobs`, and together, each into a new store on SQLite in a temporary
folder. The times are those of the runs, without the imports and the report, which all of them share; worker
processes import for themselves, and that counts. "Lightning alone" is the same trainings without tracking and
checkpoints, from as many points as there are seeds. The gap is that between a final val/loss together and one by one,
relative to the latter, its median over the points: where steps are so large that the loss jumps, a single point carries
rounding far.
"""

import contextlib
import io
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from adaloss_lightning.tracking.quiet import quiet
from adaloss_lightning.tracking.store import open_store
from adaloss_lightning.tracking.sweep import Sweep
from adaloss_lightning.tracking.sweeping.grid import Grid
from adaloss_lightning.tracking.sweeping.project import Project, call_main
from benchmarks.common import Row, arguments, print_table, write_json

COLUMNS = {
    "network": "{network}",
    "points": "{points:d}",
    "epochs": "{epochs:d}",
    "one by one, s": "{one_by_one_s:.1f}",
    "jobs, s": "{jobs_s:.1f}",
    "Lightning alone, s": "{lightning_s:.1f}",
    "together, s": "{together_s:.1f}",
    "one by one / together": "{ratio:.2f}",
    "jobs / together": "{jobs_ratio:.2f}",
    "gap of val/loss": "{gap:.1e}",
}


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """The working folder for the block."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def losses(uri: str) -> dict[str, float]:
    """The last val/loss of each point."""
    client = open_store(uri)
    experiment = client.get_experiment_by_name("digits")
    runs = client.search_runs([experiment.experiment_id], max_results=10_000) if experiment else []
    return {run.info.run_name: run.data.metrics["val/loss"] for run in runs if "val/loss" in run.data.metrics}


def sweep(grid: Grid, extra: list[str], **how: Any) -> tuple[float, dict[str, float]]:
    """Seconds of a sweep, and its losses."""
    with temporary_folder() as folder, quiet(io.StringIO()):
        uri = f"sqlite:///{folder}/mlflow.db"
        new = Sweep(Project.find("digits"), grid, extra=extra, uri=uri, **how)
        begin = time.perf_counter()
        status = new.run()
        seconds = time.perf_counter() - begin
        if status != "FINISHED" or new.standing.failed:
            raise RuntimeError(f"The sweep ended {status}: {new.standing.failed}")
        return seconds, losses(uri)


def lightning_alone(grid: Grid, extra: list[str]) -> float:
    """Seconds for all points, from those with the first b0."""
    project = Project.find("digits")
    points = [point for point in grid.points() if point.b0 == grid.b0s[0]]
    off = ["--trainer.logger=false", "--trainer.enable_checkpointing=false"]
    begin = time.perf_counter()
    with temporary_folder(), quiet(io.StringIO()):
        for point in points:
            call_main(project.module, project.command(point, [*extra, *off]))
    return (time.perf_counter() - begin) * len(grid.b0s)


def measure(network: str, grid: Grid, epochs: int, jobs: int) -> Row:
    net, _, width = network.partition(":")
    extra = [f"--model.net={net}", f"--model.width={width}", f"--trainer.max_epochs={epochs}"]
    before, ours = sweep(grid, extra, together=True)
    one_by_one, theirs = sweep(grid, extra)
    after, _ = sweep(grid, extra, together=True)
    together = (before + after) / 2  # the machine's speed drifts in the minute between them
    row: Row = {
        "network": f"{net}, width {width}",
        "points": len(grid.points()),
        "epochs": epochs,
        "one_by_one_s": one_by_one,
        "lightning_s": lightning_alone(grid, extra),
        "together_s": together,
        "ratio": one_by_one / together,
        "gap": statistics.median(abs(ours[name] - theirs[name]) / abs(theirs[name]) for name in theirs),
    }
    if jobs > 1:
        row["jobs_s"] = sweep(grid, extra, jobs=jobs)[0]
        row["jobs_ratio"] = row["jobs_s"] / together
    return row


def main() -> None:
    parser = arguments("together", __doc__)
    parser.add_argument("--networks", default="mlp:64,mlp:1024", help="of the digits recipe")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--b0s", type=int, default=5, help="how many")
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes of the sweep beside it; 1 for none")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    b0s = ",".join(f"{10.0**power:g}" for power in range(-2, options.b0s - 2))
    grid = Grid.parse("adaloss", b0s, ",".join(str(seed + 1) for seed in range(options.seeds)))
    # imports, and all else that is done once in a process
    sweep(Grid.parse("adaloss", "1", "1"), ["--trainer.max_epochs=1"], together=True)
    rows = print_table(
        (measure(one, grid, options.epochs, options.jobs) for one in options.networks.split(",")), COLUMNS
    )
    write_json(options.json, "together", rows, columns={"": COLUMNS}, threads=1)


if __name__ == "__main__":
    main()
