"""The methods the paper compares with: AdaGrad-Norm, SGD-DecaySqrt and AdamSqrt.

They are built, saved and read like :class:`~adaloss_lightning.AdaLoss`, so that one training script runs all of them:
they accept a loss and ignore it. SGD-Constant is ``AdaLoss(alpha=0)``, Adam at eta / sqrt(b0) is ``AdamLoss(alpha=0)``.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from adaloss_lightning import fused as bases
from adaloss_lightning.accumulator import Scalar, as_scalar, require_b0, sqrt, start
from adaloss_lightning.base import lent_gradients
from adaloss_lightning.gradient_norm import squared_norm
from adaloss_lightning.optimizers import Params
from adaloss_lightning.rate_adaptive import B0, RateAdaptive, S
from adaloss_lightning.validation import require_choice, require_number, require_rate_settings
from adaloss_lightning.wrapper import PREFIX, Group

CHANNELS = PREFIX + "channels"  # AdaGrad-Norm per channel: a vector of b**2 per parameter, in the order of the group
FORM = PREFIX + "form"
C_S = PREFIX + "c_s"


class Baseline(RateAdaptive):
    """A method that needs no loss. One that it is given is kept for :attr:`last_loss` and otherwise ignored."""

    def _validate(self, settings: Group) -> None:
        super()._validate(settings)
        require_rate_settings(settings)
        require_b0(settings[B0], "adaloss")

    def _start(self, group: Group) -> float:
        return start(group[B0], "adaloss")

    def _signal(self, loss: Scalar | None, recorded: bool) -> Scalar:
        self._inbox.last_loss = loss
        return 1.0

    def _advance(self, group: Group, s: Scalar, signal: Scalar) -> Scalar:
        return s + signal

    def _saw(self, signal: Scalar, skip: Tensor | None = None) -> None:
        """The signal is no loss."""


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
            decay is not divided by b; ``b`` and ``effective_lr`` then report the mean of b over channels.
        momentum, dampening, nesterov, weight_decay, maximize, foreach, fused: As for ``torch.optim.SGD``.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds.
    """

    granularity: Literal["global", "channel"]
    _evolving = (*Baseline._evolving, CHANNELS)
    _next: list[Tensor]  # each parameter's channel sums, in the order of the groups, while a step is under way

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
        base = _sgd(params, lr, momentum, dampening, nesterov, weight_decay, maximize, foreach, fused)
        super().__init__(base, {B0: b0}, granularity=granularity)

    def _as_one(self, groups: Sequence[Group], like: Tensor, *more: str) -> Group | None:
        # per channel each group has sums of its own
        return None if self.granularity == "channel" else super()._as_one(groups, like, *more)

    def _adopt(self, group: Group) -> None:
        super()._adopt(group)
        if self.granularity == "channel":
            s: Tensor = group[S]
            sums: list[Tensor] = group.get(CHANNELS, [])
            fresh = [s.new_full(p.shape[:1] or (1,), self._start(group)) for p in group["params"][len(sums) :]]
            group[CHANNELS] = [b2.to(p.device, s.dtype) for b2, p in zip(sums + fresh, group["params"], strict=True)]

    def _signal(self, loss: Scalar | None, recorded: bool) -> Scalar:
        super()._signal(loss, recorded)
        if self.granularity == "channel":
            return self._look_at_channels()
        groups = self._adopted()
        gradients = [gradient for group in groups for p in group["params"] if (gradient := p.grad) is not None]
        return squared_norm(gradients) if gradients else 0.0

    def _look_at_channels(self) -> Scalar:
        """Prepare each channel's sum for this step; the signal is the squared norm of the whole gradient."""
        squares = [
            None if p.grad is None else _channel_squares(p.grad) for group in self._adopted() for p in group["params"]
        ]
        sums = [b2 for group in self.param_groups for b2 in group[CHANNELS]]
        self._next = [b2 if new is None else b2 + new for b2, new in zip(sums, squares, strict=True)]
        found = [new.sum() for new in squares if new is not None]
        return as_scalar(torch.stack(found).sum()) if found else 0.0

    def _split(self, sums: list[Tensor]) -> Iterator[tuple[Group, list[Tensor]]]:
        rest = iter(sums)
        for group in self.param_groups:
            yield group, [next(rest) for _ in group["params"]]

    def _advance(self, group: Group, s: Scalar, signal: Scalar) -> Scalar:
        if self.granularity == "global":
            return super()._advance(group, s, signal)
        sums = next(sums for owner, sums in self._split(self._next) if owner is group)
        if not any(b2.numel() for b2 in sums):
            return s
        mean_b = torch.cat([b2.sqrt() for b2 in sums]).mean()
        return as_scalar(mean_b * mean_b)

    def _lent(self, rates: Sequence[Scalar], denominators: Sequence[Scalar]) -> AbstractContextManager[None]:
        if self.granularity == "global":
            return super()._lent(rates, denominators)
        pairs = [pair for group, sums in self._split(self._next) for pair in zip(group["params"], sums, strict=True)]
        return lent_gradients((p, _divide_channels(p.grad, b2.sqrt())) for p, b2 in pairs if p.grad is not None)

    def _run_base(self, rates: Sequence[Scalar], denominators: Sequence[Scalar], found_inf: Tensor | None) -> None:
        super()._run_base(rates, denominators, found_inf)
        if self.granularity == "channel":
            for group, sums in self._split(self._next):
                group[CHANNELS] = [  # on a device a sum that is not finite is seen only here
                    torch.where(torch.isfinite(new), new, old) for new, old in zip(sums, group[CHANNELS], strict=True)
                ]


