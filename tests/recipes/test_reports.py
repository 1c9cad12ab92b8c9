"""Rules that the command lines of all recipes' reports share, and the one table of claims."""

import importlib
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import open_store
from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.reports.report import folder_for
from recipes.shared.cli import run_from_shell

OF_RUNS = ["lstm_news", "pendulum", "vit_cifar100"]
COMPUTED = ["linear_regression", "two_layer"]


def report_of(recipe: str) -> Callable[[list[str]], None]:
    main: Callable[[list[str]], None] = importlib.import_module(f"recipes.{recipe}.report").main
    return main


def store_run(client: MlflowClient, experiment: str, recipe: str, b0: float) -> None:
    """A run that has what the report of any recipe reads."""
    found = client.get_experiment_by_name(experiment)
    run = client.create_run(found.experiment_id if found else client.create_experiment(experiment))
    params = {"recipe": recipe, "method": "adamloss", "b0": b0, "seed": 1}
    names = ("train/loss", "val/acc", "test/acc", "adaloss/b", "train/return", "train/frames")
    metrics = [Metric(name, 0.5, 0, step) for step in (1, 2) for name in names]
    client.log_batch(run.info.run_id, metrics, [Param(key, str(value)) for key, value in params.items()])
    client.set_terminated(run.info.run_id)


def shell_error(recipe: str, args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_from_shell(lambda: report_of(recipe)(args))
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("recipe", [*OF_RUNS, *COMPUTED])
def test_report_help_shows_the_defaults(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        report_of(recipe)(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: python -m recipes.{recipe}.report ")
    if recipe in COMPUTED:
        assert f"(default: reports/{recipe})" in text
    else:
        assert f"MLflow experiment (default: {recipe})" in text
        assert "(default: reports/<experiment>)" in text
        assert "MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db)" in text


@pytest.mark.parametrize("recipe", OF_RUNS)
def test_report_goes_to_the_folder_of_its_experiment(
    recipe: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{folder / 'other.db'}"
    store_run(open_store(uri), "our/own", recipe, 1.0)
    report_of(recipe)(["--experiment=our/own", f"--tracking-uri={uri}"])
    (place,) = Path("reports").iterdir()
    assert place.name.startswith("our_own-")  # "our_own" has another one
    assert folder_for("our_own") == Path("reports/our_own")
    long = "x" * 300
    assert len({folder_for(f"{long}{number}") for number in range(2)}) == 2
    assert len(folder_for("\U0001d4d0" * 300).name.encode()) <= 255
    written = {f"wrote {path}" for path in place.iterdir()}
    assert len(written) > 1
    out = capsys.readouterr().out
    assert written <= set(out.splitlines())
    (text,) = place.glob("*.md")
    assert out.startswith(text.read_text())
    assert f"wrote {place}/report.md" not in written  # that of `adaloss report`
    assert not (folder / "mlflow.db").exists()


@pytest.mark.parametrize("recipe", OF_RUNS)
def test_report_from_its_file_is_the_one_from_the_store(recipe: str, client: MlflowClient, folder: Path) -> None:
    store_run(client, "mine", recipe, 1.0)
    report_of(recipe)(["--experiment=mine", "--out=first"])
    (folder / "mlflow.db").unlink()
    report_of(recipe)(["--runs=first/runs.json", "--out=second"])
    first, second = ({path.name: path.read_bytes() for path in Path(out).iterdir()} for out in ("first", "second"))
    assert first == second
    assert len(first) > 2


@pytest.mark.parametrize("option", ["--experiment=mine", "--tracking-uri=sqlite:///mlflow.db"])
def test_report_from_a_file_takes_nothing_from_a_store(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        report_of("pendulum")(["--runs=runs.json", option])
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", OF_RUNS)
def test_report_makes_no_store(recipe: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shell_error(recipe, [], capsys).startswith(f"error: There are no runs yet: there is no {folder}/mlflow.db.")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("recipe", OF_RUNS)
def test_report_names_the_store_that_lacks_an_experiment(
    recipe: str, client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = shell_error(recipe, ["--experiment=none"], capsys)
    assert said == f"error: Unknown experiment 'none' in sqlite:///{folder / 'mlflow.db'}. There are: Default.\n"


@pytest.mark.parametrize("with_own", [False, True])
@pytest.mark.parametrize("recipe", OF_RUNS)
def test_report_refuses_runs_of_another_recipe(recipe: str, with_own: bool, client: MlflowClient) -> None:
    store_run(client, "mine", "digits", 1.0)
    if with_own:
        store_run(client, "mine", recipe, 2.0)
    with pytest.raises(SweepError, match=rf"'mine' has runs of digits\. Must be of {recipe} alone.*Start: adaloss"):
        report_of(recipe)(["--experiment=mine", "--out=out"])
    assert not Path("out").exists()


@pytest.mark.parametrize("recipe", [*OF_RUNS, *COMPUTED])
def test_report_to_a_folder_that_cannot_be_written_is_one_line(
    recipe: str, client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_run(client, recipe, recipe, 1.0)
    (folder / "taken").touch()
    said = shell_error(recipe, ["--out=taken"], capsys)  # those that compute say it before they do
    assert said.startswith("error: Cannot write the report to taken: ")
    assert said.endswith(". Choose another folder with --out.\n")
    assert said.count("\n") == 1
