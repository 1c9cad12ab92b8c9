"""Imports run one way, and importing the package brings in torch and Lightning alone."""

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import adaloss_lightning
import adaloss_lightning.tracking

ROOT = Path(__file__).parents[1]
# Each module may import the ones before it in this list, never those after it.
ORDER = [
    "adaloss_lightning.version",
    "adaloss_lightning.lazy",
    "adaloss_lightning.theory",
    "adaloss_lightning.validation",
    "adaloss_lightning.accumulator",
    "adaloss_lightning.wrapper",
    "adaloss_lightning.traits",
    "adaloss_lightning.base",
    "adaloss_lightning.layout",
    "adaloss_lightning.fused",
    "adaloss_lightning.global_loss",
    "adaloss_lightning.joins",
    "adaloss_lightning.inbox",
    "adaloss_lightning.gradient_norm",
    "adaloss_lightning.column",
    "adaloss_lightning.merged",
    "adaloss_lightning.rate_adaptive",
    "adaloss_lightning.loss_adaptive",
    "adaloss_lightning.optimizers",
    "adaloss_lightning.baselines",
    "adaloss_lightning.adagrad_norm",
    "adaloss_lightning.stacked",
    "adaloss_lightning.step_loss",
    "adaloss_lightning.feeding",
    "adaloss_lightning.resume",
    "adaloss_lightning.callback",
    "adaloss_lightning",
    "adaloss_lightning.tracking",
    "recipes",
]
LIGHTNING_ONLY_IN = {"adaloss_lightning.feeding", "adaloss_lightning.callback", "adaloss_lightning.tracking", "recipes"}
MLFLOW_ONLY_IN = {"adaloss_lightning.tracking"}


FOLDERS = ("adaloss_lightning.theory", "adaloss_lightning.tracking", "recipes")  # one entry for all of their modules


def layer(module: str) -> str:
    """The entry of ORDER that a module belongs to."""
    place = next((folder for folder in FOLDERS if f"{module}.".startswith(f"{folder}.")), module)
    assert place in ORDER, f"{module} has no place in ORDER"
    return place


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if module_file(name) else node.module for name in submodules}
    return names


def module_file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.exists()), None)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = sorted((ROOT / "adaloss_lightning").rglob("*.py")) + sorted((ROOT / "recipes").rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_one_way(path: Path) -> None:
    here = layer(name_of(path))
    for name in imported(path):
        top = name.split(".")[0]
        if top in ("adaloss_lightning", "recipes"):
            assert ORDER.index(layer(name)) <= ORDER.index(here), f"{name_of(path)} imports {name}"
        elif top in ("lightning", "pytorch_lightning"):
            assert here in LIGHTNING_ONLY_IN, f"{name_of(path)} imports {name}"
        elif top == "mlflow":
            assert here in MLFLOW_ONLY_IN, f"{name_of(path)} imports {name}"


def test_the_spool_knows_neither_sweeps_nor_reports() -> None:
    tracking = "adaloss_lightning.tracking"
    above = ("app", "comparison", "report", "reporting", "runs", "summary", "sweep", "sweeping", "sync", "ui")
    for path in (path for path in SOURCES if name_of(path).startswith(f"{tracking}.spooling.")):
        for name in imported(path):
            assert name.removeprefix(f"{tracking}.").split(".")[0] not in above, f"{name_of(path)} imports {name}"


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
        "from adaloss_lightning.tracking.app import main; main(['--help']); main(['report']); main(['sync'])",
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
