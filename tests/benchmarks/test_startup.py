"""The programs that are timed run, and a table comes out."""

import json
from pathlib import Path

import pytest

from benchmarks import startup


def test_programs_run() -> None:
    startup.run(startup.CONSOLE)
    startup.run(list(startup.PAIRS.values())[-1][0])  # the callback's run, which imports all that the others do


def test_table_compares_each_pair(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = []
    monkeypatch.setattr(startup, "run", run.append)
    monkeypatch.setattr("sys.argv", ["startup", "--pairs=2", f"--json={tmp_path / 'startup.json'}"])
    startup.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(startup.PAIRS) + 1  # head, rule, and an empty line at the end
    # one pair to warm up and two that count, in an order that alternates
    assert run[:6] == ["import adaloss_lightning", "pass", "pass", "import adaloss_lightning", *run[:2]]
    assert [row["name"] for row in json.loads((tmp_path / "startup.json").read_text())["rows"]] == list(startup.PAIRS)
