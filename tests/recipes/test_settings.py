"""Settings that a user can put right are refused in one line, before there is a run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
from mlflow.tracking import MlflowClient

from recipes.digits.__main__ import main as digits
from recipes.lstm_news.__main__ import main as lstm_news
from recipes.pendulum.__main__ import main as pendulum
from recipes.shared.cli import run_from_shell
from recipes.shared.settings import SettingError, require_checkpoint
from recipes.vit_cifar100.__main__ import main as vit_cifar100
from tests.recipes.runs import RECIPES, TINY, config

ADALOSS = config("digits", "adaloss")


class RefusesTheTraining(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        raise ValueError("Invalid x=1. Must be 2.")


class CannotBeBuilt(pl.Callback):
    def __init__(self) -> None:
        raise ValueError("not enough values to unpack")


def refusal(main: Callable[[list[str]], None], args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the shell shows of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        run_from_shell(lambda: main(args))
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.process
def test_shell_shows_a_bad_number_as_one_line(folder: Path) -> None:
    command = [sys.executable, "-m", "recipes.digits", "fit", ADALOSS, "--optimizer.b0", "-1"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    said = [line for line in ended.stderr.splitlines() if "Seed set to" not in line]
    assert said == ["error: Invalid b0=-1.0. Must be > 0."]
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("recipe", "main", "method", "message"), [
    ("lstm_news", lstm_news, "adamloss", "--data.root must be a folder with Fake.csv and True.csv."),
    ("vit_cifar100", vit_cifar100, "adaloss", "Give another one with --data.root."),
])  # fmt: skip
def test_data_that_cannot_be_read_are_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], recipe: str, main: Callable[[list[str]], None],
    method: str, message: str,
) -> None:  # fmt: skip
    Path("file").touch()
    tiny = [one for one in TINY[recipe] if not one.startswith("--data.source")]
    source = ["--data.source=files"] if recipe == "lstm_news" else ["--data.source=cifar100"]
    said = refusal(main, ["fit", config(recipe, method), *tiny, *source, "--data.root=file"], capsys)
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert error.endswith(message)
    assert "Traceback" not in said


# The last two of digits are torch's and Lightning's own words; pendulum's module builds the optimizers itself.
@pytest.mark.parametrize(("main", "args", "message"), [
    (digits, [ADALOSS, "--model.width=0"], "Invalid width=0. Must be >= 1, and a multiple of 4 for the vit."),
    (digits, [ADALOSS, "--data.batch_size=0"], "Invalid batch_size=0. Must be >= 1."),
    (digits, [ADALOSS, "--optimizer=torch.optim.SGD", "--optimizer.lr=-1"], "Invalid learning rate: -1.0"),
    (digits, [ADALOSS, "--trainer.max_epochs=-5"],
     "`max_epochs` must be a non-negative integer or -1. You passed in -5."),
    (pendulum, [config("pendulum", "adamloss"), "--optimizer.b0=-1"], "Invalid b0=-1.0. Must be > 0."),
])  # fmt: skip
def test_value_that_a_class_refuses_is_one_line_and_no_run(
    client: MlflowClient,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], None],
    args: list[str],
    message: str,
) -> None:
    assert refusal(main, ["fit", *args], capsys) == f"error: {message}\n"
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]


@pytest.mark.parametrize(("callback", "message"), [
    ("RefusesTheTraining", r"Invalid x=1\. Must be 2\."), ("CannotBeBuilt", "not enough values to unpack"),
])  # fmt: skip
def test_error_of_the_program_keeps_its_traceback(client: MlflowClient, callback: str, message: str) -> None:
    args = ["fit", ADALOSS, *TINY["digits"], f"--trainer.callbacks+={__name__}.{callback}"]
    with pytest.raises(ValueError, match=message) as raised:
        run_from_shell(lambda: digits(args))
    assert not isinstance(raised.value, SettingError)


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test"])
def test_missing_checkpoint_is_refused_before_there_is_a_run(
    folder: Path, capsys: pytest.CaptureFixture[str], subcommand: str
) -> None:
    said = refusal(digits, [subcommand, ADALOSS, "--ckpt_path=nofile.ckpt"], capsys)
    assert said == "error: Invalid ckpt_path=nofile.ckpt. Must be a checkpoint that exists.\n"
    assert not list(folder.iterdir())


def test_require_checkpoint_leaves_to_lightning_what_it_alone_finds(folder: Path) -> None:
    (folder / "last.ckpt").touch()
    (folder / "sharded").mkdir()
    for path in (None, "last.ckpt", "sharded", Path("sharded"), "last", "best", "hpc", "registry:a:b", "s3://a/b.ckpt"):
        require_checkpoint(path)


@pytest.mark.parametrize(("main", "recipe"), [(digits, "digits"), (pendulum, "pendulum")])
def test_fit_without_a_method_names_the_files_there_are(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[list[str]], None],
    recipe: str,
) -> None:
    methods = sorted(path.name for path in (RECIPES / recipe).glob("*.yaml") if path.stem != "defaults")
    elsewhere = refusal(main, ["fit"], capsys)
    assert elsewhere.count("\n") == 1
    assert not list(folder.iterdir())
    monkeypatch.chdir(RECIPES.parent)
    names = " or ".join(f"recipes/{recipe}/{name}" for name in methods)
    here = refusal(main, ["fit"], capsys)
    assert here == f"error: No optimizer to train with. Give a method's file: --config {names}.\n"
    assert elsewhere == here.replace("recipes/", f"{RECIPES}/")


@pytest.mark.parametrize(("args", "message"), [
    (["fit", "--config=nofile.yaml"], "File does not exist"), (["fit", ADALOSS, "--nothing=1"], "--nothing"),
])  # fmt: skip
def test_command_line_error_comes_without_a_list_of_all_options(
    folder: Path, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    usage, tip, error = refusal(digits, args, capsys).splitlines()
    assert usage == "usage: python -m recipes.digits fit --config FILE [--OPTION VALUE ...]"
    assert tip.endswith(": python -m recipes.digits fit --help")
    assert error.startswith("error: ")
    assert message in error


def test_help_names_the_command_as_it_is_typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, first in ((["--help"], "[-c CONFIG] {fit,validate,test}"), (["fit", "--help"], "fit --config FILE")):
        with pytest.raises(SystemExit):
            digits(args)
        assert capsys.readouterr().out.startswith(f"usage: python -m recipes.digits {first}")
