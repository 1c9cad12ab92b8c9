"""Writes docs/benchmarks.md from what was measured last: `python -m benchmarks.page`.

The text is in `page.md`, beside this file. Lines of it that stand for what was measured:

    {{environment NAME}}                where and when results/NAME.json was measured
    {{table NAME}}                      all of its tables
    {{table NAME TABLE}}                one of them
    {{table NAME TABLE: PROBLEM}}       the rows of one problem
    {{targets}}                         what was to be reached, and what was
"""

import argparse
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, Columns, Row, markdown
from benchmarks.optimizers import ADAM_PEERS, SGD_PEERS
from benchmarks.step_time import READS

TEMPLATE = Path(__file__).with_name("page.md")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_PLACEHOLDER = re.compile(r"^\{\{(environment|table|targets)(?: (\w+)(?: ([\w-]+)(?:: (.+))?)?)?\}\}$", re.MULTILINE)


@dataclass(frozen=True)
class Target:
    """A bound on one number of some rows of the table of `benchmark`.

    Args:
        what: Is to be reached.
        bound: On the number.
        key: Of the number.
        rows: What the rows have.
        is_least: Whether the number must be at least `bound`, not at most.
        benchmark: Which one.
    """

    what: str
    bound: float
    key: str
    rows: Row
    is_least: bool = False
    benchmark: str = "step_time"

    def row(self, results: dict[str, Any]) -> Row:
        """The worst of the rows, wherever there are some."""
        bound = f"at {'least' if self.is_least else 'most'} {self.bound:g}"
        found = [row for row in rows_of(results, self.benchmark) if self.rows.items() <= row.items()]
        row: Row = {"what": self.what, "bound": bound}
        if not found:
            return row | {"reached": "not measured"}
        worst = (min if self.is_least else max)(found, key=lambda one: one[self.key])
        number = worst[self.key]
        met = sum(one[self.key] >= self.bound if self.is_least else one[self.key] <= self.bound for one in found)
        error = f" +- {worst['added_error_us']:.0f}" if self.key == "added_us" and "added_error_us" in worst else ""
        reached = f"{met} of {len(found)}"
        return row | {"reached": reached, "worst": number, "error": error, "where": worst.get("problem")}


def _step(ours: str, beside: str) -> Row:
    return {"table": "step", "ours": ours, "beside": beside}


TARGETS = [
    Target("AdaLoss over SGD(fused), ratio", 1.02, "ratio", _step("AdaLoss", "SGD(fused)")),
    Target("AdamLoss over Adam(fused), ratio", 1.02, "ratio", _step("AdamLoss", "Adam(fused)")),
    Target("LossAdaptive around a base that does nothing, added us", 40, "added_us", {"table": "python"}),
    Target("LossAdaptive over AdamW(fused), added us", 40, "added_us", _step("LossAdaptive(AdamW)", "AdamW(fused)")),
    *(Target(f"AdaGradNorm over {read}, ratio", 1.0, "ratio", _step("AdaGradNorm", read)) for read in READS),
    *(Target(f"AdaLoss over {peer}, ratio", 1.0, "ratio", _step("AdaLoss", peer)) for peer in SGD_PEERS),
    *(Target(f"AdamLoss over {peer}, ratio", 1.0, "ratio", _step("AdamLoss", peer)) for peer in ADAM_PEERS),
    *(
        Target(f"{ours}, bytes a group over the base, at the peak", 64, "peak", {"table": "memory", "ours": ours})
        for ours in ("AdaLoss", "AdamLoss", "LossAdaptive(AdamW)", "LossAdaptive(SGD)")
    ),
]


def load(folder: Path) -> dict[str, Any]:
    """What each benchmark has written: its name, and the content of its file."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def rows_of(results: dict[str, Any], name: str) -> list[Row]:
    """All rows of a benchmark, none where it was not measured."""
    content = results.get(name, [])
    rows: list[Row] = content if isinstance(content, list) else content["rows"]
    return rows


def environment(content: Any) -> str:
    """One sentence, and a paragraph for each note that is a text."""
    measured = dict(content.get("environment", {})) if isinstance(content, dict) else {}
    date, machine = measured.pop("date", None), measured.pop("machine", None)
    notes = [value for value in measured.values() if isinstance(value, str) and ". " in value]
    parts = [machine, *(f"{key} {value}" for key, value in measured.items() if value not in notes)]
    sentence = f"Measured{f' on {date}' if date else ''}: {', '.join(part for part in parts if part)}."
    return "\n\n".join([sentence, *notes])


def table(content: Any, name: str | None, problem: str | None) -> str:
    """The tables of one file, or one of them."""
    rows: list[Row] = content if isinstance(content, list) else content["rows"]
    known: dict[str, Columns] = {} if isinstance(content, list) else content.get("columns", {})
    names = list(dict.fromkeys(row.get("table", "") for row in rows)) if name is None else [name]
    parts = []
    for one in names:
        chosen = [row for row in rows if row.get("table", "") == one and problem in (None, row.get("problem"))]
        columns = known.get(one) or _all_columns(chosen)
        if problem is not None:
            columns = {heading: template for heading, template in columns.items() if template != "{problem}"}
        parts.append((f"**{one}**\n\n" if len(names) > 1 else "") + markdown(chosen, columns))
    return "\n\n".join(parts)


def _all_columns(rows: list[Row]) -> Columns:
    columns = {}
    for key in dict.fromkeys(key for row in rows for key in row if key != "table"):
        values = [row[key] for row in rows if row.get(key) is not None]
        is_number = all(isinstance(value, int | float) for value in values)
        columns[key] = f"{{{key}:.4g}}" if is_number else f"{{{key}}}"
    return columns


def targets(results: dict[str, Any]) -> str:
    """A table of all of them."""
    columns = {
        "target": "{what}",
        "bound": "{bound}",
        "met by": "{reached}",
        "worst": "{worst:.3g}{error}",
        "there": "{where}",
    }
    return markdown((target.row(results) for target in TARGETS), columns)


def page(template: str, results: dict[str, Any]) -> str:
    """The text with its tables."""

    def fill(found: re.Match[str]) -> str:
        kind, name, *rest = found.groups()
        if kind == "targets":
            return targets(results)
        if name not in results:
            return f"Not measured yet: `python -m benchmarks.{name}`." if kind == "table" else ""
        return environment(results[name]) if kind == "environment" else table(results[name], *rest)

    return re.sub(r"\n{3,}", "\n\n", _PLACEHOLDER.sub(fill, template))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    options.out.write_text(page(TEMPLATE.read_text(), load(options.results)))


if __name__ == "__main__":
    main()
