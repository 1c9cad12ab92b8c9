"""`adaloss sweep --together` beside the same sweep one by one."""

import sys
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.app import main
from adaloss_lightning.tracking.sweeping.grid import Grid
from adaloss_lightning.tracking.sweeping.together import groups_of
from tests.tracking import together_project
from tests.tracking.sweeping import all_of, parent_and_children, sweep

METHODS = [("adaloss,adamloss", "1,2"), ("adagrad_norm,sgd_constant,sgd_decay_sqrt,adam,adam_sqrt", "3")]
FLOAT32 = 1e-5  # one batched product of matrices rounds otherwise than single ones, and a few steps carry it on
# In float64 the same rounding is 1e-16, which some ten steps with a loss that grows a million times a step carry on.
FLOAT64 = 1e-9
TRAINER = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "num_sanity_val_steps": 0}
BEHAVIOURS = ("well", "need", "sigint", "sigterm", "raise")


@pytest.fixture
def module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"together_{folder.name}"
    plain = "\n\nclass Plain(Model):\n    training_loss = None\n"
    (folder / f"{name}.py").write_text(Path(together_project.__file__).read_text() + plain)
    callbacks = [{"class_path": "adaloss_lightning.AdaLossCallback"}]
    optimizer = {"class_path": "adaloss_lightning.AdaLoss", "init_args": {"lr": 0.05}}
    for behave in BEHAVIOURS:
        model = {"class_path": f"{name}.Model", "init_args": {"behave": behave}}
        method = {"trainer": TRAINER | {"callbacks": callbacks}, "optimizer": optimizer, "model": model}
        (folder / f"{behave}.yaml").write_text(yaml.safe_dump(method))
    monkeypatch.syspath_prepend(str(folder))
    return name


def runs(client: MlflowClient, experiment: str) -> dict[str, Run]:
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return {str(run.info.run_name): run for run in client.search_runs([found.experiment_id])}


def tags(run: Run) -> dict[str, str]:
    return {key: value for key, value in run.data.tags.items() if key != "mlflow.parentRunId"}


