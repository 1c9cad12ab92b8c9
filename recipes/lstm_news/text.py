"""Words, their numbers and their vectors; the only file that imports torchtext."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.lstm_news.words import basic_english, frequent_words
from recipes.shared.settings import SettingError

UNKNOWN, PAD = 0, 1  # numbers of a word outside the vocabulary, and of what fills up a batch
_SPECIALS = ("<unk>", "<pad>")

_Tokenize = Callable[[str], list[str]]
_Choose = Callable[[Mapping[str, int], int, int, Sequence[str]], list[str]]


def tokenize(text: str) -> list[str]:
    """Words in lower case, with marks such as comma and full stop as words of their own (`basic_english`)."""
    return _torchtext()[0](text)


class Vocabulary:
    """The words that a network knows; the number of a word is its place.

    Attributes:
        words: `<unk>`, `<pad>`, then the words.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def build(cls, texts: Iterable[Sequence[str]], size: int, min_count: int = 1) -> "Vocabulary":
        """The words that occur at least `min_count` times in tokenized texts, the most frequent first.

        Args:
            texts: Tokens of each text.
            size: Length of the vocabulary at most, `<unk>` and `<pad>` included.
            min_count: How often a word must occur.
        """
        counts = Counter(token for text in texts for token in text)
        return cls(_torchtext()[1](counts, size, min_count, _SPECIALS))

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Iterable[str]) -> NDArray[np.int64]:
        """Number of each token, shape `[n]`; `UNKNOWN` for a word outside the vocabulary."""
        return np.array([self._numbers.get(token, UNKNOWN) for token in tokens], dtype=np.int64)


def fill_from_file(embedding: Tensor, vocabulary: Vocabulary, path: Path) -> int:
    """Overwrites the rows of the words in a file of GloVe's format; the others keep their random start.

    Reads line by line, `word number number ...`, and keeps the rows of the vocabulary alone.

    Args:
        embedding: Shape `[len(vocabulary), d]`, changed in place after the whole file has been read.
        vocabulary: Its words are looked up as they are, in lower case.
        path: The file, such as `glove.6B.300d.txt` for d = 300.

    Returns:
        Number of words found.

    Raises:
        SettingError: The file cannot be read, or a line has another number of values than d; with file and line.
    """
    known = set(vocabulary.words)
    width = embedding.shape[1]
    rows: dict[str, list[float]] = {}
    try:
        with path.open(encoding="utf-8", errors="surrogateescape") as file:
            for line, text in enumerate(file, 1):
                # From the right: some words of the 840B file contain spaces.
                word, *values = text.rstrip().rsplit(" ", width)
                if len(values) != width:
                    raise SettingError(f"Invalid {path}, line {line}: {len(values)} values. Must be embedding={width}.")
                if word in known:
                    try:
                        rows[word] = [float(value) for value in values]
                    except ValueError as error:
                        raise SettingError(f"Invalid {path}, line {line}: {error}. Must be numbers.") from error
    except OSError as error:
        raise SettingError(f"Cannot read {path}: {error.strerror}. Give a file of word vectors, or none.") from error
    with torch.no_grad():
        if rows:
            embedding[torch.from_numpy(vocabulary.encode(rows))] = torch.tensor(
                list(rows.values()), dtype=embedding.dtype
            )
    return len(rows)


@cache
def _torchtext() -> tuple[_Tokenize, _Choose]:
    # Only here: a command line is parsed without it. 0.6.0 is its last release in pure Python, which runs with any
    # torch; later ones are tied to one torch each. None will follow, and so nothing depends on it.
    try:
        from torchtext.data.utils import get_tokenizer
        from torchtext.vocab import Vocab
    except ImportError:
        return basic_english, frequent_words

    def choose(counts: Mapping[str, int], size: int, min_count: int, specials: Sequence[str]) -> list[str]:
        words: list[str] = Vocab(counts, size - len(specials), min_count, list(specials)).itos
        return words

    return get_tokenizer("basic_english"), choose
