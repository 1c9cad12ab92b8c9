"""The four experiments of the report, as numbers."""

from dataclasses import dataclass

import numpy as np

from adaloss_lightning.theory.gram import g_empirical, h_empirical, h_infinity, lambda_0, spectral_norm
from adaloss_lightning.theory.theorems import critical_b_two_layer
from recipes.two_layer.baselines import du_rate, gradient_descent, residual_adaloss
from recipes.two_layer.data import Geometry
from recipes.two_layer.descent import (
    Descent,
    MakeOptimizer,
    adagrad_norm,
    adaloss,
    descend,
    descend_stochastically,
    new_network,
    training_set,
)
from recipes.two_layer.monitor import Start

EPSILON = 1e-4  # a loss L below this counts as the global minimum, whose L is 0
FLOOR = 1e-12  # where loss curves end: beyond it every further step looks the same
FAMILIES: dict[str, Geometry] = {
    "Gaussian, d fixed": "gaussian",
    "Gaussian, d = n": "gaussian",
    "nearly orthogonal, d = n": "nearly_orthogonal",
}


@dataclass(frozen=True)
class Setting:
    """Sizes of the experiments, all made with every seed. `factors`: values of b0 in units of the critical value."""

    n: int = 50
    dim: int = 50
    width: int = 4096
    lr: float = 30.0
    alpha: float = 1.0
    steps: int = 200
    factors: tuple[float, ...] = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0)
    widths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192)
    seeds: int = 3
    sizes: tuple[int, ...] = (25, 50, 100, 200)
    b0s: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0, 1000.0)
    batch_sizes: tuple[int, ...] = (1, 10)
    marks: tuple[int, ...] = (200, 1000, 5000)
    stochastic_width: int = 512


@dataclass(frozen=True)
class Convergence:
    """Loss curves from b0 on both sides of the critical value, b0 by b0; `joint` trains both layers.

    The last three are earlier methods: the prior one b0 by b0, gradient descent at 1 / norm(H-infinity) and at
    lambda_0 / (4 n^2).
    """

    critical: float
    joint_critical: float
    b0s: list[float]
    constant: list[Descent]
    adaloss: list[Descent]
    joint_adaloss: list[Descent]
    joint_constant: Descent  # at its own critical value
    prior: list[Descent]
    practical: Descent
    du: Descent


@dataclass(frozen=True)
class Widths:
    """With one seed, a number for each width m, after descent with step 1 / norm(H-infinity) to L <= EPSILON."""

    widths: tuple[int, ...]
    drift: list[float]  # norm(H(k) - H(0))
    sampling: list[float]  # norm(H(0) - H-infinity)
    weights: list[float]  # max_r norm(w_r(k) - w_r(0))
    patterns: list[float]  # share of activation patterns that changed
    lowest: list[float]  # lambda_min(H(0)) / lambda_0

    def slope(self, name: str) -> float:
        """Exponent p of the power law m^p that fits the quantity best, -1/2 in the theory."""
        return float(np.polyfit(np.log(self.widths), np.log(getattr(self, name)), 1)[0])


@dataclass(frozen=True)
class Norms:
    """For a family of data, by n: norm(H-infinity), lambda_0 and the steps of gradient descent to L <= EPSILON."""

    sizes: tuple[int, ...]
    norm: list[float]
    least: list[float]
    steps: list[int | None]


@dataclass(frozen=True)
class Stochastic:
    """At one batch size: (L over the training set, b) by method, b0 and mark."""

    batch_size: int
    found: dict[tuple[str, float], list[tuple[float, float]]]


@dataclass(frozen=True)
class Study:
    """All that the report shows, seed by seed."""

    setting: Setting
    convergence: list[Convergence]
    widths: list[Widths]
    norms: list[dict[str, Norms]]
    stochastic: list[list[Stochastic]]
    machine: str
    seconds: float


