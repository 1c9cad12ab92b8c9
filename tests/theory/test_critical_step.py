"""The critical value of b, the step that passes it, and its bounds."""

import math

import pytest
import torch

from adaloss_lightning.theory.critical_step import (
    Rule,
    critical_b,
    crossing_bound,
    largest_eigenvalue,
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
