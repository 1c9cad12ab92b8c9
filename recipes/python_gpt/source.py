"""Source files of Python, each in one of three sets."""

import hashlib
import os
import sysconfig
from pathlib import Path

from recipes.shared.settings import SettingError

SETS = ("train", "val", "test")
# Other people's packages, and tests, which are more than all the rest and which many distributions leave out.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}

Files = dict[str, list[Path]]


def standard_library() -> Path:
    """Folder of the standard library's modules; in a virtual environment that of the Python it was made from."""
    return Path(sysconfig.get_paths()["stdlib"])


def find_files(root: Path) -> Files:
    """The `*.py` files below `root` by the name of their set, without tests and installed packages.

    The set depends on the path of the file within `root` alone: 80 % are for training, 10 % for validation, 10 % for
    testing. So another version of Python, or one with fewer modules, moves no file to another set.

    Raises:
        SettingError: There are none.
    """
    files: Files = {name: [] for name in SETS}
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _LEFT_OUT]
        for path in (Path(folder, name) for name in names):
            if path.suffix == ".py" and path.is_file():  # a link may lead nowhere
                files[_set_of(path.relative_to(root).as_posix())].append(path)
    if not any(files.values()):
        raise SettingError(
            f"Found no Python source in {root}. An installation without it (stripped, or in a zip file) cannot be "
            "learned from: give a folder with *.py files, --data.root DIR."
        )
    return {name: sorted(paths) for name, paths in files.items()}


def read_files(paths: list[Path]) -> bytearray:
    """The files' bytes one after the other, in the order of `paths`."""
    return bytearray(b"".join(path.read_bytes() for path in paths))


def _set_of(path: str) -> str:
    share = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big") % 10
    return {0: "test", 1: "val"}.get(share, "train")
