"""Numbers of a report, written as JSON and read again."""

import math
from dataclasses import dataclass

import pytest
import torch

from recipes.linear_regression.studies import Proposition, Windows
from recipes.shared import numbers


def test_value_comes_back_with_nine_digits() -> None:
    inner = Windows(torch.tensor([[1 / 3, math.inf]], dtype=torch.float64), torch.zeros(0, 2), torch.tensor(2.0))
    value = {("adaloss", 0.1): [Proposition(torch.tensor([1.0]), torch.tensor([2.0]), {"adaloss": inner})], "n": None}
    found = numbers.loads(numbers.dumps(value))
    assert list(found) == [("adaloss", 0.1), "n"]
    assert found["n"] is None
    (one,) = found["adaloss", 0.1]
    windows = one.windows["adaloss"]
    assert windows.loss.tolist() == [[0.333333333, math.inf]]
    assert windows.last_b.item() == 2.0
    assert windows.loss.dtype == torch.float64


@dataclass
class Elsewhere:
    """Of no recipe."""

    x: int = 1


def test_class_of_no_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Invalid class 'tests\.recipes\.test_numbers:Elsewhere'"):
        numbers.loads(numbers.dumps(Elsewhere()))
