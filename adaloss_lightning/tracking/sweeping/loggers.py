"""The loggers that the configuration of a swept project names."""

from typing import Any


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
