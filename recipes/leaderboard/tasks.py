"""Tasks of the leaderboard: a recipe each, made short enough to be run hundreds of times."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from adaloss_lightning.tracking.errors import SweepError

Measure = Literal["acc", "loss", "rmse", "return"]
MARGINS: dict[Measure, float] = {"acc": 0.01, "loss": 0.03, "rmse": 0.1, "return": 0.1}
"""Within which two results are the same: points of an accuracy, a share of the best of anything else."""

QUICK_SEEDS = 2


@dataclass(frozen=True)
class Task:
    """A recipe with its settings.

    Attributes:
        name: Its own.
        recipe: Name of the recipe.
        measure: What is compared, `val/<measure>` to choose and `test/<measure>` to report.
        epochs: Length of a run, the same for all methods.
        options: Further arguments of the recipe's command line.
        seeds: Runs of each value: 5 where a run takes less than 10 s, else 3.
        seconds: What a run took on one core of an x86 server, to tell how long is left.
        is_quick: Whether `--quick` runs it.
        has_batch_norm: Whether the network has BatchNorm, for which the authors of DoG have another default.
        data: A file or folder without which the task is left out; None where nothing has to be fetched.
    """

    name: str
    recipe: str
    measure: Measure
    epochs: int
    options: tuple[str, ...] = ()
    seeds: int = 5
    seconds: float = 2.0
    is_quick: bool = False
    has_batch_norm: bool = False
    data: str | None = None

    @property
    def is_lower_better(self) -> bool:
        """Whether small values are good."""
        return self.measure in ("loss", "rmse")

    def arguments(self) -> list[str]:
        """Arguments for every run: one length, no choice of an epoch, one validation at the end."""
        return [
            f"--trainer.max_epochs={self.epochs}",
            f"--trainer.check_val_every_n_epoch={self.epochs}",
            "--trainer.limit_val_batches=1.0",
            "--trainer.enable_checkpointing=false",
            "--trainer.log_every_n_steps=50",
            "--trainer.callbacks+=recipes.leaderboard.callbacks.Spent",
            *self.options,
        ]


def _digits(net: str, seconds: float, is_quick: bool = False, has_batch_norm: bool = False) -> Task:
    options = (f"--model.net={net}",)
    return Task(f"digits_{net}", "digits", "acc", 12, options, 5, seconds, is_quick, has_batch_norm)


def _table(name: str, measure: Measure, epochs: int) -> Task:
    return Task(f"tabular_{name}", "tabular", measure, epochs, (f"--data.name={name}",), is_quick=True)


TASKS = (
    _digits("mlp", seconds=2.5, is_quick=True),
    _digits("cnn", seconds=4.0, has_batch_norm=True),
    _digits("vit", seconds=10.0),
    Task("python_gpt", "python_gpt", "loss", 3, seeds=3, seconds=45.0),
    _table("diabetes", "rmse", 40),
    _table("breast_cancer", "acc", 40),
    _table("wine", "acc", 80),
    Task("lstm_news", "lstm_news", "acc", 1, seeds=3, seconds=15.0),
    Task("pendulum", "pendulum", "return", 4, ("--model.reward_scale=0.01",), seeds=3, seconds=14.0),
    Task(
        "vit_cifar100", "vit_cifar100", "acc", 2,
        ("--model.pretrained=false", "--trainer.limit_train_batches=300", "--data.num_workers=0",
         "--model.options={img_size: 32, patch_size: 4, embed_dim: 96, depth: 3, num_heads: 3}"),
        seeds=3, seconds=60.0, data="data/cifar-100-python",
    ),
)  # fmt: skip

_FETCH = "python -m recipes.vit_cifar100 fit --config recipes/vit_cifar100/adaloss.yaml --trainer.fast_dev_run=true"


def chosen_tasks(names: Sequence[str] | None, is_quick: bool) -> tuple[list[Task], list[str]]:
    """The tasks to run, and why others are left out.

    Args:
        names: Those asked for; None takes all whose data are there, or with `is_quick` the small ones.
        is_quick: Two seeds instead of all, and runs of half the length.

    Raises:
        SweepError: There is no such task, or its data are not there.
    """
    known = {task.name: task for task in TASKS}
    if unknown := sorted(set(names or ()) - known.keys()):
        raise SweepError(f"Unknown task {unknown[0]!r}. There are {', '.join(known)}.")
    tasks = [task for task in TASKS if (task.name in names if names else task.is_quick or not is_quick)]
    absent = [f"{task.name} has no data in {task.data}: {_FETCH}" for task in tasks if not _has_data(task)]
    if names and absent:
        raise SweepError(absent[0])
    return [_quick(task) if is_quick else task for task in tasks if _has_data(task)], absent


def _quick(task: Task) -> Task:
    return replace(task, seeds=QUICK_SEEDS, epochs=-(-task.epochs // 2), seconds=task.seconds / 1.5)


def _has_data(task: Task) -> bool:
    return task.data is None or Path(task.data).exists()
