"""The page of the docs, from numbers that are made up."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.common import write_json
from benchmarks.page import PAGE, TEMPLATE, load, main, page, targets


def step(ours: str, beside: str, problem: str, ratio: float) -> dict[str, Any]:
    return {"table": "step", "problem": problem, "ours": ours, "beside": beside, "ratio": ratio, "added_us": 1.0}


ROWS = [
    step("AdaLoss", "SGD(fused)", "ViT-S/16", 1.01),
    step("AdaLoss", "SGD(fused)", "LSTM", 1.5),
    step("AdaLoss", "SGD", "LSTM", 9.0),
    {"table": "python", "problem": "warm", "added_us": 20.0},
]
COLUMNS = {"step": {"problem": "{problem}", "ours": "{ours}", "ratio": "{ratio:.2f}"}}


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    write_json(tmp_path / "step_time.json", "step_time", ROWS, columns=COLUMNS, lightning="2.6")
    (tmp_path / "bare.json").write_text(json.dumps([{"points": 25, "ratio": 5.25}, {"ratio": None, "why": "b"}]))
    return load(tmp_path)


BARE = "| points | ratio | why |\n|---:|---:|---|\n| 25 | 5.25 |  |\n|  |  | b |"


@pytest.mark.parametrize(("template", "text"), [
    ("a\n\n{{table step_time step: LSTM}}\n\nb",
     r"a\n\n\| ours \| ratio \|\n\|---\|---:\|\n\| AdaLoss \| 1.50 \|\n\| AdaLoss \| 9.00 \|\n\nb"),
    ("{{table step_time}}", r"(?s)\*\*step\*\*\n\n\| problem \| ours \| ratio \|\n.*"
     r"\*\*python\*\*\n\n\| problem \| added_us \|\n\|---\|---:\|\n\| warm \| 20 \|"),
    ("{{table bare}}", re.escape(BARE)),
    ("{{environment step_time}}", r"Measured on \d{4}-\d\d-\d\d: .*torch 2.*threads \d+.*lightning 2\.6\."),
    ("{{environment scaling}}\n\n{{table scaling}}", r"\s*Not measured yet: `python -m benchmarks.scaling`\."),
])  # fmt: skip
def test_page_fills_in_what_was_measured(results: dict[str, Any], template: str, text: str) -> None:
    assert re.fullmatch(text, page(template, results))


def test_page_makes_a_paragraph_of_a_note(tmp_path: Path) -> None:
    write_json(tmp_path / "scaling.json", "scaling", [], model="t(n) = a. It is linear.")
    text = page("{{environment scaling}}", load(tmp_path))
    assert text.startswith("Measured on ")
    assert text.endswith(".\n\nt(n) = a. It is linear.")


def test_targets_count_the_rows_that_meet_them_and_show_the_worst(results: dict[str, Any]) -> None:
    lines = targets(results).splitlines()
    assert lines[2] == "| AdaLoss over SGD(fused), ratio | at most 1.02 | 1 of 2 | 1.5 | LSTM |"
    assert lines[3].endswith("| at most 1.02 | not measured |  |  |")
    assert lines[4].endswith("| at most 40 | 1 of 1 | 20 | warm |")


def test_page_knows_every_placeholder_of_the_template() -> None:
    assert "{{" not in page(TEMPLATE.read_text(), {})


def test_docs_are_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "benchmarks.md"
    monkeypatch.setattr(sys, "argv", ["page", "--out", str(out)])
    main()
    assert out.read_text() == PAGE.read_text(), "python -m benchmarks.page writes docs/benchmarks.md again"
