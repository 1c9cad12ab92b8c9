"""The oracle itself, held to numbers that were worked out by hand."""

import pytest
import torch

from tests import oracle
from tests.oracle import LossDriven, NormDriven, NormDrivenPerChannel, TimeDriven, Weights


def test_loss_driven_adaloss_by_hand() -> None:
    group = LossDriven(oracle.sgd, 1.0, 3.0, "adaloss", [Weights([2.0])])
    group.step(16.0, [[2.0]])  # b = sqrt(9 + 16) = 5
    assert (group.b, group.effective_lr, group.parameters[0].values) == (5.0, 0.2, [1.6])
    group.step(-144.0, [None])  # b = sqrt(25 + 144) = 13
    assert group.b == 13.0


def test_loss_driven_adamloss_by_hand() -> None:
    options = {"eps": 0.0, "amsgrad": True}
    group = LossDriven(oracle.adam, 1.0, 2.0, "adamloss", [Weights([2.0])], alpha=0.5, c=1.0, options=options)
    group.step(5.0, [[-5.0]])  # b = 2 + 0.5 * 4, and the first step of Adam is the sign of the gradient
    assert (group.b, group.effective_lr) == (4.0, 0.5)
    assert group.parameters[0].values == pytest.approx([2.5], rel=1e-15)


def test_momentum_and_decay_by_hand() -> None:
    group = TimeDriven(oracle.sgd, 1.0, lambda t: 2.0 * t, [Weights([1.0])], {"momentum": 0.5, "weight_decay": 0.5})
    group.step(0.0, [[1.5]])  # g = 1.5 + 0.5 = 2 and v = 2: 1 - 2 / 2
    assert group.parameters[0].values == [0.0]
    group.step(0.0, [[3.0]])  # v = 1 + 3 = 4: 0 - 4 / 4
    assert group.parameters[0].values == [-1.0]


def test_norm_driven_by_hand() -> None:
    both = NormDriven([0.0, 2.0], [1.0, 1.0], [[Weights([0.0])], [Weights([0.0])]], [{}, {}])
    both.step([[[3.0]], [[4.0]]])
    assert both.b == pytest.approx([5.0, 29**0.5], rel=1e-15)
    assert both.groups[0][0].values == pytest.approx([-0.6], rel=1e-15)
    rows = NormDrivenPerChannel([0.0], [1.0], [[Weights([0.0] * 4)]], [{}], [[2]])
    rows.step([[[3.0, 4.0, 0.0, 2.0]]])
    assert rows.groups[0][0].values == pytest.approx([-0.6, -0.8, 0.0, -1.0], rel=1e-15)
    assert rows.b == [3.5]


@pytest.mark.parametrize("update", [oracle.sgd, oracle.adam, oracle.rmsprop, oracle.adagrad])
def test_a_tensor_stands_for_its_elements(update: oracle.Update) -> None:
    values, gradients = [1.0, -2.0, 0.5], [0.3, 0.4, -5.0]
    one, each = Weights([torch.tensor(values, dtype=torch.float64)]), Weights(values)
    for _ in range(3):
        one.move(update, [torch.tensor(gradients, dtype=torch.float64)], 0.1, {})
        each.move(update, gradients, 0.1, {})
    assert one.values[0].tolist() == pytest.approx(each.values, rel=1e-14)
