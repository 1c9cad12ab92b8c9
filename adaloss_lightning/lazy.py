"""Names of a package that are imported on first use (PEP 562).

`adaloss --help` needs no torch, and a plain training loop no Lightning: together they take seconds to import.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from adaloss_lightning.extras import not_installed


def lazy(
    package: str, homes: Mapping[str, str], extra: str | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and the ``__dir__`` of a package.

    Args:
        package: Its name.
        homes: For each name that is imported when it is asked for, the module of the package where it is made.
        extra: Brings what these modules import; None where the package's own dependencies do.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        except ModuleNotFoundError as error:
            if extra is None:
                raise
            raise not_installed(error.name, extra) from error

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names
