"""Distributions made from what git tracks, in folders of their own."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tracked(*folders: str) -> list[str]:
    """Files that git tracks and that are there, relative to the root of the project."""
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def copy_tracked(folder: Path) -> Path:
    """Copies the tracked files, without what an editable install or an earlier build left beside them."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def build(kind: str, source: Path, out: Path) -> Path:
    """Builds the `sdist` or the `wheel` of a source tree with the setuptools that is installed; no network."""
    out.mkdir(parents=True, exist_ok=True)
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"The {kind} of {source} cannot be built:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    (made,) = out.iterdir()
    return made


def unpack(sdist: Path, folder: Path) -> Path:
    """Unpacks an sdist and returns its only folder."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (root,) = folder.iterdir()
    return root
