"""Writes ``docs/support_matrix.md`` from the tests that prove it: ``python -m tests.support.make_page [--check]``."""

import contextlib
import io
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cells import SECTIONS, Cell
from tests.support.elsewhere import ELSEWHERE

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "support_matrix.md"
HEAD = """# What works with what

Each line is a test and each combination in it a cell, with a test id of its own: change the code so that a line is no
longer true, and that test fails. "Compared with" says what the result was held against. This page is written by
`python -m tests.support.make_page` from the tests themselves.

**works**: right to within rounding · **limit**: works in part, or in another way than one might think, as the line
says · **refused**: a clear error before anything is trained
"""
FOOT = """
## What these tests could not run

- Lightning's `fsdp` strategy (FSDP1) wants a GPU ("requires a GPU accelerator") and is untested here. DeepSpeed wants
  one too: it is refused by the property by which Lightning itself knows such engines, and that is tested.
- NCCL: the strategies above ran on gloo. The all-reduce is one call of `torch.distributed.all_reduce` on either.
- Accelerate makes no `GradScaler` on a CPU; `torch.amp.GradScaler` itself is covered.

## What rounding means

s is kept in float64, and a loss enters it as it went backward. Lightning divides that by the size of the accumulation
window in the loss's own dtype, so where the size is no power of two one rounding of that dtype is lost: 6e-8 of the
loss in float32, and 0.4% where `training_step` returns a bfloat16 loss, as it may under `bf16-true`.
"""


class Collector:
    """A pytest plugin that keeps the collected items."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.items = list(session.items)


def collected() -> dict[str, list[Any]]:
    """The items of each test function, by its node id without parameters, in the order of the files."""
    collector = Collector()
    paths = sorted({"tests/support", *(node.split("::")[0] for node in ELSEWHERE)})
    arguments = ["--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(ROOT)]
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(io.StringIO()) as output:
        code = pytest.main([*arguments, *paths], plugins=[collector])
    if code != pytest.ExitCode.OK:
        raise RuntimeError(output.getvalue())
    tests: dict[str, list[Any]] = {}
    for item in collector.items:
        tests.setdefault(item.nodeid.split("[")[0], []).append(item)
    return tests


def combinations(items: list[Any]) -> str:
    """How many cells, and which: each axis with its values where the ids are a full table of them, else the ids."""
    if not hasattr(items[0], "callspec"):
        return ""
    count = f"{len(items)} cell{'s' if len(items) > 1 else ''}"
    ids = [item.callspec.id for item in items]
    if any("<" in text for text in ids):  # of lambdas, which pytest can only number
        return count
    axes = [dict.fromkeys(parts) for parts in zip(*(item.callspec._idlist for item in items), strict=True)]
    names = [name.replace("_", " ") for name in items[0].callspec.params]
    if len(axes) < 2 or len(axes) != len(names) or math.prod(map(len, axes)) != len(ids):
        return f"{count}: {', '.join(map(code_of, ids))}"
    table = (f"{name} {', '.join(map(code_of, axis))}" for name, axis in zip(names, axes, strict=True))
    return f"{count}: {'; '.join(table)}"


def code_of(text: str) -> str:
    return f"`{text}`" if text else "plain"


def lines(section: str, cells: dict[str, Cell], tests: dict[str, list[Any]]) -> Iterable[str]:
    for node, cell in cells.items():
        if cell.section != section:
            continue
        items = tests[node]
        path, name = node.split("::", 1)
        table = combinations(items)
        what = f"{cell.what}<br>{table}" if table else cell.what
        yield f"| {what} | {cell.verdict} | {cell.control} | [{name}](../{path}) |"


def make_page() -> str:
    """The page as the tests have it now.

    Raises:
        RuntimeError: If a line names a test that is not there, or a test of this folder earns no line.
    """
    tests = collected()
    own = {node: items[0].function for node, items in tests.items() if node.startswith("tests/support/")}
    unlisted = [node for node, function in own.items() if not hasattr(function, "cell") and "test_page" not in node]
    missing = [node for node in ELSEWHERE if node not in tests]
    if unlisted or missing:
        raise RuntimeError(f"Tests without a line: {unlisted}. Lines without a test: {missing}.")
    cells = {node: function.cell for node, function in own.items() if hasattr(function, "cell")} | ELSEWHERE
    count = sum(len(tests[node]) for node in cells)
    parts = [HEAD, f"{len(cells)} lines, {count} cells."]
    for section in SECTIONS:
        parts += [f"\n## {section}\n", "| what | | compared with | test |", "|---|---|---|---|"]
        parts += lines(section, cells, tests)
    return "\n".join([*parts, FOOT])


def main(arguments: list[str]) -> int:
    page = make_page()
    if "--check" in arguments:
        return int(PAGE.read_text() != page)
    PAGE.write_text(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
