"""GramMonitor: the quantities of the theory, logged while a run trains."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from recipes.two_layer.data import TwoLayerData
from recipes.two_layer.distances import Start
from recipes.two_layer.module import TwoLayerModule


class GramMonitor(Callback):
    """Logs `theory/weight_distance`, `activation_changes`, `gram_drift`, `gram_distance` and `loss` after an epoch.

    Start of the distances is the network before the first step, also for a run that is resumed from a checkpoint.

    Args:
        every_n_epochs: How often: a look costs O(n m d + n^3) operations, about as much as a full-batch step.

    Raises:
        ValueError: `every_n_epochs` below 1.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"Invalid every_n_epochs={every_n_epochs}. Must be >= 1.")
        self.every_n_epochs = every_n_epochs
        self._weights: dict[str, Any] = {}
        self._start: Start | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps W(0) and a(0), unless a checkpoint has brought them."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, TwoLayerData) or not isinstance(pl_module, TwoLayerModule):
            raise TypeError("GramMonitor measures TwoLayerModule on TwoLayerData. Remove it from trainer.callbacks.")
        x, y = (part.to(pl_module.device) for part in data.train_set)
        fresh = Start.of(pl_module.network, x, y)
        self._weights = self._weights or {"w": fresh.w, "a": fresh.a}
        self._start = Start(x, y, **{name: value.to(fresh.w) for name, value in self._weights.items()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures and logs."""
        if self._start is not None and (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            assert isinstance(pl_module, TwoLayerModule)
            found = self._start.distances(pl_module.network)
            pl_module.log_dict({f"theory/{name}": value for name, value in found.items()})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forgets the start: the next fit has its own."""
        self._weights, self._start = {}, None

    def state_dict(self) -> dict[str, Any]:
        """W(0) and a(0)."""
        return dict(self._weights)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the start of the run that is resumed."""
        self._weights = dict(state_dict)
