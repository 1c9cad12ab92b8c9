"""AdaGradNorm, which divides by the norm of the gradients where AdaLoss takes the loss."""

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from adaloss_lightning.optim.engine import _fused as bases
from adaloss_lightning.optim.engine.fused_choice import Params
from adaloss_lightning.optim.engine.gradient_norm import squared_norm
from adaloss_lightning.optim.engine.loss import as_scalar
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group
from adaloss_lightning.optim.method import B0, Method
from adaloss_lightning.optim.rate_adaptive import RateAdaptive
from adaloss_lightning.optim.recurrence import Scalar
from adaloss_lightning.optim.validation import require_choice

CHANNELS = PREFIX + "channels"  # per channel: a vector of b**2 per parameter, in the order of the group


class _GradientNorm(Method):
    """``s + ||g||**2``, the norm of the whole gradient over all groups, and eta over the root of it."""

    def signal(self, loss: Scalar | None, groups: Sequence[Group]) -> Scalar:
        gradients = [gradient for group in groups for p in group["params"] if (gradient := p.grad) is not None]
        return squared_norm(gradients) if gradients else 0.0


class ChannelNorm(Method):
    """A sum of squares for each index of each parameter's first dimension; it divides gradients. s is their mean b**2.

    What a step makes of the sums waits in this object from :meth:`signal` until the step has gone through. A subclass
    may keep other sums: their :meth:`shape`, and what a step adds to them, :meth:`squares`.
    """

    evolving = (CHANNELS,)
    _next: dict[Tensor, Tensor]  # of each parameter
    _is_finite: Tensor

    def __getstate__(self) -> Group:
        return {}

    def shape(self, p: Tensor) -> Sequence[int]:
        """Shape of the sums of a parameter: that of its first dimension, or its own."""
        return p.shape[:1] or (1,)

    def squares(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """What a step adds to the sums of the parameters that have a gradient, in their order."""
        return [channel_squares(gradient) for gradient in gradients]

    def settings(self, groups: Sequence[Group]) -> None:
        """None: each group has sums of its own."""

    def adopt(self, group: Group, s: Tensor, groups: Sequence[Group]) -> None:
        """Sums for the parameters that have none, from b0 squared."""
        if any(hasattr(p, "placements") for p in group["params"]):
            raise ValueError(
                "Invalid granularity='channel' for sharded parameters (DTensor): a channel may lie on several ranks. "
                "Must be 'global'."
            )
        sums: list[Tensor] = group.get(CHANNELS, [])
        fresh = [s.new_full(self.shape(p), self.start(group)) for p in group["params"][len(sums) :]]
        group[CHANNELS] = [b2.to(p.device, s.dtype) for b2, p in zip(sums + fresh, group["params"], strict=True)]

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the compiler loses what it puts on self
    def signal(self, loss: Scalar | None, groups: Sequence[Group]) -> Scalar:
        """What the sums would add up to; only whether it is finite counts."""
        self._next = {p: b2 for group in groups for p, b2 in zip(group["params"], group[CHANNELS], strict=True)}
        fed = [p for p in self._next if p.grad is not None]
        squares = self.squares([p.grad for p in fed if p.grad is not None])
        for p, new in zip(fed, squares, strict=True):
            self._next[p] = self._next[p] + new
        total = torch.stack([new.sum() for new in squares]).sum() if squares else torch.zeros(())
        self._is_finite = torch.isfinite(total)
        return as_scalar(total)

    def advance(self, group: Group, s: Scalar, signal: Scalar) -> Scalar:
        """The square of the mean b."""
        sums = [self._next[p] for p in group["params"]]
        if not any(b2.numel() for b2 in sums):
            return s
        mean_b = torch.cat([b2.sqrt().flatten() for b2 in sums]).mean()
        return as_scalar(mean_b * mean_b)

    def gradients(self, groups: Sequence[Group]) -> Iterable[tuple[Tensor, Tensor]]:
        """Each gradient over the b of its parameter."""
        return [(p, divide_channels(p.grad, b2.sqrt())) for p, b2 in self._next.items() if p.grad is not None]

    def keep(self, groups: Sequence[Group]) -> None:
        """Takes over the new sums."""
        for group in groups:
            group[CHANNELS] = [  # on a device the base has skipped a step that is not finite, unseen by the host
                torch.where(self._is_finite, self._next[p], old)
                for p, old in zip(group["params"], group[CHANNELS], strict=True)
            ]


class AdaGradNorm(RateAdaptive):
    r"""AdaGrad-Norm: SGD whose step is divided by the norm of all gradients so far.

    For each step t = 0, 1, ... with the gradient :math:`g_t`:

    1. :math:`b_{t+1}^2 = b_t^2 + \|g_t\|^2`
    2. :math:`w_{t+1} = w_t - \frac{\eta}{b_{t+1}} \, g_t`, with weight decay and momentum as in ``torch.optim.SGD``

    Source: Ward, Wu, Bottou, *AdaGrad stepsizes: sharp convergence over nonconvex landscapes*, JMLR 2020.

    Args:
        params: As for ``torch.optim.SGD``.
        lr: The paper's eta, >= 0.
        b0: Start of b, > 0.
        granularity: ``"global"``: one b from the norm of the whole gradient, over all groups. ``"channel"``: one b for
            each index of a parameter's first dimension (a neuron, a convolution's output channel), as AdaGrad-Norm is
            run on deep networks (footnote 8 of the AdaLoss paper). Per channel the gradients are divided, so weight
            decay is not divided by b; ``b`` then reports the mean of b over channels, ``effective_lr`` eta over that.
        momentum, dampening, nesterov, weight_decay, maximize, foreach, fused: As for ``torch.optim.SGD``.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds, or the parameters are sharded and are to have channels.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = AdaGradNorm([w], lr=1.0, b0=3.0)
        >>> (4 * w).sum().backward()
        >>> optimizer.step()  # b becomes sqrt(9 + 16) = 5
        >>> optimizer.b[0].item(), round(w.item(), 4)
        (5.0, 1.2)
    """

    granularity: Literal["global", "channel"]

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        *,
        b0: float = 1.0,
        granularity: Literal["global", "channel"] = "global",
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        require_choice("granularity", granularity, ("global", "channel"))
        base = bases.SGD(
            params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
            maximize=maximize, foreach=foreach, fused=fused,
        )  # fmt: skip
        method = _GradientNorm() if granularity == "global" else ChannelNorm()
        super().__init__(base, method, {B0: b0}, granularity=granularity)


def channel_squares(gradient: Tensor) -> Tensor:
    """Squared norm of the gradient for each index of its first dimension, float64 where the device has it."""
    dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    rows = dense.flatten(1) if dense.dim() > 1 else dense.reshape(-1, 1)
    # in the gradient's own dtype the squares would soon be out of range; MPS has no float64
    wide = torch.float32 if dense.device.type == "mps" else torch.complex128 if dense.is_complex() else torch.float64
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=wide)
    return norms.square()


def divide_channels(gradient: Tensor, b: Tensor) -> Tensor:
    """The gradient divided by b, one for each index of its first dimension or one for each element."""
    dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    column = b if b.shape == dense.shape else b.reshape((-1, *[1] * (dense.dim() - 1)) if dense.dim() else ())
    return (dense / column).to(dense.dtype)
