"""Method: how an adaptive optimizer moves the accumulator s, and what it divides eta by."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from adaloss_lightning.optim import recurrence
from adaloss_lightning.optim.engine.groups import Vectors
from adaloss_lightning.optim.engine.loss import as_scalar, as_scalar_or_none
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group
from adaloss_lightning.optim.recurrence import Rule, Scalar
from adaloss_lightning.optim.validation import require_b0

B0 = PREFIX + "b0"


class Method:
    r"""The equations of one adaptive method, for :class:`~adaloss_lightning.optim.rate_adaptive.RateAdaptive` to run.

    Each parameter group owns an accumulator s. A step asks for one :meth:`signal`, moves s of each group by
    :meth:`advance`, and runs the base at :math:`\eta / \text{divisor}(s)`. Groups may come merged into one, with
    vectors for s and for those settings that differ; so ``advance`` and ``divisor`` take floats and tensors alike.
    """

    needs_loss = False  # a step without a loss is refused
    may_fail = True  # the signal may be not finite, and then the step is skipped
    evolving: tuple[str, ...] = ()  # keys beside s that change with the steps
    waits = False  # whether `settle` has anything to do in the next step

    def settings(self, groups: Sequence[Group]) -> tuple[str, ...] | None:
        """The keys that `advance` and `divisor` read; None: groups cannot be merged."""
        return ()

    def rule(self, group: Group) -> Rule:
        """What b0 starts: s at b0 squared, or at b0."""
        return "adaloss"

    def validate(self, group: Group) -> None:
        """Raise ``ValueError`` for a setting that is out of its bounds."""
        require_b0(group[B0], self.rule(group))

    def start(self, group: Group) -> float:
        """The accumulator before the first step."""
        return recurrence.start(group[B0], self.rule(group))

    def loss(self, given: object) -> Scalar | None:
        """The loss that a step was given, or that its closure returned, as a number."""
        return as_scalar(given) if self.needs_loss and given is not None else as_scalar_or_none(given)

    def signal(self, loss: Scalar | None, groups: Sequence[Group]) -> Scalar:
        """What drives this step's accumulators; the same for all groups."""
        raise NotImplementedError

    def advance(self, group: Group, s: Scalar, signal: Scalar) -> Scalar:
        """The new accumulator."""
        return s + signal

    def divisor(self, group: Group, s: Scalar) -> Scalar:
        """What eta is divided by."""
        return recurrence.divisor(s)

    def b(self, group: Group, s: Scalar) -> Scalar:
        """The paper's b."""
        return recurrence.b(s, self.rule(group))

    # -- for a method that keeps more than s ---------------------------------------------------------------------------

    def adopt(self, group: Group, s: Tensor, groups: Sequence[Group]) -> None:
        """Give a group what it lacks of :attr:`evolving`, on the device of its parameters.

        Args:
            group: One of ``groups``.
            s: Its accumulator.
            groups: All of the optimizer.
        """

    def settle(self, groups: Sequence[Group], signal: float) -> None:
        """Take from the signal of a step that will go through what is known only then."""

    def settle_on_device(
        self, groups: Sequence[Group], vectors: Vectors, signal: Scalar, found_inf: Tensor | None
    ) -> None:
        """The same without a look at any value: nothing is taken where the step will be skipped."""

    def gradients(self, groups: Sequence[Group]) -> Iterable[tuple[Tensor, Tensor]] | None:
        """Parameters and their divided gradients; None for a method that divides eta."""
        return None

    def keep(self, groups: Sequence[Group]) -> None:
        """Keep what the step that has just gone through makes of :attr:`evolving`."""
