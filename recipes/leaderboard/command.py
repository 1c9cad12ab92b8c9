"""`adaloss leaderboard`: runs what is left to run, and writes results and page."""

import os
import platform
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.reports.report import REPORTS, write_files
from adaloss_lightning.tracking.sweeps.executors.in_process import InProcess
from adaloss_lightning.tracking.sweeps.executors.processes import Processes
from adaloss_lightning.tracking.sweeps.executors.shares import available_cores
from adaloss_lightning.tracking.sweeps.executors.task import Executor
from adaloss_lightning.version import __version__
from recipes.leaderboard.clock import Clock
from recipes.leaderboard.methods import Method, chosen_methods
from recipes.leaderboard.page import write_page
from recipes.leaderboard.records import Record, TaskResults, merged
from recipes.leaderboard.runs import records_of, sweep_of
from recipes.leaderboard.tasks import Task, chosen_tasks

FOLDER, QUICK_FOLDER = REPORTS / "leaderboard", REPORTS / "leaderboard_quick"
DONE, FAILED, INTERRUPTED = 0, 1, 130


def run(
    tasks: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    *,
    is_quick: bool = False,
    jobs: int | None = None,
    out: Path | None = None,
    uri: str | None = None,
) -> int:
    """Runs each method on each task; what an earlier command has finished is not run again.

    Args:
        tasks: Names; None takes all whose data are there, with `is_quick` the small ones.
        methods: Names, beside `auto`; None takes all.
        is_quick: Two seeds, and runs of half the length.
        jobs: Runs at the same time, on one thread each; None takes 2 where there are two cores.
        out: Folder of the JSON files, to which this command adds, and of the page; None takes one in `reports`.
        uri: MLflow store; None takes the default one.

    Returns:
        Exit code: 0, 1 when runs failed, 130 when it was stopped.

    Raises:
        TrackingError: Unknown names, packages or data that are not there, or a store or folder that refuses.
    """
    jobs = min(2, available_cores()) if jobs is None else jobs
    if jobs < 1:
        raise SweepError(f"Invalid --jobs={jobs}. Must be >= 1.")
    todo, absent = chosen_tasks(tasks, is_quick)
    chosen = chosen_methods(methods)
    out = out or (QUICK_FOLDER if is_quick else FOLDER)
    write_files(out, {})  # before hours of work that would have no place
    for reason in absent:
        print(f"Left out: {reason}", file=sys.stderr)
    with closing(Processes(jobs) if jobs > 1 else InProcess()) as executor:  # processes take many seconds to start
        return _Leaderboard(todo, chosen, executor, jobs, out, uri).run()


class _Leaderboard:
    """Sweep after sweep, on one executor."""

    def __init__(
        self,
        tasks: Sequence[Task],
        methods: Sequence[Method],
        executor: Executor,
        jobs: int,
        out: Path,
        uri: str | None,
    ) -> None:
        self._methods = {task: [method for method in methods if method.suits(task)] for task in tasks}
        self._executor, self._out, self._uri = executor, out, uri
        self._clock = Clock([(task, method) for task, own in self._methods.items() for method in own], jobs)
        self._failed: list[str] = []

    def run(self) -> int:
        """Runs everything and writes the page; the exit code."""
        paths: list[Path] = []
        for task, methods in self._methods.items():
            for method in methods:
                print(self._clock.line(task, method), file=sys.stderr)
                sweep = sweep_of(task, method, self._executor, self._uri)
                status = sweep.run()
                if status == "KILLED":
                    print("Stopped. The same command continues it.", file=sys.stderr)
                    return INTERRUPTED
                self._clock.count(task, method, sweep.done_before)
                self._failed += [f"{task.name}: {point}: {error}" for point, error in sweep.standing.failed]
                _write(task, method, records_of(sweep, task, method), self._out)
                paths = write_page(self._out, self._out)
        for path in paths:
            print(f"wrote {path}")
        for line in self._failed:
            print(f"failed: {line}", file=sys.stderr)
        return FAILED if self._failed else DONE


def _write(task: Task, method: Method, records: Sequence[Record], out: Path) -> None:
    """Writes the file of a task with new runs of a method; the other methods stay as they are in it."""
    name = f"{task.name}.json"
    old = TaskResults.read(out / name) if (out / name).exists() else None
    defaults = (old.defaults if old else {}) | {method.name: method.default_for(task)}
    both = merged(old.records if old else (), records)
    write_files(out, {name: TaskResults(task.name, task.measure, defaults, _facts(), both).to_json()})


def _facts() -> dict[str, str]:
    return {
        "adaloss-lightning": __version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "date": time.strftime("%Y-%m-%d"),
    }
