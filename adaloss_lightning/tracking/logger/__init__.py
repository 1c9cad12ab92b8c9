"""The logger, and the spool between it and the store."""

from typing import TYPE_CHECKING

from adaloss_lightning.lazy import lazy

if TYPE_CHECKING:
    from adaloss_lightning.tracking.logger.mlflow_logger import BufferedMLFlowLogger

__all__ = ["BufferedMLFlowLogger"]

if not TYPE_CHECKING:  # the spool is read without Lightning, too
    __getattr__, __dir__ = lazy(__name__, {"BufferedMLFlowLogger": "mlflow_logger"})
