r"""Sharpness: the largest eigenvalue of the Hessian of a model's loss, from Hessian-vector products.

Gradient descent on a quadratic of that curvature is stable up to the rate :math:`2 / \lambda_{\max}`. AdaLoss takes
the rate :math:`\eta / b`, so that :math:`b = \eta \lambda_{\max} / 2` is its critical value, as Section 3 says
of linear regression, where the Hessian is :math:`X^T X`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from adaloss_lightning.theory.arrays import as_positive, require_count
from adaloss_lightning.theory.lanczos import lanczos

LossFn = Callable[[nn.Module, Any], Tensor]


class Sharpness(float):
    """The largest eigenvalue, a float; ``value, error = sharpness(...)`` works too.

    Attributes:
        error: Norm of the residual: an eigenvalue of the Hessian is at most that far away.
        products: Hessian-vector products that it took, each over all batches.
    """

    error: float
    products: int

    def __new__(cls, value: float, error: float, products: int) -> Self:
        """A float that knows its error."""
        self = super().__new__(cls, value)
        self.error, self.products = error, products
        return self

    def __getnewargs__(self) -> tuple[float, float, int]:  # type: ignore[override]
        return float(self), self.error, self.products

    def __iter__(self) -> Iterator[float]:
        return iter((float(self), self.error))


def sharpness(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Iterable[Any],
    *,
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
) -> Sharpness:
    r"""The largest eigenvalue :math:`\lambda_{\max}` of the Hessian of the mean loss over `batches`.

    Lanczos' method from a random start. The products are computed in the dtype of the parameters, which limits the
    relative error to about 1e-6 in float32, and summed up in float64. The module is left as it is: parameters,
    gradients, buffers (of BatchNorm, say) and torch's random numbers do not change. Dropout draws the same masks in
    every product. Attributes that ``forward`` sets are not put back.

    Args:
        module: The model, in the mode (``train`` or ``eval``) that is meant. Parameters that do not require a gradient
            are constants.
        loss_fn: Gets the module and a batch and returns the loss, a tensor of one element, as for
            :func:`~adaloss_lightning.find_lr`.
        batches: A list or a loader, gone through once; its batches are kept in memory and weigh the same.
        tolerance: Largest residual relative to the value. The error is usually its square.
        max_products: Products at most, >= 1. The value may then be too small, and its error says so.
        seed: Of the start vector and of what the loss draws.

    Returns:
        :math:`\lambda_{\max}` with its error, in units of the loss over those of the parameters squared. It is negative
        where the Hessian has no positive eigenvalue.

    Raises:
        ValueError: No batch, no parameter that requires a gradient, a loss that is not one finite number, or a
            setting that is out of its bounds.

    Example:
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 2.0]])  # the Hessian of the sum of squares is 2 X^T X
        >>> found = sharpness(model, lambda model, x: model(x).square().sum(), [x])
        >>> round(found, 4), found.error < 1e-3
        (8.0, True)
    """
    relative = as_positive("tolerance", tolerance).item()
    require_count("max_products", max_products)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with _random_numbers_kept(device), torch.inference_mode(False), ExitStack() as kernels:
        hessian = _Hessian(module, loss_fn, list(batches), seed)
        if any(isinstance(part, nn.RNNBase) for part in module.modules()):
            kernels.enter_context(torch.backends.cudnn.flags(enabled=False))  # whose RNNs have no second derivative
        kernels.enter_context(sdpa_kernel(SDPBackend.MATH))  # nor have the other kernels of attention
        ends = lanczos(
            hessian.product,
            hessian.start(),
            lambda ends: ends.largest.error <= relative * abs(ends.largest.value),
            most=max_products,
            orthogonalize=False,  # models are too large to keep vectors of
        )
    return Sharpness(*ends.largest, ends.products)


class _Loss(nn.Module):
    """A loss as a module, so that ``functional_call`` can lend parameters and buffers to the model in it."""

    def __init__(self, module: nn.Module, loss_fn: LossFn) -> None:
        super().__init__()
        self.module = module
        self.of = partial(loss_fn, module)  # a loss that is a module is no part of this one

    def forward(self, batch: Any) -> Tensor:
        return self.of(batch)


class _Hessian:
    """Hessian of the mean loss as an operator on flat float64 vectors."""

    def __init__(self, module: nn.Module, loss_fn: LossFn, batches: list[Any], seed: int) -> None:
        self.loss, self.batches, self.seed = _Loss(module, loss_fn), batches, seed
        named = {name: p.detach() for name, p in self.loss.named_parameters()}
        free = {name for name, p in self.loss.named_parameters() if p.requires_grad}
        self.lent = {name: p.requires_grad_(name in free) for name, p in named.items()}  # share storage, hooks stay out
        self.parameters = [p for name, p in self.lent.items() if name in free]
        if not batches:
            raise ValueError("Invalid batches: there are none. Must be at least one.")
        if not any(p.numel() for p in self.parameters):
            raise ValueError("Invalid module: no parameter requires a gradient. Must have at least one that does.")

    def start(self) -> Tensor:
        """A random vector, on the device of the first parameter."""
        device = self.parameters[0].device
        size = sum(p.numel() for p in self.parameters)
        drawn = torch.randn(size, generator=torch.Generator().manual_seed(self.seed), dtype=torch.float64)
        return drawn.to(device, torch.float32 if device.type == "mps" else torch.float64)  # MPS has no float64

    def product(self, vector: Tensor) -> Tensor:
        """Hessian times vector."""
        parts = torch.split(vector, [p.numel() for p in self.parameters])
        shaped = [part.view_as(p).to(p) for part, p in zip(parts, self.parameters, strict=True)]
        total = torch.zeros_like(vector)
        for index, batch in enumerate(self.batches):
            products = self._of_batch(index, batch, shaped)
            total += torch.cat([part.flatten().to(total) for part in products])
        if not torch.isfinite(total).all():
            raise ValueError("Invalid Hessian: its products are not finite. Must be those of a loss with derivatives.")
        return total / len(self.batches)

    @torch.enable_grad()
    def _of_batch(self, index: int, batch: Any, vector: list[Tensor]) -> tuple[Tensor, ...]:
        _draw_from(self.seed, self.parameters[0].device)  # the same masks of dropout each time
        buffers = {name: buffer.clone() for name, buffer in self.loss.named_buffers()}
        loss = functional_call(self.loss, self.lent | buffers, (batch,))
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not torch.isfinite(loss).all():
            shown = loss.detach().flatten()[:3].tolist() if isinstance(loss, Tensor) else loss
            raise ValueError(f"Invalid loss={shown!r} of batch {index}. Must be one finite number, a tensor.")
        if not loss.requires_grad:
            return tuple(torch.zeros_like(p) for p in self.parameters)
        gradients = _derivatives(loss.sum(), self.parameters, create_graph=True)
        slope = torch.stack([(g * v).sum() for g, v in zip(gradients, vector, strict=True)]).sum()
        if not slope.requires_grad:  # the loss is linear
            return tuple(torch.zeros_like(p) for p in self.parameters)
        return _derivatives(slope, self.parameters)


def _derivatives(value: Tensor, parameters: list[Tensor], create_graph: bool = False) -> tuple[Tensor, ...]:
    return torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True, materialize_grads=True)


@contextmanager
def _random_numbers_kept(device: torch.device) -> Iterator[None]:
    on_mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    if on_mps is not None:
        torch.mps.set_rng_state(on_mps)


def _draw_from(seed: int, device: torch.device) -> None:
    """Seed the generators that a loss on `device` draws from. ``torch.manual_seed`` would seed all others, too."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
