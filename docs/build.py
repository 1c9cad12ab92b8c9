"""What pages of the site take from elsewhere when mkdocs builds them, so that it never gets old.

{{file NAME}}       a file of the project: README.md, CHANGELOG.md, CONTRIBUTING.md
{{help COMMAND}}    what `COMMAND --help` prints
{{claims}}          every claim of the paper with its verdict, from the recipes' pages
{{peers}}           what a step of ours costs beside other optimizers, from benchmarks/results

After a #, each may say more to those who read the file itself.
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
_PLACEHOLDER = re.compile(r"^\{\{(\w+)(?: ([^#}]+?))?(?: *#[^}]*)?\}\}$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in the placeholders, and takes the link from what the site does not have (a hook of mkdocs)."""
    makers: dict[str, Callable[..., str]] = {"file": _file, "help": _help, "claims": _claims, "peers": _peers}
    markdown = _PLACEHOLDER.sub(lambda found: makers[found[1]](*filter(None, [found[2]])), markdown)
    return re.sub(r"\[([^\]]*)\]\(((?:\.\./)+[^)]*)\)", _link, markdown)


def _link(found: re.Match[str]) -> str:
    page = ON_THE_SITE.get(found[2].removeprefix("../"))
    return f"[{found[1]}]({page})" if page else found[1]


def _file(name: str) -> str:
    # Links of a file at the top are seen from there: those into docs/ lose that folder, others lead out of the site.
    text = (ROOT / name).read_text("utf-8")
    text = re.sub(r"\]\((?!https?:|#|docs/)", "](../", text)
    return text.replace("](docs/", "](")


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
        f"| steps of ours in the time of one of | ours | {' | '.join(problems)} |",
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
