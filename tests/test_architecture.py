"""Imports run one way, and importing the package brings in torch and Lightning alone."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

import adaloss_lightning
import adaloss_lightning.tracking

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "adaloss_lightning").rglob("*.py")) + sorted((ROOT / "recipes").rglob("*.py"))
# recipes -> tracking -> callback -> optim, and theory knows torch alone: what a package never imports.
NEVER = {
    "adaloss_lightning.theory": r"adaloss_lightning\.(?!theory)|recipes|lightning|mlflow",
    "adaloss_lightning.optim": r"adaloss_lightning\.(callback|tracking)|recipes|lightning|pytorch_lightning|mlflow",
    "adaloss_lightning.callback": r"adaloss_lightning\.tracking|recipes|mlflow",
    "adaloss_lightning.tracking": r"recipes",
    "adaloss_lightning.tracking.logger": r"adaloss_lightning\.tracking\.(sweeps|reports|console)",
    "adaloss_lightning.tracking.sweeps": r"adaloss_lightning\.tracking\.(reports|console)",
    "adaloss_lightning.tracking.reports": r"adaloss_lightning\.tracking\.(sweeps|console)",
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}


def imported(nodes: Iterable[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in submodules}
    return names


@pytest.mark.parametrize("package", NEVER)
def test_a_package_never_imports_what_is_above_it(package: str) -> None:
    for name, path in MODULES.items():
        if f"{name}.".startswith(f"{package}."):
            for other in imported(ast.walk(ast.parse(path.read_text()))):
                assert not re.match(rf"({NEVER[package]})\b", other), f"{name} imports {other}"


def test_no_modules_import_each_other() -> None:
    tops = {name: imported(ast.parse(path.read_text()).body) & MODULES.keys() for name, path in MODULES.items()}
    TopologicalSorter(tops).prepare()  # raises CycleError


HEAVY = (
    "torch", "lightning", "mlflow", "timm", "torchtext", "gymnasium", "torchvision", "sklearn", "matplotlib", "recipes"
)  # fmt: skip


def heavy_after(code: str) -> set[str]:
    script = f"import sys; {code}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import adaloss_lightning",
        "import adaloss_lightning.tracking",
        "from adaloss_lightning.tracking.console.app import main; main(['--help']); main(['report']); main(['sync'])",
    ],
)
def test_what_needs_nothing_imports_nothing(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert heavy_after(code) == set()


def test_the_optimizers_need_torch_alone() -> None:
    assert heavy_after("from adaloss_lightning import AdaLoss, AdaGradNorm, SGDDecaySqrt, LossAdaptive") == {"torch"}


def test_the_callback_needs_what_lightning_needs() -> None:
    # matplotlib comes in with torchmetrics, that is with Lightning itself, where it is installed
    assert heavy_after("from adaloss_lightning import AdaLossCallback") == heavy_after("import lightning.pytorch")


@pytest.mark.parametrize("package", [adaloss_lightning, adaloss_lightning.tracking])
def test_a_package_has_the_names_that_it_promises(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'Nothing'"):
        package.Nothing  # noqa: B018


def test_import_paths_of_the_first_release_lead_to_where_the_names_are() -> None:
    with pytest.warns(DeprecationWarning, match=r"\.optimizers is adaloss_lightning\.optim\.adaloss now"):
        former = importlib.import_module("adaloss_lightning.optimizers")
    assert former.AdaLoss is adaloss_lightning.AdaLoss
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("adaloss_lightning.nothing")
