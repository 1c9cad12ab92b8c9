"""LossAdaptive: any torch optimizer with its step adapted to the loss."""

from collections.abc import Sequence

import torch.distributed as dist
from torch.optim import Optimizer

from adaloss_lightning.optim.engine._fused import skips_on_device
from adaloss_lightning.optim.engine.fused_choice import withdraw_fused
from adaloss_lightning.optim.engine.groups import S
from adaloss_lightning.optim.engine.ranks import GlobalLoss, GlobalSum, Joins, spans_ranks
from adaloss_lightning.optim.engine.wrapper import Group
from adaloss_lightning.optim.loss_driven import ALPHA, RULE, C, LossDriven
from adaloss_lightning.optim.method import B0
from adaloss_lightning.optim.rate_adaptive import RateAdaptive, Scale
from adaloss_lightning.optim.recurrence import RULES, Alpha, Rule, Scalar
from adaloss_lightning.optim.validation import require_choice

_NO_LOSS = (
    "{name}.step() has no loss to adapt to. Give it one in any of three ways: step(loss=loss); record_loss(loss) "
    "before step(); or step(closure) with a closure that returns the loss. Under Lightning, AdaLossCallback does it; "
    "with manual optimization, for the optimizers of self.optimizers() and the losses of self.manual_backward(loss)."
)


