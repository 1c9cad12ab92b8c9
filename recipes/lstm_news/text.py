"""Words and their numbers. All that the recipe takes from torchtext is behind these two names."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNKNOWN, PAD = 0, 1  # numbers of what is no word of the vocabulary, and of what fills up a batch
_SPECIALS = ("<unk>", "<pad>")


def tokenize(text: str) -> list[str]:
    """Words in lower case, with marks such as comma and full stop as words of their own (`basic_english`)."""
    tokens: list[str] = _torchtext()[0](text)
    return tokens


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
        specials = list(_SPECIALS)
        return cls(_torchtext()[1](counts, max_size=size - len(specials), min_freq=min_count, specials=specials).itos)

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, tokens: Iterable[str]) -> NDArray[np.int64]:
        """Number of each token, shape `[n]`; `UNKNOWN` for those that are no words of the vocabulary."""
        return np.array([self._numbers.get(token, UNKNOWN) for token in tokens], dtype=np.int64)


@cache
def _torchtext() -> tuple[Callable[[str], list[str]], Any]:
    # Only here: a command line is parsed without it. 0.6.0 is its last release in pure Python, which runs with any
    # torch; later ones are tied to one torch each.
    from torchtext.data.utils import get_tokenizer
    from torchtext.vocab import Vocab

    return get_tokenizer("basic_english"), Vocab
