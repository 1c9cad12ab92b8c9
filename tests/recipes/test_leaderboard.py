"""The leaderboard: its measures against numbers made by hand, its page, its methods, and the command."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from mlflow.tracking import MlflowClient
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adaloss_lightning import AdaLossCallback
from adaloss_lightning.tracking.console.app import main
from recipes.digits.module import DigitsModule
from recipes.leaderboard import methods, page, tasks
from recipes.leaderboard.callbacks import BATCHES, DoGAverage, Schedule, ScheduleFree, Spent, schedule
from recipes.leaderboard.measures import Cell, difference, table_of
from recipes.leaderboard.methods import METHODS, Method
from recipes.leaderboard.page import write_page
from recipes.leaderboard.records import Record, TaskResults, merged
from tests.recipes.runs import QUIET, only_run, run_recipe

Tests = Sequence[float | None]


def runs(method: str, value: float | None, tests: Tests, val: float = 0.5, val_loss: float = 1.0) -> list[Record]:
    """A run a seed, from 1."""
    return [
        Record(method, value, seed, None if test is None else val, test, val_loss, 100, 0.002, 1.0)
        for seed, test in enumerate(tests, 1)
    ]


def results(*records: list[Record], measure: str = "acc", task: str = "digits_mlp") -> TaskResults:
    everything = [record for some in records for record in some]
    defaults = {record.method: None if record.value is None else 1.0 for record in everything}
    return TaskResults(task, measure, defaults, {"torch": "2"}, everything)


# -- measures


def test_difference_is_paired_with_students_interval() -> None:
    ours, theirs = Cell(None, {1: 0.90, 2: 0.94, 3: 0.98}), Cell(1.0, {1: 0.88, 2: 0.90, 3: 0.92, 4: 0.1})
    one = difference(ours, theirs, 1, 0.01)
    # Differences 0.02, 0.04, 0.06: mean 0.04, deviation 0.02; t for 2 degrees of freedom is 4.302653 in every table.
    assert one.mean == pytest.approx(0.04)
    half = 4.302653 * 0.02 / math.sqrt(3)
    assert (one.low, one.high) == pytest.approx((0.04 - half, 0.04 + half), rel=1e-6)
    assert (one.outcome, one.is_clear) == ("win", False)
    back = difference(theirs, ours, 1, 0.01)
    assert (back.mean, back.outcome) == (pytest.approx(-0.04), "loss")
    # where small values are good the same numbers are a loss
    assert difference(ours, theirs, -1, 0.01).outcome == "loss"
    assert difference(ours, theirs, 1, 0.05).outcome == "tie"


def test_targets_are_judged_by_the_interval() -> None:
    ours = Cell(None, {1: 0.90, 2: 0.90, 3: 0.90})
    alike, noisy = Cell(1.0, {1: 0.90, 2: 0.901, 3: 0.902}), Cell(1.0, {1: 0.89, 2: 0.90, 3: 0.922})
    better = Cell(1.0, {1: 0.95, 2: 0.951, 3: 0.952})
    assert [difference(ours, cell, 1, 0.01).not_worse for cell in (alike, noisy, better)] == [
        "holds", "not tested", "does not hold",
    ]  # fmt: skip
    assert difference(ours, noisy, 1, 0.01).outcome == "tie"  # the mean alone
    two = Cell(1.0, {1: 0.95, 2: 0.95})
    assert difference(ours, two, 1, 0.01).not_worse == "not tested"


def test_difference_counts_divergence() -> None:
    fine, lost = Cell(None, {1: 0.5, 2: 0.5}), Cell(1.0, {1: 0.9, 2: None})
    assert (difference(fine, lost, 1, 0.01).outcome, difference(lost, fine, 1, 0.01).outcome) == ("win", "loss")
    assert difference(lost, lost, 1, 0.01).outcome == "tie"


def test_table_chooses_by_validation_and_reports_the_test() -> None:
    table = table_of(
        results(
            runs("auto", None, (0.90, 0.92)),
            runs("adamw_constant", 0.1, (0.97, 0.97), val=0.6),  # best on test data, which do not choose
            runs("adamw_constant", 1.0, (0.80, 0.82), val=0.7),
            runs("adamw_constant", 10.0, (0.91, 0.91), val=0.8, val_loss=0.3),
            runs("adamw_constant", 100.0, (0.20, 0.20), val=0.8, val_loss=0.4),  # as good, with a higher loss
            runs("adamw_constant", 1000.0, (0.99, None), val=0.99),
        )
    )
    row = table.rows["adamw_constant"]
    assert (row.default.value, row.default.mean) == (1.0, pytest.approx(0.81))
    assert (row.best.value, row.best.mean) == (10.0, pytest.approx(0.91))
    assert row.worst.value == 1000.0
    assert row.worst.has_diverged
    assert row.diverged == 0.1
    assert (row.batches, row.batches_in_all) == (100, 500)
    assert row.step_seconds == 0.002
    assert (table.reference, table.margin) == (pytest.approx(0.91), 0.01)
    # 0.97 and 0.91 are within a point of 0.91, or better; auto is, too
    assert (row.decades, row.values) == (2, 5)
    assert (table.rows["auto"].decades, table.rows["auto"].batches) == (1, 100)


def test_table_takes_shares_of_a_loss_as_margin() -> None:
    made = (runs("auto", None, (2.05, 2.05)), runs("adamw_constant", 1.0, (2.0, 2.0), val=0.4))
    table = table_of(results(*made, measure="loss"))
    assert (table.reference, table.margin) == (2.0, pytest.approx(0.06))
    one = table.difference(table.rows["auto"].default, table.rows["adamw_constant"].default)
    assert (one.mean, one.outcome) == (pytest.approx(-0.05), "tie")
    assert table.rows["auto"].decades == 1
    assert table_of(results(*made, measure="rmse")).margin == pytest.approx(0.2)


def test_differences_of_equal_steps_are_equal() -> None:
    """In floating point 0.9 - 0.8 is more than 0.1."""
    one = difference(Cell(None, {1: 0.9, 2: 0.8}), Cell(1.0, {1: 0.8, 2: 0.7}), 1, 0.1)
    assert (one.mean, one.outcome, one.low, one.high) == (0.1, "tie", 0.1, 0.1)


# -- files and page


def test_records_come_back_from_their_file(tmp_path: Path) -> None:
    made = results(runs("auto", None, (0.123456789, None)), runs("prodigy", 1.0, (0.5,)))
    path = tmp_path / "digits_mlp.json"
    path.write_bytes(made.to_json())
    back = TaskResults.read(path)
    assert back.records[0].test == 0.123457  # six digits
    assert replace(back, records=back.records[1:]) == replace(made, records=made.records[1:])
    assert len(path.read_text().splitlines()) < 40  # a line a run
    assert merged(back.records, runs("prodigy", 1.0, (0.7, 0.8)))[2:] == runs("prodigy", 1.0, (0.7, 0.8))


def test_page_shows_losses_as_plainly_as_wins(tmp_path: Path) -> None:
    worse = results(
        runs("auto", None, (0.80, 0.81, 0.805)),
        runs("adamw_cosine", 1.0, (0.95, 0.96, 0.955)),
        runs("prodigy", 1.0, (0.90, 0.92, 0.70)),
        runs("dog", 1.0, (0.70, 0.71, 0.705)),
        runs("sps_safe", 1.0, (None, 0.9, 0.9)),
    )
    (tmp_path / "digits_mlp.json").write_bytes(worse.to_json())
    (tmp_path / "notes.md").write_text("Why: the probe <stops> too early.\n")
    write_page(tmp_path, tmp_path / "out")
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    digits = text[text.index("## digits_mlp") :]
    (adamw,) = [line for line in digits.splitlines() if line.startswith("| AdamW, warm-up")]
    (dog,) = [line for line in digits.splitlines() if line.startswith("| DoG")]
    (sps,) = [line for line in digits.splitlines() if line.startswith("| SPS")]
    assert adamw.count("**loss** -15.0") == 2
    assert dog.count("**win** +10.0") == 2
    assert sps.count("diverged (1 of 3) at 1") == 3
    assert sps.count("**win** it diverged") == 2
    assert "Missed: on digits_mlp ours is worse than the best tuned AdamW" in text
    assert "Open: on digits_mlp the seeds do not tell whether ours is worse than the best of Prodigy" in text
    assert "Missed: ours is ahead of Prodigy at its default on 0 of 1 tasks" in text
    assert "- AdamW, warm-up and cosine: at its default on digits_mlp; tuned on digits_mlp." in text
    assert "Tasks: digits_cnn; " in text
    assert "Why: the probe <stops> too early." in text
    html = (tmp_path / "out" / "leaderboard.html").read_text()
    assert html.count('class="loss">loss -15.0') == 2
    assert html.count('class="win">win +10.0') == 2
    assert "the probe &lt;stops&gt;" in html
    assert "<script" not in html


def test_page_without_losses_says_so(tmp_path: Path) -> None:
    better = results(runs("auto", None, (0.95, 0.95, 0.95)), runs("prodigy", 1.0, (0.90, 0.90, 0.91)))
    (tmp_path / "digits_mlp.json").write_bytes(better.to_json())
    page.main([str(tmp_path), "--out", str(tmp_path)])
    text = (tmp_path / "leaderboard.md").read_text()
    assert "None is missed on these tasks." in text
    assert "\nNone.\n" in text


# -- methods and tasks


@pytest.mark.parametrize("method", METHODS, ids=lambda one: one.name)
def test_method_tries_its_default_and_names_itself(method: Method) -> None:
    text = method.config.read_text()
    assert f"\nmethod: {method.name}\n" in text
    values = method.values()
    if method.name == "auto":
        assert values == ()
        return
    assert len(values) == 6
    for task in tasks.TASKS:
        assert method.default_for(task) in values
    (line,) = [line for line in text.splitlines() if line.startswith(f"    {method.parameter}:")]
    assert float(line.partition(":")[2]) == method.default


@pytest.mark.parametrize("method", METHODS, ids=lambda one: one.name)
def test_method_trains_digits(method: Method, client: MlflowClient) -> None:
    options = [
        "--model.net=mlp", "--model.width=32", "--trainer.max_epochs=2", "--trainer.limit_train_batches=30",
        "--trainer.enable_checkpointing=false", "--trainer.callbacks+=recipes.leaderboard.callbacks.Spent", *QUIET,
    ]  # fmt: skip
    run_recipe("digits", "fit", f"--config={method.config}", *options)
    run = only_run(client)
    assert (run.data.params["method"], run.info.status) == (method.name, "FINISHED")
    assert (run.data.metrics[BATCHES] == 60) == (method.name != "auto")
    assert run.data.metrics["test/loss"] < 2.5  # ten classes, from 2.3


@pytest.mark.parametrize("name", ["momo_adam", "sps_safe", "schedule_free", "adam_cosine"])
def test_method_trains_the_pendulum(name: str, folder: Path) -> None:
    (task,) = (task for task in tasks.TASKS if task.name == "pendulum")
    options = [
        *task.options, "--data.rollout=208", "--data.num_envs=1", "--data.epoch_rollouts=1", "--data.test_episodes=1",
        "--model.passes=1", "--model.minibatch=104", "--trainer.max_epochs=1", "--trainer.logger=false",
        "--trainer.enable_checkpointing=false", *QUIET,
    ]  # fmt: skip
    run_recipe("pendulum", "fit", f"--config={methods.FOLDER / name}.yaml", *options)


def test_quick_takes_small_tasks_two_seeds_and_half_the_epochs() -> None:
    chosen, _ = tasks.chosen_tasks(None, is_quick=True)
    assert [task.name for task in chosen] == [
        "digits_mlp", "tabular_diabetes", "tabular_breast_cancer", "tabular_wine",
    ]  # fmt: skip
    assert {task.seeds for task in chosen} == {2}
    (vit,), _ = tasks.chosen_tasks(["digits_vit"], is_quick=True)
    assert (vit.seeds, vit.epochs) == (2, 6)


def test_schedule_warms_up_and_falls() -> None:
    rates = [schedule(done, 10, 0.2, cosine=True) for done in range(10)]
    expected = [0.5, 1.0, *(0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8))]
    assert rates == pytest.approx(expected)
    assert [schedule(done, 10, 0.2, cosine=False) for done in (0, 1, 2, 9)] == [0.5, 1, 1, 1]


class Line(LightningModule):
    """A slope that is fitted to 3, with an optimizer of the test's choice; keeps what it was validated with."""

    def __init__(self, optimizer: torch.optim.Optimizer | None = None) -> None:
        super().__init__()
        self.line = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.line.weight)
        self.made = optimizer
        self.trained: list[float] = []
        self.rates: list[float] = []
        self.validated: list[float] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.made or torch.optim.Adam(self.parameters(), lr=0.1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.line(batch) - 3 * batch).square().mean()

    def on_train_batch_end(self, *_: object) -> None:
        self.trained.append(self.line.weight.item())
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(self.line.weight.item())


