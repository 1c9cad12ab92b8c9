"""Gram matrices against values known by hand, double sums and means over weights."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adaloss_lightning.theory import g_empirical, h_empirical, h_infinity, lambda_0, spectral_norm


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit_inputs(n: int, dim: int) -> Tensor:
    return normalize(torch.randn(n, dim, generator=generator(3), dtype=torch.float64), dim=1)


def test_h_infinity_of_angles_known_by_hand() -> None:
    # At 60 degrees cos = 1/2 and the share of w that see both is (180 - 60) / 360 = 1/3.
    root = math.sqrt(3) / 2
    x = torch.tensor([[1.0, 0.0], [0.5, root], [0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    expected = [
        [1 / 2, 1 / 6, 0.0, 0.0],  # itself, 60 degrees, orthogonal, opposite
        [1 / 6, 1 / 2, root * 5 / 12, -0.5 / 6],  # 60, itself, 30, 120 degrees
        [0.0, root * 5 / 12, 1 / 2, 0.0],
        [0.0, -0.5 / 6, 0.0, 1 / 2],
    ]
    np.testing.assert_allclose(h_infinity(x), expected, atol=1e-15)


def test_h_infinity_of_equal_and_opposite_vectors_is_a_number() -> None:
    x = unit_inputs(200, 3)  # some of 200 have a product with themselves above 1
    assert ((x @ x.T).diagonal() > 1).any()
    np.testing.assert_allclose(h_infinity(x).diagonal(), 0.5, atol=1e-7)  # arccos near 1 halves the digits
    same = h_infinity(torch.cat([x[:1], x[:1], -x[:1]]))
    np.testing.assert_allclose(same, [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0.5]], atol=1e-7)
    assert lambda_0(same) == pytest.approx(0, abs=1e-7)  # parallel inputs
    assert spectral_norm(same) == pytest.approx(1)


def test_h_infinity_is_the_mean_over_gaussian_weights() -> None:
    x = unit_inputs(5, 4)
    samples = 200_000
    w = torch.randn(samples, 4, generator=generator(), dtype=torch.float64)
    # Each entry is a mean of Bernoulli variables times |x_i^T x_j| <= 1: 4.5 deviations of at most 1 / (2 sqrt(m)).
    np.testing.assert_allclose(h_empirical(x, w), h_infinity(x), atol=4.5 / (2 * math.sqrt(samples)))


def test_h_and_g_empirical_are_the_double_sums_of_the_paper() -> None:
    n, m, d = 4, 9, 3
    x, w = unit_inputs(n, d), torch.randn(m, d, generator=generator())
    a = torch.randn(m, generator=generator(1))
    h, ha, g = (np.zeros((n, n)) for _ in range(3))
    for i in range(n):
        for j in range(n):
            for r in range(m):
                zi, zj = float(w[r].double() @ x[i]), float(w[r].double() @ x[j])
                both = (zi >= 0) * (zj >= 0)
                h[i, j] += both * float(x[i] @ x[j]) / m
                ha[i, j] += both * float(a[r]) ** 2 * float(x[i] @ x[j]) / m
                g[i, j] += max(zi, 0) * max(zj, 0) / m
    np.testing.assert_allclose(h_empirical(x, w), h, rtol=1e-12)
    np.testing.assert_allclose(h_empirical(x, w, a), ha, rtol=1e-12)
    np.testing.assert_allclose(g_empirical(x, w), g, rtol=1e-12)
    assert {part.dtype for part in (h_empirical(x, w), g_empirical(x, w), h_infinity(x.float()))} == {torch.float64}


def test_lambda_0_and_spectral_norm_of_a_matrix_known_by_hand() -> None:
    gram = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, -3.0], [0.0, -3.0, 0.0]])  # eigenvalues -3, 2, 3
    assert lambda_0(gram) == pytest.approx(-3)
    assert spectral_norm(gram - 2 * torch.eye(3)) == pytest.approx(5)  # -5, 0, 1: the largest in size is negative


@pytest.mark.parametrize(("make", "message"), [
    (lambda: h_infinity(torch.ones(2, 2)), r"Invalid norm 1\.41421 of an input. Must be 1"),
    (lambda: h_infinity(torch.full((2, 2), math.nan)), r"Invalid norm nan of an input. Must be 1"),
    (lambda: h_infinity(torch.ones(2)), r"Invalid shape \(2,\) of x. Must be \[n, d\]"),
    (lambda: h_empirical(torch.ones(2, 3), torch.ones(4, 2)), r"Invalid shapes \(2, 3\) of x and \(4, 2\) of w"),
    (lambda: h_empirical(torch.ones(2, 3), torch.ones(4, 3), torch.ones(3)), r"Invalid shape \(3,\) of a. Must be"),
])  # fmt: skip
def test_wrong_shapes_and_norms_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
