"""What a sweep needs from a recipe, or from anybody's LightningCLI project: its `main`, its methods, its settings."""

import contextlib
import importlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning.pytorch.cli import LightningCLI

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.quiet import quiet
from adaloss_lightning.tracking.sweeping.grid import Point

_PRESETS = ("defaults", "smoke")  # YAML files beside the methods that are none
_LOGGER = "adaloss_lightning.tracking.BufferedMLFlowLogger"
_QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@dataclass(frozen=True)
class Project:
    """An importable module with `main(args: list[str])` around a LightningCLI, and one YAML per method beside it.

    Attributes:
        name: What the user called it; the value of the param `recipe`.
        module: The module that holds `main`.
        configs: YAML file of each method.
    """

    name: str
    module: str
    configs: dict[str, Path]

    @classmethod
    def find(cls, name: str) -> "Project":
        """The recipe `name`: `recipes.<name>`, or any importable module.

        Raises:
            SweepError: There is no such module, it cannot be imported, or it has no `main`.
        """
        if all(part.isidentifier() for part in name.split(".")):
            for candidate in (f"recipes.{name}", name):
                # A package runs through its __main__, as with `python -m`.
                for module in (f"{candidate}.__main__", candidate):
                    file = _file_of(module)
                    if file is not None and callable(getattr(_import(module), "main", None)):
                        files = {path.stem: path for path in sorted(file.parent.glob("*.yaml"))}
                        for preset in _PRESETS:
                            files.pop(preset, None)
                        return cls(candidate.removeprefix("recipes."), module, files)
        raise SweepError(
            f"Unknown recipe {name!r}. There {_listed(_recipes(), 'is', 'are')}; "
            "or give any importable module that has a main(args) around a LightningCLI."
        )

    def require(self, methods: Sequence[str]) -> None:
        """Raises SweepError for a method that has no YAML, naming those that have."""
        for method in methods:
            if method not in self.configs:
                raise SweepError(
                    f"Unknown method {method!r} of recipe {self.name!r}. There {_listed(self.configs, 'is', 'are')}."
                )

    def command(self, point: Point, extra: Sequence[str]) -> list[str]:
        """Command line of one point. The grid comes last: a sweep over b0 means it."""
        config = str(self.configs[point.method])
        options = [f"--{option}={value}" for option, value in point.options]
        grid = [*options, f"--optimizer.b0={point.b0}", f"--seed_everything={point.seed}"]
        return ["fit", f"--config={config}", *_QUIET, *extra, *grid]

    def settings(self, point: Point, extra: Sequence[str]) -> dict[str, Any]:
        """Configuration the command line of `point` leads to; nothing is built or run.

        Raises:
            SweepError: LightningCLI refuses the command line; the message is its own.
        """
        errors = io.StringIO()
        try:
            with _stop_after_parsing(), quiet(errors):
                call_main(self.module, self.command(point, extra))
        except _Parsed as parsed:
            return parsed.config
        except SystemExit:
            reason = errors.getvalue().rpartition("error: ")[2].strip()
            raise SweepError(f"{self.name} does not accept the arguments of {point}: {reason}") from None
        raise SweepError(f"main(args) of {self.module} ran without a LightningCLI. A sweep needs one around its args.")


def call_main(module: str, args: list[str]) -> None:
    """Calls the `main` of `module` as if the process had been started for it.

    Raises:
        SweepError: The module cannot be imported.
    """
    main: Callable[[list[str]], object] = _import(module).main
    with _own_command_line(module):
        main(args)


def logger_arguments(settings: dict[str, Any]) -> list[str]:
    """What to add to the command line so that the run is tracked: nothing where the project does it already."""
    logger = (settings.get("trainer") or {}).get("logger")
    loggers = [one for one in (logger if isinstance(logger, list) else [logger]) if isinstance(one, dict)]
    tracked = any(one.get("class_path", "").endswith("BufferedMLFlowLogger") for one in loggers)
    return [] if tracked else [f"--trainer.logger={_LOGGER}"]


def tracking_uri(settings: dict[str, Any]) -> str | None:
    """Store that the project's configuration names, if it names one."""
    logger = (settings.get("trainer") or {}).get("logger")
    return (logger.get("init_args") or {}).get("tracking_uri") if isinstance(logger, dict) else None


class _Parsed(BaseException):
    # No Exception: a project that catches those around its LightningCLI must not swallow it.
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


@contextlib.contextmanager
def _stop_after_parsing() -> Iterator[None]:
    def stop(self: LightningCLI) -> None:
        config = self.config[self.subcommand] if self.subcommand else self.config
        raise _Parsed(config.as_dict())

    with replaced(LightningCLI, "before_instantiate_classes", stop):
        yield


@contextlib.contextmanager
def replaced(owner: type, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Inside the block, `owner` has another method of this name."""
    original = getattr(owner, name)
    setattr(owner, name, method)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def _own_command_line(module: str) -> Iterator[None]:
    # LightningCLI warns when it gets args while sys.argv has some too, which are the sweep's.
    before, sys.argv = sys.argv, [module]
    try:
        yield
    finally:
        sys.argv = before


def _file_of(module: str) -> Path | None:
    _find_in_working_folder()
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError as error:
        if error.name and module.startswith(error.name):
            return None  # the module itself is not there
        raise SweepError(f"Cannot import {module}: {error}") from error
    return Path(spec.origin) if spec is not None and spec.origin else None


def _find_in_working_folder() -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the user's own project lies there


def _import(module: str) -> ModuleType:
    _find_in_working_folder()
    try:
        return importlib.import_module(module)
    except Exception as error:  # somebody else's code may raise anything
        raise SweepError(f"Cannot import {module}: {type(error).__name__}: {error}") from error


def _recipes() -> list[str]:
    package = _file_of("recipes")
    return sorted(path.parent.name for path in package.parent.glob("*/__main__.py")) if package else []


def _listed(names: Sequence[str] | dict[str, Path], one: str, many: str) -> str:
    names = list(names)
    return f"{many if len(names) != 1 else one} {', '.join(names) or 'none'}"
