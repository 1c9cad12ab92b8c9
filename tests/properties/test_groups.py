"""LossAdaptive around torch's optimizers with up to forty groups, whatever happens between the steps.

A state machine trains, adds groups, changes settings, saves, loads, copies, schedules and meets losses that are not
finite, in random order. After each of these, b, the rates and the weights of every group are those of a loop in Python
floats that takes the groups one by one.
"""

import copy
import io
import math
from typing import Any, cast

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor
from torch.nn import Parameter

from adaloss_lightning import LossAdaptive
from tests import oracle
from tests.oracle import LossDriven, Update, Weights

from ..optim.methods import equal
from .strategies import LOSSES, check_parameters, numbers, on_device_path, values

BASES: dict[str, tuple[type[torch.optim.Optimizer], Update, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, oracle.sgd, {"momentum": 0.9, "dampening": 0.25, "weight_decay": 0.125}),
    "SGD nesterov": (torch.optim.SGD, oracle.sgd, {"momentum": 0.9, "nesterov": True}),
    "SGD fused": (torch.optim.SGD, oracle.sgd, {"weight_decay": 0.125, "fused": True}),
    "Adam": (torch.optim.Adam, oracle.adam, {"amsgrad": True, "weight_decay": 0.125}),
    "AdamW": (torch.optim.AdamW, oracle.adamw, {"weight_decay": 0.125}),
    "AdamW fused": (torch.optim.AdamW, oracle.adamw, {"betas": (0.5, 0.75), "fused": True}),
    "RMSprop": (torch.optim.RMSprop, oracle.rmsprop, {"alpha": 0.9, "momentum": 0.5}),
    "RMSprop centered": (torch.optim.RMSprop, oracle.rmsprop, {"alpha": 0.5, "centered": True, "eps": 1e-2}),
    "Adagrad": (torch.optim.Adagrad, oracle.adagrad, {"lr_decay": 0.1, "initial_accumulator_value": 0.5}),
}
RULES = ("adaloss", "adamloss")
WAYS = ("step", "record", "closure", "float32", "shape [1]")

# one group of each setting: forty of them are drawn as forty indices
KINDS: list[dict[str, Any]] = [
    {"lr": lr, "adaloss_b0": b0, "adaloss_alpha": alpha, "adaloss_c": c}
    for lr in (0.5, 0.03)
    for b0 in (0.01, 1.0, 40.0)
    for alpha in (0.0, 0.3, 2.0)
    for c in (0.0, 1.7)
]
LRS = st.sampled_from([0.0, 0.01, 0.3])


def snapshot(machine: "Groups") -> Any:
    """All that a step may change, copied."""
    saved = machine.optimizer.state_dict()
    return copy.deepcopy(([p.detach() for group in machine.parameters for p in group], saved["param_groups"],
                          saved["state"]))  # fmt: skip


