"""Inputs of the properties: parameters and gradients of any shape, layout and dtype, and random settings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Relative to values of order 1, after at most five steps. float64 and float32: the order of a few roundings. The half
# types: parameters and buffers are rounded to 8 (bfloat16) or 11 bits at each step, which Adam's division magnifies.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 0.06, torch.float16: 8e-3}

SHAPES: st.SearchStrategy[tuple[int, ...]] = st.one_of(
    st.sampled_from([(), (0,), (1,), (13,), (67,), (3, 0), (7, 5), (1, 3), (5, 1, 2), (2, 3, 2, 3)]),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
)


def contiguous(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def transposed(x: Tensor) -> Tensor:
    return contiguous(x.transpose(0, -1)).transpose(0, -1) if x.dim() > 1 else contiguous(x)


def sliced(x: Tensor) -> Tensor:
    """Every second element of a larger tensor, with large numbers between."""
    larger = torch.full((*x.shape[:-1], 2 * x.shape[-1]) if x.dim() else (2,), 1e3, dtype=x.dtype)
    part = larger[..., ::2] if x.dim() else larger[0]
    return part.copy_(x)


def channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last, copy=True) if x.dim() == 4 else contiguous(x)


def expanded(x: Tensor) -> Tensor:
    """One element of memory for all; a gradient may lie so (that of a sum does), a parameter may not."""
    return x.reshape(-1)[0].clone().expand(x.shape) if x.numel() else contiguous(x)


Layout = Callable[[Tensor], Tensor]
LAYOUTS: tuple[Layout, ...] = (contiguous, transposed, sliced, channels_last)
GRADIENT_LAYOUTS: tuple[Layout, ...] = (*LAYOUTS, expanded)


def values(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Numbers of magnitude 0.5 to 1.5 and either sign: none whose rounding a division by a root would blow up."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand((2, *shape), generator=generator, dtype=torch.float64)
    return ((0.5 + draws[0]) * torch.where(draws[1] < 0.5, -1.0, 1.0)).to(dtype)


def numbers(x: Tensor) -> list[float]:
    """The elements in the order of their indices, whatever their order in memory."""
    return x.detach().to(torch.float64).reshape(-1).tolist()


@dataclass(frozen=True)
class Leaf:
    """One parameter, and the layout of its gradient at each step: None where it has none."""

    seed: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    layout: Layout
    gradients: tuple[Layout | None, ...]

    @property
    def is_plain(self) -> bool:
        return all(layout in (contiguous, None) for layout in (self.layout, *self.gradients))

    def plain(self) -> "Leaf":
        gradients = tuple(None if layout is None else contiguous for layout in self.gradients)
        return Leaf(self.seed, self.shape, self.dtype, contiguous, gradients)

    def parameter(self) -> Parameter:
        return Parameter(self.layout(values(self.seed, self.shape, self.dtype)))

    def gradient(self, step: int, factor: float = 1.0) -> Tensor | None:
        layout = self.gradients[step]
        return None if layout is None else layout(factor * values(1000 * self.seed + step + 1, self.shape, self.dtype))


@dataclass(frozen=True)
class Training:
    """Groups of parameters, the settings of each, and the loss of each step."""

    groups: tuple[tuple[Leaf, ...], ...]
    settings: tuple[dict[str, Any], ...]
    losses: tuple[float, ...]

    @property
    def is_plain(self) -> bool:
        return all(leaf.is_plain for group in self.groups for leaf in group)

    @property
    def has_float32_rates(self) -> bool:
        """Whether torch's for-loop, which is handed the tensor as it is, computes its steps in float32."""
        return any(isinstance(own["lr"], Tensor) and own["lr"].dtype == torch.float32 for own in self.settings)

    def plain(self) -> "Training":
        """The same with every layout contiguous."""
        groups = tuple(tuple(leaf.plain() for leaf in group) for group in self.groups)
        return Training(groups, self.settings, self.losses)

    def parameters(self) -> list[list[Parameter]]:
        return [[leaf.parameter() for leaf in group] for group in self.groups]

    def param_groups(self, parameters: list[list[Parameter]]) -> list[dict[str, Any]]:
        return [{"params": p, **options} for p, options in zip(parameters, self.settings, strict=True)]

    def give_gradients(
        self, parameters: list[list[Parameter]], step: int, factor: float = 1.0
    ) -> list[list[list[float] | None]]:
        """Set the gradients of a step, times ``factor``, and say what they are."""
        for leaves, group in zip(self.groups, parameters, strict=True):
            for leaf, p in zip(leaves, group, strict=True):
                p.grad = leaf.gradient(step, factor)
        return [[None if p.grad is None else numbers(p.grad) for p in group] for group in parameters]


