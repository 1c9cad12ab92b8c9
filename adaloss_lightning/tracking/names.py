"""Names and texts as a database of any kind holds them."""

import hashlib
import logging
import posixpath
import re
from functools import lru_cache

log = logging.getLogger(__name__)

# Characters that MLflow's tables have room for. SQLite takes more, PostgreSQL refuses it.
MAX_KEY, MAX_PARAM, MAX_TAG, MAX_RUN_NAME, MAX_EXPERIMENT = 250, 6000, 8000, 250, 256

_TAKEN, _TAKEN_BY_ALL = r"\w/. :-", "a-zA-Z0-9_/. -"  # the second one by MLflow 2 too
_NO_NAME = "_u005f_"  # of an empty one: no other name becomes this


def entry_name(name: str, *, plain: bool = False) -> str:
    """Name of a metric, param or tag as MLflow takes it: names that differ stay different.

    A character that MLflow refuses becomes its code point, `_u0040_` for `@`. So does the slash or dot of a name that
    would be another path, such as `a//b`, and the underscore of a name that has such a code point already:
    the replacement can be undone. A name of more than 250 characters ends in a digest of what it was.

    Args:
        name: As it was logged.
        plain: Replaces letters beyond ASCII and colons too.
    """
    taken = _TAKEN_BY_ALL if plain else _TAKEN
    for more in ("", "/", "/."):
        refused = f"[^{taken}]" + (f"|[{more}]" if more else "")
        text = re.sub(rf"_u(?=[0-9a-f]{{4,6}}(?:_|{refused}))", "_u005f_u", name)
        text = re.sub(refused, lambda found: f"_u{ord(found[0]):04x}_", text)
        if not _is_another_path(text):
            break
    return shortened(text or _NO_NAME, MAX_KEY)


def shortened(text: str, limit: int) -> str:
    """`text` with at most `limit` characters; a longer one ends in a digest, so that two stay different."""
    if len(text) <= limit:
        return text
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{text[: limit - 9]}-{digest}"


class StoredNames:
    """The names of one run's metrics, params and tags as MLflow takes them; the first that is changed is reported."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._has_reported = False

    def __call__(self, given: str) -> str:
        """Name under which `given` is stored."""
        if given in self._names:
            return self._names[given]
        name = self._names[given] = entry_name(given)
        if name != given and not self._has_reported:
            self._has_reported = True
            log.warning(
                "MLflow does not take the name %r. It is logged as %r; other such names change in the same way.",
                given,
                name,
            )
        return name


def experiment_name(name: str) -> str:
    """Name of an experiment as every database holds it; one that is cut is reported."""
    return _cut("experiment", name, shortened(plain_text(name), MAX_EXPERIMENT))


def run_name(name: str) -> str:
    """Name of a run as every database holds it; one that is cut is reported."""
    return _cut("run", name, plain_text(name)[:MAX_RUN_NAME])


@lru_cache  # one notice for one name
def _cut(whose: str, name: str, short: str) -> str:
    if len(name) > len(short):
        log.warning("The %s's name has %d characters, and MLflow's databases hold %d. It is cut: %s",
                    whose, len(name), len(short), short)  # fmt: skip
    return short


def run_label(name: object, run_id: str | None) -> str:
    """What messages call a run: its name and its identifier, as far as they are known."""
    parts = [repr(str(name))] if name else []
    if run_id:
        parts.append(f"({run_id})" if parts else run_id)
    return " ".join(["run", *parts]) if parts else "a run without a name"


def _is_another_path(name: str) -> bool:
    path = posixpath.normpath(name)
    return path != name or path == "." or path.startswith(("..", "/"))


def plain_text(text: str) -> str:
    """`text` with escapes for what UTF-8 and a PostgreSQL column do not take.

    Half a surrogate comes from any file name that is not UTF-8; a NUL ends the text for PostgreSQL.
    """
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
