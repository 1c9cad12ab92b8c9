"""Points of a sweep that differ in b0 and seed alone, trained at once in this process: `adaloss sweep --together`.

The command line of the first point of each seed runs as it would alone, up to `Trainer.fit`. There it waits: the
command line of the next seed runs inside that call. In the innermost one all points are trained together. Then the
calls return one by one, and each command line goes on with what it does after `fit`. So models, data and their
random numbers are those of a sweep one by one, and so are the runs in the store.
"""

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.quiet import quiet
from adaloss_lightning.tracking.sweeping.grid import Point
from adaloss_lightning.tracking.sweeping.joinable import refusal, require_joinable
from adaloss_lightning.tracking.sweeping.joint_fit import JointFit
from adaloss_lightning.tracking.sweeping.joint_point import JointPoint
from adaloss_lightning.tracking.sweeping.joint_seed import Seed
from adaloss_lightning.tracking.sweeping.project import call_main
from adaloss_lightning.tracking.sweeping.replaced import replaced
from adaloss_lightning.tracking.sweeping.worker import Outcome, Task, run_task

_Fit = Callable[[Seed, dict[str, Any]], None]
_MOST_SEEDS = 25  # command lines inside of each other
_FRAMES = 200  # that each of them may take of Python's stack


def groups_of(points: Iterable[Point]) -> list[list[Point]]:
    """The points, sorted into those that are trained together: of one method, with the same further options."""
    alike: dict[object, dict[str, list[Point]]] = {}
    for point in points:
        alike.setdefault((point.method, point.options), {}).setdefault(point.seed, []).append(point)
    groups = []
    for seeds in alike.values():
        rest = iter(seeds.values())
        while some := list(islice(rest, _MOST_SEEDS)):
            groups.append([point for points in some for point in points])
    return groups


def require_together(module: str, args: list[str]) -> None:
    """Builds what the command line `args` builds, without tracking, and tries one step of it stacked.

    A project that fails before its training is left to the run that fails.

    Raises:
        SweepError: It cannot be trained together with others.
    """

    def look(seed: Seed, given: dict[str, Any]) -> None:
        raise _Tried(_reason_against(seed, given))

    reason: SweepError | None = None
    with _fit_replaced(look), quiet(io.StringIO()):
        try:
            call_main(module, [*args, "--trainer.logger=false"])
        except _Tried as tried:
            reason = tried.reason
        except (Exception, SystemExit):
            return
    if reason is not None:
        raise reason


class _Tried(BaseException):
    # No Exception: a project that catches those around its LightningCLI must not swallow it.
    def __init__(self, reason: SweepError | None) -> None:
        self.reason = reason


def _reason_against(seed: Seed, given: dict[str, Any]) -> SweepError | None:
    datamodule = given.get("datamodule") or given.get("train_dataloaders")
    try:
        require_joinable(seed, datamodule, given.get("ckpt_path"))
        with contextlib.ExitStack() as runs:
            names = JointFit([(seed, [(1.0, None), (2.0, None)])], runs).try_step()
        monitor = getattr(seed.trainer.checkpoint_callback, "monitor", None)
        if monitor not in names | {None}:
            return refusal(f"the checkpoint monitors {monitor}, and there are {', '.join(sorted(names))}")
    except SweepError as error:
        return error
    except (RuntimeError, ValueError) as error:  # what vmap cannot do, dropout for one
        return refusal(f"one step of several at once fails: {' '.join(str(error).split())[:300]}")
    return None


def run_together(
    tasks: Iterable[Task], groups: Sequence[Sequence[Point]]
) -> Generator[tuple[Task, Outcome], None, None]:
    """Runs the tasks, group by group, and yields those of a group when all of it is done.

    Args:
        tasks: In the order of the groups' points. They are asked for when their group begins.
        groups: As `groups_of` makes them.

    Raises:
        KeyboardInterrupt: After the outcomes of a group that Ctrl-C or SIGTERM ended.
    """
    waiting = iter(tasks)
    for points in groups:
        group = _Group(list(zip(points, waiting, strict=False)))
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(limit + _FRAMES * _MOST_SEEDS)
        try:
            group.run()
        finally:
            sys.setrecursionlimit(limit)
        yield from group.outcomes
        if group.is_killed:
            raise KeyboardInterrupt


