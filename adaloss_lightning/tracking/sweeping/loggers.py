"""The loggers of a project that is swept: ours joins them, and the store is where it says."""

import json
from typing import Any

_LOGGER = "adaloss_lightning.tracking.BufferedMLFlowLogger"


def logger_arguments(settings: dict[str, Any]) -> list[str]:
    """What to add to the command line so that the run is tracked: nothing where the project does it already."""
    loggers = _loggers_of(settings)
    if any(map(_is_ours, loggers)):
        return []
    if not loggers:
        return [f"--trainer.logger={_LOGGER}"]
    if not all(isinstance(logger, dict) for logger in loggers):
        return [f"--trainer.logger+={_LOGGER}"]  # built in Python: they cannot be named again
    # Ours comes first, as Lightning keeps config.yaml and checkpoints in the folder of the first one. Without the false
    # it would inherit settings of a single logger.
    every = json.dumps([{"class_path": _LOGGER}, *loggers], default=str)
    return ["--trainer.logger=false", f"--trainer.logger={every}"]


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
