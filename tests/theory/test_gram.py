"""Gram matrices against values known by hand, double sums and means over weights."""

import math
from collections.abc import Callable

import mpmath  # torch brings it, with sympy
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adaloss_lightning.theory import (
    check_assumption_1,
    check_assumption_2,
    g_empirical,
    h_empirical,
    h_infinity,
    lambda_0,
    parallel_rows,
    spectral_norm,
)


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


def test_h_infinity_has_one_half_on_its_diagonal() -> None:
    x = unit_inputs(600, 3)  # more rows than a block; some have a product with themselves above 1
    assert ((x @ x.T).diagonal() > 1).any()
    for rows in (x, x.float(), x.float().double()):  # as given, and rounded to norms that are 1 to 1e-7
        assert h_infinity(rows).diagonal().tolist() == [0.5] * 600


def pair(angle: float) -> np.ndarray:
    return np.array([[1.0, 0.0], [math.cos(angle), math.sin(angle)]])


@pytest.mark.parametrize("angle", [1e-14, 1e-8, 1e-5, 0.1, 0.46, 1.0, 2.0, 3.0, math.pi - 1e-8])
def test_h_infinity_of_a_pair_is_right_at_any_angle(angle: float) -> None:
    # [[1/2, h], [h, 1/2]] has the eigenvalues 1/2 - h and 1/2 + h; written so that nothing cancels at small angles
    h = math.cos(angle) * (math.pi - angle) / (2 * math.pi)
    smallest = math.sin(angle / 2) ** 2 + math.cos(angle) * angle / (2 * math.pi)
    found = h_infinity(pair(angle))
    assert found[0, 1].item() == pytest.approx(h, abs=2e-16)
    assert lambda_0(found) == pytest.approx(min(smallest, 0.5 + h), abs=3e-16)


def test_lambda_0_of_an_angle_of_1e_8_is_not_lost() -> None:
    assert lambda_0(h_infinity(pair(1e-8))) == pytest.approx(1e-8 / (2 * math.pi), rel=1e-6)


def test_h_infinity_is_the_closed_form_in_higher_precision() -> None:
    x = unit_inputs(40, 3)
    with mpmath.workdps(40):
        rows = [mpmath.matrix(row) / mpmath.norm(mpmath.matrix(row)) for row in x.tolist()]
        cosines = [[mpmath.fdot(left, right) for right in rows] for left in rows]
        expected = [[float(c * (mpmath.pi - mpmath.acos(min(c, 1))) / (2 * mpmath.pi)) for c in row] for row in cosines]
    np.testing.assert_allclose(h_infinity(x), expected, atol=3e-16, rtol=0)


@pytest.mark.parametrize("factor", [1.0, 3.0, 1e-3])
def test_parallel_rows_are_named(factor: float) -> None:
    x = unit_inputs(600, 5)
    x[520] = normalize(factor * x[7], dim=0)
    with pytest.raises(ValueError, match=r"Invalid x\[520\] and x\[7\], .* Must not be parallel"):
        h_infinity(x)
    assert parallel_rows(x) == [(7, 520)]


def test_opposite_rows_are_parallel_to_du_and_do_no_harm_to_h_infinity() -> None:
    x = unit_inputs(2, 5)
    both = torch.cat([x, -x])
    assert parallel_rows(both) == [(0, 2), (1, 3)]
    assert lambda_0(h_infinity(both[[0, 2]])) == 0.5
    plane = pair(1.0) @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    with pytest.raises(ValueError, match=r"Invalid lambda_0=.* Must be > .*, which is rounding"):
        check_assumption_2(np.concatenate([pair(1.0), plane[1:], -pair(1.0), -plane[1:]]))  # three pairs in a plane


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
    assert spectral_norm([[0.0, 5.0], [0.0, 0.0]]) == 5


def test_eigenvalues_and_norms_of_batches_are_those_of_their_matrices() -> None:
    matrices = np.random.default_rng(0).standard_normal((4, 3, 5))
    grams = matrices @ matrices.transpose(0, 2, 1)
    np.testing.assert_allclose(lambda_0(grams), np.linalg.eigvalsh(grams)[:, 0], rtol=1e-10)
    np.testing.assert_allclose(spectral_norm(matrices), np.linalg.norm(matrices, 2, axis=(1, 2)), rtol=1e-12)
    np.testing.assert_allclose(spectral_norm(grams), np.linalg.norm(grams, 2, axis=(1, 2)), rtol=1e-12)


def test_rounding_of_a_symmetric_matrix_is_no_asymmetry() -> None:
    gram = torch.tensor([[1.0, 0.5], [0.5 + 1e-7, 1.0]])  # float32: the next number above 0.5 is 6e-8 away
    assert lambda_0(gram) == pytest.approx(0.5, abs=1e-7)
    with pytest.raises(ValueError, match=r"Invalid gram\[0, 1\]=0\.5 with gram\[1, 0\]=0\.5"):
        lambda_0(gram.double())


