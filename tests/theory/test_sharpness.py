"""Sharpness against spectra known by hand and dense Hessians."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from adaloss_lightning.theory import sharpness

F64 = torch.float64


class Quadratic(nn.Module):
    """1/2 sum(curvatures * w^2), the curvatures spread over two parameters."""

    def __init__(self, curvatures: list[float], dtype: torch.dtype = F64) -> None:
        super().__init__()
        self.curvatures = torch.tensor(curvatures, dtype=dtype)
        self.first = nn.Parameter(torch.ones(2, dtype=dtype))
        self.rest = nn.Parameter(torch.ones(len(curvatures) - 2, 1, dtype=dtype))

    def loss(self, factor: float) -> Tensor:
        w = torch.cat([self.first, self.rest.flatten()])
        return factor * (self.curvatures * w.square()).sum() / 2


def quadratic_loss(module: nn.Module, batch: Any) -> Tensor:
    assert isinstance(module, Quadratic)
    return module.loss(batch)


def squared_error(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(module(batch[0]), batch[1])


def batches_of(dim: int, count: int = 3, dtype: torch.dtype = F64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(8, dim, generator=generator, dtype=F64).to(dtype),
            torch.randn(8, 1, generator=generator, dtype=F64).to(dtype),
        )
        for _ in range(count)
    ]


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().double()


def dense_largest(module: nn.Module, batches: list[Any], loss_fn: Callable[[Any, Any], Tensor]) -> float:
    """The whole Hessian over the parameters that require a gradient, and NumPy's eigenvalues of it."""
    free = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}

    def mean_loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in free.values()])
        lent = {name: part.view_as(p) for part, (name, p) in zip(parts, free.items(), strict=True)}
        return torch.stack([loss_fn(lambda x: functional_call(module, lent, x), batch) for batch in batches]).mean()

    flat = torch.cat([p.flatten() for p in free.values()])
    return float(np.linalg.eigvalsh(torch.autograd.functional.hessian(mean_loss, flat).numpy())[-1])


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_sharpness_of_a_quadratic_is_its_largest_curvature(dtype: torch.dtype) -> None:
    found = sharpness(Quadratic([1.0, -20.0, 3.0, 7.0], dtype), quadratic_loss, [1.0, 3.0])  # mean factor 2
    assert found == pytest.approx(14, rel=1e-12 if dtype is F64 else 1e-5)
    assert found.products <= 4
    value, error = found
    assert (value, error) == (float(found), found.error)
    assert abs(value - 14) <= error + 1e-4


def test_sharpness_is_signed() -> None:
    assert sharpness(Quadratic([-1.0, -2.0, -3.0]), quadratic_loss, [1.0]) == pytest.approx(-1)


def test_an_early_end_shows_in_the_error() -> None:
    curvatures = np.linspace(1, 2, 300).tolist()
    found = sharpness(Quadratic(curvatures), quadratic_loss, [1.0], max_products=5)
    assert found.products == 5
    assert 2 - found < found.error
    assert sharpness(Quadratic(curvatures), quadratic_loss, [1.0], tolerance=1e-6, max_products=300) == pytest.approx(2)


@pytest.mark.parametrize("make", [
    lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1)),
    lambda: nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.SiLU(), nn.Linear(4, 1)),
])  # fmt: skip
def test_sharpness_of_an_mlp_is_that_of_its_dense_hessian(make: Callable[[], nn.Module]) -> None:
    module, batches = seeded(make), batches_of(3)
    found = sharpness(module, squared_error, iter(batches), tolerance=1e-8)
    assert found == pytest.approx(dense_largest(module, batches, squared_error), rel=1e-9)


def test_frozen_parameters_are_constants() -> None:
    module, batches = seeded(lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))), batches_of(3)
    whole = sharpness(module, squared_error, batches, tolerance=1e-8)
    module[2].requires_grad_(False)  # type: ignore[index]
    found = sharpness(module, squared_error, batches, tolerance=1e-8)
    assert found == pytest.approx(dense_largest(module, batches, squared_error), rel=1e-9)
    assert found < whole - 1e-3


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x))).sum(1, keepdim=True)


