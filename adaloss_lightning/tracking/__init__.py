"""Tracking with MLflow (extra `[tracking]`): where runs live, a logger that never blocks training, sweeps, reports."""

from typing import TYPE_CHECKING

from adaloss_lightning.lazy import lazy
from adaloss_lightning.tracking.errors import StoreError, SweepError, TrackingError

if TYPE_CHECKING:
    from adaloss_lightning.tracking.callbacks import LogEveryEpoch, RememberRun
    from adaloss_lightning.tracking.logger import BufferedMLFlowLogger
    from adaloss_lightning.tracking.logger.run_end import sigterm_raises
    from adaloss_lightning.tracking.models import log_model
    from adaloss_lightning.tracking.store import ensure_experiment, open_store, resolve_uri

__all__ = [
    "BufferedMLFlowLogger",
    "LogEveryEpoch",
    "RememberRun",
    "StoreError",
    "SweepError",
    "TrackingError",
    "ensure_experiment",
    "log_model",
    "open_store",
    "resolve_uri",
    "sigterm_raises",
]

if not TYPE_CHECKING:  # a type checker would believe it to have any name at all
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "BufferedMLFlowLogger": "logger",
            "LogEveryEpoch": "callbacks",
            "RememberRun": "callbacks",
            "ensure_experiment": "store",
            "log_model": "models",
            "open_store": "store",
            "resolve_uri": "store",
            "sigterm_raises": "logger.run_end",
        },
        extra="tracking",
    )