@pytest.mark.parametrize("convert", [
    np.ndarray.tolist,
    list,  # of arrays
    lambda x: np.asfortranarray(x)[::-1][::-1],
    lambda x: x.astype(">f8"),
    lambda x: [torch.from_numpy(row) for row in x],
    lambda x: torch.from_numpy(x).requires_grad_(),
])  # fmt: skip
def test_arrays_and_lists_are_taken_like_tensors(convert: Callable[[np.ndarray], object]) -> None:
    x, w = unit_inputs(4, 3).numpy(), unit_inputs(6, 3).numpy()
    x.setflags(write=False)
    a = np.array([1, -1, 1, 1, -1, 1])
    torch.testing.assert_close(h_infinity(convert(x.copy())), h_infinity(torch.tensor(x)), rtol=0, atol=0)
    torch.testing.assert_close(h_empirical(convert(x.copy()), w, a), h_empirical(torch.tensor(x), torch.tensor(w)))
    torch.testing.assert_close(g_empirical(x, convert(w)), g_empirical(torch.tensor(x), torch.tensor(w)))
    assert lambda_0(convert(x @ x.T)) == lambda_0(torch.tensor(x @ x.T))


EYE = torch.eye(2)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: h_infinity([[1.0, 0.0], [1.0, 1.0]]), r"Invalid norm 1\.41421 of x\[1\]. Must be 1"),
    (lambda: h_infinity([[1.0, 0.0], [0.0, 0.0]]), r"Invalid norm 0 of x\[1\]. Must be 1"),
    (lambda: h_infinity([[1.0, 0.0], [0.0, math.nan]]), r"Invalid x\[1, 1\]=nan. Must be finite"),
    (lambda: h_infinity(torch.ones(2)), r"Invalid shape \(2,\) of x. Must be \[n, d\]"),
    (lambda: h_infinity(torch.ones(0, 2)), r"Invalid shape \(0, 2\) of x. Must be \[n, d\], none of them 0"),
    (lambda: h_infinity(torch.eye(2, dtype=torch.complex64)), r"Invalid dtype torch.complex64 of x. Must be real"),
    (lambda: h_infinity("gram"), r"Invalid x of type str. Must hold real numbers"),
    (lambda: h_infinity([np.ones(2), np.ones(3)]), r"Invalid x of type list. Must hold real numbers"),
    (lambda: h_empirical(torch.ones(2, 3), torch.ones(4, 2)), r"Invalid shapes \(2, 3\) of x and \(4, 2\) of w"),
    (lambda: h_empirical(torch.ones(2, 3), torch.ones(4, 3), torch.ones(3)), r"Invalid shape \(3,\) of a. Must be"),
    (lambda: h_empirical(EYE, [[1.0, math.nan]]), r"Invalid w\[0, 1\]=nan. Must be finite"),
    (lambda: h_empirical(EYE, EYE, [1.0, math.inf]), r"Invalid a\[1\]=inf. Must be finite"),
    (lambda: g_empirical(EYE, torch.ones(0, 2)), r"Invalid shape \(0, 2\) of w. Must be \[m, d\]"),
    (lambda: lambda_0([[1.0, 2.0], [0.0, 1.0]]), r"Invalid gram\[0, 1\]=2 with gram\[1, 0\]=0. Must be symmetric"),
    (lambda: lambda_0(torch.stack([EYE, torch.ones(2, 2).triu()])), r"Invalid gram\[1, 0, 1\]=1 with gram\[1, 1, 0\]"),
    (lambda: lambda_0(torch.ones(0, 0)), r"Invalid shape \(0, 0\) of gram. Must be \[..., n, n\]"),
    (lambda: lambda_0(torch.ones(2, 3)), r"Invalid shape \(2, 3\) of gram. Must be \[..., n, n\]"),
    (lambda: lambda_0(3.0), r"Invalid shape \(\) of gram"),
    (lambda: spectral_norm([[1.0, math.nan]]), r"Invalid matrix\[0, 1\]=nan. Must be finite"),
    (lambda: spectral_norm(torch.ones(2, 0)), r"Invalid shape \(2, 0\) of matrix. Must be"),
    (lambda: check_assumption_1(EYE, [1.0, -7.0], 5.0), r"Invalid y\[1\]=-7. Must be at most 5 in size"),
    (lambda: check_assumption_1(EYE, [1.0], 5.0), r"Invalid shape \(1,\) of y. Must be \[2\]"),
])  # fmt: skip
def test_wrong_values_are_refused_with_index_and_value(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
