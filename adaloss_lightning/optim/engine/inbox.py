"""What lies between two steps of an adaptive optimizer."""

from collections.abc import Callable
from typing import Any

import torch

from adaloss_lightning.optim.engine.ranks import GlobalLoss
from adaloss_lightning.optim.recurrence import Scalar


class Inbox:
    """What waits for the next step, and what the last one saw.

    An object of its own because Lightning's optimizer proxy takes on our class but not our attributes: an attribute
    that is set through the proxy would stay on the proxy.
    """

    def __init__(self) -> None:
        self.loss: Scalar | None = None  # recorded, not yet used
        self.dtype: torch.dtype | None = None  # ... of the tensor that it was: step returns one, too
        self.is_global = False  # ... and already averaged over the ranks
        self.mean: GlobalLoss | None = None  # ... or being averaged
        self.last_loss: Scalar | None = None  # what entered the last step
        self.is_ours = False  # ... and left by AdaLossCallback, so that what the user records goes before it
        self.source: Callable[[Any], None] | None = None  # is asked to record a loss; gets what the closure returned
        self.on_step: Callable[[], None] | None = None  # is called at the end of each step
        self.amp_scaling = True  # whether GradScaler may leave the unscaling to a fused base