LOSSES = st.integers(-20, 80).map(lambda k: k / 10)


@st.composite
def trainings(
    draw: st.DrawFn, settings: st.SearchStrategy[dict[str, Any]], dtypes: tuple[torch.dtype, ...] = DTYPES
) -> Training:
    steps = draw(st.integers(1, 5))
    of_one_dtype = draw(st.sampled_from([*dtypes, None]))  # None: mixed
    any_layout = draw(st.booleans())  # half of the trainings have no odd layout at all, so that the kernel is kept
    parameter_layouts = LAYOUTS if any_layout else (contiguous,)
    gradient_layouts = GRADIENT_LAYOUTS if any_layout else (contiguous,)
    seeds = iter(range(draw(st.integers(0, 1000)), 10**6))

    def leaf() -> Leaf:
        shape = draw(SHAPES)
        dtype = draw(st.sampled_from(dtypes)) if of_one_dtype is None else of_one_dtype
        layout = draw(st.sampled_from(parameter_layouts))
        given = st.one_of(st.sampled_from([*gradient_layouts, layout]), st.sampled_from([layout, None]))
        return Leaf(next(seeds), shape, dtype, layout, tuple(draw(given) for _ in range(steps)))

    groups = tuple(tuple(leaf() for _ in range(draw(st.integers(1, 3)))) for _ in range(draw(st.integers(1, 3))))
    return Training(groups, tuple(draw(settings) for _ in groups), tuple(draw(LOSSES) for _ in range(steps)))


def check_parameters(parameters: list[list[Parameter]], expected: list[list[Any]], least: float = 0.0) -> None:
    """Compare each parameter with the ``values`` of its reference, as closely as its dtype (and ``least``) allows."""
    for group, references in zip(parameters, expected, strict=True):
        for p, reference in zip(group, references, strict=True):
            tolerance = max(TOLERANCE[p.dtype], least)
            wanted = torch.tensor(reference.values, dtype=torch.float64).reshape(p.shape)
            torch.testing.assert_close(p.detach().to(torch.float64), wanted, rtol=tolerance, atol=tolerance)


def on_device_path(optimizer: Any, reads: bool = False) -> Any:
    """Send an optimizer on the CPU through the path for accelerators, with or without its one read of the loss."""
    optimizer.host_arithmetic, optimizer.check_finite = False, reads
    return optimizer


# -- settings of a parameter group -------------------------------------------------------------------------------------


def eta(kind: str, value: float) -> float | Tensor:
    return value if kind == "float" else torch.tensor(value, dtype=getattr(torch, kind))


ETAS = st.builds(eta, st.sampled_from(["float", "float", "float32", "float64"]), st.sampled_from([0.3, 0.0625]))
RECURRENCE = {
    "adaloss_b0": st.sampled_from([0.5, 1.0, 3.0]),
    "adaloss_alpha": st.sampled_from([0.0, 0.3, 1.0]),
    "adaloss_c": st.sampled_from([0.0, 1.7]),
}
MOMENTA: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.5, "dampening": 0.25},
    {"momentum": 0.7, "nesterov": True},
]
DECAY = st.sampled_from([0.0, 0.125])


def _merged(*parts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for part in parts for key, value in part.items()}


SGD_OPTIONS = st.builds(
    _merged,
    st.sampled_from(MOMENTA),
    st.fixed_dictionaries({"lr": ETAS, "weight_decay": DECAY, "maximize": st.booleans()}),
)
SGD_GROUPS = st.builds(_merged, SGD_OPTIONS, st.fixed_dictionaries(RECURRENCE))
ADAM_GROUPS = st.fixed_dictionaries(
    {
        "lr": ETAS,
        "betas": st.sampled_from([(0.9, 0.99), (0.5, 0.75)]),
        "eps": st.sampled_from([1e-8, 1e-2]),
        "weight_decay": DECAY,
        "decoupled_weight_decay": st.booleans(),
        "amsgrad": st.booleans(),
        "maximize": st.booleans(),
        **RECURRENCE,
    }
)
