"""The arithmetic of a comparison, the order of turns, and what is written."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from adaloss_lightning import AdaLoss, AdamLoss
from benchmarks.common import (
    PROBLEMS,
    Comparison,
    compare,
    markdown,
    print_table,
    step_of,
    take_turns,
    tiny,
    write_json,
)


def test_comparison_is_medians_and_quartiles_of_pairs() -> None:
    found = Comparison.of([(2.0, 1.0), (6.0, 4.0), (9.0, 3.0)])
    # of a median of three normal numbers, whose middle distance is 1; the constants are rounded
    error = pytest.approx(1.4826 * math.sqrt(math.pi / 2) / math.sqrt(3), rel=1e-4)
    assert found == Comparison(6, 3, ratio=2, ratio_low=1.75, ratio_high=2.5, added_us=2, added_error_us=error, pairs=3)


def test_take_turns_alternates_the_order() -> None:
    calls: list[str] = []
    found = take_turns(
        lambda: calls.append("ours"), lambda: calls.append("theirs"), 3, before=lambda: calls.append("-"), warm_up=1
    )
    assert found.pairs == 3
    assert calls[::2] == ["-"] * 8
    assert calls[1::2] == ["ours", "theirs", "theirs", "ours", "ours", "theirs", "theirs", "ours"]
    assert take_turns(lambda: None, lambda: None, 1000, seconds=0).pairs == 10  # when the time is up


def test_step_of_gives_the_loss_to_an_optimizer_that_takes_one() -> None:
    (w,) = tiny(1)
    w.grad = torch.ones_like(w)
    optimizer = AdaLoss([w], lr=1.0)
    step_of(optimizer, 3.0)()
    assert optimizer.b[0].item() == math.sqrt(1 + 3 + 3)
    step_of(torch.optim.SGD([w], lr=1.0))()


@pytest.mark.parametrize("share_state", [True, False])
def test_compare_uses_one_set_of_parameters(share_state: bool) -> None:
    made: list[Any] = []

    def keep(make: Any) -> Any:
        return lambda parameters: made.append(make(parameters)) or made[-1]

    parameters = tiny(2)
    before = [p.detach().clone() for p in parameters]
    compare(parameters, keep(AdamLoss), keep(torch.optim.Adam), 2, share_state=share_state, warm_up=1)
    ours, theirs = made
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    assert ours.param_groups[0]["params"] is not parameters
    assert all(p is q for p, q in zip(ours.param_groups[0]["params"], theirs.param_groups[0]["params"], strict=True))
    p = ours.param_groups[0]["params"][0]
    # one step that makes the state, and three pairs, of each
    assert [one.state[p]["step"].item() for one in made] == ([8, 8] if share_state else [4, 4])


def test_markdown_leaves_a_cell_empty_where_a_value_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"name": "a", "ratio": 1.25}, {"name": "b", "ratio": None}, {"name": "c"}]
    columns = {"what": "{name}", "ratio": "{ratio:.1f}"}
    expected = "| what | ratio |\n|---|---:|\n| a | 1.2 |\n| b |  |\n| c |  |"
    assert markdown(rows, columns) == expected
    assert print_table(iter(rows), columns) == rows
    assert capsys.readouterr().out == f"{expected}\n\n"


def test_write_json_says_where_results_are_from(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.json"
    write_json(path, "x", [{"table": "t", "n": 1}], columns={"t": {"n": "{n}"}}, ranks=2)
    content = json.loads(path.read_text())
    assert (content["name"], content["rows"]) == ("x", [{"table": "t", "n": 1}])
    assert content["columns"] == {"t": {"n": "{n}"}}
    assert {"torch", "threads", "cores", "machine", "date"} < set(content["environment"])
    assert content["environment"]["ranks"] == 2


# (tensors, numbers), as the page says
SIZES = {
    "ViT-S/16": (152, 21_704_164),
    "ResNet-50": (161, 25_557_032),
    "LSTM": (11, 3_481_857),
    "2,000 tensors of 4": (2000, 8000),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_problems_have_the_size_on_the_page(name: str) -> None:
    with torch.device("meta"):
        parameters = PROBLEMS[name]()
    assert (len(parameters), sum(p.numel() for p in parameters)) == SIZES[name]
