"""AdaLoss and AdamLoss on torch's fused kernels, against a loop in Python floats: any shape, layout, dtype, setting."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaloss_lightning import AdaLoss, AdamLoss
from tests import oracle
from tests.oracle import LossDriven, Update, Weights

from .strategies import ADAM_GROUPS, SGD_GROUPS, Training, check_parameters, numbers, trainings

RULES: dict[str, tuple[Any, Update]] = {"adaloss": (AdaLoss, oracle.sgd), "adamloss": (AdamLoss, oracle.adam)}
SCALES = st.sampled_from(["lr", "lr", "gradient"])
OURS = ("lr", "adaloss_b0", "adaloss_alpha", "adaloss_c")


def references(training: Training, rule: str, scale: str) -> list[LossDriven]:
    groups = []
    for leaves, own in zip(training.groups, training.settings, strict=True):
        weights = [Weights(numbers(leaf.parameter())) for leaf in leaves]
        options = {key: value for key, value in own.items() if key not in OURS}
        start = (float(own["lr"]), own["adaloss_b0"], rule, weights, own["adaloss_alpha"], own["adaloss_c"])
        groups.append(LossDriven(RULES[rule][1], *start, scale, options))
    return groups


def check(training: Training, rule: str, scale: str, fused: bool | None) -> None:
    parameters, expected = training.parameters(), references(training, rule, scale)
    optimizer: Any = RULES[rule][0](training.param_groups(parameters), scale=scale, fused=fused)
    least = 1e-6 if scale == "gradient" and training.has_float32_rates else 0.0
    for step, loss in enumerate(training.losses):
        gradients = training.give_gradients(parameters, step)
        optimizer.step(loss=torch.tensor(loss, dtype=torch.float64))
        for group, given_gradients in zip(expected, gradients, strict=True):
            group.step(loss, given_gradients)
        check_parameters(parameters, [group.parameters for group in expected], least)
        # float64 on both sides, at most five steps
        assert [b.item() for b in optimizer.b] == pytest.approx([group.b for group in expected], rel=1e-14)
        rates = [rate.item() for rate in optimizer.effective_lr]
        assert rates == pytest.approx([group.effective_lr for group in expected], rel=1e-14)
    for group, own in zip(optimizer.param_groups, training.settings, strict=True):
        assert group["lr"] is own["lr"]
    # with dampening a first buffer that comes late is not what the kernel makes of it
    if training.is_plain and not any(own.get("dampening") for own in training.settings):
        assert all(group["fused"] for group in optimizer.param_groups), "the kernel was not kept where it is right"


@settings(max_examples=150)
@given(trainings(SGD_GROUPS), SCALES, st.sampled_from([None, True]))
def test_adaloss(training: Training, scale: str, fused: bool | None) -> None:
    check(training, "adaloss", scale, fused)


@settings(max_examples=80)
@given(trainings(ADAM_GROUPS), SCALES, st.sampled_from([None, True]))
def test_adamloss(training: Training, scale: str, fused: bool | None) -> None:
    check(training, "adamloss", scale, fused)


@settings(max_examples=60)
@given(
    st.one_of(
        st.tuples(st.just(AdaLoss), trainings(SGD_GROUPS, (torch.float64, torch.float32))),
        st.tuples(st.just(AdamLoss), trainings(ADAM_GROUPS, (torch.float64, torch.float32))),
    ),
    st.lists(st.booleans(), min_size=5, max_size=5),
)
def test_amp(case: tuple[Any, Training], overflows: list[bool]) -> None:
    """What ``GradScaler`` hands over: scaled gradients are the unscaled ones, and an overflow is no step at all."""
    method, training = case
    parameters, others = training.parameters(), training.parameters()
    scaled, plain = (method(training.param_groups(p)) for p in (parameters, others))
    for step, (loss, overflow) in enumerate(zip(training.losses, overflows, strict=False)):
        training.give_gradients(parameters, step)
        if scaled._step_supports_amp_scaling:  # else GradScaler unscales, and leaves out the step
            training.give_gradients(parameters, step, factor=8.0)
            scaled.grad_scale, scaled.found_inf = torch.tensor(8.0), torch.tensor(float(overflow))
            scaled.step(loss=loss)
            del scaled.grad_scale, scaled.found_inf
        elif not overflow:
            scaled.step(loss=loss)
        if not overflow:
            training.give_gradients(others, step)
            plain.step(loss=loss)
        assert [b.item() for b in scaled.b] == [b.item() for b in plain.b]
        for group, other in zip(parameters, others, strict=True):
            assert all(torch.equal(p, q) for p, q in zip(group, other, strict=True))