def fit(module: Line, *callbacks: object, epochs: int = 2) -> Trainer:
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), num_sanity_val_steps=0,
    )  # fmt: skip
    loader = DataLoader(torch.ones(40, 1), batch_size=1)
    trainer.fit(module, loader, DataLoader(torch.ones(1, 1)))
    return trainer


def test_schedule_sets_the_rates_of_a_run() -> None:
    module = Line()
    fit(module, Schedule(warmup=0.1, cosine=True))
    assert module.rates == pytest.approx([0.1 * schedule(done, 80, 0.1, True) for done in range(80)])


def test_schedule_free_validates_its_average() -> None:
    from schedulefree import AdamWScheduleFree

    module = Line()
    module.made = AdamWScheduleFree(module.parameters(), lr=0.1)
    fit(module, ScheduleFree())
    beta, z = 0.9, module.made.state[module.line.weight]["z"].item()
    # y = (1 - beta) z + beta x, of the last step
    assert module.validated[-1] == pytest.approx((module.trained[-1] - (1 - beta) * z) / beta, rel=1e-4)
    assert module.validated[-1] != module.trained[-1]
    assert module.line.weight.item() == module.validated[-1]  # what the test will see


def test_dog_validates_the_polynomial_average() -> None:
    module = Line(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1))
    module.made = torch.optim.SGD(module.parameters(), lr=0.01)
    fit(module, DoGAverage())
    average = 0.0
    for t, weight in enumerate(module.trained, 1):  # Shamir and Zhang 2013, with gamma = 8
        average += 9 / (8 + t) * (weight - average)
        if t == 40:
            assert module.validated[0] == pytest.approx(average, rel=1e-5)
    assert module.validated[-1] == module.line.weight.item() == pytest.approx(average, rel=1e-5)


