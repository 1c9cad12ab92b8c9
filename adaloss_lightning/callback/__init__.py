"""Lightning's side: the callback that feeds the true loss of each optimizer step, and one that measures sharpness."""

from adaloss_lightning.callback.adaloss_callback import AdaLossCallback
from adaloss_lightning.callback.sharpness import SharpnessCallback

__all__ = ["AdaLossCallback", "SharpnessCallback"]
