"""Distances of a trained network from its start, in the quantities of the theory, and a callback that logs them."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from adaloss_lightning.theory.gram import h_empirical, h_infinity, spectral_norm
from recipes.shared.settings import require_at_least
from recipes.two_layer.data import TwoLayerData
from recipes.two_layer.module import TwoLayerModule, TwoLayerNetwork, half_squares


@dataclass(frozen=True)
class Start:
    """A network at initialization, and the training set it will be measured on.

    Attributes:
        x: Training inputs, shape `[n, d]`.
        y: Their labels, shape `[n]`.
        w: W(0), shape `[m, d]`.
        a: a(0), shape `[m]`.
    """

    x: Tensor
    y: Tensor
    w: Tensor
    a: Tensor

    @classmethod
    def of(cls, network: TwoLayerNetwork, x: Tensor, y: Tensor) -> "Start":
        """Copies the weights of `network` as they are now."""
        return cls(x, y, network.w.detach().clone(), network.a.detach().clone())

    def distances(self, network: TwoLayerNetwork) -> dict[str, float]:
        """Quantities of `network` at step k against its start.

        Returns:
            - `weight_distance`: max over r of norm(w_r(k) - w_r(0)).
            - `activation_changes`: share of the n m patterns 1{w_r^T x_i >= 0} that differ from those at the start.
            - `gram_drift`: norm(H(k) - H(0)), spectral.
            - `gram_distance`: norm(H(k) - H-infinity), spectral.
            - `loss`: L = 1/2 norm(u - y)^2 over the whole training set.
        """
        with torch.no_grad():
            w, a, x = network.w.double(), network.a.double(), self.x.double()
            now, before = x @ w.T >= 0, x @ self.w.double().T >= 0
            h = h_empirical(x, w, a)
            return {
                "weight_distance": float(torch.linalg.vector_norm(w - self.w, dim=1).max()),
                "activation_changes": float((now != before).double().mean()),
                "gram_drift": float(spectral_norm(h - h_empirical(x, self.w, self.a))),
                "gram_distance": float(spectral_norm(h - h_infinity(x))),
                "loss": float(half_squares(network(x.to(network.w)), self.y.to(network.w))),
            }


class GramMonitor(Callback):
    """Logs `theory/weight_distance`, `activation_changes`, `gram_drift`, `gram_distance` and `loss` after an epoch.

    Distances are from the network before the first step, also in a run that is resumed from a checkpoint.

    Args:
        every_n_epochs: Epochs from look to look; one costs O(n m d + n^3), about as much as a full-batch step.

    Raises:
        ValueError: `every_n_epochs` below 1.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        require_at_least(1, every_n_epochs=every_n_epochs)
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
