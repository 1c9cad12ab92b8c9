"""Optimizers: the paper's two methods, any other one made loss-adaptive, and the baselines. They need torch alone."""

from adaloss_lightning.optim.adagrad_norm import AdaGradNorm
from adaloss_lightning.optim.adaloss import AdaLoss, AdamLoss
from adaloss_lightning.optim.baselines import AdamSqrt, SGDDecaySqrt
from adaloss_lightning.optim.engine.traits import default_rule
from adaloss_lightning.optim.find_lr import find_lr
from adaloss_lightning.optim.loss_adaptive import LossAdaptive

__all__ = ["AdaGradNorm", "AdaLoss", "AdamLoss", "AdamSqrt", "LossAdaptive", "SGDDecaySqrt", "default_rule", "find_lr"]
