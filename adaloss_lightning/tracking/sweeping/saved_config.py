"""The configuration that a run keeps, with another b0 for each point that is trained at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from lightning.pytorch.cli import SaveConfigCallback

_B0_KEYS = ("optimizer.init_args.b0", "optimizer.b0")  # with a choice of optimizers, and without


@contextmanager
def configured(callback: SaveConfigCallback, b0: float) -> Iterator[None]:
    """Inside the block the configuration that is saved has this b0."""
    config, callback.config, callback.already_saved = callback.config, callback.config.clone(), False
    for key in _B0_KEYS:
        if key in callback.config:
            callback.config[key] = b0
    try:
        yield
    finally:
        callback.config = config


class QuickParser:
    """A parser whose later dumps put another b0 into the text of the first: each by itself takes 80 ms."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._around: dict[str, tuple[str, str]] = {}  # the text before and after the value of each key

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def dump(self, config: Any, *args: Any, **kwargs: Any) -> str:
        """The configuration as text."""
        for key, (before, after) in self._around.items():
            if key in config:
                number = yaml.safe_dump(config[key]).partition("\n")[0]
                return f"{before}{number}{after}"
        text: str = self._parser.dump(config, *args, **kwargs)
        places = {key: _place_of(key, text) for key in _B0_KEYS}
        self._around = {key: (text[: place[0]], text[place[1] :]) for key, place in places.items() if place}
        return text


def _place_of(key: str, text: str) -> tuple[int, int] | None:
    """Where in YAML the value of a key begins and ends."""
    node = yaml.compose(text)
    for name in key.split("."):
        values = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        node = values.get(name)
    return None if node is None else (node.start_mark.index, node.end_mark.index)