class SGDDecaySqrt(Baseline):
    r"""SGD whose step decays with the square root of time, in either of the forms the paper runs.

    .. math:: w_t = w_{t-1} - \frac{\eta}{b_t} \, g_t, \qquad
        b_t = \sqrt{b_0^2 + t} \;\text{(root)} \quad\text{or}\quad b_t = b_0 + c_s \sqrt t \;\text{(linear)}

    for t = 1, 2, ... Source: the AdaLoss paper, Table 1 (root) and Section 3, Figure 1 (linear).

    Args:
        params: As for ``torch.optim.SGD``.
        lr: The paper's eta, >= 0.
        b0: Start of b, > 0.
        form: ``"root"`` or ``"linear"``.
        c_s: Factor of the linear form, >= 0.
        momentum, dampening, nesterov, weight_decay, maximize, foreach, fused: As for ``torch.optim.SGD``.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds.
    """

    _used = (B0, C_S, FORM)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.1,
        *,
        b0: float = 1.0,
        form: Literal["root", "linear"] = "root",
        c_s: float = 1.0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        base = _sgd(params, lr, momentum, dampening, nesterov, weight_decay, maximize, foreach, fused)
        super().__init__(base, {B0: b0, C_S: c_s, FORM: form})

    def _validate(self, settings: Group) -> None:
        super()._validate(settings)
        require_number("c_s", settings[C_S], at_least=0)
        require_choice("form", settings[FORM], ("root", "linear"))

    def _start(self, group: Group) -> float:
        return super()._start(group) if group[FORM] == "root" else 0.0  # the linear form counts t itself

    def _denominator(self, group: Group, s: Scalar) -> Scalar:
        return sqrt(s) if group[FORM] == "root" else group[B0] + group[C_S] * sqrt(s)

    def _b(self, group: Group) -> Tensor:
        return torch.as_tensor(self._denominator(group, group[S]))


class AdamSqrt(Baseline):
    r"""AdamSqrt: Adam at the rate :math:`\eta / \sqrt{b_0 + t}` for t = 1, 2, ... (the AdaLoss paper, Section 5).

    Args:
        params: As for ``torch.optim.Adam``.
        lr: The paper's eta, >= 0.
        b0: Start of b, > 0.
        betas, eps, weight_decay, amsgrad, maximize, foreach, fused: As for :class:`~adaloss_lightning.AdamLoss`.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        *,
        b0: float = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        require_rate_settings({"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        base = bases.Adam(
            params,
            lr,
            (betas[0], betas[1]),
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            fused=fused,
        )
        super().__init__(base, {B0: b0})

    def _start(self, group: Group) -> float:
        return start(group[B0], "adamloss")

    def _b(self, group: Group) -> Tensor:
        b: Tensor = group[S].clone()
        return b


def _sgd(
    params: Params, lr: float | Tensor, momentum: float, dampening: float, nesterov: bool, weight_decay: float,
    maximize: bool, foreach: bool | None, fused: bool | None,
) -> bases.SGD:  # fmt: skip
    settings = (lr, momentum, dampening, weight_decay, nesterov)
    require_rate_settings(dict(zip(("lr", "momentum", "dampening", "weight_decay", "nesterov"), settings, strict=True)))
    return bases.SGD(params, *settings, maximize=maximize, foreach=foreach, fused=fused)


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
