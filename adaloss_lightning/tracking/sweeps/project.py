"""Projects that can be swept: a module around a LightningCLI, its methods, and the settings of a point."""

import io
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adaloss_lightning.tracking.errors import SweepError, TrackingError
from adaloss_lightning.tracking.grid import Point
from adaloss_lightning.tracking.sweeps.b0 import configured_callbacks, is_adapting, lacks_b0, nobodys_b0, with_b0
from adaloss_lightning.tracking.sweeps.module import file_of, function_of, imported, is_swept, settings_of
from adaloss_lightning.tracking.sweeps.wording import reason_of_exit, told
from adaloss_lightning.tracking.temporarily import quiet

_DECIDE = ("config", "optimizer", "optimizer.class_path", "trainer", "trainer.callbacks")  # options: whose b0 it is
_PRESETS = ("defaults", "smoke")  # YAML files beside the methods that are none
_QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@dataclass(frozen=True)
class Project:
    """An importable module around a LightningCLI, and one YAML file per method beside it.

    Attributes:
        name: What the user called it; the value of the param `recipe`.
        module: The module, with `main(args: list[str])` or `make_cli(args, run=False)`.
        configs: YAML file of each method.
    """

    name: str
    module: str
    configs: dict[str, Path]
    _adapting: dict[object, list[Any] | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    _read: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def find(cls, name: str) -> "Project":
        """The user's own module in the working folder, the recipe `name`, or any importable module, in this order.

        Raises:
            SweepError: There is no such module, it cannot be imported, or it has no function for a sweep.
        """
        if all(part.isidentifier() for part in name.split(".")):
            candidates = (name, f"recipes.{name}") if _is_here(name) else (f"recipes.{name}", name)
            for candidate in candidates:
                # A package runs through its __main__, as with `python -m`.
                for module in (f"{candidate}.__main__", candidate):
                    file = file_of(module)
                    if file is not None and is_swept(imported(module)):
                        return cls(candidate.removeprefix("recipes."), module, _methods_in(file.parent))
        raise SweepError(
            f"Unknown recipe {name!r}. There {_listed(_recipes())}; "
            "or give any importable module that has a main(args) around a LightningCLI."
        )

    def require(self, methods: Sequence[str]) -> None:
        """Raises SweepError for a method that has no YAML, naming those that have."""
        for method in methods:
            if method not in self.configs:
                way_out = f"There {_listed(self.configs)}."
                if not self.configs:
                    file = (file_of(self.module) or Path()).with_name(f"{method}.yaml")
                    way_out = (
                        "A method is a YAML file beside the module, with the optimizer and the trainer's settings: "
                        f"write {file}."
                    )
                raise SweepError(f"Unknown method {method!r} of recipe {self.name!r}. {way_out}")

    def command(self, point: Point, extra: Sequence[str]) -> list[str]:
        """Command line of one point. The grid comes last: a sweep over b0 means it.

        Raises:
            SweepError: As `settings`.
        """
        return self._command(point, extra, self.b0_of(point, extra))

    def b0_of(self, point: Point, extra: Sequence[str]) -> list[str]:
        """Arguments that set b0: the optimizer's, and where it has none, that of the callback which adapts it.

        Raises:
            SweepError: As `settings`.
        """
        options = tuple(one for one in point.options if one[0] in _DECIDE)
        key = (point.method, tuple(extra), options)
        if key not in self._adapting:
            self._adapting[key] = self._callbacks_with_b0(point, extra)
        callbacks = self._adapting[key]
        if callbacks is None:
            return [f"--optimizer.b0={point.b0}"]
        return [f"--trainer.callbacks={with_b0(callbacks, point.b0)}"]

    def settings(self, point: Point, extra: Sequence[str]) -> dict[str, Any]:
        """Configuration the command line of `point` leads to; nothing is run.

        Raises:
            SweepError: LightningCLI refuses the command line; the message is its own. Or `main` does not come so far,
                or nothing in the configuration has b0.
        """
        return self._parsed(point, self.command(point, extra))

    def _command(self, point: Point, extra: Sequence[str], b0: Sequence[str]) -> list[str]:
        grid = [f"--{option}={value}" for option, value in point.options]
        config = f"--config={self.configs[point.method]}"
        return ["fit", config, *_QUIET, *extra, *grid, *b0, f"--seed_everything={point.seed}"]

    def _callbacks_with_b0(self, point: Point, extra: Sequence[str]) -> list[Any] | None:
        """All callbacks, as LightningCLI reads them, where one of them has b0; None where the optimizer has it."""
        try:
            self._parsed(point, self._command(point, extra, [f"--optimizer.b0={point.b0}"]))
        except SweepError as error:
            if not lacks_b0(str(error)):
                raise
            callbacks = configured_callbacks(self._parsed(point, self._command(point, extra, [])))
            if not any(map(is_adapting, callbacks)):
                raise SweepError(nobodys_b0(point, str(error))) from None
            return callbacks
        return None

    def _parsed(self, point: Point, command: Sequence[str]) -> dict[str, Any]:
        if (key := tuple(command)) not in self._read:  # make_cli builds all that it reads
            self._read[key] = self._parse(point, list(command))
        return self._read[key]

    def _parse(self, point: Point, command: list[str]) -> dict[str, Any]:
        printed = io.StringIO()
        try:
            with quiet(printed):
                settings = settings_of(self.module, command)
        except SystemExit as stop:
            reason = reason_of_exit(stop, printed.getvalue())
            refusal = f"{self.name} does not accept the arguments of {point}: {reason}"
        except TrackingError:
            raise
        except Exception as error:  # the user's code may raise anything
            place = f"before its LightningCLI has read the arguments of {point}"
            refusal = f"{function_of(self.module)} of {self.name} fails {place}: {told(error)}"
        else:
            if settings is not None:
                return settings
            refusal = f"main(args) of {self.name} ran without a LightningCLI. A sweep needs one around its args."
        raise SweepError(refusal)


def _is_here(name: str) -> bool:
    """Whether the working folder has a module or package of that name."""
    place = Path(*name.split("."))
    return any(file.is_file() for file in (place.with_suffix(".py"), place / "__init__.py", place / "__main__.py"))


def _methods_in(folder: Path) -> dict[str, Path]:
    """YAML file of each method; of two with one name the .yaml counts."""
    files = {path.stem: path for end in ("yml", "yaml") for path in folder.glob(f"*.{end}")}
    return {name: files[name] for name in sorted(files) if name not in _PRESETS}


def _recipes() -> list[str]:
    package = file_of("recipes")
    return sorted(path.parent.name for path in package.parent.glob("*/__main__.py")) if package else []


def _listed(names: Collection[str]) -> str:
    return f"{'is' if len(names) == 1 else 'are'} {', '.join(names) or 'none'}"
