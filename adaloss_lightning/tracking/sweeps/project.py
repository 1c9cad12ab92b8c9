"""What a sweep needs from a recipe, or from anybody's LightningCLI project: its `main`, its methods, its settings."""

import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning.pytorch.cli import LightningCLI

from adaloss_lightning.tracking.errors import SweepError, TrackingError
from adaloss_lightning.tracking.grid import Point
from adaloss_lightning.tracking.sweeps.guest import as_guest
from adaloss_lightning.tracking.sweeps.wording import reason_of_exit, told
from adaloss_lightning.tracking.temporarily import quiet, replaced

_PRESETS = ("defaults", "smoke")  # YAML files beside the methods that are none
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
                        return cls(candidate.removeprefix("recipes."), module, _methods_in(file.parent))
        raise SweepError(
            f"Unknown recipe {name!r}. There {_listed(_recipes(), 'is', 'are')}; "
            "or give any importable module that has a main(args) around a LightningCLI."
        )

    def require(self, methods: Sequence[str]) -> None:
        """Raises SweepError for a method that has no YAML, naming those that have."""
        for method in methods:
            if not self.configs:
                file = (_file_of(self.module) or Path()).with_name(f"{method}.yaml")
                raise SweepError(
                    f"Unknown method {method!r} of recipe {self.name!r}. A method is a YAML file beside the module, "
                    f"with the optimizer and the trainer's settings: write {file}."
                )
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
            SweepError: LightningCLI refuses the command line; the message is its own. Or `main` does not come so far.
        """
        printed = io.StringIO()
        try:
            with _stop_after_parsing(), quiet(printed):
                call_main(self.module, self.command(point, extra))
        except _Parsed as parsed:
            return parsed.config
        except SystemExit as stop:
            reason = reason_of_exit(stop, printed.getvalue())
            refusal = f"{self.name} does not accept the arguments of {point}: {reason}"
        except TrackingError:
            raise
        except Exception as error:  # the user's code may raise anything
            place = f"before its LightningCLI has read the arguments of {point}"
            refusal = f"main(args) of {self.name} fails {place}: {told(error)}"
        else:
            refusal = f"main(args) of {self.name} ran without a LightningCLI. A sweep needs one around its args."
        raise SweepError(_without_b0(point, refusal) or refusal)

    def by_hand(self, word: str) -> str:
        """A shell command that runs `fit` with this argument outside of a sweep."""
        package, dot, _ = self.module.rpartition(".__main__")
        words = ["fit", word] if self._has_subcommands() else [word]
        if dot:
            return f"python -m {package} {' '.join(words)}"
        return f'python -c "from {self.module} import main; main({words})"'

    def _has_subcommands(self) -> bool:
        """False for a LightningCLI with `run=False`, which takes the arguments of `fit` without the word."""
        asked: list[bool] = []

        def stop(self: LightningCLI, add_subcommands: bool, *args: object) -> None:
            asked.append(add_subcommands)
            raise _Parsed({})

        with replaced(LightningCLI, "setup_parser", stop), quiet(io.StringIO()), contextlib.suppress(BaseException):
            call_main(self.module, ["fit"])
        return asked != [False]


def call_main(module: str, args: list[str]) -> None:
    """Calls the `main` of `module` as if the process had been started for it.

    Raises:
        SweepError: The module cannot be imported, or its `main` takes no arguments.
    """
    main: Callable[[list[str]], object] = _import(module).main
    try:
        inspect.signature(main).bind(args)
    except TypeError as error:
        raise SweepError(
            f"Cannot call main(args) of {_name_of(module)}: {error}. Must be main(args: list[str])."
        ) from None
    with _own_command_line(module), as_guest():
        main(args)


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
def _own_command_line(module: str) -> Iterator[None]:
    # LightningCLI warns when it gets args while sys.argv has some too, which are the sweep's.
    before, sys.argv = sys.argv, [module]
    try:
        yield
    finally:
        sys.argv = before


def _file_of(module: str) -> Path | None:
    with _importing(module):  # find_spec imports the packages around it
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and misses another one
            spec = None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _import(module: str) -> ModuleType:
    with _importing(module):
        return importlib.import_module(module)


@contextlib.contextmanager
def _importing(module: str) -> Iterator[None]:
    """Inside the block the user's code is imported as if the process had been started for it.

    Raises:
        SweepError: For whatever it raises.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: the user's own project lies there
    printed = io.StringIO()
    try:
        with _own_command_line(module), quiet(printed):
            yield
    except SystemExit as stop:
        reason = reason_of_exit(stop, printed.getvalue())
        raise SweepError(
            f"Cannot import {_name_of(module)}: it ends the process: {reason}. "
            "What is not for a sweep belongs under: if __name__ == '__main__'."
        ) from None
    except Exception as error:
        raise SweepError(f"Cannot import {_name_of(module)}: {told(error)}") from error


def _name_of(module: str) -> str:
    """What the user calls it."""
    return module.removeprefix("recipes.").removesuffix(".__main__")


def _methods_in(folder: Path) -> dict[str, Path]:
    """YAML file of each method; of two with one name the .yaml counts."""
    files = {path.stem: path for end in ("yml", "yaml") for path in folder.glob(f"*.{end}")}
    return {name: files[name] for name in sorted(files) if name not in _PRESETS}


def _without_b0(point: Point, refusal: str) -> str | None:
    """What to say where the reason is that the optimizer has no b0; None where it is another."""
    if "'b0' is not accepted" not in refusal and not re.search(r"unrecognized arguments:.* --optimizer\.b0=", refusal):
        return None
    # Where the YAML names no optimizer, jsonargparse looks for a b0 in their base class.
    named = re.search(r"class_path '(?!torch\.optim\.Optimizer')([^']+)'", refusal)
    given = f"that of {point.method} " + (f"is {named[1]}" if named else "has none")
    return (
        f"A sweep over b0 needs an optimizer that has b0, and {given}. Name one such as adaloss_lightning.AdaLoss "
        "(alpha: 0 keeps b at b0, which is plain SGD at lr / b0)."
    )


def _recipes() -> list[str]:
    package = _file_of("recipes")
    return sorted(path.parent.name for path in package.parent.glob("*/__main__.py")) if package else []


def _listed(names: Sequence[str] | dict[str, Path], one: str, many: str) -> str:
    names = list(names)
    return f"{many if len(names) != 1 else one} {', '.join(names) or 'none'}"
