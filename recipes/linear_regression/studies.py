"""The measurements: averages over windows (Figure 1), crossing times (Lemma 1), steps to accuracy (Theorem 1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaloss_lightning.theory.critical_step import (
    critical_b,
    largest_eigenvalue,
    lemma_1_bound,
    logarithmic_crossing_bound,
)
from recipes.linear_regression.batched import ADAPTIVE, METHODS, Method, Problems, trajectory

WINDOWS = ((101, 200), (991, 1000), (4901, 5000))  # of Figure 1: first and last step, both included
STEPS = WINDOWS[-1][1]
C_S = 100.0  # of SGD-DecaySqrt: of the powers of ten the best at 1000 x 800, on problems of seeds 101 and 102

Tick = Callable[[], object]


@dataclass(frozen=True)
class Windows:
    """Averages over the windows of Figure 1, each `[window, seed, b0]`.

    Attributes:
        loss: Of 1/2 norm(Xw - y)^2 of the whole problem at the start of each step, also where a step sees one row.
        rate: Of 1 / b_t.
        last_b: b of the last step, `[seed, b0]`.
    """

    loss: Tensor
    rate: Tensor
    last_b: Tensor


def window_means(problems: Problems, method: Method, b0: Tensor, tick: Tick) -> Windows:
    """Runs `method` with lr = 1 to the end of the last window.

    Args:
        problems: Full batch or one row a step.
        method: The method.
        b0: Starts of b, `[b0]` or `[seed, b0]`.
        tick: Called after each step.
    """
    shape = (len(WINDOWS), len(problems.start), b0.shape[-1])
    losses, rates = torch.zeros(shape, dtype=b0.dtype), torch.zeros(shape, dtype=b0.dtype)
    b = b0
    for t, before, b, _ in trajectory(problems, method, b0, STEPS, c_s=C_S):
        for window, (first, last) in enumerate(WINDOWS):
            if first <= t <= last:
                losses[window] += problems.loss(before) / (last - first + 1)
                rates[window] += 1 / b / (last - first + 1)
        tick()
    return Windows(losses, rates, b)


def figure_1(problems: Problems, b0: Tensor, tick: Tick) -> dict[Method, Windows]:
    """All four methods of Figure 1."""
    return {method: window_means(problems, method, b0, tick) for method in METHODS}


@dataclass(frozen=True)
class Crossings:
    """First steps whose b is above the critical value, inf where none is: `[distance, seed, b0]` a method.

    Attributes:
        multiples: Starts of b, `[b0]`, as multiples of each seed's critical value, below 1.
        distances: Starts of w, norm(w_0 - w*) as multiples of norm(w*).
        printed: The bound of Lemma 1 as the paper prints it.
        logarithmic: Ours, logarithmic in 1/b0.
        steps: The first steps.
    """

    multiples: Tensor
    distances: tuple[float, ...]
    printed: dict[Method, Tensor]
    logarithmic: dict[Method, Tensor]
    steps: dict[Method, Tensor]


def crossings(problems: Problems, multiples: Tensor, distances: Sequence[float], steps: int, tick: Tick) -> Crossings:
    """Times the crossing of Lemma 1 for both adaptive methods with lr = 1."""
    lambda1, top = largest_eigenvalue(problems.gram)
    critical = critical_b(1.0, lambda1).unsqueeze(1)
    b0 = critical * multiples
    s0 = torch.stack([distance * (problems.start * top).sum(1) for distance in distances]).square().unsqueeze(2)
    found: dict[Method, Tensor] = {}
    printed: dict[Method, Tensor] = {}
    logarithmic: dict[Method, Tensor] = {}
    for method in ADAPTIVE:
        printed[method] = lemma_1_bound(method, b0, 1.0, lambda1.unsqueeze(1), s0)
        logarithmic[method] = logarithmic_crossing_bound(method, b0, 1.0, lambda1.unsqueeze(1), s0)
        found[method] = torch.full_like(printed[method], torch.inf)
        for first, distance in zip(found[method], distances, strict=True):
            for t, _, b, _ in trajectory(problems.from_distance(distance), method, b0, steps):
                _note(t, b > critical, first)
                tick()
    return Crossings(multiples, tuple(distances), printed, logarithmic, found)


@dataclass(frozen=True)
class Accuracies:
    """Steps until norm(w - w*)^2 <= target, inf if not reached: `[target, seed, b0]` a method.

    Attributes:
        multiples: Starts of b, `[b0]`, as multiples of each seed's critical value: 1 is the critical value.
        targets: Descending, `[target]`.
        critical: eta lambda_1 / 2, `[seed]`.
        steps: The steps.
        crossed: First steps whose b is above the critical value, `[seed, b0]` a method.
    """

    multiples: Tensor
    targets: Tensor
    critical: Tensor
    steps: dict[Method, Tensor]
    crossed: dict[Method, Tensor]


def accuracies(problems: Problems, multiples: Tensor, targets: Tensor, steps: int, tick: Tick) -> Accuracies:
    """Times the accuracies of Theorem 1 (AdaGrad-Norm) and Corollary 1 (AdaLoss) with lr = 1."""
    critical = critical_b(1.0, largest_eigenvalue(problems.gram)[0])
    b0 = critical.unsqueeze(1) * multiples
    goals = targets.reshape(-1, 1, 1)
    found: dict[Method, Tensor] = {}
    crossed: dict[Method, Tensor] = {}
    for method in ADAPTIVE:
        found[method] = torch.full((len(targets), *b0.shape), torch.inf, dtype=b0.dtype)
        crossed[method] = torch.full_like(b0, torch.inf)
        for t, _, b, after in trajectory(problems, method, b0, steps):
            _note(t, after.square().sum(1) <= goals, found[method])
            _note(t, b > critical.unsqueeze(1), crossed[method])
            tick()
    return Accuracies(multiples, targets, critical, found, crossed)


def _note(t: int, event: Tensor, first: Tensor) -> None:
    """Writes step `t` where `event` happens for the first time."""
    first[event & first.isinf()] = t


@dataclass(frozen=True)
class Proposition:
    """AdaLoss beside AdaGrad-Norm where Proposition 1 compares them, with one row a step.

    Attributes:
        multiples: Starts of b, `[b0]`, as multiples of eta sup norm(x_i)^2 / 2 of each seed.
        allowance: The proposition's additive factor (lambda_1 - 1) norm(w_0 - w*)^2, `[seed]`.
        windows: The runs.
    """

    multiples: Tensor
    allowance: Tensor
    windows: dict[Method, Windows]


def proposition_1(problems: Problems, multiples: Tensor, tick: Tick) -> Proposition:
    """Runs both adaptive methods from b0 >= eta sup norm(x_i)^2 / 2 with lr = 1."""
    longest = problems.x.square().sum(2).amax(1)
    b0 = critical_b(1.0, longest).unsqueeze(1) * multiples
    lambda1, _ = largest_eigenvalue(problems.gram)
    allowance = (lambda1 - 1) * problems.start.square().sum(1)
    return Proposition(multiples, allowance, {method: window_means(problems, method, b0, tick) for method in ADAPTIVE})


@dataclass(frozen=True)
class Comparison:
    """AdaLoss relative to AdaGrad-Norm at b0 < 1 on problems of one shape: geometric means, `[window]`."""

    n: int
    d: int
    distance: float
    loss_ratio: Tensor
    rate_ratio: Tensor


def compare(problems: Problems, b0: Tensor, distance: float, tick: Tick) -> Comparison:
    """Ratio of the losses and of the effective rates of the two methods, with one row a step.

    Args:
        problems: With rows.
        b0: Starts of b, below 1.
        distance: norm(w_0 - w*) as a multiple of norm(w*).
        tick: Called after each step.
    """
    runs = [window_means(problems.from_distance(distance), method, b0, tick) for method in ADAPTIVE]
    loss, rate = (
        torch.exp((torch.log(ours) - torch.log(theirs)).mean((1, 2)))
        for ours, theirs in ((runs[0].loss, runs[1].loss), (runs[0].rate, runs[1].rate))
    )
    _, n, d = problems.x.shape
    return Comparison(n, d, distance, loss, rate)


@dataclass(frozen=True)
class Study:
    """All that the report shows.

    Attributes:
        seeds: How many problems.
        b0: Of Figure 1, `[b0]`.
        figure_1: By setting, `full_batch` and `stochastic`, and method.
        start_loss: Mean loss of w_0, by setting.
        found: Lemma 1.
        timed: Theorem 1 and Corollary 1.
        constant: Proposition 1.
        compared: The claims about b0 < 1 on other problems.
        machine: Where it was computed.
        seconds: What Figure 1 took, by setting.
    """

    seeds: int
    b0: Tensor
    figure_1: dict[str, dict[Method, Windows]]
    start_loss: dict[str, float]
    found: Crossings
    timed: Accuracies
    constant: Proposition
    compared: list[Comparison]
    machine: str
    seconds: dict[str, float]
