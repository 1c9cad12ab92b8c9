"""Training loops of the report: the real optimizers, with neither Lightning nor tracking around them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaloss_lightning import AdaGradNorm, AdaLoss
from recipes.two_layer.data import Batch, Geometry, TwoLayerData
from recipes.two_layer.module import TwoLayerNetwork, half_squares

Optimizer = AdaLoss | AdaGradNorm
MakeOptimizer = Callable[[TwoLayerNetwork], Optimizer]


@dataclass(frozen=True)
class Descent:
    """Full-batch training: `losses[k]` is L(W(k)) before step k, and `b[k]` the b of step k."""

    losses: list[float]
    b: list[float]

    def steps_to(self, epsilon: float) -> int | None:
        """The first k with L(W(k)) <= epsilon, None where there is none."""
        return next((k for k, loss in enumerate(self.losses) if loss <= epsilon), None)


def adaloss(lr: float, b0: float, alpha: float = 1.0) -> MakeOptimizer:
    """AdaLoss; alpha = 0 is gradient descent at the constant rate lr / b0."""
    return lambda network: AdaLoss(network.parameters(), lr=lr, b0=b0, alpha=alpha)


def adagrad_norm(lr: float, b0: float) -> MakeOptimizer:
    """AdaGrad-Norm with one b for the network."""
    return lambda network: AdaGradNorm(network.parameters(), lr=lr, b0=b0)


def training_set(n: int, dim: int, geometry: Geometry = "gaussian", seed: int = 0) -> Batch:
    """The recipe's training set with random labels, as in the experiments of Du et al."""
    data = TwoLayerData(n=n, n_eval=1, dim=dim, geometry=geometry, labels="random", seed=seed)
    data.setup("fit")
    return data.train_set


def new_network(dim: int, width: int, seed: int, train_output: bool = False) -> TwoLayerNetwork:
    """A network in float64 from a seed of its own, which leaves torch's generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TwoLayerNetwork(dim, width, train_output).double()


def descend(network: TwoLayerNetwork, batch: Batch, make: MakeOptimizer, steps: int, epsilon: float = 0.0) -> Descent:
    """Gradient descent on the whole of `batch`, for `steps` steps or until L <= epsilon or L is infinite or NaN."""
    optimizer = make(network)
    losses: list[float] = []
    b: list[float] = []
    for _ in range(steps):
        loss = _step(network, *batch, optimizer)
        losses.append(float(loss))
        b.append(float(optimizer.b[0]))
        if not epsilon < losses[-1] < float("inf"):
            break
    return Descent(losses, b)


def descend_stochastically(
    network: TwoLayerNetwork, batch: Batch, make: MakeOptimizer, marks: Sequence[int], batch_size: int, seed: int
) -> list[tuple[float, float]]:
    """Steps on rows drawn with replacement.

    Args:
        network: Is trained in place.
        batch: The whole training set.
        make: Makes the optimizer.
        marks: Ascending numbers of steps after which to look.
        batch_size: Rows per step.
        seed: Of the draw.

    Returns:
        L over the whole training set and b, at each mark.
    """
    x, y = batch
    optimizer = make(network)
    rows = torch.randint(0, len(y), (marks[-1], batch_size), generator=torch.Generator().manual_seed(seed))
    seen: list[tuple[float, float]] = []
    for step, row in enumerate(rows, start=1):
        _step(network, x[row], y[row], optimizer)
        if step in marks:
            with torch.no_grad():
                seen.append((float(half_squares(network(x), y)), float(optimizer.b[0])))
    return seen


def _step(network: TwoLayerNetwork, x: Tensor, y: Tensor, optimizer: Optimizer) -> Tensor:
    optimizer.zero_grad()
    loss = half_squares(network(x), y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step(loss=loss)
    return loss.detach()
