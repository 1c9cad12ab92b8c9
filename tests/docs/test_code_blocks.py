"""Every code block of every page: Python runs, commands are taken by their own parsers, YAML names what there is."""

import contextlib
import importlib
import io
import re
import shlex
import sys
import tomllib
import types
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml

from adaloss_lightning.tracking.console.app import console_parser
from tests.docs.pages import PAGES, ROOT, Block, Data, Net, Trainer, blocks, given

# A block that is only right in a place: what the page says around it.
ELSEWHERE = {
    "comparing_runs.md": "search_runs",  # needs a sweep: tests/tracking/test_comparing_page.py has one
    "distributed.md": r"devices=2",  # starts a second process of pytest
}


@pytest.fixture
def folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the project of the reader that pages import."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "10")
    monkeypatch.setitem(sys.modules, "my_project", types.SimpleNamespace(MyModel=Net, MyData=Data))
    return folder


def test_every_block_names_its_language() -> None:
    known = {"python", "sh", "yaml", "text", "bibtex"}
    assert [str(block) for page in PAGES for block in blocks(page) if block.language not in known] == []


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_runs(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl, "Trainer", Trainer)
    names = given(page, folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*lr_scheduler.step.*before.*optimizer.step.*")  # docs/gpu.md says so
        # docs/resume.md fits twice
        warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")
        for block in blocks(page, "python"):
            if page.name in ELSEWHERE and re.search(ELSEWHERE[page.name], block.code):
                compile(block.code, str(block), "exec")
                continue
            if page.stem == "README":  # each is an example of its own
                names = given(page, folder)
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(page), "exec"), names)


def test_the_first_example_has_twelve_lines_and_learns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = blocks(ROOT / "README.md", "python")
    assert sum(bool(line.strip()) for line in first.code.splitlines()) == 12
    monkeypatch.setattr(pl, "Trainer", Trainer)
    torch.manual_seed(1)
    names: dict[str, object] = {}
    exec(first.code, names)
    angles = torch.linspace(-3, 3, 100)[:, None]
    assert torch.nn.functional.mse_loss(names["model"].net(angles), angles.sin()) < 1e-3


def commands(page: Path) -> list[list[str]]:
    """Words of each command in the page's shell blocks."""
    lines = [line for block in blocks(page, "sh") for line in block.code.replace("\\\n", " ").splitlines()]
    found = [shlex.split(line, comments=True) for line in lines]
    return [words for words in found if words]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=lambda page: page.stem)
def test_commands_are_taken_by_their_own_parsers(page: Path) -> None:
    for words in commands(page):
        while re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        checks = {"adaloss": adaloss, "python": python, "make": make, "pip": pip, "torchrun": example}
        if words[0] in checks:
            checks[words[0]](words[1:])
        else:
            assert words[0] in {"export", "mlflow", "pipx", "pre-commit", "source"}, words


def adaloss(words: list[str]) -> None:
    if "..." in words:  # a sweep that the page has shown before
        words = ["sweep", "--recipe", "digits", "--methods", "adam", "--b0", "1", *words[words.index("...") + 1 :]]
    parsed = console_parser().parse_args(words[: words.index("--")] if "--" in words else words)
    if parsed.__dict__.get("recipe") not in (None, "mine"):
        recipe = ROOT / "recipes" / parsed.recipe
        assert all((recipe / f"{name}.yaml").is_file() for name in parsed.methods.split(",")), words


def python(words: list[str]) -> None:
    name, arguments = words[1], words[2:]
    if words[0] != "-m":
        example(words)
    elif name == "pytest":
        assert (ROOT / arguments[0]).exists(), words
    elif re.fullmatch(r"recipes\.\w+", name) and "--config" in arguments:
        arguments = [each.replace("DIR", ".") for each in arguments if each != "--ckpt_path"]
        module = importlib.import_module(f"{name}.__main__")
        with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as stop:
            module.main([*arguments, "--print_config"])
        assert stop.value.code in (0, None), (words, printed.getvalue())
        assert "optimizer" in yaml.safe_load(printed.getvalue()), words
    else:
        assert importlib.util.find_spec(name), words


def example(words: list[str]) -> None:
    script = next(word for word in words if word.endswith(".py"))
    assert (ROOT / script).is_file(), words  # tests/examples runs them all


def make(words: list[str]) -> None:
    assert re.search(rf"^{re.escape(words[0])}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words


def pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"(?:\.|adaloss-lightning)\[([\w,]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= set(project["optional-dependencies"]), words


@pytest.mark.parametrize("block", [block for page in PAGES for block in blocks(page, "yaml")], ids=str)
def test_yaml_names_classes_that_there_are(block: Block) -> None:
    yaml.safe_load(block.code)
    for path in re.findall(r"class_path: ([\w.]+)", block.code):
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name), path
