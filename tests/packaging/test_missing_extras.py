"""Without its extra, everything that needs one says what to install."""

import subprocess
import sys

import pytest

from adaloss_lightning import SharpnessCallback
from recipes.digits.module import build_vit
from tests.packaging.building import ROOT

TRACKING = "pip install 'adaloss-lightning[tracking]'"
RECIPES = "pip install 'adaloss-lightning[recipes]'"


pytestmark = [pytest.mark.process, pytest.mark.usefixtures("folder")]


def without(package: str, code: str) -> "subprocess.CompletedProcess[str]":
    """Runs `code` in a process that cannot import `package`."""
    script = f"import sys; sys.modules[{package!r}] = None; sys.path.insert(0, {str(ROOT)!r}); {code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


def test_console_names_the_extra() -> None:
    commands = [["sweep", "--recipe=digits", "--methods=adam", "--b0=1"], ["report", "--experiment=e"], ["ui"]]
    code = f"from adaloss_lightning.tracking.console.app import main; print([main(one) for one in {commands}])"
    done = without("mlflow", code)
    assert done.stderr.splitlines() == [f"adaloss: error: mlflow is not installed: {TRACKING}"] * 3
    assert done.stdout == "[2, 2, 2]\n"


def test_logger_names_the_extra() -> None:
    # MLflow brings requests, and Lightning's own logger asks for MLflow by its metadata, which are there.
    done = without("requests", "from adaloss_lightning.tracking import BufferedMLFlowLogger")
    assert done.stderr.endswith(f"ModuleNotFoundError: requests is not installed: {TRACKING}\n")


@pytest.mark.parametrize(
    ("recipe", "package"), [("two_layer", "mlflow"), ("vit_cifar100", "timm"), ("pendulum", "gymnasium")]
)
def test_recipe_names_the_extra(recipe: str, package: str) -> None:
    done = without(package, f"import runpy; runpy.run_module('recipes.{recipe}', run_name='__main__')")
    assert f"{package} is not installed: {RECIPES}" in done.stderr.splitlines()[-1]
    assert done.returncode == 1


def test_sweep_of_a_recipe_names_the_extra() -> None:
    done = without(
        "gymnasium", "from adaloss_lightning.tracking.sweeps.project import Project; Project.find('pendulum')"
    )
    assert f"gymnasium is not installed: {RECIPES}" in done.stderr.splitlines()[-1]


def test_vit_of_digits_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModuleNotFoundError, match=r"timm is not installed: pip install .*\[recipes\]"):
        build_vit()


@pytest.mark.parametrize(("name", "package", "remedy"), [
    ("fine_tune_timm", "timm", RECIPES), ("accelerate_loop", "accelerate", "pip install accelerate")
])  # fmt: skip
def test_example_names_what_it_needs(name: str, package: str, remedy: str) -> None:
    done = without(package, f"import runpy; runpy.run_path({str(ROOT / 'examples' / name)!r} + '.py')")
    assert (done.returncode, done.stderr) == (1, f"{package} is not installed: {remedy}\n")


def test_sharpness_figure_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"matplotlib is not installed: pip install .*\[tracking\]"):
        SharpnessCallback(path="sharpness.png")
    SharpnessCallback()  # draws nothing
