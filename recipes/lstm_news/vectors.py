"""Word vectors from a text file in the format of GloVe."""

from pathlib import Path

import torch
from torch import Tensor

from recipes.lstm_news.text import Vocabulary


def fill_from_file(embedding: Tensor, vocabulary: Vocabulary, path: Path) -> int:
    """Overwrites the rows of the words that the file knows; the others keep their random start.

    The file is read line by line, `word number number ...`, and only rows of the vocabulary are kept.

    Args:
        embedding: Shape `[len(vocabulary), d]`, changed in place, once the whole file has been read.
        vocabulary: Its words are looked up as they are, in lower case.
        path: Such as `glove.6B.300d.txt` for d = 300.

    Returns:
        How many words were found.

    Raises:
        ValueError: The file cannot be read, or a line has another number of values than d; with file and line.
    """
    numbers = {word: number for number, word in enumerate(vocabulary.words)}
    width = embedding.shape[1]
    rows: dict[int, list[float]] = {}
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for line, text in enumerate(file, 1):
                # From the right: some words of the 840B file contain spaces.
                word, *values = text.rstrip().rsplit(" ", width)
                if len(values) != width:
                    raise ValueError(f"Invalid {path}, line {line}: {len(values)} values. Must be embedding={width}.")
                if word in numbers:
                    try:
                        rows[numbers[word]] = [float(value) for value in values]
                    except ValueError as error:
                        raise ValueError(f"Invalid {path}, line {line}: {error}. Must be numbers.") from error
    except OSError as error:
        raise ValueError(f"Cannot read {path}: {error.strerror}. Give a file of word vectors, or none.") from error
    with torch.no_grad():
        if rows:
            embedding[torch.tensor(list(rows))] = torch.tensor(list(rows.values()), dtype=embedding.dtype)
    return len(rows)
