"""The norm of a whole gradient against a slow sum of Python's floats."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.distributed.tensor import Shard, distribute_tensor

from adaloss_lightning.optim.engine.gradient_norm import LONGEST, squared_norm

from .methods import one_rank


class Subclass(Tensor):
    """A tensor of somebody else's type."""


def sparse(rows: list[int], values: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, (5, *values.shape[1:]), check_invariants=True)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


LISTS: dict[str, list[Tensor]] = {
    "vectors": [drawn(3), drawn(1), drawn(0), drawn(7)],
    "of several dimensions": [drawn(), drawn(3), drawn(2, 3), drawn(2, 3, 4, 5), drawn(5, 2).t()],
    "small and large": [drawn(70, 80), drawn(3), drawn(5000), drawn(2, 2), drawn(80, 70).t()],
    "of several dtypes": [drawn(3), drawn(4).half(), drawn(5).bfloat16(), drawn(3, 2, dtype=torch.float64)],
    "half precision whose squares overflow": [drawn(3).half() * 300, drawn(6000).half() * 300],
    "complex": [drawn(3, dtype=torch.complex64), drawn(3), drawn(5000, dtype=torch.complex128)],
    "sparse": [sparse([1, 3, 1], drawn(3, 2)), drawn(3), drawn(4, 4)],
    "sparse alone": [sparse([0, 0], drawn(2, 3)), sparse([2], drawn(1))],
    "of another type": [drawn(3).as_subclass(Subclass), drawn(4), drawn(5000).as_subclass(Subclass)],
    "squares above float32": [torch.full((5,), 1e20), drawn(5000)],
    "squares above float32 beside half precision": [torch.full((5,), 1e20), drawn(5).half()],
    "squares below float32": [torch.full((5,), 1e-30), torch.full((5000,), 1e-25)],
    "one": [drawn(9)],
    "one number many times": [drawn(3), drawn(1).expand(7), drawn(1, 3).expand(5, 3), drawn().expand(2, 2)],
}


def squares(gradient: Tensor) -> list[float]:
    dense = (gradient.to_dense() if gradient.is_sparse else gradient).as_subclass(Tensor)
    numbers = torch.view_as_real(dense.resolve_conj()) if dense.is_complex() else dense
    return [float(x) ** 2 for x in numbers.reshape(-1).tolist()]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """BLAS adds the more numbers in one float32 sum the fewer threads it has."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("repeated", [1, 300])  # few and many
@pytest.mark.parametrize("name", LISTS)
def test_it_is_the_sum_of_all_squares(name: str, repeated: int, threads: int) -> None:
    distinct = LISTS[name]
    before = [gradient.clone() for gradient in distinct]
    expected = repeated * math.fsum(x for gradient in distinct for x in squares(gradient))
    # float32 sums of some thousand numbers keep six digits
    assert float(squared_norm(distinct * repeated)) == pytest.approx(expected, rel=1e-6)
    for gradient, old in zip(distinct, before, strict=True):
        assert torch.equal(gradient.to_dense(), old.to_dense())


@pytest.mark.parametrize("beside", [[], [drawn(3)]], ids=["", "plain ones beside"])
def test_sharded_gradients_have_a_plain_norm(beside: list[Tensor]) -> None:
    """A DTensor cannot be read in a list, nor copied into a tensor, as the step of an accelerator does."""
    parts = [drawn(6, 2), drawn(5)]
    expected = math.fsum(x for gradient in parts + beside for x in squares(gradient))
    with one_rank() as mesh:
        found = squared_norm([distribute_tensor(part, mesh, [Shard(0)]) for part in parts] + beside)
    assert type(found) is Tensor
    assert found.item() == pytest.approx(expected, rel=1e-6)  # float32


@pytest.mark.parametrize("numbers", [1, 1000])
def test_many_small_gradients_are_as_exact_as_one(numbers: int, threads: int) -> None:
    gradients = [torch.full((numbers,), 1.7)] * 2000  # equal numbers: each sum is rounded the same way
    assert float(squared_norm(gradients)) == pytest.approx(2000 * numbers * gradients[0][0].item() ** 2, rel=2e-6)


def test_a_long_gradient_is_as_exact_as_a_part_of_it(threads: int) -> None:
    part = torch.full((LONGEST,), 1.7)
    assert squared_norm([part.repeat(3)]) == pytest.approx(3 * float(squared_norm([part])), rel=1e-12)
    # of numbers that are not equal, roundings cancel
    long = drawn(LONGEST + 1)
    assert squared_norm([long]) == pytest.approx(float(torch.dot(long.double(), long.double())), rel=1e-4)
