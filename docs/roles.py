"""Sphinx's roles in docstrings, for mkdocs: an equation becomes MathML, which needs no script; a name becomes code."""

import re
from typing import Any

from griffe import Extension, Object
from latex2mathml.converter import convert

_ROLE = re.compile(r":(math|class|func|meth|mod|attr):`~?([^`]+)`")


class Roles(Extension):
    """Rewrites the docstring of every object that griffe loads."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe."""
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(_written, obj.docstring.value)


def _written(role: re.Match[str]) -> str:
    if role[1] == "math":
        return convert(" ".join(role[2].split()))
    return f"`{role[2].rpartition('.')[2]}`"
