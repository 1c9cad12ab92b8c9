"""The critical value of b, the step that passes it, and its bounds."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from adaloss_lightning.theory.critical_step import (
    Rule,
    critical_b,
    crossing_bound,
    largest_eigenvalue,
    lemma_1_bound,
    logarithmic_crossing_bound,
)

F64 = torch.float64
RULES: tuple[Rule, ...] = ("adaloss", "adagrad_norm")


def test_critical_b_is_where_a_step_becomes_stable() -> None:
    curvature = torch.tensor([3.0, 8.0], dtype=F64)
    critical = critical_b(0.5, curvature)
    assert critical.tolist() == [0.75, 2.0]
    factors = [abs(1 - 0.5 * 8.0 / b) for b in (1.99, 2.0, 2.01)]  # of the error along that eigenvector
    assert factors[0] > factors[1] == 1 > factors[2]


def test_largest_eigenvalue_comes_with_its_vector() -> None:
    gram = torch.stack(
        [torch.diag(torch.tensor([1.0, 5.0], dtype=F64)), torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=F64)]
    )
    values, vectors = largest_eigenvalue(gram)
    torch.testing.assert_close(values, torch.tensor([5.0, 3.0], dtype=F64))
    torch.testing.assert_close(vectors.abs(), torch.tensor([[0.0, 1.0], [0.5**0.5, 0.5**0.5]], dtype=F64))


def test_bounds_by_hand() -> None:
    # eta 2, lambda_1 4: critical 4. AdaLoss gains at least 4 * 0.5 = 2 a step, AdaGrad-Norm 16 * 0.5 = 8.
    b0, lambda1, s0 = (torch.tensor(value, dtype=F64) for value in (2.0, 4.0, 0.5))
    assert crossing_bound("adaloss", b0, 2.0, lambda1, s0).item() == pytest.approx((16 - 4) / 2 + 1)
    assert crossing_bound("adagrad_norm", b0, 2.0, lambda1, s0).item() == pytest.approx((16 - 4) / 8 + 1)
    # log(64 / 16) / log(1 + 2 / 16) and log(4) / log(1 + 8 / 16), as Lemma 1 writes them
    bound = logarithmic_crossing_bound("adaloss", b0, 2.0, lambda1, s0).item()
    assert bound == pytest.approx(math.log(4) / math.log(1.125) + 1)
    bound = logarithmic_crossing_bound("adagrad_norm", b0, 2.0, lambda1, s0).item()
    assert bound == pytest.approx(math.log(4) / math.log(1.5) + 1)


def test_alpha_scales_what_adaloss_adds() -> None:
    # Half of Section 3's alpha, half of the gain
    assert crossing_bound("adaloss", 2.0, 2.0, 4.0, 0.5, alpha=1.0).item() == pytest.approx((16 - 4) / 1 + 1)
    bound = logarithmic_crossing_bound("adaloss", 2.0, 2.0, 4.0, 0.5, alpha=1.0).item()
    assert bound == pytest.approx(math.log(4) / math.log(1 + 1 / 16) + 1)


def test_lemma_1_as_printed_by_hand() -> None:
    # eta^2 lambda_1 = 16, eta^2 lambda_1^2 = 64; (2 * 4)^2 - 4 * 2^2 = 48
    bound = lemma_1_bound("adaloss", 2.0, 2.0, 4.0, 0.5).item()
    assert bound == pytest.approx(math.log(1 + 48 / 16) / math.log(1 + 4 * 0.5 / 16) + 1)
    bound = lemma_1_bound("adagrad_norm", 2.0, 2.0, 4.0, 0.5).item()
    assert bound == pytest.approx(math.log(1 + 48 / 64) / math.log(1 + 4 * 0.5 / 4) + 1)
    tiny = lemma_1_bound("adagrad_norm", [1e-9, 1e-99], 2.0, 4.0, 0.5)  # saturates at log 2
    np.testing.assert_allclose(tiny, math.log(2) / math.log(1.5) + 1)


def crossing(rule: Rule, b0: float, lr: float, lambda1: float, s0: float) -> float:
    """The first step whose b is above the critical value, in one dimension."""
    b2, error2 = b0**2, s0
    for t in range(1, 100_000):
        b2 += lambda1 * error2 * (1 if rule == "adaloss" else lambda1)
        if math.sqrt(b2) > lr * lambda1 / 2:
            return t
        error2 *= (1 - lr * lambda1 / math.sqrt(b2)) ** 2
    return math.inf


@pytest.mark.parametrize("rule", RULES)
def test_lemma_1_holds_where_the_paper_states_it_and_fails_below(rule: Rule) -> None:
    for lambda1 in (1.01, 3.0, 400.0):
        for share in (1e-6, 0.5, 0.9, 0.999):
            for s0 in (1e-3, 0.1, 3.0):
                b0 = share * 0.7 * lambda1 / 2
                assert crossing(rule, b0, 0.7, lambda1, s0) <= lemma_1_bound(rule, b0, 0.7, lambda1, s0).item() + 1e-9
    below = (0.9999 * 4.375952867976 * 0.010767731352151226 / 2, 4.375952867976, 0.010767731352151226, 2.8419e-8)
    fails = crossing(rule, *below) > lemma_1_bound(rule, *below).item()
    assert fails == (rule == "adaloss")
    assert crossing(rule, *below) <= crossing_bound(rule, *below).item()


@pytest.mark.parametrize(("make", "message"), [
    (lambda: crossing_bound("adam", 1, 1, 1, 1), r"Invalid rule='adam'. Must be one of 'adaloss', 'adagrad_norm'"),
    (lambda: lemma_1_bound("AdaLoss", 1, 1, 1, 1), r"Invalid rule='AdaLoss'. Must be one of"),
    (lambda: logarithmic_crossing_bound("adaloss", [1.0, -2.0], 1, 1, 1), r"Invalid b0\[1\]=-2. Must be > 0"),
    (lambda: crossing_bound("adaloss", 1, math.nan, 1, 1), r"Invalid lr=nan. Must be finite"),
    (lambda: crossing_bound("adaloss", 1, 1, 1, 0.0), r"Invalid s0=0. Must be > 0"),
    (lambda: crossing_bound("adagrad_norm", 1, 1, 1, 1, alpha=1.0), r"Invalid alpha=1.0 for 'adagrad_norm'"),
    (lambda: critical_b(-1.0, 1.0), r"Invalid lr=-1. Must be > 0"),
    (lambda: critical_b(1.0, np.array([1.0, np.inf])), r"Invalid curvature\[1\]=inf. Must be finite"),
    (lambda: largest_eigenvalue([[1.0, 2.0], [0.0, 1.0]]), r"Invalid gram\[0, 1\]=2 .* Must be symmetric"),
])  # fmt: skip
def test_wrong_values_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("bound", [crossing_bound, logarithmic_crossing_bound])
def test_bound_above_the_critical_value_is_the_first_step(bound: object) -> None:
    lambda1, s0 = torch.tensor(4.0, dtype=F64), torch.tensor(1e-9, dtype=F64)
    for rule in RULES:
        assert bound(rule, torch.tensor(4.0, dtype=F64), 2.0, lambda1, s0).item() == 1.0


@pytest.mark.parametrize("rule", RULES)
def test_bounds_hold_for_one_dimensional_runs(rule: Rule) -> None:
    for lambda1 in (0.3, 2.0, 50.0):
        for share in (1e-6, 0.1, 0.5, 0.9, 0.99):  # of the critical value
            for start in (1e-3, 0.1, 1.0):
                b0 = share * lambda1 / 2
                b2, error, trace = b0**2, start, []
                for _ in range(3000):
                    b2 += lambda1 * error**2 * (1 if rule == "adaloss" else lambda1)
                    trace.append(math.sqrt(b2))
                    error *= 1 - lambda1 / trace[-1]
                found = next((t for t, b in enumerate(trace, 1) if b > lambda1 / 2), math.inf)
                b0_, lambda1_, s0 = (torch.tensor(value, dtype=F64) for value in (b0, lambda1, start**2))
                tight = crossing_bound(rule, b0_, 1.0, lambda1_, s0).item()
                assert found <= tight + 1e-6
                assert tight <= logarithmic_crossing_bound(rule, b0_, 1.0, lambda1_, s0).item() + 1e-6
