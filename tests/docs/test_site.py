"""The site builds without a warning and loads nothing from elsewhere; the reference leaves out no public name."""

import functools
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import adaloss_lightning
from adaloss_lightning import theory, tracking
from adaloss_lightning.tracking import tags
from tests.docs.pages import ROOT
from tests.limits import HANG_S

SOURCES = [*(ROOT / "adaloss_lightning").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
# Set for processes of our own, or by Lightning and other programs for theirs.
NOT_FOR_USERS = {
    "ADALOSS_SWEEP_TASK",
    "MLFLOW_BACKEND_STORE_URI",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: a warning of mkdocs is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return folder


def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    loaded = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"?(https?:)?//[^>]*>")
    assert [found[0] for page in pages if (found := loaded.search(page.read_text("utf-8")))] == []
    styles = "".join(page.read_text("utf-8") for page in site.rglob("*.css"))
    assert not re.search(r"url\(\"?https?:|@import", styles)
    assert (site / "assets" / "fonts" / "inter.woff2").stat().st_size > 10_000


def test_site_has_filled_in_every_placeholder(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert not re.search(r"\{\{(file|code)", page.read_text("utf-8")), page
        assert ":math:" not in page.read_text("utf-8"), page
    assert "--discard" in (site / "console" / "index.html").read_text("utf-8")
    assert (site / "paper" / "index.html").read_text("utf-8").count("<tr>") > 30
    assert 'href="../../semantics/"' in (site / "api" / "optimizers" / "index.html").read_text("utf-8")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the page has what argparse of 3.11 prints")
@pytest.mark.parametrize("name", ["console", "alternatives", "paper"])
def test_parts_of_a_page_are_up_to_date(name: str) -> None:
    build = runpy.run_path(str(ROOT / "docs" / "build.py"))
    text = (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    assert "<!-- end -->" in text
    assert text == build["filled"](text), "run: make pages"


def test_a_link_out_of_the_site_leads_to_a_file() -> None:
    build = runpy.run_path(str(ROOT / "docs" / "build.py"))
    page = SimpleNamespace(file=SimpleNamespace(src_uri="api/optimizers.md"))
    fill = functools.partial(build["on_page_markdown"], page=page)
    assert fill("[gan](../../examples/gan.py)") == "[gan](examples.md)"
    assert fill("[a](../faq.md) [b](../../LICENSE) [c](../../README.md#limits)") == "[a](../faq.md) b [c](index.md)"
    with pytest.raises(FileNotFoundError, match=re.escape("[b](../../nothing): there is no nothing")):
        fill("[b](../../nothing)")


@pytest.mark.parametrize(
    ("module", "pages"),
    [(adaloss_lightning, ("optimizers", "callbacks")), (tracking, ("tracking",)), (theory, ("theory",))],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_reference_has_every_public_name(site: Path, module: object, pages: tuple[str, ...]) -> None:
    texts = "".join((site / "api" / page / "index.html").read_text("utf-8") for page in pages)
    headings = re.findall(r"<h2 id=\"?([\w.]+)", texts)
    names = {name.rpartition(".")[2] for name in headings}
    assert names == set(module.__all__) - {"__version__"}


def test_page_of_names_has_every_tag_and_variable() -> None:
    page = (ROOT / "docs" / "names.md").read_text("utf-8")
    source = "".join(path.read_text("utf-8") for path in SOURCES)
    own = {value for name, value in vars(tags).items() if name.endswith("_TAG") and not value.startswith("mlflow.")}
    own |= set(re.findall(r"_TAG\b[^=\n]*= \"(adaloss\.\w+|\w+)\"", source))
    assert {tag for tag in own if f"`{tag}`" not in page} == set()
    variables = set(re.findall(r"\b(?:MLFLOW|ADALOSS)_[A-Z_]+\b", source))
    assert {name for name in variables - NOT_FOR_USERS if f"`{name}`" not in page} == set()