class _Group:
    """One training together.

    Args:
        points: With the task of each.
    """

    def __init__(self, points: Sequence[tuple[Point, Task]]) -> None:
        seeds: dict[str, list[tuple[Point, Task]]] = {}
        for point, task in points:
            seeds.setdefault(point.seed, []).append((point, task))
        self._seeds = list(seeds.values())
        self._built: list[tuple[Seed, list[tuple[Point, Task]]]] = []
        self._error: BaseException | None = None
        self._runs = contextlib.ExitStack()
        self.outcomes: list[tuple[Task, Outcome]] = []

    @property
    def is_killed(self) -> bool:
        """Whether Ctrl-C or SIGTERM stopped it."""
        return any(outcome.status == "KILLED" for _, outcome in self.outcomes)

    def run(self) -> None:
        """Trains the points, and leaves their outcomes."""
        with self._runs:
            self._enter(0)

    def _enter(self, number: int) -> None:
        """Runs the command line of a seed's first point; the other seeds' run inside of its `fit`."""
        if number == len(self._seeds):
            self._train()
            return
        points = self._seeds[number]
        has_built = False

        def fit(seed: Seed, given: dict[str, Any]) -> None:
            nonlocal has_built
            has_built = True
            place = len(self._built)
            self._built.append((seed, points))
            try:
                self._enter(number + 1)
                if self.is_killed:
                    raise KeyboardInterrupt
                if self._error is not None:
                    raise self._error
                _leave(self._fitted(place))
            except BaseException:
                _finalize(seed.trainer, "failed")
                raise
            _finalize(seed.trainer, "success")

        with _fit_replaced(fit):
            outcome = run_task(points[0][1])
        if not has_built and outcome.status != "KILLED":
            self._enter(number + 1)
        self.outcomes += [(task, outcome) for _, task in points]

    def _train(self) -> None:
        seeds = [
            (seed, [(float(point.b0), (task.tracking_uri, task.run_id)) for point, task in points])
            for seed, points in self._built
        ]
        if not seeds:
            return
        try:
            self._joint = JointFit(seeds, self._runs)
            self._joint.run()
        except BaseException as error:  # Ctrl-C too: each of the waiting calls of `fit` raises it
            self._error = error

    def _fitted(self, place: int) -> list[JointPoint]:
        return [point for point in self._joint.points if point.seed is self._built[place][0]]


def _finalize(trainer: Trainer, status: str) -> None:
    """Tells the loggers that the training is over, as `fit` does at its end."""
    for logger in trainer.loggers:
        logger.finalize(status)


def _leave(points: list[JointPoint]) -> None:
    """Leaves the trainer as `fit` leaves it, and lets each of its tests be one of every point."""
    first = points[0]
    trainer, model = first.seed.trainer, first.seed.model
    test = trainer.test

    def test_all(*args: Any, **kwargs: Any) -> Any:
        results = [_tested(point, test, args, kwargs) for point in reversed(points)]  # last the one whose command it is
        return results[-1]

    trainer.test = test_all  # type: ignore[method-assign]
    with first.worn():
        model.load_state_dict(first.last_weights)
    if isinstance(trainer.checkpoint_callback, ModelCheckpoint):
        trainer.checkpoint_callback.best_model_path = first.best_path
    with first.seed.drawing():
        pass  # what comes after the training draws from here


def _tested(point: JointPoint, test: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    own = {"ckpt_path": point.best_path} if kwargs.get("ckpt_path") else {}
    with point.worn() as trainer:
        if not own:
            point.seed.model.load_state_dict(point.last_weights)
        elif isinstance(trainer.checkpoint_callback, ModelCheckpoint):
            trainer.checkpoint_callback.best_model_path = point.best_path
        return test(*args, **kwargs | own)


@contextlib.contextmanager
def _fit_replaced(replacement: _Fit) -> Iterator[None]:
    @functools.wraps(Trainer.fit)  # LightningCLI makes options of its arguments
    def fit(self: Trainer, model: LightningModule, *loaders: Any, **data: Any) -> None:
        names = ("train_dataloaders", "val_dataloaders", "datamodule", "ckpt_path")
        given = dict(zip(names, loaders, strict=False)) | data
        replacement(Seed(self, model, given), given)

    with replaced(Trainer, "fit", fit):
        yield
