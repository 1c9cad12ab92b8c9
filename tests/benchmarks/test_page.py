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


def test_a_table_of_one_problem_does_not_name_it(results: dict[str, Any]) -> None:
    text = page("a\n\n{{table step_time step: LSTM}}\n\nb", results)
    assert text == "a\n\n| ours | ratio |\n|---|---:|\n| AdaLoss | 1.50 |\n| AdaLoss | 9.00 |\n\nb"


def test_all_tables_of_a_benchmark_have_their_names(results: dict[str, Any]) -> None:
    text = page("{{table step_time}}", results)
    assert text.startswith("**step**\n\n| problem | ours | ratio |\n")
    assert text.endswith("**python**\n\n| problem | added_us |\n|---|---:|\n| warm | 20 |")


def test_bare_rows_are_a_table_of_all_they_hold(results: dict[str, Any]) -> None:
    assert page("{{table bare}}", results) == "| points | ratio | why |\n|---:|---:|---|\n| 25 | 5.25 |  |\n|  |  | b |"


def test_the_environment_is_a_sentence(results: dict[str, Any]) -> None:
    text = page("{{environment step_time}}", results)
    assert re.fullmatch(r"Measured on \d{4}-\d\d-\d\d: .*torch 2.*threads \d+.*lightning 2\.6\.", text)


def test_a_note_is_a_paragraph(tmp_path: Path) -> None:
    write_json(tmp_path / "scaling.json", "scaling", [], model="t(n) = a. It is linear.")
    text = page("{{environment scaling}}", load(tmp_path))
    assert text.startswith("Measured on ")
    assert text.endswith(".\n\nt(n) = a. It is linear.")


def test_what_is_not_measured_says_how(results: dict[str, Any]) -> None:
    text = page("{{environment scaling}}\n\n{{table scaling}}", results)
    assert text.strip() == "Not measured yet: `python -m benchmarks.scaling`."


def test_targets_count_the_rows_that_meet_them_and_show_the_worst(results: dict[str, Any]) -> None:
    lines = targets(results).splitlines()
    assert lines[2] == "| AdaLoss over SGD(fused), ratio | at most 1.02 | 1 of 2 | 1.5 | LSTM |"
    assert lines[3].endswith("| at most 1.02 | not measured |  |  |")
    assert lines[4].endswith("| at most 40 | 1 of 1 | 20 | warm |")


def test_every_placeholder_of_the_template_is_known() -> None:
    assert "{{" not in page(TEMPLATE.read_text(), {})


def test_the_docs_are_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "benchmarks.md"
    monkeypatch.setattr(sys, "argv", ["page", "--out", str(out)])
    main()
    assert out.read_text() == PAGE.read_text(), "python -m benchmarks.page writes docs/benchmarks.md anew"
