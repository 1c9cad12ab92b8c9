"""The robustness table of a report, as text, Markdown and LaTeX."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from adaloss_lightning.tracking.metrics import Mode
from adaloss_lightning.tracking.reports.results import Cell, Results
from adaloss_lightning.tracking.reports.robustness import Width, robustness
from adaloss_lightning.tracking.units import Unit

_WIDEST = 9  # more values of b0 do not fit beside each other: then each is a row, and the methods are the columns


@dataclass(frozen=True)
class Entry:
    """One field: a value with its deviation, or a word; `note` says how many seeds it is from if some are missing."""

    text: str
    deviation: str = ""
    note: str = ""
    is_best: bool = False

    def __str__(self) -> str:
        deviation = f" ± {self.deviation}" if self.deviation else ""
        return f"{self.text}{deviation}{f' {self.note}' if self.note else ''}"


@dataclass(frozen=True)
class Table:
    """A table ready to be written: what it shows, its fields, how to read it, and which points are missing.

    `head` and the first field of each row are names; a name with `b0` in it is a value of b0.
    """

    caption: str
    head: list[str]
    names: list[str]
    rows: list[list[Entry]]
    notes: list[str]
    gaps: list[str]


def build_table(results: Results) -> Table:
    """The robustness table: mean and sample standard deviation over seeds at every b0, then what they come to."""
    sums = robustness(results)
    unit, mode = results.unit(), results.direction.mode
    columns = [[_entry(results.cells[method, b0], unit) for method in results.methods] for b0 in results.b0s]
    means = [[_sound_mean(results.cells[method, b0]) for method in results.methods] for b0 in results.b0s]
    columns += [
        [_word(one.worst, unit, has_diverged=one.has_diverged) for one in sums.values()],
        [_word(one.best, unit) for one in sums.values()],
        [_width(one.own) for one in sums.values()],
        [_width(one.overall) for one in sums.values()],
    ]
    means += [[one.worst for one in sums.values()], [one.best for one in sums.values()]]
    columns = [_mark_best(column, mean, unit, mode) for column, mean in zip(columns, means, strict=False)] + columns[
        -2:
    ]
    head = [*(f"b0={b0:g}" for b0 in results.b0s), "worst", "best", "width, own best", "width, best of all"]
    if len(results.b0s) > _WIDEST:
        return Table(_caption(results), ["b0", *results.methods], head, columns, _notes(results), results.gaps())
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Table(_caption(results), ["method", *head], results.methods, rows, _notes(results), results.gaps())


def as_terminal(table: Table) -> str:
    """Aligned columns for a terminal."""
    grid = [table.head, *([name, *map(str, row)] for name, row in zip(table.names, table.rows, strict=True))]
    printable = [[printed(field) for field in row] for row in grid]
    widths = [max(map(len, column)) for column in zip(*printable, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in printable]
    parts = [printed(table.caption), "", lines[0], "-" * len(lines[0]), *lines[1:], "", *table.notes]
    if table.gaps:
        parts += ["", "Not every point has a value:", *map(printed, table.gaps)]
    return "\n".join(parts)


def as_markdown(table: Table) -> str:
    """A Markdown table."""
    head = [_spaced(_markdown(name)) for name in table.head]
    rows = [[_spaced(_markdown(name)), *map(str, row)] for name, row in zip(table.names, table.rows, strict=True)]
    rule = ["---", *("---:" for _ in head[1:])]
    lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *rows)]
    parts = [_markdown(table.caption), "", *lines, "", *table.notes]
    if table.gaps:
        parts += ["", "Not every point has a value:", "", *(f"- {_markdown(gap)}" for gap in table.gaps)]
    return "\n".join(parts) + "\n"


def as_latex(table: Table) -> str:
    r"""A LaTeX table in the style of booktabs: it needs `\usepackage{booktabs}`. The best of several rows is bold."""
    head = [_latex_name(name) for name in table.head]
    rows = [[_latex_name(name), *map(_latex_entry, row)] for name, row in zip(table.names, table.rows, strict=True)]
    caption = " ".join([f"{table.caption}.", *table.notes])
    missing = [f"% Missing: {printed(gap)}" for gap in table.gaps]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            *missing,
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{latex_escaped(caption)}}}",
            rf"  \begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"    \toprule",
            f"    {' & '.join(head)} \\\\",
            r"    \midrule",
            *(f"    {' & '.join(row)} \\\\" for row in rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def printed(text: str) -> str:
    """`text` on one line and without control characters: names are users' and must not steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def latex_escaped(text: str) -> str:
    """`text` with every character that LaTeX would act on escaped."""
    return "".join(_LATEX.get(character, character) for character in printed(text))


