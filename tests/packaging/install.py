"""Install the wheel, or the sdist, alone into fresh environments, and run a few commands there.

python -m tests.packaging.install [--python 3.11 3.12 3.13] [--extra core sdist tracking recipes ray bench docs dev]
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.packaging.building import ROOT, build, copy_tracked
from tests.packaging.smoke import SMOKES, Smoke

PYTHONS = ("3.11", "3.12", "3.13")
_PASSED = "ok"
_SDIST = "sdist"  # no extra: the core again, built by pip in an environment of its own


def main(arguments: list[str] | None = None) -> int:
    """Prints a line an environment. Returns 0 where every command did what it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS, help="3.12 for python3.12 of PATH, or an interpreter")
    parser.add_argument("--extra", nargs="+", default=[*SMOKES, _SDIST], choices=[*SMOKES, _SDIST])
    parser.add_argument("--constraint", type=Path, help="versions to install (default: the newest)")
    given = parser.parse_args(arguments)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        source = copy_tracked(Path(folder, "source"))
        wheel, sdist = (build(kind, source, Path(folder, kind)) for kind in ("wheel", "sdist"))
        print(f"{wheel.name}, {sdist.name}\n{'python':<8} {'extra':<10} outcome", flush=True)
        for python in given.python:
            for extra in given.extra:
                what = str(sdist) if extra == _SDIST else str(wheel) if extra == "core" else f"{wheel}[{extra}]"
                outcome = tried(python, what, SMOKES["core" if extra == _SDIST else extra], given.constraint)
                failures += outcome != _PASSED
                print(f"{Path(python).name:<8} {extra:<10} {outcome}", flush=True)
    return 1 if failures else 0


def tried(python: str, what: str, smokes: Sequence[Smoke], constraint: Path | None) -> str:
    """Install `what`; `ok`, or the first command that failed and what it printed."""
    interpreter = shutil.which(f"python{python}") or shutil.which(python)
    if interpreter is None:
        return f"no python{python} in PATH"
    with tempfile.TemporaryDirectory() as folder:
        place, work = Path(folder, "environment"), Path(folder, "work")
        # The pip of the interpreter, as in the Makefile: one without ensurepip (Debian's) will do.
        pip = [interpreter, "-m", "pip", "--python", str(place / "bin" / "python"), "--quiet", "install"]
        limits = ["--constraint", str(constraint.resolve())] if constraint else []
        for command in ([interpreter, "-m", "venv", "--without-pip", str(place)], [*pip, *limits, what]):
            code, printed = ran(command, Path(folder))
            if code:
                return f"FAILED: {shlex.join(command)}\n{printed}"
        shutil.copytree(ROOT / "examples", work)
        problems = (problem_of(smoke, place, work) for smoke in smokes)
        return next((f"FAILED: {problem}" for problem in problems if problem), _PASSED)


def problem_of(smoke: Smoke, place: Path, work: Path) -> str | None:
    """Runs a command in the environment at `place`; None where it does what it should."""
    name, *words = shlex.split(smoke.command)
    code, printed = ran([str(place / "bin" / name), *words], work)
    if code == smoke.code and smoke.printed in printed:
        return None
    return f"{smoke.command}\n{printed}\nexit code {code}, expected {smoke.code} and {smoke.printed!r}"


def ran(command: list[str], folder: Path) -> tuple[int, str]:
    """Runs a command that no variable leads back to the source tree; its exit code and what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW_"))}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.returncode, done.stdout


if __name__ == "__main__":
    sys.exit(main())
