"""Statements of the theorems, against hand-made numbers and runs."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from adaloss_lightning.theory import (
    critical_b,
    critical_b_two_layer,
    du_steps,
    du_width,
    regression_steps,
    theorem_2_steps,
    theorem_3_alpha,
    theorem_3_steps,
)
from adaloss_lightning.theory.critical_step import RULES, Rule

GRAM = np.diag([0.25, 0.5, 1.0, 0.5])  # n 4, lambda_0 1/4, norm 1


def test_critical_b_of_two_layers_is_where_the_slowest_error_shrinks_fastest() -> None:
    critical = critical_b_two_layer(2.0, GRAM).item()
    assert critical == 2 * (0.25 + 1) / 2
    assert critical_b_two_layer(2.0, GRAM, constant=3.0).item() == 3 * critical
    assert critical > critical_b(2.0, 1.0).item()
    worst = [np.abs(1 - 2.0 / b * np.diag(GRAM)).max() for b in (0.99 * critical, critical, 1.01 * critical)]
    assert worst[1] < min(worst[0], worst[2])


def test_alpha_of_theorem_3_runs_algorithm_1() -> None:
    residual, alpha, n = 3.0, 0.7, 5
    assert theorem_3_alpha(alpha, n) * residual**2 / 2 == pytest.approx(alpha**2 * math.sqrt(n) * residual**2)


def test_orders_by_hand() -> None:
    assert theorem_2_steps(GRAM, 0.01) == pytest.approx(4 * math.log(100))
    assert du_steps(GRAM, 0.01) == pytest.approx(16**2 * math.log(400))
    assert du_width(GRAM, 0.1) == pytest.approx(4**6 * 4**4 * 10**3)
    fed = 0.09 * 8 / (4 * 0.0625 * 0.1)  # alpha 0.3, eta 2
    above = theorem_3_steps(GRAM, b0=5.0, lr=2.0, alpha=0.3, epsilon=0.01, delta=0.1)
    assert above == pytest.approx((5 / 0.5 + fed) * math.log(100))
    below = theorem_3_steps(GRAM, b0=1.0, lr=2.0, alpha=0.3, epsilon=0.01, delta=0.1)
    assert below == pytest.approx((0.25 + 2) / (0.09 * 2 * 0.01) + (fed + 16) * math.log(100))
    at_the_critical_value = theorem_3_steps(GRAM, b0=1.25, lr=2.0, alpha=0.3, epsilon=0.01, delta=0.1)
    assert at_the_critical_value < below


def steps_taken(
    rule: Rule, x: np.ndarray, error: np.ndarray, b0: float, lr: float, epsilon: float, alpha: float
) -> int:
    b2, steps = b0**2, 0
    while error @ error > epsilon:
        residual = x @ error
        gradient = x.T @ residual
        b2 += alpha / 2 * residual @ residual if rule == "adaloss" else gradient @ gradient
        error = error - lr / math.sqrt(b2) * gradient
        steps += 1
    return steps


@pytest.mark.parametrize("rule", RULES)
def test_bound_of_regression_holds_for_runs(rule: Rule) -> None:
    generator = np.random.default_rng(0)
    for alpha in (0.5, 2.0) if rule == "adaloss" else (2.0,):
        for lr in (0.1, 3.0):
            for multiple in (1.001, 1.5, 20.0):
                x, error = generator.standard_normal((12, 3)), generator.standard_normal(3)
                b0 = multiple * lr * np.linalg.norm(x, 2) ** 2
                bound = regression_steps(rule, x, error, b0, lr, 1e-6, alpha=alpha)
                assert steps_taken(rule, x, error, b0, lr, 1e-6, alpha) <= bound < math.inf


def test_regression_from_below_has_no_bound_and_from_nearby_none_is_needed() -> None:
    assert regression_steps("adaloss", np.eye(2), [1.0, 1.0], b0=0.99, lr=1.0, epsilon=0.1) == math.inf
    assert regression_steps("adaloss", np.eye(2), [0.1, 0.1], b0=0.99, lr=1.0, epsilon=0.1) == 0


@pytest.mark.parametrize(("make", "message"), [
    (lambda: theorem_2_steps(np.ones((2, 2)), 0.1), r"Invalid lambda_0=.* of gram. Must be > 0"),
    (lambda: theorem_2_steps(GRAM, 1.0), r"Invalid epsilon=1. Must be < 1"),
    (lambda: theorem_2_steps(GRAM[None], 0.1), r"Invalid shape \(1, 4, 4\) of gram. Must be \[n, n\]"),
    (lambda: theorem_3_steps(GRAM, -1, 1, 1, 0.1, 0.1), r"Invalid b0=-1. Must be > 0"),
    (lambda: theorem_3_steps(GRAM, [1, 2], 1, 1, 0.1, 0.1), r"Invalid shape \(2,\) of b0. Must be one number"),
    (lambda: du_width(GRAM, math.nan), r"Invalid delta=nan. Must be finite"),
    (lambda: regression_steps("adam", np.eye(2), [1, 1], 1, 1, 0.1), r"Invalid rule='adam'"),
    (lambda: regression_steps("adaloss", np.eye(2), [1], 1, 1, 0.1), r"Invalid shape \(1,\) of error. Must be \[2\]"),
    (lambda: regression_steps("adaloss", np.ones((2, 2)), [1, 1], 1, 1, 0.1), r"Invalid lambda_0=.* of X\^T X"),
])  # fmt: skip
def test_wrong_values_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
