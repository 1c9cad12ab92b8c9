"""Every example runs as its first line says, and does what it shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.limits import HANG_S
from tests.ports import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
ONE_COMMAND = {
    "lightning_callback": r"accuracy (\S+),",
    "pytorch_ddp": r"step 200: loss (\S+),",
    "fabric_loop": r"loss (\S+) after",
    "accelerate_loop": r"loss (\S+),",
    "gan": r"it makes: (\S+);",
}
WORTH = {
    "lightning_callback": (0.9, 1.0), "pytorch_ddp": (0.0, 0.1), "fabric_loop": (0.0, 0.1),
    "accelerate_loop": (0.0, 0.1), "gan": (2.0, 4.0),
}  # fmt: skip


def run(*command: str) -> str:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here_and_short() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {*ONE_COMMAND, "fine_tune_timm", "sweep_project"}
    assert all(len(path.read_text().splitlines()) <= 60 for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", ONE_COMMAND)
def test_example_trains(folder: Path, name: str) -> None:
    if name == "accelerate_loop":
        pytest.importorskip("accelerate")
    printed = run(str(EXAMPLES / f"{name}.py"))
    found = re.search(ONE_COMMAND[name], printed)
    assert found, printed
    low, high = WORTH[name]
    assert low <= float(found[1]) <= high, printed


def test_pytorch_ddp_runs_on_two_ranks(folder: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}")
    assert "step 200: loss" in run(*launcher, str(EXAMPLES / "pytorch_ddp.py"))


def test_fine_tune_timm_reads_an_image_folder(folder: Path) -> None:
    for label, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (folder / "images" / label).mkdir(parents=True)
        for index in range(8):
            Image.new("RGB", (32, 32), colour).save(folder / "images" / label / f"{index}.png")
    options = ("--model=test_resnet.r160_in1k", "--no-pretrained", "--epochs=1")
    assert "accuracy of the last batch" in run(str(EXAMPLES / "fine_tune_timm.py"), "images", *options)


def test_sweep_project_is_swept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sweep_project.py", "adaloss.yaml"):
        (folder / name).write_text((EXAMPLES / name).read_text())
    monkeypatch.setenv("PYTHONPATH", str(folder))
    points = ("--methods=adaloss", "--b0=0.1,10", "--seeds=1", "--experiment=mine")
    sweep = ("-m", "adaloss_lightning.tracking.console.app", "sweep", "--recipe=sweep_project")
    printed = run(*sweep, *points, "--", "--trainer.max_epochs=1")
    assert "adaloss" in printed
    assert "val/loss" in printed
