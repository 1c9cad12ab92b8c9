"""How far training has moved a network from its start, in the quantities of the theory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from adaloss_lightning.theory.gram import h_empirical, h_infinity, spectral_norm
from recipes.two_layer.network import TwoLayerNetwork, half_squares


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
                "gram_drift": spectral_norm(h - h_empirical(x, self.w, self.a)),
                "gram_distance": spectral_norm(h - h_infinity(x)),
                "loss": float(half_squares(network(x.to(network.w)), self.y.to(network.w))),
            }
