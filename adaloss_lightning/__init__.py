"""Loss-adaptive learning rates for PyTorch and Lightning: AdaLoss, AdamLoss, and any optimizer made adaptive."""

import sys
from typing import TYPE_CHECKING

from adaloss_lightning.lazy import lazy
from adaloss_lightning.moved import Moved
from adaloss_lightning.version import __version__

if TYPE_CHECKING:
    from adaloss_lightning.callback import AdaLossCallback, SharpnessCallback
    from adaloss_lightning.optim import AdaGradNorm, AdaLoss, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt, find_lr

__all__ = [
    "AdaGradNorm",
    "AdaLoss",
    "AdaLossCallback",
    "AdamLoss",
    "AdamSqrt",
    "LossAdaptive",
    "SGDDecaySqrt",
    "SharpnessCallback",
    "__version__",
    "find_lr",
]

sys.meta_path.append(Moved())

if not TYPE_CHECKING:  # a type checker would believe it to have any name at all
    __getattr__, __dir__ = lazy(
        __name__,
        {
            "AdaGradNorm": "optim",
            "AdaLoss": "optim",
            "AdaLossCallback": "callback",
            "AdamLoss": "optim",
            "AdamSqrt": "optim",
            "LossAdaptive": "optim",
            "SGDDecaySqrt": "optim",
            "SharpnessCallback": "callback",
            "find_lr": "optim",
        },
    )
