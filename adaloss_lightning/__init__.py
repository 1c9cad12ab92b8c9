"""Loss-adaptive learning rates for PyTorch and Lightning: AdaLoss, AdamLoss, and any optimizer made adaptive."""

from typing import TYPE_CHECKING

from adaloss_lightning.lazy import lazy
from adaloss_lightning.version import __version__

if TYPE_CHECKING:
    from adaloss_lightning.adagrad_norm import AdaGradNorm
    from adaloss_lightning.baselines import AdamSqrt, SGDDecaySqrt
    from adaloss_lightning.callback import AdaLossCallback
    from adaloss_lightning.loss_adaptive import LossAdaptive
    from adaloss_lightning.optimizers import AdaLoss, AdamLoss

__all__ = [
    "AdaGradNorm",
    "AdaLoss",
    "AdaLossCallback",
    "AdamLoss",
    "AdamSqrt",
    "LossAdaptive",
    "SGDDecaySqrt",
    "__version__",
]

if not TYPE_CHECKING:  # a type checker would believe it to have any name at all
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "AdaGradNorm": "adagrad_norm",
            "AdaLoss": "optimizers",
            "AdaLossCallback": "callback",
            "AdamLoss": "optimizers",
            "AdamSqrt": "baselines",
            "LossAdaptive": "loss_adaptive",
            "SGDDecaySqrt": "baselines",
        },
    )