def test_spent_counts_the_probe() -> None:
    plain, auto = Spent(), Spent()
    fit(Line(), plain)
    fit(Line(), AdaLossCallback(auto=True), auto)
    assert plain.steps == 80
    assert auto.steps > 80 + 3 * 25  # several rates of 25 batches


# -- the command

TINY = tasks.Task(
    "digits_mlp", "digits", "acc", 1, ("--model.net=mlp", "--model.width=8", "--trainer.limit_train_batches=3"), seeds=1
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASKS", (TINY,))
    monkeypatch.setattr(page, "TASKS", (TINY,))
    monkeypatch.setattr(methods, "DECADES", 2)  # 1e-5 and 1e-4
    (cosine,) = [method for method in METHODS if method.name == "adamw_cosine"]
    monkeypatch.setattr(methods, "METHODS", (METHODS[0], replace(cosine, default=1e-4)))


COMMAND = ["leaderboard", "--tasks", "digits_mlp", "--jobs", "1", "--out", "board"]


@pytest.mark.usefixtures("tiny")
def test_leaderboard_runs_and_continues(client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(COMMAND) == 0
    assert "[2/2] digits_mlp, AdamW, warm-up and cosine: 2 runs" in capsys.readouterr().err
    read = TaskResults.read(folder / "board" / "digits_mlp.json")
    assert [(one.method, one.value, one.seed) for one in read.records] == [
        ("auto", None, 1), ("adamw_cosine", 1e-5, 1), ("adamw_cosine", 1e-4, 1),
    ]  # fmt: skip
    assert all(one.test is not None and one.val is not None and one.step_seconds for one in read.records)
    assert [one.batches for one in read.records[1:]] == [3, 3]
    (experiment,) = [one for one in client.search_experiments() if one.name == "leaderboard digits_mlp"]
    before = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    tests = {run.data.metrics.get("test/acc") for run in before.values()}
    assert {one.test for one in read.records} <= {None if one is None else float(f"{one:.6g}") for one in tests}
    assert "## digits_mlp" in (folder / "board" / "leaderboard.md").read_text()

    content = json.loads((folder / "board" / "digits_mlp.json").read_text())
    assert main(COMMAND) == 0  # runs nothing
    assert {run.info.run_id for run in client.search_runs([experiment.experiment_id])} == before.keys()
    assert json.loads((folder / "board" / "digits_mlp.json").read_text()) == content


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("error", [AssertionError("DoG cannot work when G is not strictly positive"), OSError("disk")])
def test_leaderboard_tries_failed_runs_again(
    error: Exception,
    client: MlflowClient,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(self: DigitsModule, batch: object, batch_idx: int) -> Tensor:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(DigitsModule, "training_step", fails)
        assert main(COMMAND) == 1
    assert f"optimizer.lr=1e-05: {type(error).__name__}: {error}" in capsys.readouterr().err
    found = [one.test for one in TaskResults.read(folder / "board" / "digits_mlp.json").records]
    assert found == ([None] * 3 if isinstance(error, AssertionError) else [])  # an optimizer's own: it diverged
    assert ("diverged (1 of 1)" in (folder / "board" / "leaderboard.md").read_text()) == bool(found)
    assert main(COMMAND) == 0
    assert None not in [one.test for one in TaskResults.read(folder / "board" / "digits_mlp.json").records]


@pytest.mark.usefixtures("tiny")
def test_leaderboard_stops_and_continues(
    client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stops(self: object, trainer: Trainer, module: LightningModule) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Schedule, "on_train_start", stops)
        assert main(COMMAND) == 130
    assert "The same command continues it." in capsys.readouterr().err
    assert {one.method for one in TaskResults.read(folder / "board" / "digits_mlp.json").records} == {"auto"}
    assert main(COMMAND) == 0
    read = TaskResults.read(folder / "board" / "digits_mlp.json").records
    assert [one.method for one in read] == ["auto", "adamw_cosine", "adamw_cosine"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "mnist"], "Unknown task 'mnist'. There are digits_mlp, "),
        (["--methods", "lion"], "Unknown method 'lion'. There are auto, adaloss, "),
        (["--tasks", "vit_cifar100"], "vit_cifar100 has no data in data/cifar-100-python"),
        (["--jobs", "0"], "Invalid --jobs=0. Must be >= 1."),
    ],
)
def test_leaderboard_refuses(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaderboard", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(folder.iterdir())


def test_leaderboard_names_packages_that_are_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(methods, "find_spec", lambda name: None if name in ("dog", "momo") else object())
    assert main(["leaderboard", "--quick"]) == 2
    error = capsys.readouterr().err
    assert "The leaderboard runs dog-optimizer, momo-opt, which are not installed." in error
    assert "pip install 'adaloss-lightning[recipes,bench]'" in error
