"""`adaloss report`: tables, figures and the page of one or several experiments."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from adaloss_lightning.tracking.errors import StoreError
from adaloss_lightning.tracking.reports import kept
from adaloss_lightning.tracking.reports.curves import Curves, read_curves
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.reports.tables import Table, as_latex, as_markdown, as_terminal, build_table
from adaloss_lightning.tracking.store import safe_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REPORTS = Path("reports")
_LONGEST_NAME = 60  # characters; one has at most 4 of the 255 bytes that a folder's name may have
TABLE_FILE, LATEX_FILE, PAGE_FILE = "report.md", "report.tex", "report.html"
FIGURE_FILE, CURVES_FILE = "report.png", "curves.png"


def text_table(results: Results) -> str:
    """The table for a terminal: aligned columns, how to read them, then what is missing."""
    return as_terminal(build_table(results))


def markdown_table(results: Results) -> str:
    """The same table in Markdown."""
    return as_markdown(build_table(results))


class Report:
    """The files of a report, made in memory."""

    def __init__(self, results: Results) -> None:
        self._results = results if results.histories is not None else kept.keep(results)

    @cached_property
    def table(self) -> Table:
        """The robustness table."""
        return build_table(self._results)

    @cached_property
    def curves(self) -> list[Curves]:
        """Loss, accuracy, b and effective rate over steps, as far as the runs have them."""
        return read_curves(self._results)

    def markdown(self) -> bytes:
        """The table and the figures in Markdown."""
        text = as_markdown(self.table) + f"\n![the metric against b0]({FIGURE_FILE})\n"
        return (text + (f"\n![curves over steps]({CURVES_FILE})\n" if self.curves else "")).encode()

    def latex(self) -> bytes:
        """The table in LaTeX."""
        return as_latex(self.table).encode()

    def figure(self) -> bytes:
        """The metric against b0, as PNG."""
        from adaloss_lightning.tracking.reports.figures import draw

        return png(draw(self._results), dpi=160)

    def curves_figure(self) -> bytes:
        """The curves over steps, as PNG."""
        from adaloss_lightning.tracking.reports.figures import draw_curves

        return png(draw_curves(self._results, self.curves), dpi=130)

    def page(self) -> bytes:
        """Everything in one HTML file with interactive plots."""
        from adaloss_lightning.tracking.reports.page import build_page

        return build_page(self._results, self.table, self.curves)

    def files(self) -> dict[str, bytes]:
        """All files by name; the curves are left out where no run has any."""
        files = {TABLE_FILE: self.markdown(), LATEX_FILE: self.latex(), FIGURE_FILE: self.figure()}
        files[kept.FILE] = kept.dumps(self._results)
        if self.curves:
            files[CURVES_FILE] = self.curves_figure()
        return files | {PAGE_FILE: self.page()}


def write_report(results: Results, folder: Path) -> list[Path]:
    """Writes the tables (`report.md`, `report.tex`), figures (`report.png`, `curves.png`), page (`report.html`) and
    numbers (`runs.json`).

    The folder is made where it does not exist. An error leaves every file as it was.

    Raises:
        StoreError: The folder cannot be written.
    """
    return write_files(folder, Report(results).files())


def png(figure: "Figure", dpi: int = 110) -> bytes:
    """The figure as the content of a PNG file."""
    image = BytesIO()
    figure.savefig(image, dpi=dpi, format="png")
    return image.getvalue()


def folder_for(experiment: str) -> Path:
    """Where the report of an experiment goes, unless the user says otherwise: each experiment has a folder."""
    name = safe_name(experiment)
    if name != experiment:
        digest = hashlib.sha256(experiment.encode("utf-8", "backslashreplace")).hexdigest()[:8]
        name = f"{name[:_LONGEST_NAME]}-{digest}"
    return REPORTS / name


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Writes all `files` into `folder`, or, on an error, none.

    Raises:
        StoreError: The folder cannot be written.
    """
    written = [folder / name for name in files]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in written:
            if path.is_dir():
                raise IsADirectoryError(f"{path} is a folder")
        with TemporaryDirectory(dir=folder, prefix=".report-") as temporary:
            for name, content in files.items():
                Path(temporary, name).write_bytes(content)
            for path in written:  # on one file system a rename cannot fail for lack of space
                Path(temporary, path.name).replace(path)
    except OSError as error:
        raise StoreError(f"Cannot write the report to {folder}: {error}. Choose another folder with --out.") from error
    return written
