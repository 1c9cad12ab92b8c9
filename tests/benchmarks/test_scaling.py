"""The growth of cost at toy sizes: every row is there and says what it measured. No time is judged."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import scaling
from benchmarks.common import cell, tiny
from benchmarks.device_time import PAIRS
from benchmarks.ranks import all_reduce_us, modelled, on_ranks

TIMES = ("ours_us", "theirs_us", "ratio", "ratio_low", "ratio_high", "added_us")


def sizes(optimizer: Any) -> list[int]:
    return [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]


def test_parameters_tensors_and_groups_are_what_the_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def look(pair: Any, parameters: Any, seconds: float) -> Any:
        optimizer = pair.make(parameters)
        assert all(p.grad is not None for group in optimizer.param_groups for p in group["params"])
        seen.append([len(optimizer.param_groups[0]["params"]), *sizes(optimizer)])
        return SimpleNamespace(row=lambda **what: what)

    monkeypatch.setattr(scaling, "side_by_side", look)
    rows = [*scaling.parameters([100, 1000], 0), *scaling.tensors([1, 10], 100, 0), *scaling.groups([1, 2, 4], 0)]
    assert [row["count"] for row in rows] == [100, 100, 1000, 1000, 1, 1, 10, 10, 1, 1, 2, 2, 4, 4]
    assert [row["ours"] for row in rows] == ["AdaLoss", "AdamLoss"] * 7
    assert seen[::2] == seen[1::2]
    assert seen[::2] == [[10, 100], [10, 1000], [1, 100], [10, 100], [4, 16], [2, 8, 8], [1, 4, 4, 4, 4]]


def test_what_the_memory_does_not_hold_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # 100,000 parameters need 0.8 MB with their gradients, and 1.6 MB with Adam's moments; 60 % of 2 MB are 1.2 MB
    monkeypatch.setattr(scaling.psutil, "virtual_memory", lambda: SimpleNamespace(available=2_000_000))
    sgd, adam = scaling.parameters([100_000], 0)
    assert "left_out" not in sgd
    assert adam["left_out"].startswith("needs ")
    assert not any(key in adam for key in TIMES)
    assert cell(scaling.TABLES["parameters"]["ratio"], adam) == ""


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.ours)
def test_both_sides_share_parameters_and_state(pair: Any) -> None:
    made: list[Any] = []

    def keep(make: Any) -> Any:
        return lambda parameters: made.append(make(parameters)) or made[-1]

    kept = pair._replace(make=keep(pair.make), make_theirs=keep(pair.make_theirs))
    compared = scaling.side_by_side(kept, scaling.with_gradients(tiny(2, 3)), seconds=0, pairs=10)
    one, other = made
    assert one.state is other.state
    assert all(a is b for a, b in zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True))
    assert compared.pairs == 10
    if pair.passes == 7:  # one step of each to make the state, then two pairs to warm up and ten that count
        assert {int(state["step"]) for state in one.state.values()} == {1 + 1 + 2 * (2 + 10)}


def test_nothing_grows_with_steps() -> None:
    for row in scaling.steps(300, seconds=0):
        assert row["bytes"] == 0
        assert row["objects"] < 30  # fewer than a tenth of one for each step
        assert all(row[key] is not None for key in TIMES)


def test_the_model_on_numbers_that_follow_it() -> None:
    rows = modelled({1: 10.0, 2: 15.0, 4: 20.0}, [8, 9, 1024])
    assert [row["count"] for row in rows] == [1, 2, 4, 8, 9, 1024]
    assert [row["model_us"] for row in rows] == pytest.approx([10, 15, 20, 25, 30, 60])
    assert [row["measured_us"] for row in rows] == [10.0, 15.0, 20.0, None, None, None]


@pytest.mark.process
def test_the_all_reduce_is_measured() -> None:
    assert on_ranks(all_reduce_us, 2, 3) > 0


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy sizes and no processes."""
    monkeypatch.setattr(scaling, "ranks", lambda counts, more, repeats: modelled({1: 1.0, 2: 2.0, 4: 3.0}, more))
    for name, small in (("tensors", ([1, 10], 100)), ("groups", ([1, 10],)), ("steps", (20,))):
        real = getattr(scaling, name)
        monkeypatch.setattr(scaling, name, lambda *given, real=real, small=small: real(*small, given[-1]))
    path = tmp_path / "scaling.json"
    scaling.main(["--seconds", "0", "--most", "1e5", "--json", str(path)])
    content = json.loads(path.read_text())
    tables = [row["table"] for row in content["rows"]]
    assert {name: tables.count(name) for name in scaling.TABLES} == {
        "parameters": 2, "tensors": 4, "groups": 4, "steps": 2, "ranks": 11,
    }  # fmt: skip
    assert content["environment"]["model"] == scaling.MODEL
    printed = capsys.readouterr().out
    assert "Assumptions" in printed
    assert "| 1,024 |  | 11 |" in printed