def convergence(setting: Setting, seed: int) -> Convergence:
    """Trains with constant steps, AdaLoss and earlier methods from the same W(0); a seed is data and W(0)."""
    batch = training_set(setting.n, setting.dim, seed=seed)
    h = h_infinity(batch[0])
    critical = critical_b_two_layer(setting.lr, h).item()
    b0s = [factor * critical for factor in setting.factors]
    both = new_network(setting.dim, setting.width, seed, train_output=True)
    joint_gram = h_empirical(batch[0], both.w, both.a) + g_empirical(batch[0], both.w)
    joint_critical = critical_b_two_layer(setting.lr, joint_gram).item()

    def run(make: MakeOptimizer, train_output: bool = False) -> Descent:
        network = new_network(setting.dim, setting.width, seed, train_output=train_output)
        return descend(network, batch, make, setting.steps, FLOOR)

    def ours(b0: float, alpha: float = setting.alpha) -> MakeOptimizer:
        return adaloss(setting.lr, b0, alpha)

    return Convergence(
        critical,
        joint_critical,
        b0s,
        [run(ours(b0, alpha=0.0)) for b0 in b0s],
        [run(ours(b0)) for b0 in b0s],
        [run(ours(b0), train_output=True) for b0 in b0s],
        run(ours(joint_critical, alpha=0.0), train_output=True),
        [run(residual_adaloss(setting.lr, b0, setting.alpha)) for b0 in b0s],
        run(gradient_descent(1 / float(spectral_norm(h)))),
        run(gradient_descent(du_rate(h))),
    )


def widths(setting: Setting, seed: int) -> Widths:
    """Trains networks of growing width, and measures how far they went."""
    x, y = training_set(setting.n, setting.dim, seed=seed)
    limit = h_infinity(x)
    rows = []
    for width in setting.widths:
        network = new_network(setting.dim, width, seed)
        start = Start.of(network, x, y)
        descend(network, (x, y), adaloss(1.0, float(spectral_norm(limit)), alpha=0.0), 20 * setting.steps, EPSILON)
        moved = start.distances(network)
        h0 = h_empirical(x, start.w)
        sampled, lowest = float(spectral_norm(h0 - limit)), float(lambda_0(h0)) / float(lambda_0(limit))
        rows.append((moved["gram_drift"], sampled, moved["weight_distance"], moved["activation_changes"], lowest))
    return Widths(setting.widths, *(list(column) for column in zip(*rows, strict=True)))


def norms(setting: Setting, seed: int) -> dict[str, Norms]:
    """norm(H-infinity) against n for each family of data (Figure 5), and the steps of gradient descent (Theorem 2)."""
    found = {}
    for family, geometry in FAMILIES.items():
        norm, least, steps = [], [], []
        for n in setting.sizes:
            dim = n if family.endswith("d = n") else setting.dim
            x, y = training_set(n, dim, geometry, seed)
            h = h_infinity(x)
            norm.append(float(spectral_norm(h)))
            least.append(float(lambda_0(h)))
            network = new_network(dim, setting.width, seed)
            descent = descend(network, (x, y), adaloss(1.0, norm[-1], alpha=0.0), 5 * setting.steps, EPSILON)
            steps.append(descent.steps_to(EPSILON))
        found[family] = Norms(setting.sizes, norm, least, steps)
    return found


def stochastic(setting: Setting, seed: int) -> list[Stochastic]:
    """AdaLoss and AdaGrad-Norm over b0 on the same draws of rows (Figure 6)."""
    batch = training_set(setting.n, setting.dim, seed=seed)
    results = []
    for size in setting.batch_sizes:
        found = {}
        for b0 in setting.b0s:
            methods = {"adaloss": adaloss(setting.lr, b0, setting.alpha), "adagrad_norm": adagrad_norm(setting.lr, b0)}
            for method, make in methods.items():
                network = new_network(setting.dim, setting.stochastic_width, seed)
                found[method, b0] = descend_stochastically(network, batch, make, setting.marks, size, seed)
        results.append(Stochastic(size, found))
    return results
