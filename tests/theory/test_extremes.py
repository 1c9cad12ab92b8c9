"""The ends of a spectrum from products alone, against dense answers and SciPy's."""

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch import Tensor
from torch.nn.functional import normalize

from adaloss_lightning.theory import extreme_eigenvalues, extremes, h_infinity
from adaloss_lightning.theory.lanczos import Ends, lanczos

ROWS_IN_A_BLOCK = 256


def unit_inputs(n: int, dim: int) -> Tensor:
    drawn = torch.randn(n, dim, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    return normalize(drawn, dim=1)


@pytest.mark.parametrize("max_bytes", [0, 2**30])  # blocks computed again for each product, and kept
@pytest.mark.parametrize(("n", "dim"), [(1, 3), (40, 5), (ROWS_IN_A_BLOCK + 1, 8)])
def test_extremes_are_those_of_the_dense_matrix(
    n: int, dim: int, max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extremes, "_DENSE", 0)
    x = unit_inputs(n, dim)
    values = np.linalg.eigvalsh(h_infinity(x).numpy())
    np.testing.assert_allclose(extreme_eigenvalues(x, max_bytes=max_bytes), (values[0], values[-1]), rtol=1e-9)


def test_extremes_are_those_of_arpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extremes, "_DENSE", 0)
    x = unit_inputs(700, 30)
    gram = h_infinity(x).numpy()
    smallest, largest = (
        scipy.sparse.linalg.eigsh(gram, k=1, which=end, return_eigenvectors=False) for end in ("SA", "LA")
    )
    np.testing.assert_allclose(extreme_eigenvalues(x.numpy()), (smallest[0], largest[0]), rtol=1e-9)


def test_few_inputs_take_the_dense_way_and_agree() -> None:
    x = unit_inputs(50, 4)
    np.testing.assert_allclose(extreme_eigenvalues(x), extreme_eigenvalues(x, max_bytes=0), rtol=1e-9)


def test_orthogonal_inputs_have_one_eigenvalue() -> None:
    assert extreme_eigenvalues(torch.eye(20), max_bytes=0) == pytest.approx((0.5, 0.5), rel=1e-14)


def test_extremes_leave_the_callers_random_numbers() -> None:
    before = torch.get_rng_state()
    extreme_eigenvalues(unit_inputs(10, 3), max_bytes=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_too_few_products_are_no_answer() -> None:
    with pytest.raises(RuntimeError, match=r"The smallest eigenvalue is .* \+- .* after 5 products. Give a larger"):
        extreme_eigenvalues(unit_inputs(300, 3), max_bytes=0, max_products=5)


@pytest.mark.parametrize("max_bytes", [0, 2**30])
def test_no_product_at_all_is_refused(max_bytes: int) -> None:
    with pytest.raises(ValueError, match=r"Invalid max_products=0\. Must be a whole number >= 1"):
        extreme_eigenvalues(torch.eye(3), max_products=0, max_bytes=max_bytes)


def test_parallel_rows_are_found_without_the_dense_matrix() -> None:
    x = unit_inputs(ROWS_IN_A_BLOCK + 50, 4)
    x[-1] = x[0]
    with pytest.raises(ValueError, match=rf"Invalid x\[{len(x) - 1}\] and x\[0\], 0 apart"):
        extreme_eigenvalues(x, max_bytes=0)


@pytest.mark.parametrize("orthogonalize", [True, False])
def test_errors_bound_the_distance_to_the_spectrum(orthogonalize: bool) -> None:
    spectrum = torch.cat([torch.linspace(1, 2, 200, dtype=torch.float64), torch.tensor([-3.0, 50.0, 1e4])])
    start = torch.randn(len(spectrum), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen: list[Ends] = []
    found = lanczos(
        lambda v: spectrum * v, start, lambda ends: bool(seen.append(ends)), most=120, orthogonalize=orthogonalize
    )
    for ends in (*seen, found):
        for value, error in (ends.smallest, ends.largest):
            assert (spectrum - value).abs().min() <= error + 1e-9  # 1e4 times the rounding of float64
    assert found.smallest.value == pytest.approx(-3, rel=1e-9)
    assert found.largest.value == pytest.approx(1e4, rel=1e-12)
