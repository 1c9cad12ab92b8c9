"""Identity of a sweep: all that decides what its points are."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from adaloss_lightning.tracking.grid import Grid
from adaloss_lightning.tracking.sweeps.project import Project

_YAML = (".yaml", ".yml")


def sweep_id(project: Project, grid: Grid, extra: Sequence[str]) -> str:
    """Hash of the command, and of the YAML files that LightningCLI reads for it."""
    files = [project.configs[method] for method in grid.methods]
    files += sorted({file.with_name("defaults.yaml") for file in files})
    words = [word.rpartition("=")[2] for word in extra] + [value for _, values in grid.options for value in values]
    files += [Path(word) for word in words if word.endswith(_YAML)]
    read = map(_content, [*files, *_named_in(files)])
    contents = [hashlib.sha256(content).hexdigest() for content in read if content is not None]
    asked = [project.name, grid.methods, grid.b0s, grid.seeds, grid.options, list(extra), contents]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _named_in(files: Iterable[Path]) -> list[Path]:
    """Files that values in `files` name, and values in those: a path counts from the folder of its file."""
    waiting, found = list(files), list[Path]()
    while waiting:
        file = waiting.pop(0)
        for text in _texts(_parsed(_content(file))):
            named = file.parent / text
            if text.endswith(_YAML) and named not in found:
                found.append(named)
                waiting.append(named)
    return found


def _content(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (OSError, ValueError):  # LightningCLI says what is wrong with it, if it is to read it
        return None


def _parsed(content: bytes | None) -> object:
    try:
        return yaml.safe_load(content or b"")
    except yaml.YAMLError:
        return None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