_LATEX: dict[str, str] = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≥": r"$\geq$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _entry(cell: Cell, unit: Unit) -> Entry:
    if cell.mean is None:
        return Entry("diverged" if cell.is_diverged else "-")
    deviation = "" if cell.deviation is None else unit.bare_text(cell.deviation)
    return Entry(unit.bare_text(cell.mean), deviation, f"({len(cell.values)}/{cell.seeds})" if cell.gaps else "")


def _sound_mean(cell: Cell) -> float | None:
    return None if cell.has_diverged else cell.mean


def _word(value: float | None, unit: Unit, *, has_diverged: bool = False) -> Entry:
    if value is None:
        return Entry("diverged" if has_diverged else "-")
    return Entry(unit.bare_text(value))


def _width(width: Width | None) -> Entry:
    return Entry("-" if width is None else str(width))


def _mark_best(column: Sequence[Entry], means: Sequence[float | None], unit: Unit, mode: Mode) -> list[Entry]:
    """Marks the best mean, and those that look the same as printed."""
    known = [mean for mean in means if mean is not None]
    if len(column) < 2 or not known:
        return list(column)
    fold: Callable[[list[float]], float] = min if mode == "min" else max
    best = unit.bare_text(fold(known))
    return [
        replace(entry, is_best=mean is not None and entry.text == best)
        for entry, mean in zip(column, means, strict=True)
    ]


def _caption(results: Results) -> str:
    seeds = results.spread_text()
    spread = "one seed" if seeds == "one seed" else f"mean ± sample standard deviation over {seeds}"
    plural = "s" if ", " in results.experiment else ""
    metric = f"{results.metric}{results.unit().suffix}, {results.direction.text}"
    return f"Experiment{plural} {results.experiment}: {metric}, {spread}"


def _notes(results: Results) -> list[str]:
    return [
        f"{results.direction.sentence} {results.origin()}",
        "Width: decades of b0 from end to end of the widest unbroken run of grid values around a row's best one whose "
        f"mean is within {results.unit().tolerance_text} of that row's own best, or of the best of all rows "
        "(-: nowhere). ≥: the grid ends there. "
        "A b0 where a seed diverged counts as diverged: it is the worst, and never within.",
    ]


def _markdown(text: str) -> str:
    return re.sub(r"([|\\`*\[\]])", r"\\\1", printed(text)).replace("&", "&amp;").replace("<", "&lt;")


def _spaced(name: str) -> str:
    return re.sub(r"^b0=", "b0 = ", name)


def _latex_name(name: str) -> str:
    b0 = name.removeprefix("b0=")
    return f"$b_0 = {b0}$" if b0 != name else "$b_0$" if name == "b0" else latex_escaped(name)


def _latex_entry(entry: Entry) -> str:
    text = rf"\textbf{{{latex_escaped(entry.text)}}}" if entry.is_best else latex_escaped(entry.text)
    deviation = rf" $\pm$ {latex_escaped(entry.deviation)}" if entry.deviation else ""
    return f"{text}{deviation}{f' {entry.note}' if entry.note else ''}"
