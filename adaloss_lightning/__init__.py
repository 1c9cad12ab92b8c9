"""Loss-adaptive learning rates for PyTorch and Lightning: AdaLoss, AdamLoss, and any optimizer made adaptive."""

from adaloss_lightning.adagrad_norm import AdaGradNorm
from adaloss_lightning.baselines import AdamSqrt, SGDDecaySqrt
from adaloss_lightning.callback import AdaLossCallback
from adaloss_lightning.loss_adaptive import LossAdaptive
from adaloss_lightning.optimizers import AdaLoss, AdamLoss
from adaloss_lightning.version import __version__

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
