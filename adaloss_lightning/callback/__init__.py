"""Lightning's side: the callback that feeds the true loss of each optimizer step."""

from adaloss_lightning.callback.adaloss_callback import AdaLossCallback

__all__ = ["AdaLossCallback"]
