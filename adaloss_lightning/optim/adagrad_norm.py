"""AdaGrad-Norm, the method that divides by the norm of the gradients where AdaLoss takes the loss."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from adaloss_lightning.optim.adaloss import Params
from adaloss_lightning.optim.baselines import Baseline, sgd
from adaloss_lightning.optim.engine.base import lent_gradients
from adaloss_lightning.optim.engine.gradient_norm import squared_norm
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group
from adaloss_lightning.optim.rate_adaptive import B0, S
from adaloss_lightning.optim.recurrence import Scalar, as_scalar
from adaloss_lightning.optim.validation import require_choice

CHANNELS = PREFIX + "channels"  # per channel: a vector of b**2 per parameter, in the order of the group


class AdaGradNorm(Baseline):
    r"""AdaGrad-Norm (Ward, Wu, Bottou, JMLR 2020): SGD whose step is divided by the norm of all gradients so far.

    .. math:: b_{t+1}^2 = b_t^2 + \|g_t\|^2, \qquad w_{t+1} = w_t - \frac{\eta}{b_{t+1}} \, g_t

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
    """

    granularity: Literal["global", "channel"]
    _evolving = (*Baseline._evolving, CHANNELS)
    _next: dict[Tensor, Tensor]  # of each parameter the sums that this step makes
    _is_finite: Tensor

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
        base = sgd(params, lr, momentum, dampening, nesterov, weight_decay, maximize, foreach, fused)
        super().__init__(base, {B0: b0}, granularity=granularity)

    def _as_one(self, groups: Sequence[Group], like: Tensor, *more: str) -> Group | None:
        # per channel each group has sums of its own
        return None if self.granularity == "channel" else super()._as_one(groups, like, *more)

    def _adopt(self, group: Group) -> None:
        super()._adopt(group)
        if self.granularity == "channel":
            if any(hasattr(p, "placements") for p in group["params"]):
                raise ValueError(
                    "Invalid granularity='channel' for sharded parameters (DTensor): a channel may lie on several "
                    "ranks. Must be 'global'."
                )
            s: Tensor = group[S]
            sums: list[Tensor] = group.get(CHANNELS, [])
            fresh = [s.new_full(p.shape[:1] or (1,), self._start(group)) for p in group["params"][len(sums) :]]
            group[CHANNELS] = [b2.to(p.device, s.dtype) for b2, p in zip(sums + fresh, group["params"], strict=True)]

    def _signal(self, loss: Scalar | None, recorded: bool) -> Scalar:
        super()._signal(loss, recorded)
        if self.granularity == "channel":
            squared: Scalar = self._look_at_channels()
            return squared
        groups = self.base.param_groups
        gradients = [gradient for group in groups for p in group["params"] if (gradient := p.grad) is not None]
        return squared_norm(gradients) if gradients else 0.0

    def _has_to_read(self) -> bool:
        return self._only_host_can_skip()

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the compiler loses what it puts on self
    def _look_at_channels(self) -> Scalar:
        """Prepare each channel's sum for this step; the signal is the squared norm of the whole gradient."""
        self._next, found = {}, []
        for group in self._adopted():
            for p, b2 in zip(group["params"], group[CHANNELS], strict=True):
                self._next[p] = b2
                if p.grad is not None:
                    squares = _channel_squares(p.grad)
                    self._next[p] = b2 + squares
                    found.append(squares.sum())
        total = torch.stack(found).sum() if found else torch.zeros(())
        self._is_finite = torch.isfinite(total)
        return as_scalar(total)

    def _advance(self, group: Group, s: Scalar, signal: Scalar) -> Scalar:
        if self.granularity == "global":
            return super()._advance(group, s, signal)
        sums = [self._next[p] for p in group["params"]]
        if not any(b2.numel() for b2 in sums):
            return s
        mean_b = torch.cat([b2.sqrt() for b2 in sums]).mean()
        return as_scalar(mean_b * mean_b)

    def _lent(self, rates: Sequence[Scalar], denominators: Sequence[Scalar]) -> AbstractContextManager[None]:
        if self.granularity == "global":
            return super()._lent(rates, denominators)
        pairs = self._next.items()
        return lent_gradients((p, _divide_channels(p.grad, b2.sqrt())) for p, b2 in pairs if p.grad is not None)

    def _run_base(
        self, rates: Sequence[Scalar], denominators: Sequence[Scalar], found_inf: Tensor | None, more: Group
    ) -> None:
        super()._run_base(rates, denominators, found_inf, more)
        if self.granularity == "channel":
            for group in self.param_groups:
                group[CHANNELS] = [  # on a device the base has skipped a step that is not finite, unseen by the host
                    torch.where(self._is_finite, self._next[p], old)
                    for p, old in zip(group["params"], group[CHANNELS], strict=True)
                ]


def _channel_squares(gradient: Tensor) -> Tensor:
    """Squared norm of the gradient for each index of its first dimension, float64 where the device has it."""
    dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    rows = dense.flatten(1) if dense.dim() > 1 else dense.reshape(-1, 1)
    # in the gradient's own dtype the squares would soon be out of range; MPS has no float64
    wide = torch.float32 if dense.device.type == "mps" else torch.complex128 if dense.is_complex() else torch.float64
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=wide)
    return norms.square()


def _divide_channels(gradient: Tensor, b: Tensor) -> Tensor:
    dense = gradient.detach().to_dense() if gradient.is_sparse else gradient.detach()
    column = b.reshape((-1, *[1] * (dense.dim() - 1)) if dense.dim() else ())
    return (dense / column).to(dense.dtype)