def test_a_shared_weight_is_one_parameter() -> None:
    module, batches = seeded(Tied), batches_of(3)
    found = sharpness(module, squared_error, batches, tolerance=1e-8)
    assert found == pytest.approx(dense_largest(module, batches, squared_error), rel=1e-9)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.unsqueeze(1).expand(-1, 3, -1)).mean((1, 2)).unsqueeze(1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.unsqueeze(1).expand(-1, 3, -1))[0].mean((1, 2)).unsqueeze(1)


@pytest.mark.parametrize("make", [Attention, Recurrent])
def test_layers_with_fused_kernels_have_a_sharpness(make: Callable[[], nn.Module]) -> None:
    module, batches = seeded(make).float(), batches_of(4, dtype=torch.float32)
    single = sharpness(module, squared_error, batches, tolerance=1e-4)
    double = [(x.double(), y.double()) for x, y in batches]
    assert single == pytest.approx(sharpness(module.double(), squared_error, double), rel=1e-2)
    assert single > 0


def test_sharpness_leaves_no_trace_and_repeats_what_is_drawn() -> None:
    module = seeded(lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)))
    batches = batches_of(3)
    module(batches[0][0]).sum().backward()
    before = copy.deepcopy(module.state_dict())
    gradients = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    random = torch.get_rng_state()
    with torch.no_grad():
        first = sharpness(module, squared_error, batches)
    assert torch.equal(torch.get_rng_state(), random)
    torch.rand(5)
    assert sharpness(module, squared_error, batches) == first
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    for p, gradient in zip(module.parameters(), gradients, strict=True):
        assert p.requires_grad
        assert p.grad is not None
        assert torch.equal(p.grad, gradient)


def test_a_linear_loss_is_flat() -> None:
    found = sharpness(nn.Linear(2, 1), lambda module, x: module(x).sum(), [torch.ones(1, 2)])
    assert (float(found), found.error) == (0, 0)
    constant = sharpness(nn.Linear(2, 1), lambda module, x: x.sum(), [torch.ones(1, 2)])
    assert constant == 0


def test_sharpness_survives_pickling() -> None:
    found = sharpness(Quadratic([1.0, 2.0, 3.0]), quadratic_loss, [1.0])
    assert tuple(pickle.loads(pickle.dumps(found))) == tuple(found)


def cusp(module: nn.Module, batch: Any) -> Tensor:
    assert isinstance(module, Quadratic)
    return (module.rest - 1).pow(1.5).sum()  # whose second derivative at 1 is infinite


LINEAR, QUADRATIC = nn.Linear(2, 1), Quadratic([1.0, 2.0, 3.0])


@pytest.mark.parametrize(("make", "message"), [
    (lambda: sharpness(LINEAR, squared_error, []), "Invalid batches: there are none"),
    (lambda: sharpness(nn.ReLU(), squared_error, [1]), "Invalid module: no parameter"),
    (lambda: sharpness(QUADRATIC, quadratic_loss, [1.0, math.nan]), r"Invalid loss=\[nan\] of batch 1"),
    (lambda: sharpness(LINEAR, lambda m, b: m(b), [torch.ones(2, 2)]), r"Invalid loss=.* of batch 0. Must be one"),
    (lambda: sharpness(LINEAR, lambda m, b: 1.0, [1]), r"Invalid loss=1.0 of batch 0. Must be one finite number"),
    (lambda: sharpness(QUADRATIC, cusp, [1]), "Invalid Hessian: its products are not finite"),
    (lambda: sharpness(QUADRATIC, quadratic_loss, [1.0], tolerance=0), "Invalid tolerance=0"),
    (lambda: sharpness(QUADRATIC, quadratic_loss, [1.0], max_products=0), "Invalid max_products=0. Must be a whole"),
    (lambda: sharpness(QUADRATIC, quadratic_loss, [1.0], max_products=2.5), r"Invalid max_products=2\.5"),  # type: ignore[arg-type]
    (lambda: sharpness(nn.ParameterList([torch.empty(0)]), squared_error, [1]), "Invalid module: no parameter"),
])  # fmt: skip
def test_what_has_no_sharpness_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
