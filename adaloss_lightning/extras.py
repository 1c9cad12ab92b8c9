"""Packages that come with an extra: what to install where one is missing."""

from importlib.util import find_spec


def not_installed(package: str | None, extra: str) -> ModuleNotFoundError:
    """The error for a package, or a module of it, of the extra `extra` that cannot be imported."""
    package = package and package.partition(".")[0]
    return ModuleNotFoundError(f"{package} is not installed: pip install 'adaloss-lightning[{extra}]'", name=package)


def require(extra: str, *packages: str) -> None:
    """Imports nothing, and so costs nothing.

    Raises:
        ModuleNotFoundError: One of `packages` is not installed; the message names the extra that brings it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise not_installed(package, extra)
