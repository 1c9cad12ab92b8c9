"""Settings that cannot be run, refused before there is a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException

from adaloss_lightning.tracking import TrackingError

_NO_FILES = ("best", "last", "hpc", "registry")  # what Lightning takes instead of a path


class SettingError(TrackingError, ValueError):
    """A setting the user can put right: the message names it and what would be right."""


@contextmanager
def settings_refused() -> Iterator[None]:
    """Turns an error that names a setting into a `SettingError`; wraps the building of what settings describe.

    Such errors are `Invalid name=value. Must be ...`, torch's `Invalid name: value` and Lightning's
    MisconfigurationException. Any other error is a fault of the program and passes.

    Raises:
        SettingError: A class refuses what it was given.
    """
    try:
        yield
    except (ValueError, MisconfigurationException) as error:
        if not isinstance(error, MisconfigurationException) and not str(error).startswith("Invalid "):
            raise
        raise SettingError(" ".join(str(error).split())) from error


def require_at_least(least: int, **numbers: int | None) -> None:
    """Raises ValueError for the first of `numbers` that is below `least`; None is a number not given."""
    for name, value in numbers.items():
        if value is not None and value < least:
            raise ValueError(f"Invalid {name}={value}. Must be >= {least}.")


def require_checkpoint(path: str | Path | None) -> None:
    """Raises SettingError for a path without a file; None and what only Lightning can find pass."""
    text = str(path or "")
    if text and text.partition(":")[0] not in _NO_FILES and "://" not in text and not Path(text).exists():
        raise SettingError(f"Invalid ckpt_path={text}. Must be a checkpoint that exists.")


def require_optimizer(optimizer: object, folder: Path) -> None:
    """Raises SettingError where there is no optimizer, naming the YAML files in `folder` that have one."""
    if optimizer is None:
        here = Path.cwd()
        files = [path for path in sorted(folder.glob("*.yaml")) if "optimizer" in yaml.safe_load(path.read_text())]
        methods = [str(path.relative_to(here) if path.is_relative_to(here) else path) for path in files]
        raise SettingError(f"No optimizer to train with. Give a method's file: --config {' or '.join(methods)}.")