def files(run: Run) -> dict[str, str]:
    folder, place = Path(run.info.artifact_uri), f"{run.info.experiment_id}/{run.info.run_id}"
    return {
        str(path.relative_to(folder)).replace(place, "run"): path.read_text() if path.suffix == ".yaml" else ""
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_same(client: MlflowClient, one: Run, together: Run, rel: float) -> None:
    """Of all that the store knows of two runs."""
    assert one.info.status == together.info.status
    assert one.data.params == together.data.params
    assert tags(one) == tags(together)
    assert one.data.metrics.keys() == together.data.metrics.keys()
    for name in one.data.metrics:
        first, second = (client.get_metric_history(run.info.run_id, name) for run in (one, together))
        assert [metric.step for metric in first] == [metric.step for metric in second]
        assert [metric.value for metric in second] == pytest.approx([metric.value for metric in first], rel=rel)


def compare(client: MlflowClient, arguments: list[str], *options: str, rel: float = FLOAT32) -> dict[str, Run]:
    """Both sweeps; the runs of the one together."""
    for experiment, more in (("one", []), ("together", ["--together"])):
        assert main(["sweep", *arguments, "--experiment", experiment, *more, "--", *options]) == 0
    one, together = runs(client, "one"), runs(client, "together")
    assert one.keys() == together.keys()
    for name, run in one.items():
        assert_same(client, run, together[name], rel)
        if run.data.tags["adaloss.kind"] == "point":
            assert files(run) == files(together[name])
    return together


@pytest.mark.parametrize(("methods", "seeds"), METHODS)
def test_every_method_of_digits_gives_the_runs_of_a_sweep_one_by_one(
    client: MlflowClient, methods: str, seeds: str
) -> None:
    tiny = ["--model.net=mlp", "--model.width=16", "--trainer.max_epochs=2", "--trainer.limit_train_batches=6"]
    arguments = ["--recipe", "digits", "--methods", methods, "--b0", "0.1,10", "--seeds", seeds]
    found = compare(client, arguments, *tiny, "--trainer.log_every_n_steps=2", "--optimizer.lr=0.1")
    assert len(found) == 1 + 2 * len(methods.split(",")) * len(seeds.split(","))
    wanted = {"train/loss", "val/loss", "val/acc", "test/acc", "adaloss/loss", "adaloss/b", "adaloss/effective_lr"}
    assert all(wanted <= run.data.metrics.keys() for run in found.values() if run.data.tags["adaloss.kind"] == "point")


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # the report draws in float32
@pytest.mark.filterwarnings("ignore:.*could not find the monitored key:UserWarning")  # before the first validation
@pytest.mark.parametrize(
    ("recipe", "method", "b0", "options"),
    [
        # at b0 1e-3 the losses are no numbers in float32, and numbers in float64
        ("linear_regression", "sgd_constant", "1e-3,10", ["--trainer.max_epochs=3"]),
        ("linear_regression", "adagrad_norm", "1,10", ["--trainer.max_epochs=2", "--data.stochastic=true"]),
        # validated after two of five epochs, and not after the last
        ("two_layer", "adaloss", "1,100", ["--trainer.max_epochs=5", "--trainer.check_val_every_n_epoch=2"]),
        (
            "two_layer",
            "sgd_decay_sqrt",
            "10,100",
            [
                "--trainer.max_epochs=3",
                "--trainer.check_val_every_n_epoch=2",
                "--data.batch_size=4",
                "--checkpoint.save_on_train_epoch_end=true",
            ],
        ),
        # the best epoch is one of those that were validated, although the last one has the lowest loss
        (
            "two_layer",
            "sgd_constant",
            "100,1000",
            ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2", "--checkpoint.monitor=train/loss"],
        ),
    ],
)
def test_recipes_of_the_theory_give_the_runs_of_a_sweep_one_by_one(
    client: MlflowClient, recipe: str, method: str, b0: str, options: list[str]
) -> None:
    tiny = {
        "linear_regression": ["--data.n=8", "--data.d=5", "--data.steps_per_epoch=3", "--trainer.log_every_n_steps=2"],
        "two_layer": ["--data.n=6", "--data.n_eval=5", "--data.dim=7", "--model.width=32"],
    }
    arguments = ["--recipe", recipe, "--methods", method, "--b0", b0, "--seeds", "1,2"]
    found = compare(client, arguments, *tiny[recipe], *options, rel=FLOAT64)
    points = [run for run in found.values() if run.data.tags["adaloss.kind"] == "point"]
    assert len(points) == 4
    assert all({"train/loss", "val/loss", "test/loss"} <= run.data.metrics.keys() for run in points)
    assert not any("diverged" in run.data.tags for run in points)
    assert (max(run.data.metrics["val/loss"] for run in points) > 1e39) == (b0 == "1e-3,10")


def test_a_point_that_diverges_disturbs_no_other(client: MlflowClient) -> None:
    tiny = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=4", "--optimizer.lr=1e36", "--model.net=mlp"]
    arguments = ["--recipe", "digits", "--methods", "sgd_constant,adaloss", "--b0", "1e-3,1e37"]
    found = compare(client, arguments, *tiny, "--model.width=16")
    diverged = {name for name, run in found.items() if "diverged" in run.data.tags}
    assert diverged == {"sgd_constant b0=1e-3 seed=1", "adaloss b0=1e-3 seed=1"}
    assert found["adaloss b0=1e-3 seed=1"].data.metrics["epoch"] < 3


def test_batch_norm_keeps_the_statistics_of_each_point(client: MlflowClient) -> None:
    tiny = ["--model.width=4", "--trainer.max_epochs=1", "--trainer.limit_train_batches=4", "--optimizer.lr=0.1"]
    compare(client, ["--recipe", "digits", "--methods", "adaloss", "--b0", "0.1,10"], *tiny)


def test_a_project_that_is_not_ours(client: MlflowClient, module: str) -> None:
    arguments = ["--recipe", module, "--methods", "well", "--b0", "0.1,10", "--seeds", "1,2"]
    assert len(compare(client, arguments)) == 5


def test_what_failed_is_run_again_and_what_is_done_is_not(client: MlflowClient, module: str) -> None:
    command = sweep(module, "need", "--b0", "0.1,1", "--seeds", "1,2,3", "--together")
    assert main(command) == 1
    before = {run.info.run_id: run for run in all_of(client)}
    _, children = parent_and_children(client)
    assert {key[1:]: run.info.status for key, run in children.items()} == {
        (b0, seed): "FAILED" if seed == "2" else "FINISHED" for b0 in (0.1, 1.0) for seed in ("1", "2", "3")
    }
    assert children["need", 1.0, "2"].data.tags["error"].find("the gate is shut") >= 0
    Path("gate").touch()
    assert main(command) == 0
    new = [run for run in all_of(client) if run.info.run_id not in before]
    assert {run.data.params["seed"] for run in new} == {"2"}
    assert [run.info.status for run in new] == ["FINISHED", "FINISHED"]


def test_an_error_in_the_training_fails_its_points_alone(client: MlflowClient, module: str) -> None:
    assert main(sweep(module, "raise,well", "--b0", "0.1", "--seeds", "1,2", "--together")) == 1
    parent, children = parent_and_children(client)
    assert parent.info.status == "FINISHED"
    assert {(key[0], run.info.status) for key, run in children.items()} == {("raise", "FAILED"), ("well", "FINISHED")}
    for seed in ("1", "2"):
        assert children["raise", 0.1, seed].data.tags["error"] == "ArithmeticError: this model is broken"


@pytest.mark.parametrize("behave", ["sigint", "sigterm"])
def test_stopped_all_its_points_are_killed(client: MlflowClient, module: str, behave: str) -> None:
    limit = sys.getrecursionlimit()
    assert main(sweep(module, f"{behave},well", "--b0", "0.1,1", "--seeds", "1,2", "--together")) == 130
    assert sys.getrecursionlimit() == limit
    parent, children = parent_and_children(client)
    assert parent.info.status == "KILLED"
    assert {(key[0], run.info.status) for key, run in children.items()} == {(behave, "KILLED")}
    assert len(children) == 4


@pytest.mark.parametrize(
    ("recipe", "more", "named"),
    [
        ("digits", ["--jobs=2"], "--jobs"),
        ("digits", ["--executor=ray"], "--executor ray"),
        ("digits", ["--", "--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches=2"),
        ("digits", ["--", "--trainer.precision=bf16-mixed"], "precision=bf16-mixed"),
        ("digits", ["--", "--checkpoint.save_top_k=2"], "save_top_k=2"),
        (
            "digits",
            ["--", "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/acc"],
            "EarlyStopping",
        ),
        (
            "digits",
            ["--", "--checkpoint.monitor=val/accuracy"],
            "monitors val/accuracy, and there are train/loss, val/acc",
        ),
        ("digits", ["--", "--trainer.val_check_interval=1"], "trainer.val_check_interval=1 "),
        ("two_layer", ["--", "--trainer.callbacks+=recipes.two_layer.monitor.GramMonitor"], "GramMonitor has on_fit_"),
        ("own", ["--", "--model={module}.Plain"], "Plain has no method training_loss(batch)"),
        ("own", ["--", "--model.dropout=0.5"], "random"),
        ("own", ["--", "--model={module}.Watched"], "Watched overrides on_train_batch_end"),
        ("own", ["--", "--lr_scheduler=ConstantLR"], "configure_optimizers returns a tuple"),
        ("own", ["--", "--optimizer=adaloss_lightning.AdaLoss", "--trainer.max_epochs=-1"], "max_epochs=-1"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_run(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str], recipe: str, more: list[str], named: str
) -> None:
    name, method = (module, "well") if recipe == "own" else (recipe, "adaloss")
    more = [word.format(module=module) for word in more]
    assert main(["sweep", "--recipe", name, "--methods", method, "--b0", "1", "--together", *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("adaloss: error: ")
    assert "--together" in error
    assert named in error
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]


def test_points_are_sorted_into_groups() -> None:
    seeds = ",".join(map(str, range(30)))
    grid = Grid.parse("a,b", "1,2", seeds, ["lr=0.1,0.2"])
    groups = groups_of(grid.points())
    assert sorted(map(str, grid.points())) == sorted(str(point) for group in groups for point in group)
    assert all(len({(point.method, point.options) for point in group}) == 1 for group in groups)
    assert [len({point.seed for point in group}) for group in groups] == [25, 5] * 4  # nested calls have an end
    assert all(len(group) == 2 * len({point.seed for point in group}) for group in groups)
