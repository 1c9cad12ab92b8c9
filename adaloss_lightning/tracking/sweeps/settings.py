"""Configuration that LightningCLI makes of a sweep's command lines, read before the first run."""

from collections.abc import Sequence
from typing import Any

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.grid import Grid, Point
from adaloss_lightning.tracking.sweeps.executors.shares import ONE_DEVICE, Devices
from adaloss_lightning.tracking.sweeps.module import by_hand
from adaloss_lightning.tracking.sweeps.project import Project


class Settings:
    """The configuration of each method, alone and with each single value of the grid.

    Values are tried one by one: all combinations would take LightningCLI minutes, and a message could not name the
    value that is wrong.

    Args:
        project: What is swept.
        grid: The points.
        extra: LightningCLI arguments for every point.

    Raises:
        SweepError: Unknown method, or arguments that LightningCLI does not accept, or that make it print and end.
    """

    def __init__(self, project: Project, grid: Grid, extra: Sequence[str]) -> None:
        project.require(grid.methods)
        _require_no_question(project, extra)
        self._of_method: dict[str, dict[str, Any]] = {}
        self._lr: dict[tuple[str, str, str], object] = {}
        self.devices = ONE_DEVICE  # of the point that asks for most
        for method in grid.methods:
            self._of_method[method] = self._read(project, Point(method, grid.b0s[0], grid.seeds[0]), extra)
        for option, values in grid.options:
            for value in values:
                for method in grid.methods:
                    point = Point(method, grid.b0s[0], grid.seeds[0], ((option, value),))
                    try:
                        self._lr[method, option, value] = _lr_of(self._read(project, point, extra))
                    except SweepError as error:
                        raise SweepError(f"Invalid --grid {option}={value}: {error}") from None

    def _read(self, project: Project, point: Point, extra: Sequence[str]) -> dict[str, Any]:
        settings = project.settings(point, extra)
        asked = Devices.of((settings.get("trainer") or {}).get("devices"))
        self.devices = max(self.devices, asked, key=lambda devices: (devices.count, devices.are_named))
        return settings

    def store(self) -> str | None:
        """The store that the configuration names, if it names one.

        Raises:
            SweepError: The methods name different ones.
        """
        stores = {tracking_uri(settings) for settings in self._of_method.values()}
        if len(stores) > 1:
            raise SweepError("The methods' YAML files name different stores. A sweep needs one: give --tracking-uri.")
        return stores.pop()

    def lr(self, point: Point) -> object:
        """Learning rate of the point's optimizer; None where its configuration has none."""
        usual = lr = _lr_of(self._of_method[point.method])
        for option, value in point.options:
            changed = self._lr[point.method, option, value]
            lr = changed if changed != usual else lr
        return lr


def _require_no_question(project: Project, extra: Sequence[str]) -> None:
    for word in extra:
        option = word.partition("=")[0]
        if option in ("-h", "--help", "--print_config") or (option.startswith("--") and option.endswith(".help")):
            command = by_hand(project.module, word)
            raise SweepError(f"Invalid {word} after --. It prints and ends, so run it on the project itself: {command}")


def _lr_of(settings: dict[str, Any]) -> object:
    return ((settings.get("optimizer") or {}).get("init_args") or {}).get("lr")


def tracking_uri(settings: dict[str, Any]) -> str | None:
    """Store that the project's configuration names, if it names one; among several loggers ours has the say."""
    loggers = sorted(_loggers_of(settings), key=_is_ours, reverse=True)
    uris = [(logger.get("init_args") or {}).get("tracking_uri") for logger in loggers if isinstance(logger, dict)]
    return next((uri for uri in uris if uri), None)


def _loggers_of(settings: dict[str, Any]) -> list[Any]:
    """Those the configuration names, as dicts or built; true, false and null name none."""
    logger = (settings.get("trainer") or {}).get("logger")
    return [one for one in (logger if isinstance(logger, list) else [logger]) if one and not isinstance(one, bool)]


def _is_ours(logger: Any) -> bool:
    class_path: str = logger.get("class_path", "") if isinstance(logger, dict) else type(logger).__name__
    return class_path.endswith("BufferedMLFlowLogger")
