"""Parts of pages that come from elsewhere in the project.

`python docs/build.py`, which `make pages` calls, replaces what stands between `<!-- NAME -->` and `<!-- end -->`:

<!-- help COMMAND -->    what `COMMAND --help` prints
<!-- claims -->          every claim of the paper with its verdict, from the recipes' pages
<!-- peers -->           how many steps of ours take as long as one of another optimizer, from benchmarks/results

As a hook of mkdocs it gives the site the files at the top of the project, `{{file README.md}}`, and programs:
`{{code examples/gan.py}}`.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
STUDIES = ("linear_regression", "two_layer", "vit_cifar100", "lstm_news", "pendulum")
ON_THE_SITE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}
_FILE = re.compile(r"^\{\{(file|code) (.+)\}\}$", re.MULTILINE)
_PART = re.compile(r"^(<!-- (help|claims|peers)(?: ([^>\n]+))? -->\n).*?^(<!-- end -->)$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in files, and take the link from what the site does not have (a hook of mkdocs)."""
    makers = {"file": _file, "code": _code}
    markdown = _FILE.sub(lambda found: makers[found[1]](found[2]), markdown)
    folder = Path("docs", page.file.src_uri).parent
    return re.sub(r"\[([^\]]*)\]\(((?:\.\./)+[^)]*)\)", lambda found: _link(folder, *found.groups()), markdown)


def _file(name: str) -> str:
    # Links of a file at the top are seen from there: those into docs/ lose that folder, others lead out of the site.
    text = (ROOT / name).read_text("utf-8")
    text = re.sub(r"\]\((?!https?:|#|docs/)", "](../", text)
    return text.replace("](docs/", "](")


def _code(name: str) -> str:
    return f"```{Path(name).suffix[1:]}\n{(ROOT / name).read_text('utf-8')}```"


def _link(folder: Path, text: str, link: str) -> str:
    target = os.path.normpath(folder / link.partition("#")[0])
    if not (ROOT / target).exists():
        raise FileNotFoundError(f"[{text}]({link}): there is no {target}")
    if target.startswith("docs/"):
        return f"[{text}]({link})"
    page = "examples.md" if target.startswith("examples") else ON_THE_SITE.get(target)
    return f"[{text}]({page})" if page else text


def filled(text: str) -> str:
    """The text of a page, with its parts as they are now."""
    makers: dict[str, Callable[..., str]] = {"help": _help, "claims": _claims, "peers": _peers}
    return _PART.sub(lambda found: f"{found[1]}\n{makers[found[2]](*filter(None, [found[3]]))}\n\n{found[4]}", text)


def _help(command: str) -> str:
    program, *arguments = command.split()
    run = "from adaloss_lightning.tracking.console.app import main; import sys; sys.exit(main())"
    assert program == "adaloss", command
    done = subprocess.run(
        [sys.executable, "-c", run, *arguments, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    return f"```text\n{done.stdout}```"


def rows(page: str) -> Iterator[dict[str, str]]:
    """Rows of the tables of claims in a page of docs/, by the names of their columns."""
    names: list[str] = []
    for line in (ROOT / "docs" / f"{page}.md").read_text("utf-8").splitlines():
        fields = [field.strip() for field in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            names = []
        elif {"claim", "verdict"} <= set(fields):
            names = fields
        elif names and not fields[0].startswith("---"):
            yield dict(zip(names, fields, strict=False))


def _claims() -> str:
    lines = ["| source | claim | verdict | measured on |", "|---|---|---|---|"]
    for page in STUDIES:
        for row in rows(page):
            lines.append(f"| {row['source']} | {row['claim']} | {row['verdict']} | [{page}]({page}.md) |")
    return "\n".join(lines)


def _peers() -> str:
    measured = json.loads((ROOT / "benchmarks" / "results" / "step_time.json").read_text("utf-8"))["rows"]
    ratios = {(row["beside"], row["ours"], row["problem"]): row["ratio"] for row in measured if row["table"] == "step"}
    problems = list(dict.fromkeys(problem for peer, _, problem in ratios if peer in PEERS))
    lines = [
        f"| a step of | takes as long as this many of | {' | '.join(problems)} |",
        "|---|---|" + "---:|" * len(problems),
    ]
    for peer, ours in PEERS.items():
        lines.append(
            f"| {peer} | {ours} | " + " | ".join(f"{1 / ratios[peer, ours, each]:.1f}" for each in problems) + " |"
        )
    return "\n".join(lines)


PEERS = {
    "Prodigy": "AdamLoss",
    "DAdaptAdam": "AdamLoss",
    "AdamWScheduleFree": "AdamLoss",
    "MomoAdam": "AdamLoss",
    "Momo": "AdaLoss",
    "DAdaptSGD": "AdaLoss",
    "SGDScheduleFree": "AdaLoss",
}


if __name__ == "__main__":
    for path in sorted((ROOT / "docs").glob("*.md")):
        before = path.read_text("utf-8")
        if (now := filled(before)) != before:
            path.write_text(now, "utf-8")
