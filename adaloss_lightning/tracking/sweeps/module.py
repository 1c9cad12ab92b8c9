"""The module of a project, imported and called as if the process had been started for it."""

import contextlib
import importlib
import importlib.util
import inspect
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningCLI

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.sweeps.guest import as_guest, guest_trainer
from adaloss_lightning.tracking.sweeps.wording import reason_of_exit, told
from adaloss_lightning.tracking.temporarily import quiet, replaced

_FITTED = ("self", "model", "datamodule")  # parameters of Trainer.fit that are no options of a command line


def file_of(module: str) -> Path | None:
    """Source of a module; None where there is none of that name.

    Raises:
        SweepError: A package around it cannot be imported.
    """
    with _importing(module):  # find_spec imports the packages around it
        try:
            spec = importlib.util.find_spec(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there, and misses another one
            spec = None
    return Path(spec.origin) if spec is not None and spec.origin else None


def imported(module: str) -> ModuleType:
    """The module.

    Raises:
        SweepError: It cannot be imported.
    """
    with _importing(module):
        return importlib.import_module(module)


def is_swept(module: ModuleType) -> bool:
    """Whether a module has what a sweep calls."""
    return makes_cli(module) or callable(getattr(module, "main", None))


def makes_cli(module: ModuleType) -> bool:
    """Whether a module offers `make_cli(args, run=False)`; its `main` is not called then."""
    return callable(getattr(module, "make_cli", None))


def fit(module: str, args: list[str]) -> None:
    """Trains what the command line `fit`, args describes.

    Raises:
        SweepError: The module cannot be imported, or its function does not take these arguments.
    """
    if not makes_cli(imported(module)):
        with as_guest():
            _call(module, "main", args)
        return
    cli = _made_cli(module, args)
    names = [name for name in inspect.signature(Trainer.fit).parameters if name not in _FITTED]
    options = {name: cli.config_init[name] for name in names if name in cli.config_init}
    with guest_trainer(cli):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, **options)


def settings_of(module: str, args: list[str]) -> dict[str, Any] | None:
    """Configuration that the command line leads to; None where `main` never comes to a LightningCLI.

    `main` is stopped once its LightningCLI has read the arguments; `make_cli` builds everything and trains nothing.
    """
    if makes_cli(imported(module)):
        config: dict[str, Any] = _made_cli(module, args).config.as_dict()
        return config
    try:
        with replaced(LightningCLI, "before_instantiate_classes", _stop), as_guest():
            _call(module, "main", args)
    except _Parsed as parsed:
        return parsed.config
    return None


def by_hand(module: str, word: str) -> str:
    """A shell command that runs `fit` with this argument outside of a sweep."""
    package, dot, _ = module.rpartition(".__main__")
    if makes_cli(imported(module)):
        return f'python -c "from {module} import make_cli; make_cli({[word]}, run=False)"'
    words = ["fit", word] if _has_subcommands(module) else [word]
    if dot:
        return f"python -m {package} {' '.join(words)}"
    return f'python -c "from {module} import main; main({words})"'


def _has_subcommands(module: str) -> bool:
    """False for a LightningCLI with `run=False`, which takes the arguments of `fit` without the word."""
    asked: list[bool] = []

    def stop(self: LightningCLI, add_subcommands: bool, *args: object) -> None:
        asked.append(add_subcommands)
        raise _Parsed({})

    with replaced(LightningCLI, "setup_parser", stop), quiet(io.StringIO()), contextlib.suppress(BaseException):
        _call(module, "main", ["fit"])
    return asked != [False]


def function_of(module: str) -> str:
    """What a sweep calls in the module, for messages."""
    return "make_cli(args, run=False)" if makes_cli(imported(module)) else "main(args)"


def name_of(module: str) -> str:
    """What the user calls it."""
    return module.removeprefix("recipes.").removesuffix(".__main__")


def _made_cli(module: str, args: list[str]) -> LightningCLI:
    """What `make_cli` returns, which takes the arguments of `fit` without the word.

    Raises:
        SweepError: It returns something else than a LightningCLI.
    """
    cli = _call(module, "make_cli", args[1:], run=False)
    if not isinstance(cli, LightningCLI):
        raise SweepError(f"make_cli(args, run=False) of {name_of(module)} returns {cli!r}. Must be a LightningCLI.")
    return cli


class _Parsed(BaseException):
    # No Exception: a project that catches those around its LightningCLI must not swallow it.
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config


def _stop(cli: LightningCLI) -> None:
    config = cli.config[cli.subcommand] if cli.subcommand else cli.config
    raise _Parsed(config.as_dict())


def _call(module: str, function: str, args: list[str], **keywords: bool) -> object:
    called = getattr(imported(module), function)
    try:
        inspect.signature(called).bind(args, **keywords)
    except TypeError as error:
        shown = ", ".join(["args", *(f"{name}={value}" for name, value in keywords.items())])
        right = ", ".join(["args: list[str]", *(f"{name}: bool" for name in keywords)])
        raise SweepError(
            f"Cannot call {function}({shown}) of {name_of(module)}: {error}. Must be {function}({right})."
        ) from None
    with _own_command_line(module):
        return called(args, **keywords)


@contextlib.contextmanager
def _own_command_line(module: str) -> Iterator[None]:
    # LightningCLI warns when it gets args while sys.argv has some too, which are the sweep's.
    with replaced(sys, "argv", [module]):
        yield


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
            f"Cannot import {name_of(module)}: it ends the process: {reason}. "
            "What is not for a sweep belongs under: if __name__ == '__main__'."
        ) from None
    except Exception as error:
        raise SweepError(f"Cannot import {name_of(module)}: {told(error)}") from error
