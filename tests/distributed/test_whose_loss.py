"""Losses in whose gradients they are, where two ranks share them."""

import math
from typing import Any

import pytest

from tests.distributed.whose_loss import CASES
from tests.ranks import results


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results(tmp_path_factory, "tests.distributed.whose_loss", 2)


@pytest.mark.parametrize("case", CASES)
def test_each_optimizer_gets_the_losses_in_its_gradients(ranks: list[dict[str, Any]], case: str) -> None:
    zero, one = (rank[case] for rank in ranks)
    assert "error" not in zero, zero["error"]
    for index in (0, 1):
        steps = list(zip(zero["right"][index], one["right"][index], strict=True))
        assert len(steps) >= 3
        expected = math.sqrt(1 + sum(sum(shares) / 2 for shares in steps))
        # 1e-6: the notes are float32 losses added up, in another order
        assert zero["b"][index] == pytest.approx(expected, rel=1e-6)
        assert one["b"][index] == zero["b"][index]