class Groups(RuleBasedStateMachine):
    on_device = False

    @initialize(
        base=st.sampled_from(sorted(BASES)),
        rule=st.sampled_from(["adaloss", "adamloss", "one and the other"]),
        scale=st.sampled_from(["lr", "lr", "gradient"]),
        kinds=st.one_of(st.integers(1, 4), st.integers(5, 40), st.integers(16, 40)).flatmap(
            lambda n: st.lists(st.integers(0, len(KINDS) - 1), min_size=n, max_size=n)
        ),
        lrs=st.sampled_from(["floats", "floats", "tensors", "both"]),
    )
    def build(self, base: str, rule: str, scale: str, kinds: list[int], lrs: str) -> None:
        self.base, self.rule, self.scale = base, rule, scale
        self.steps = 0
        self.scheduler: Any = None
        self.expected: list[LossDriven] = []
        groups = []
        for kind in kinds:
            group = self.new_group(self.settings_of(kind))
            if lrs == "tensors" or (lrs == "both" and kind % 2):
                group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
            groups.append(group)
        self.parameters = [group["params"] for group in groups]
        self.optimizer = self.wrap(groups)

    def wrap(self, groups: list[dict[str, Any]]) -> LossAdaptive:
        make, _, options = BASES[self.base]
        base = cast(Any, make)(groups, lr=7.0, foreach=None if "fused" in self.base else False, **options)
        return self.sent(LossAdaptive(base, b0=7.0, alpha=7.0, c=7.0, scale=cast(Any, self.scale)))

    def sent(self, optimizer: LossAdaptive) -> LossAdaptive:
        return cast(LossAdaptive, on_device_path(optimizer)) if self.on_device else optimizer

    def new_group(self, own: dict[str, Any]) -> dict[str, Any]:
        """A group with these settings, and its loop."""
        index = len(self.expected)
        shapes = [(1 + index % 3,), ()][: 1 + index % 2]
        params = [Parameter(values(2 * index + i, shape, torch.float64)) for i, shape in enumerate(shapes)]
        _, update, options = BASES[self.base]
        options = {key: value for key, value in options.items() if key != "fused"}
        weights = [Weights(numbers(p)) for p in params]
        start = (own["lr"], own["adaloss_b0"], own["adaloss_rule"], weights, own["adaloss_alpha"], own["adaloss_c"])
        self.expected.append(LossDriven(update, *start, self.scale, options))
        return {**own, "params": params}

    def settings_of(self, kind: int) -> dict[str, Any]:
        return {**KINDS[kind], "adaloss_rule": self.rule if self.rule in RULES else RULES[kind % 2]}

    def give_gradients(self) -> list[list[list[float] | None]]:
        """New gradients, none for about one parameter in seven, none twice for the same."""
        self.steps += 1
        for i, group in enumerate(self.parameters):
            for j, p in enumerate(group):
                missing = (3 * i + j + self.steps) % 7 == 0
                p.grad = None if missing else values(1000 * self.steps + 2 * i + j, tuple(p.shape), torch.float64)
        return [[None if p.grad is None else numbers(p.grad) for p in group] for group in self.parameters]

    def feed(self, loss: float, way: str) -> None:
        if way == "record":
            self.optimizer.record_loss(123.0)
            self.optimizer.record_loss(loss)
            self.optimizer.step()
        elif way == "closure":
            self.optimizer.step(lambda: torch.tensor(loss, dtype=torch.float64))
        elif way == "float32":
            self.optimizer.step(loss=torch.tensor(loss))
        elif way == "shape [1]":
            self.optimizer.step(loss=torch.tensor([loss], dtype=torch.float64, requires_grad=True))
        else:
            self.optimizer.step(loss=loss)

    # -- what may happen -----------------------------------------------------------------------------------------------

    @rule(loss=LOSSES, way=st.sampled_from(WAYS))
    def step(self, loss: float, way: str) -> None:
        gradients = self.give_gradients()
        lent = [group["lr"] for group in self.optimizer.param_groups]
        self.feed(loss, way)
        assert all(group["lr"] is own for group, own in zip(self.optimizer.param_groups, lent, strict=True))
        seen = torch.tensor(loss).item() if way == "float32" else loss
        for group, given in zip(self.expected, gradients, strict=True):
            group.step(seen, given)
        if self.scheduler is not None:
            self.scheduler.step()
            for group in self.expected:
                group.eta *= self.scheduler.gamma

    @rule(loss=st.sampled_from([math.nan, math.inf, -math.inf]), way=st.sampled_from(WAYS))
    def step_with_a_loss_that_is_not_finite(self, loss: float, way: str) -> None:
        self.give_gradients()
        if self.on_device:
            self.step_that_is_stopped_on_the_device(loss, way)
            return
        before = snapshot(self)
        self.feed(loss, way)
        assert equal(snapshot(self), before)

    def step_that_is_stopped_on_the_device(self, loss: float, way: str) -> None:
        """The kernel makes its state and leaves it at zero, and what it would have stepped with is kept as a rate."""
        self.optimizer.check_finite = True  # a base that no kernel stops reads the loss
        self.feed(loss, way)
        self.optimizer.check_finite = False
        for group, expected in zip(self.optimizer.param_groups, self.expected, strict=True):
            if group["adaloss_effective_lr"] is not None and math.isnan(expected.effective_lr):
                expected.effective_lr = expected.eta / expected.divisor

    @rule()
    def step_without_a_loss(self) -> None:
        self.give_gradients()
        before = snapshot(self)
        # before any state a rate of zero says that this step is there to make the state
        if self.optimizer.state or any(group.eta for group in self.expected):
            with pytest.raises(RuntimeError, match="has no loss"):
                self.optimizer.step()
            assert equal(snapshot(self), before)

    @precondition(lambda self: len(self.expected) < 40)
    @rule(kind=st.integers(0, len(KINDS) - 1), how=st.sampled_from(["new", "a copy", "behind our back"]))
    def add_a_group(self, kind: int, how: str) -> None:
        own = self.settings_of(kind)
        if how == "a copy":  # of a group that has trained: its settings go along, its s does not
            first = self.optimizer.param_groups[0]
            own = {**first, "lr": float(first["lr"])}
        group = self.new_group(own)
        self.scheduler = None  # torch's schedulers take no new groups
        owner: Any = self.optimizer.base if how == "behind our back" else self.optimizer
        owner.add_param_group(dict(group))
        self.parameters.append(group["params"])

    @rule(
        which=st.integers(0, 39), alpha=st.sampled_from([0.0, 0.7]), c=st.sampled_from([0.0, -2.5]), lr=LRS, loss=LOSSES
    )
    def change_settings_between_steps(self, which: int, alpha: float, c: float, lr: float, loss: float) -> None:
        self.step(loss, "step")
        which %= len(self.expected)
        group, expected = self.optimizer.param_groups[which], self.expected[which]
        group["adaloss_alpha"], group["adaloss_c"], group["lr"] = alpha, c, lr
        expected.alpha, expected.c, expected.eta = alpha, c, lr
        self.step(loss, "step")

    @rule(factor=st.sampled_from([0.5, 3.0]))
    def change_a_tensor_lr_in_place(self, factor: float) -> None:
        for group, expected in zip(self.optimizer.param_groups, self.expected, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].mul_(factor)
                expected.eta *= factor

    @rule(gamma=st.sampled_from([0.5, 0.9]))
    def schedule(self, gamma: float) -> None:
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, gamma)
        self.optimizer._opt_called = True  # else torch warns of a scheduler's step before any of the optimizer's

    @rule(through_a_file=st.booleans())
    def save_and_load(self, through_a_file: bool) -> None:
        before = snapshot(self)
        saved = self.optimizer.state_dict()
        if through_a_file:
            buffer = io.BytesIO()
            torch.save(saved, buffer)
            buffer.seek(0)
            saved = torch.load(buffer, weights_only=True)
        self.parameters = [[Parameter(p.detach().clone()) for p in group] for group in self.parameters]
        self.optimizer, self.scheduler = self.wrap([{"params": group} for group in self.parameters]), None
        self.optimizer.load_state_dict(saved)
        assert equal(snapshot(self), before)

    @rule(loss=LOSSES)
    def go_on_and_come_back(self, loss: float) -> None:
        """What was saved does not move with a step, and loaded into the same optimizer undoes it."""
        before = snapshot(self)
        saved = self.optimizer.state_dict()
        saved["state"] = copy.deepcopy(saved["state"])  # live tensors, as torch's own are
        self.give_gradients()
        self.feed(loss, "step")
        with torch.no_grad():
            for p, value in zip((p for group in self.parameters for p in group), before[0], strict=True):
                p.copy_(value)
        self.optimizer.load_state_dict(saved)
        assert equal(snapshot(self), before)

    @rule(loss=LOSSES)
    def copy_and_train_the_copy(self, loss: float) -> None:
        """The copy goes on; steps of the original no longer matter, nor its pending loss."""
        original, parameters = self.optimizer, self.parameters
        before = snapshot(self)
        self.parameters, self.optimizer, self.scheduler = (*copy.deepcopy((parameters, original)), None)
        self.sent(self.optimizer)
        assert equal(snapshot(self), before)
        for group in parameters:
            for p in group:
                p.grad = torch.ones_like(p)
        original.step(loss=loss)
        assert equal(snapshot(self), before)

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def the_numbers_are_those_of_the_loop(self) -> None:
        check_parameters(self.parameters, [group.parameters for group in self.expected])
        b, rates = self.optimizer.b, self.optimizer.effective_lr
        assert len(b) == len(rates) == len(self.optimizer.param_groups) == len(self.expected)
        for mine, rate, group, expected in zip(b, rates, self.optimizer.param_groups, self.expected, strict=True):
            assert mine.dtype == torch.float64
            assert mine.shape == rate.shape == ()
            assert mine.item() == pytest.approx(expected.b, rel=1e-13)  # a root and a square more on one side a step
            wanted = expected.effective_lr
            if math.isnan(wanted):  # before its first step
                wanted = expected.eta / expected.divisor
            assert rate.item() == pytest.approx(wanted, rel=1e-13)
            assert float(group["lr"]) == pytest.approx(expected.eta, rel=1e-15)

    @invariant()
    def nothing_is_shared_between_groups(self) -> None:
        assert len(self.optimizer.b) == len(self.expected)  # which adopts a group that was added behind our back
        own = [group["adaloss_s"] for group in self.optimizer.param_groups]
        assert all(s.shape == () and s.dtype == torch.float64 for s in own)
        before = [s.item() for s in own]
        own[0].add_(1.0)  # whatever the groups are kept in, writing into one of them is writing into that one alone
        changed = [s.item() for s in own]
        own[0].copy_(torch.tensor(before[0], dtype=torch.float64))
        assert changed == [before[0] + 1.0, *before[1:]]


class GroupsOnDevice(Groups):
    """The same through the path for accelerators, which never looks at a value."""

    on_device = True


TestGroups = Groups.TestCase
TestGroups.settings = settings(max_examples=30, stateful_step_count=14)
TestGroupsOnDevice = GroupsOnDevice.TestCase
TestGroupsOnDevice.settings = settings(max_examples=20, stateful_step_count=14)
