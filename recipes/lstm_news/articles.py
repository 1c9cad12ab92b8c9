"""Reader of `True.csv` and `Fake.csv` as published: checks every row and holds one row at a time."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from recipes.shared.settings import SettingError

COLUMNS = ("title", "text", "subject", "date")
FILES = {"Fake.csv": 0, "True.csv": 1}  # label of each file's articles
MAX_ROW = 128 * 1024  # bytes, more than twice the longest published article

_ENOUGH = 3  # articles of a class: one for each of training, validation and test


@dataclass(frozen=True)
class Articles:
    """Texts and their labels, 1 for true and 0 for fake, no text twice."""

    texts: list[str]
    labels: list[int]


def read_articles(folder: Path, max_words: int) -> Articles:
    """Reads both files: joins title and text of each article and keeps the first `max_words` words.

    Articles that are equal then count once, so that no copy of the training set is in the test set, and not at all
    where one is true and another fake. Articles without text are left out, as in the public model for these files.

    Args:
        folder: Holds `True.csv` and `Fake.csv`, UTF-8, with the columns title, text, subject and date.
        max_words: Words, separated by white space, that are kept of each article.

    Raises:
        SettingError: A file is missing, empty, of another encoding, or has other columns, a row with too few or too
            many fields, a row over 128 KiB, an open quotation mark, or hardly an article. The message names file and
            line.
    """
    labels: dict[str, int | None] = {}
    for name, label in FILES.items():
        path, count = folder / name, 0
        for title, text, _, _ in _rows(path):
            if text.strip():
                cut = " ".join(f"{title} {text}".split()[:max_words])
                labels[cut] = label if labels.get(cut, label) == label else None
                count += 1
        if count < _ENOUGH:
            raise SettingError(f"Invalid {path}: {count} articles with a text. Must be >= {_ENOUGH}.")
    known = [(text, label) for text, label in labels.items() if label is not None]
    for name, label in FILES.items():
        if (count := sum(other == label for _, other in known)) < _ENOUGH:
            raise SettingError(f"Invalid {folder / name}: {count} different articles of its own. Must be >= {_ENOUGH}.")
    return Articles([text for text, _ in known], [label for _, label in known])


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise SettingError(
            f"Cannot read {path}: {error.strerror}. --data.root must be a folder with {' and '.join(sorted(FILES))}."
        ) from error
    with file:
        lines = _Lines(file, path)
        # strict: else an open quotation mark silently swallows the rest of the file.
        reader = csv.reader(lines, strict=True)
        header = _next_row(reader, lines)
        if header is None:
            raise SettingError(f"Invalid {path}: it is empty. Must begin with the columns {','.join(COLUMNS)}.")
        if tuple(header) != COLUMNS:
            raise SettingError(f"Invalid {path}, line 1: columns {','.join(header)}. Must be {','.join(COLUMNS)}.")
        while (row := _next_row(reader, lines)) is not None:
            if len(row) == len(COLUMNS):
                yield row
            elif row:  # a blank line is none
                raise SettingError(f"Invalid {path}, line {lines.start}: {len(row)} fields. Must be {len(COLUMNS)}.")


def _next_row(reader: "Iterator[list[str]]", lines: "_Lines") -> list[str] | None:
    lines.begin_row()
    try:
        return next(reader, None)
    except csv.Error as error:
        raise SettingError(
            f'Invalid {lines.path}, line {lines.start}: {error}. Must be CSV with fields quoted by ".'
        ) from error


class _Lines(Iterator[str]):
    # Bytes in bounded pieces: a text file decodes ahead, which hides the line of a fault, and takes in a line of a
    # gigabyte, or a gigabyte after an open quotation mark, before it can be refused.

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.path = path
        self.start = 1  # line on which the row begins
        self._file = file
        self._read = 0  # lines so far
        self._room = MAX_ROW

    def begin_row(self) -> None:
        self.start, self._room = self._read + 1, MAX_ROW

    def __next__(self) -> str:
        line = self._file.readline(self._room + 1)
        if not line:
            raise StopIteration
        self._read += 1
        self._room -= len(line)
        if self._room < 0:
            raise SettingError(
                f"Invalid {self.path}, line {self.start}: a row of more than {MAX_ROW} bytes. "
                "Is a quotation mark left open?"
            )
        try:
            return line.decode("utf-8-sig" if self._read == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise SettingError(
                f"Invalid {self.path}, line {self._read}: no UTF-8 ({error.reason}). Save the file as UTF-8."
            ) from error
