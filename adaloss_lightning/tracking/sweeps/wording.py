"""Messages of the user's code and its argument parser, as one line for the person who gave the command."""

import re
import sysconfig
import traceback
from pathlib import Path

_MAX_REASON = 600  # characters
# What jsonargparse says beside the reason: how it looked for a type, and what the user has not typed.
_NOISE = re.compile(
    "Does not validate against|Subtypes: |Errors:$|Expected (an? )?NoneType$|Given value type: |Given value: NestedArg"
)
_OURS = str(Path(__file__).parents[2])
_NOT_OWN = (_OURS, "<", *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))


def reason_of_exit(stop: SystemExit, printed: str) -> str:
    """Why a process would have ended: what it was given to say, or the last that an argument parser has printed."""
    if isinstance(stop.code, str):
        return flat(stop.code)
    *_, after = re.split(r"^(?:\S+: )?error: ", printed, flags=re.MULTILINE)
    if after != printed:
        return flat(after)
    return " after ".join([f"exit code {stop.code or 0}", *(repr(line) for line in printed.strip().splitlines()[-1:])])


def told(error: Exception) -> str:
    """An exception on one line, and where in the user's own code it comes from."""
    reason = f"{type(error).__name__}: {flat(str(error))}".removesuffix(": ")
    frames = traceback.extract_tb(error.__traceback__)
    places = [(frame.filename, frame.lineno) for frame in frames if not frame.filename.startswith(_NOT_OWN)]
    if isinstance(error, SyntaxError) or not places:
        return reason  # a SyntaxError says it by itself
    return f"{reason} ({Path(places[-1][0]).name}, line {places[-1][1]})"


def flat(reason: str) -> str:
    """What jsonargparse says in a tree of lines, on one."""
    text, seen = "", set()
    for line in re.sub(r"<class '([^']*)'>", r"\1", reason).splitlines():
        words = " ".join(line.split()).removeprefix("- ")
        if words and words not in seen and not _NOISE.match(words):
            goes_on = not text or text.endswith(":") or words.startswith("in ")
            text += (" " if goes_on else "; ") + words
            seen.add(words)
    return text.strip()[:_MAX_REASON]
