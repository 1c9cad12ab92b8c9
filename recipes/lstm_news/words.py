"""The parts of torchtext that the recipe uses, for machines that do not have it."""

from collections.abc import Mapping, Sequence

_MARKS = str.maketrans({mark: f" {mark} " for mark in "'.,()!?"} | dict.fromkeys(";:", " "))


def basic_english(text: str) -> list[str]:
    """The tokenizer that torchtext has under this name: lower case, marks as words of their own, no quotation marks."""
    return text.lower().replace('"', "").replace("<br />", " ").translate(_MARKS).split()


def frequent_words(counts: Mapping[str, int], size: int, min_count: int, specials: Sequence[str]) -> list[str]:
    """The vocabulary of torchtext: `specials`, then the words by frequency, equally frequent ones by the alphabet.

    Args:
        counts: How often each word occurs.
        size: Length of the list at most, `specials` included.
        min_count: How often a word must occur.
        specials: Words that begin the list, wherever they occur.
    """
    known = (word for word, count in counts.items() if count >= min_count and word not in specials)
    return [*specials, *sorted(known, key=lambda word: (-counts[word], word))][:size]
