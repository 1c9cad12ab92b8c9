"""`adaloss sweep --recipe` on a project of the user's own: what is wrong with it is said, what is in it is kept."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.grid import Point
from adaloss_lightning.tracking.sweeps.project import Project
from adaloss_lightning.tracking.sweeps.settings import tracking_uri
from tests.tracking.sweeping import METHOD, parent_and_children, sweep

OURS = "adaloss_lightning.tracking.BufferedMLFlowLogger"


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line in which a sweep ends that cannot begin."""
    assert main(arguments) == 2
    terminal = capsys.readouterr()
    assert terminal.err.startswith("adaloss: error: ")
    assert terminal.err.count("\n") == 1, terminal.err
    assert terminal.out == ""
    return terminal.err


def csv_in(folder: str) -> dict[str, object]:
    return {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": folder, "prefix": "own"}}


CSV = csv_in("tables")


def with_logger(logger: object) -> str:
    return yaml.safe_dump(METHOD | {"trainer": METHOD["trainer"] | {"logger": logger, "max_epochs": 1}})


ARGPARSE = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--size", required=True)
parser.parse_args()
"""
FAILING_MODULES = {
    "exit": ("import sys\nsys.exit('go away')\n", ["Cannot import NAME: ", "go away", "if __name__ == '__main__'"]),
    "silent exit": ("raise SystemExit\n", ["Cannot import NAME: ", "exit code 0"]),
    "argparse": (ARGPARSE, ["Cannot import NAME: ", "required: --size", "if __name__ == '__main__'"]),
    "syntax": ("def main(args):\n    x = (\n", ["Cannot import NAME: SyntaxError", "NAME.py, line 2"]),
    "import": ("\nimport nonesuch\n", ["Cannot import NAME: ", "No module named 'nonesuch' (NAME.py, line 2)"]),
    "any error": ("raise OSError('two\\nlines')\n", ["Cannot import NAME: OSError: two", "lines (NAME.py, line 1)"]),
    "no cli": ("def main(args):\n    pass\n", ["main(args) of NAME ran without a LightningCLI"]),
    "no args": ("def main():\n    pass\n", ["main(args) of NAME", "Must be main(args: list[str])"]),
    "main raises": (
        "import json\ndef main(args):\n    json.loads('[')\n",
        ["main(args) of NAME fails", "JSONDecodeError: Expecting value", "(NAME.py, line 3)"],
    ),
    "main exits": ("def main(args):\n    raise SystemExit('no data here')\n", ["NAME does not", "no data here"]),
    "main prints": (
        "def main(args):\n    print('no data')\n    raise SystemExit(3)\n",
        ["NAME", "code 3", "'no data'"],
    ),
}


@pytest.mark.parametrize(("source", "named"), FAILING_MODULES.values(), ids=FAILING_MODULES.keys())
@pytest.mark.parametrize("is_package", [False, True], ids=["module", "package"])
def test_a_module_that_fails_is_named_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], source: str, named: list[str], is_package: bool
) -> None:
    name = f"own_{folder.name}"
    file = folder / f"{name}.py"
    if is_package:
        (folder / name).mkdir()
        (folder / name / "__main__.py").touch()
        file = folder / name / "__init__.py"
    file.write_text(source)
    file.with_name("a.yaml").write_text("{}")
    error = error_of(sweep(name, "a", "--b0", "1"), capsys)
    for words in named:
        expected = words.replace("NAME.py", file.name).replace("NAME", name)
        assert expected in error, error
    assert "__main__:" not in error  # the user has no such module


@pytest.mark.parametrize(
    ("package", "inner", "expected"),
    [
        ("", "raise ImportError('a part is missing')\n", "Cannot import NAME.inner: ImportError: a part is missing"),
        # a missing dependency whose name begins the module's
        ("import NAM\n", "", "Cannot import NAME.inner: ModuleNotFoundError: No module named 'NAM'"),
    ],
)
def test_a_package_whose_part_fails_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], package: str, inner: str, expected: str
) -> None:
    name = f"own_{folder.name}"
    (folder / name / "inner").mkdir(parents=True)
    (folder / name / "__init__.py").write_text(package.replace("NAM", name[:-1]))
    (folder / name / "inner" / "__init__.py").write_text(inner)
    error = error_of(sweep(f"{name}.inner", "a", "--b0", "1"), capsys)
    assert expected.replace("NAME", name).replace("NAM", name[:-1]) in error


def test_the_sweeps_own_command_line_is_not_the_modules(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(f"{module}.py").open("a") as file:
        file.write(ARGPARSE.replace(", required=True", ""))
    monkeypatch.setattr(sys, "argv", ["adaloss", *sweep(module, "nonesuch", "--b0", "1")])
    assert "Unknown method 'nonesuch'" in error_of(sys.argv[1:], capsys)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--", "--trainer.max_epochs=abc"], 'Parser key "trainer.max_epochs": Expected a int; Given value: abc'),
        (["--grid", "optimizer.lr=a"], "Expected float"),
        (["--", "--help"], "main(['fit', '--help'])"),
        (["--", "-h"], "main(['fit', '-h'])"),
        (["--", "--print_config=skip_null"], "main(['fit', '--print_config=skip_null'])"),
        (["--", "--optimizer.help=adaloss_lightning.AdaLoss"], "It prints and ends"),
    ],
)
def test_arguments_that_are_refused_are_one_line(
    module: str, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    error = error_of(sweep(module, "well", "--b0", "1", *arguments), capsys)
    assert expected in error, error
    assert "NestedArg" not in error
    assert "NoneType" not in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--", "--help"], "python -m recipes.digits fit --help"),
        (["--grid", "model.width=a"], 'Parser key "model.width": Expected int; Given value: a'),
    ],
)
def test_arguments_that_a_recipe_refuses_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    error = error_of(sweep("digits", "adaloss", "--b0", "1", *arguments), capsys)
    assert error.strip().endswith(expected)


def test_broken_yaml_is_one_line(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("well.yaml").write_text("trainer: {max_epochs: 1\noptimizer: [")
    error = error_of(sweep(module, "well", "--b0", "1"), capsys)
    assert "arguments of well b0=1 seed=1: Problems parsing config" in error
    assert "line 2" in error


PLAIN_SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}


@pytest.mark.parametrize(
    ("optimizer", "cli", "found"),
    [
        (PLAIN_SGD, "", "that of well is torch.optim.SGD"),
        (None, "", "that of well has none"),
        (None, ", auto_configure_optimizers=False", "that of well has none"),
        (PLAIN_SGD, ", parser_kwargs={'exit_on_error': False}", "SGD"),
    ],
)
def test_an_optimizer_without_b0_is_told_what_would_do(
    module: str, capsys: pytest.CaptureFixture[str], optimizer: object, cli: str, found: str
) -> None:
    file = Path(f"{module}.py")
    file.write_text(file.read_text().replace("args=args)", f"args=args{cli})"))
    method = {"trainer": METHOD["trainer"]} | ({"optimizer": optimizer} if optimizer else {})
    Path("well.yaml").write_text(yaml.safe_dump(method))
    error = error_of(sweep(module, "well", "--b0", "1"), capsys)
    assert f"A sweep over b0 needs an optimizer that has b0, and {'' if found == 'SGD' else found}" in error, error
    assert found in error
    assert "adaloss_lightning.AdaLoss (alpha: 0 keeps b at b0" in error


MONITOR = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor"}
ADAPTS = {"class_path": "adaloss_lightning.AdaLossCallback"}
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.05}}


def write_adapted(optimizer: object, callbacks: object) -> None:
    method = {"optimizer": optimizer, "trainer": METHOD["trainer"] | {"callbacks": callbacks}}
    Path("well.yaml").write_text(yaml.safe_dump(METHOD | method))
    for name, others in {"more": [MONITOR], "same": [ADAPTS, MONITOR]}.items():
        Path(f"{name}.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": others}}))


def b0_of(module: str, b0: str, extra: Sequence[str] = ()) -> tuple[object, object]:
    """b0 of the optimizer and of the callback in the configuration of a point."""
    settings = Project.find(module).settings(Point("well", b0, "1"), extra)
    callbacks = settings["trainer"]["callbacks"]
    (ours,) = [one for one in callbacks if one["class_path"] == "adaloss_lightning.AdaLossCallback"]
    return settings["optimizer"]["init_args"].get("b0"), ours["init_args"]["b0"]


@pytest.mark.parametrize(
    ("optimizer", "callbacks"),
    [
        (ADAM, [ADAPTS]),
        ({"class_path": "Adam"}, [ADAPTS]),
        ("Adam", [MONITOR, ADAPTS]),
        ("torch.optim.Adam", [ADAPTS]),
        (ADAM, ADAPTS),
        (ADAM, [{"class_path": "AdaLossCallback", "init_args": {"alpha": 2.0}}]),
        (ADAM, ["adaloss_lightning.AdaLossCallback"]),
        (ADAM, "adaloss_lightning.AdaLossCallback"),
        ({"class_path": "timm.optim.Lion"}, [ADAPTS]),
    ],
)
def test_b0_is_the_callbacks_however_it_is_written(module: str, optimizer: object, callbacks: object) -> None:
    write_adapted(optimizer, callbacks)
    assert b0_of(module, "0.25") == (None, 0.25)


@pytest.mark.parametrize(
    ("extra", "optimizers"),
    [
        (["--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor"], False),
        (["--config=same.yaml"], False),
        (["--trainer.callbacks.b0=1"], False),
        (["--optimizer=adaloss_lightning.AdaLoss"], True),
    ],
)
def test_b0_is_given_to_what_has_it_with_the_arguments(module: str, extra: list[str], optimizers: bool) -> None:
    write_adapted(ADAM, [ADAPTS])
    assert b0_of(module, "0.1", extra) == ((0.1, 1.0) if optimizers else (None, 0.1))


def test_b0_is_given_to_what_has_it_with_each_value_of_the_grid(module: str) -> None:
    write_adapted(ADAM, [ADAPTS])
    project = Project.find(module)
    found = [
        project.settings(Point("well", "0.1", "1", (("optimizer", optimizer),)), [])["optimizer"]["init_args"].get("b0")
        for optimizer in ("torch.optim.SGD", "adaloss_lightning.AdamLoss", "torch.optim.Adam")
    ]
    assert found == [None, 0.1, None]


@pytest.mark.parametrize("extra", [["--config=more.yaml"], ["--trainer.callbacks=null"]])
def test_arguments_that_leave_nothing_with_b0_are_refused(
    module: str, capsys: pytest.CaptureFixture[str], extra: list[str]
) -> None:
    write_adapted(ADAM, [ADAPTS])
    error = error_of(sweep(module, "well", "--b0", "1", "--", *extra), capsys)
    assert "A sweep over b0 needs an optimizer that has b0, and that of well is torch.optim.Adam. Name one" in error
    assert "or add adaloss_lightning.AdaLossCallback" in error


def test_the_projects_own_loggers_are_kept_and_ours_is_added(client: MlflowClient, module: str) -> None:
    loggers = {"one": csv_in("one"), "list": [csv_in("list")], "both": [csv_in("both"), csv_in("both/more")]}
    for method, logger in loggers.items():
        Path(f"{method}.yaml").write_text(with_logger(logger))
    assert main(sweep(module, ",".join(loggers), "--b0", "1")) == 0
    _, children = parent_and_children(client)
    for (method, _, _), run in children.items():
        history = client.get_metric_history(run.info.run_id, "train/loss")  # without the prefix of the other logger
        assert len(history) == 4
        tables = list(Path(method).rglob("metrics.csv"))
        assert len(tables) == (2 if method == "both" else 1)
        for table in tables:
            with table.open() as rows:
                losses = [row["own-train/loss"] for row in csv.DictReader(rows) if row["own-train/loss"]]
            assert [metric.value for metric in history] == [pytest.approx(float(loss)) for loss in losses]
        # Lightning keeps them with the first of several loggers, and the run is to hold them.
        assert Path(run.info.artifact_uri, "config.yaml").exists()


IN_PYTHON = """
def main(args=None):
    LightningCLI(Model, Data, args=args, trainer_defaults={"logger": [CSVLogger("tables")]})
"""
LINKED = """
class CLI(LightningCLI):
    def add_arguments_to_parser(self, parser):
        parser.add_argument("--study", default="mine")
        parser.add_class_arguments(CSVLogger, "csv")
        parser.set_defaults({"csv.save_dir": "tables"})
        parser.link_arguments("study", "csv.name")
        parser.link_arguments("csv", "trainer.logger", apply_on="instantiate")
        parser.add_argument("--folder", default="elsewhere")
        parser.link_arguments("folder", "trainer.default_root_dir")

def main(args=None):
    CLI(Model, Data, args=args)
"""


@pytest.mark.parametrize("source", [IN_PYTHON, LINKED], ids=["in Python", "linked"])
def test_loggers_that_the_command_line_does_not_name_are_kept_too(
    client: MlflowClient, module: str, source: str
) -> None:
    with Path(f"{module}.py").open("a") as file:
        file.write("from lightning.pytorch.loggers import CSVLogger\n" + source)
    assert main(sweep(module, "well", "--b0", "1", "--", "--trainer.max_epochs=1")) == 0
    _, children = parent_and_children(client)
    assert len(client.get_metric_history(children["well", 1.0, "1"].info.run_id, "train/loss")) == 4
    assert len(list(Path("tables").rglob("metrics.csv"))) == 1


WITHOUT_SUBCOMMANDS = """
def main(args=None):
    cli = LightningCLI(Model, Data, run=False, args=args)
    cli.trainer.fit(cli.model, datamodule=cli.datamodule)
"""


def test_a_cli_without_subcommands_is_swept_too(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(f"{module}.py").open("a") as file:
        file.write(WITHOUT_SUBCOMMANDS)
    assert "b0=1 seed=1: " in error_of(sweep(module, "well", "--b0", "1", "--", "--nonesuch=1"), capsys)
    assert main(sweep(module, "well", "--b0", "1,2", "--", "--trainer.max_epochs=1")) == 0
    _, children = parent_and_children(client)
    for (_, b0, _), run in children.items():
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 4
        config = yaml.safe_load(Path(run.info.artifact_uri, "config.yaml").read_text())
        assert config["optimizer"]["init_args"]["b0"] == b0
        assert config["trainer"]["default_root_dir"] is None  # so that the file repeats the run anywhere


MAKE_CLI = """
class Trains(Model):
    def training_step(self, batch, batch_idx):
        assert LightningCLI.parse_arguments is PARSE and LightningCLI.instantiate_classes is BUILD
        return super().training_step(batch, batch_idx)

class CLI(LightningCLI):
    def add_arguments_to_parser(self, parser):
        parser.add_argument("--ckpt_path", default=None)
        parser.set_defaults({"trainer.default_root_dir": "root"})

PARSE, BUILD = LightningCLI.parse_arguments, LightningCLI.instantiate_classes

def make_cli(args, run=False):
    return CLI(Trains, Data, args=args, run=run)

def main(args):
    raise AssertionError("make_cli comes first")
"""


def test_make_cli_of_a_module_is_swept_without_a_patch(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(f"{module}.py").open("a") as file:
        file.write(MAKE_CLI)
    for arguments, expected in (
        (["--grid", "optimizer.lr=0.1,x"], "Invalid --grid optimizer.lr=x: "),
        (["--", "--nonesuch=1"], "b0=1 seed=1: "),
        (["--", "--help"], f"from {module} import make_cli; make_cli(['--help'], run=False)"),
    ):
        assert expected in error_of(sweep(module, "well", "--b0", "1", *arguments), capsys)
    Path("well.yaml").write_text(with_logger([CSV]))
    assert main(sweep(module, "well,raise", "--b0", "1,2", "--", "--trainer.max_epochs=1")) == 1
    _, children = parent_and_children(client)
    assert len(children) == 4
    for (method, b0, _), run in children.items():
        assert run.info.status == ("FINISHED" if method == "well" else "FAILED")
        assert run.data.params["lr"] == "0.05"
        config = yaml.safe_load(Path(run.info.artifact_uri, "config.yaml").read_text())
        assert config["optimizer"]["init_args"]["b0"] == b0
        if method == "well":
            assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 4
    assert "this model is broken" in children["raise", 1.0, "1"].data.tags["error"]
    assert len(list(Path("tables").rglob("metrics.csv"))) == 2
    assert not Path("root/.adaloss/points").exists()

    # What else fit takes is an option where the project has it: a checkpoint to start from.
    assert main(sweep(module, "well", "--b0", "1", "--", "--ckpt_path=nonesuch.ckpt", "--trainer.max_epochs=1")) == 1
    assert "nonesuch.ckpt" in capsys.readouterr().err


def test_make_cli_that_returns_something_else_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"own_{folder.name}"
    (folder / f"{name}.py").write_text("def make_cli(args, run=False):\n    return 7\n")
    (folder / "a.yaml").write_text("{}")
    error = error_of(sweep(name, "a", "--b0", "1"), capsys)
    assert f"make_cli(args, run=False) of {name} returns 7. Must be a LightningCLI." in error


def test_a_module_in_the_working_folder_comes_before_a_recipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    assert Project.find("digits").module == "recipes.digits.__main__"
    (folder / "digits.py").write_text("def main(args):\n    pass\n")
    (folder / "mine.yaml").touch()
    found = Project.find("digits")
    del sys.modules["digits"]
    assert (found.name, found.module, list(found.configs)) == ("digits", "digits", ["mine"])


def test_without_a_method_the_message_says_where_one_belongs(
    folder: Path, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in folder.glob("*.yaml"):
        path.unlink()
    error = error_of(sweep(module, "well", "--b0", "1"), capsys)
    assert "A method is a YAML file beside the module, " in error
    assert error.endswith(f": write {folder}/well.yaml.\n")


def test_without_loggers_of_its_own_a_project_gets_ours(client: MlflowClient, module: str) -> None:
    loggers = {"true": True, "false": False, "null": None, "empty": []}
    for method, logger in loggers.items():
        Path(f"{method}.yaml").write_text(with_logger(logger))
    assert main(sweep(module, ",".join(loggers), "--b0", "1")) == 0
    _, children = parent_and_children(client)
    assert [len(client.get_metric_history(run.info.run_id, "train/loss")) for run in children.values()] == [4] * 4
    assert not Path("lightning_logs").exists()


def test_the_store_is_that_of_our_logger_among_several(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = {"class_path": OURS, "init_args": {"tracking_uri": "sqlite:///other.db"}}
    Path("well.yaml").write_text(with_logger([CSV, ours]))
    assert main(sweep(module, "well", "--b0", "1")) == 0
    store = f"sqlite:///{Path.cwd()}/other.db"
    parent, children = parent_and_children(MlflowClient(store))
    assert (parent.info.status, len(children)) == ("FINISHED", 1)
    assert client.get_experiment_by_name("e") is None
    assert capsys.readouterr().out.endswith(f"adaloss ui --tracking-uri {store}\n")


def test_the_store_is_that_of_our_logger_before_others() -> None:
    other = {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"tracking_uri": "sqlite:///a.db"}}
    ours = {"class_path": OURS, "init_args": {"tracking_uri": "sqlite:///b.db"}}
    assert tracking_uri({"trainer": {"logger": [other, ours]}}) == "sqlite:///b.db"
    assert tracking_uri({"trainer": {"logger": [CSV, other]}}) == "sqlite:///a.db"
    assert tracking_uri({"trainer": {"logger": [CSV, {"class_path": OURS}]}}) is None
    assert tracking_uri({"trainer": {"logger": True}}) is None


def test_a_method_may_be_a_yml_file(client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("well.yaml").rename("short.yml")
    Path("gate.yml").write_text("{}")  # beside gate.yaml, which counts
    Path("defaults.yml").write_text("{}")
    assert "are die, gate, need, raise, rank, short." in error_of(sweep(module, "well", "--b0", "1"), capsys)
    assert main(sweep(module, "short", "--b0", "1", "--", "--trainer.max_epochs=1")) == 0
    _, children = parent_and_children(client)
    assert set(children) == {("short", 1.0, "1")}
    Path("gate").touch()
    assert main(sweep(module, "gate", "--b0", "1", "--fresh", "--", "--trainer.max_epochs=1")) == 0