class LossAdaptive(RateAdaptive):
    r"""Makes any ``torch.optim.Optimizer`` loss-adaptive: its step runs at :math:`\eta / \sqrt{s}`.

    For each step t = 0, 1, ... with the loss :math:`f_t(w_t)`:

    1. :math:`s_{t+1} = s_t + \alpha \, |f_t(w_t) - c|`
    2. one step of ``base`` with the learning rate :math:`\eta / \sqrt{s_{t+1}}`

    ``rule="adaloss"`` starts :math:`s` at :math:`b_0^2` (then :math:`b = \sqrt s`, Algorithm 1 of Wu, Xie, Du and Ward,
    AAAI 2022), ``rule="adamloss"`` at :math:`b_0` (then :math:`b = s` and the rate is :math:`\eta / \sqrt b`, Algorithm
    2).

    s is kept in float64 on the device of its group's parameters (float32 on MPS, which has no float64: there s stops
    growing once an increment is below 6e-8 of it). A loss that is not finite never enters s, and its step changes
    nothing, on every rank alike. Under ``torch.distributed`` the loss is averaged over the ranks first, with one
    all-reduce of one number a step, so that b and the parameters stay identical everywhere.

    On an accelerator a step of a fused base reads nothing back to the host. Any other base pays one read a step: it
    leaves out the step of a loss that is not finite, and torch's own unfused kernels would read a rate that is a tensor
    once for each parameter. Where the kernel reads no rate, with ``capturable=True`` and in bases that are not torch's,
    ``check_finite=False`` saves the read and gives up that protection of the parameters (not of s).

    Args:
        base: The optimizer to adapt. ``group["lr"]`` is the paper's eta.
        b0: Start of b, > 0.
        alpha: How strongly the loss feeds the accumulator, >= 0; 0 keeps b at b0. ``"auto"`` measures the loss in units
            of the first one, :math:`F = |f_1 - c|` with :math:`f_1` the loss of the first step that goes through:
            :math:`s` grows by :math:`|f_t - c| / F`, and ``"adaloss"`` divides by :math:`b = F \sqrt s`. Then loss and
            c times any k > 0 give the same parameters: see the note. A first loss within 1e-7 of c is no unit, and the
            next one is waited for; until then b is b0.
        c: Surrogate of the optimal loss, in units of the loss.
        rule: ``"adaloss"`` or ``"adamloss"``: what b0 starts.
        sync_loss: Average the loss over ``process_group``.
        process_group: The ranks to average over; None is all of them.
        scale: ``"lr"`` or, as the paper's public code does, ``"gradient"``: see
            :class:`~adaloss_lightning.optim.rate_adaptive.RateAdaptive`.
        check_finite: Whether the loss is read on the host, to skip one that is not finite, where nothing on the device
            would stop the base's step.

    Note:
        With ``alpha="auto"`` the unit of the loss cancels where the rule fits the base: ``"adaloss"`` for one that is
        linear in the gradient, ``"adamloss"`` for one that normalizes it. What brings the unit back: gradients that are
        clipped, or not far above Adam's eps; coupled weight decay, but for ``scale="gradient"`` under ``"adaloss"``;
        fp16 that overflows or underflows; a loss below the floor of 1e-7.

    A parameter group may bring its own ``adaloss_b0``, ``adaloss_alpha`` and ``adaloss_c``.

    Raises:
        TypeError: If ``base`` is no ``torch.optim.Optimizer``.
        ValueError: If ``base`` cannot be adapted (LBFGS, Rprop, an adaptive one) or a setting is out of its bounds.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = LossAdaptive(torch.optim.SGD([w], lr=1.0), b0=3.0)
        >>> loss = 0.5 * (w**2).sum() + 14.0
        >>> loss.backward()
        >>> _ = optimizer.step(loss=loss)  # b becomes sqrt(9 + 16) = 5, so w moves by 2 / 5
        >>> optimizer.b[0].item(), round(w.item(), 4)
        (5.0, 1.6)
    """

    sync_loss: bool
    process_group: dist.ProcessGroup | None
    check_finite: bool

    def __init__(
        self,
        base: Optimizer,
        *,
        b0: float = 1.0,
        alpha: Alpha = 1.0,
        c: float = 0.0,
        rule: Rule = "adaloss",
        sync_loss: bool = True,
        process_group: dist.ProcessGroup | None = None,
        scale: Scale = "lr",
        check_finite: bool = True,
    ) -> None:
        require_choice("rule", rule, RULES)
        settings = {B0: b0, ALPHA: alpha, C: c, RULE: rule}
        own = {"sync_loss": sync_loss, "process_group": process_group, "check_finite": check_finite}
        super().__init__(base, LossDriven(), settings, scale=scale, **own)

    def __setstate__(self, state: Group) -> None:
        self._joins = Joins()
        super().__setstate__(state)

    def __getstate__(self) -> Group:
        if self.process_group is not None:
            raise TypeError(
                "A LossAdaptive optimizer with its own process_group cannot be copied or pickled: the group belongs to "
                "this process. Save state_dict() instead, or set optimizer.process_group = None first."
            )
        return super().__getstate__()

    def begin_sync(self) -> None:
        """Begin to average the recorded loss over the ranks; the next step waits for it.

        Called before ``backward``, the one all-reduce of a step hides behind it. Every rank has to call it.
        """
        inbox = self._inbox
        if inbox.loss is None or inbox.mean is not None or inbox.is_global:
            return
        if self._averages():
            inbox.mean = self._global_loss(inbox.loss)
        else:
            inbox.is_global = True  # so that the step need not ask again

    def record_losses(self, losses: Sequence[Scalar], reached: Sequence[bool]) -> None:
        """Leave the sum of the losses whose backward reached the parameters on any rank, and begin to average it.

        Another rank's backward may reach parameters that this rank's left out: its gradient arrives here with the
        all-reduce of the gradients. Every rank has to call this.
        """
        if not self._averages():
            super().record_losses(losses, reached)
            return
        mean = GlobalSum(losses, reached, self.param_groups[0][S].device, self.process_group)
        if any(reached) or mean.reached_any_rank():
            self.record_loss(sum(losses))
            self._inbox.mean = mean

    def _averages(self) -> bool:
        if not (self.sync_loss and spans_ranks(self.process_group)):
            return False
        self._joins.require_none(type(self).__name__)
        return True

    def _global_loss(self, loss: Scalar) -> GlobalLoss:
        return GlobalLoss(loss, self.param_groups[0][S].device, self.process_group)

    def _agreed_loss(self, loss: Scalar | None, *, recorded: bool) -> Scalar | None:
        if loss is None:
            raise RuntimeError(_NO_LOSS.format(name=type(self).__name__))
        if recorded and self._inbox.mean is not None:
            return self._inbox.mean.wait()
        if (recorded and self._inbox.is_global) or not self._averages():
            return loss
        return self._global_loss(loss).wait()

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler may leave unscaling and skipping to the base's fused kernel.

        As with torch's own, only where ``fused=True`` was asked for: gradients cannot be clipped then.
        """
        if not (self._inbox.amp_scaling and getattr(self.base, "_step_supports_amp_scaling", False)):
            return False
        withdraw_fused(self.base)
        return skips_on_device(self.base)

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, value: bool) -> None:
        self._inbox.amp_scaling = value
