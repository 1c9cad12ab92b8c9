"""Settings that cannot be run, and what is said of them before anything is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from adaloss_lightning.tracking import TrackingError

_NO_FILES = ("best", "last", "hpc", "registry")  # what Lightning takes in place of a checkpoint's path


class SettingError(TrackingError, ValueError):
    """A setting the user can put right: the message names it and what would be right."""


@contextmanager
def settings_refused() -> Iterator[None]:
    """Around the building of what settings describe: an error that names a setting becomes a `SettingError`.

    Those are `Invalid name=value. Must be ...`, torch's `Invalid name: value` and Lightning's
    MisconfigurationException. Any other error is a fault of the program and stays what it is.

    Raises:
        SettingError: A class refuses what it was given.
    """
    try:
        yield
    except (ValueError, MisconfigurationException) as error:
        if not isinstance(error, MisconfigurationException) and not str(error).startswith("Invalid "):
            raise
        raise SettingError(" ".join(str(error).split())) from error


def require_checkpoint(path: str | Path | None) -> None:
    """Raises SettingError unless `path` is there, is none, or names what only Lightning can look for."""
    text = str(path or "")
    if text and text.partition(":")[0] not in _NO_FILES and "://" not in text and not Path(text).exists():
        raise SettingError(f"Invalid ckpt_path={text}. Must be a checkpoint that exists.")


def require_optimizer(optimizer: object, folder: Path) -> None:
    """Raises SettingError where there is no optimizer, naming the YAML files in `folder` that have one."""
    if optimizer is None:
        methods = [_shown(path) for path in sorted(folder.glob("*.yaml")) if "optimizer" in _keys(path)]
        raise SettingError(f"No optimizer to train with. Give a method's file: --config {' or '.join(methods)}.")


def _keys(path: Path) -> set[str]:
    return set(yaml.safe_load(path.read_text()) or {})


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
