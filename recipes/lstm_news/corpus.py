"""A corpus that needs no download: real English sentences, and sentences of a bigram chain trained on them."""

import ast
import csv
import hashlib
import os
import random
import re
import shutil
import tempfile
import textwrap
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import distribution
from itertools import pairwise
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from recipes.lstm_news.articles import COLUMNS

PACKAGES = ("matplotlib", "numpy", "pandas", "scikit-learn", "scipy")  # which the recipes require anyway

_FORMAT = 1  # raise it when the same packages give another corpus
_SEED = 0  # a constant, never the seed of a run: every run of every method sees the same corpus
_TRIES = 40  # chains per wanted sentence; after them the rarer lengths stay incomplete
_SENTENCE = re.compile(r"[A-Z][A-Za-z'-]*(,? [A-Za-z][A-Za-z'-]*){5,39}\.")
_SENTENCE_END = re.compile(r"(?<=\.)\s+(?=[A-Z])")

Sentences = dict[str, str]  # sentence: where it comes from


def made_corpus(packages: Sequence[str] = PACKAGES, cache: Path | None = None) -> Path:
    """Folder of the made corpus, `True.csv` and `Fake.csv` in the published format; written on first use.

    `True.csv` holds the sentences of 6 to 40 words in the docstrings of `packages`, each once. `Fake.csv` holds as many
    sentences of each length, none of them real: chains in which each word follows a word that it follows in a real one.
    So the classes are equally large and equally long, and any two neighbouring words fit together in both. How common
    words and pairs are differs, which alone tells most sentences apart: see `recipes.lstm_news.bag_of_words`. The same
    versions of the packages give the same corpus.

    Args:
        packages: Names of installed distributions.
        cache: Folder of all made corpora; None takes `adaloss_lightning/lstm_news` in `XDG_CACHE_HOME` or `~/.cache`.
    """
    if cache is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "adaloss_lightning", "lstm_news")
    versions = describe(packages)
    folder = cache / hashlib.sha256(f"{_FORMAT} {versions}".encode()).hexdigest()[:16]
    if folder.exists():
        return folder
    rank_zero_info(f"Making the corpus in {folder}, for this and all later runs. It takes about half a minute.")
    real = real_sentences(packages)
    fake = chain_sentences(list(real))
    room = Counter(len(text.split()) for text in fake)
    real = {text: source for text, source in real.items() if _take(room, len(text.split()))}
    cache.mkdir(parents=True, exist_ok=True)
    # A reader finds the whole corpus or none; of several processes that make it the first wins.
    draft = Path(tempfile.mkdtemp(dir=cache))
    _write(draft / "True.csv", real)
    _write(draft / "Fake.csv", dict.fromkeys(fake, "bigram chain"))
    try:
        draft.rename(folder)
    except OSError:
        shutil.rmtree(draft)
        if not folder.exists():
            raise
    return folder


def describe(packages: Sequence[str] = PACKAGES) -> str:
    """The packages with their versions, which determine the corpus."""
    return ", ".join(f"{name} {distribution(name).version}" for name in sorted(packages))


def real_sentences(packages: Sequence[str]) -> Sentences:
    """Sentences of all docstrings, in the order of the files, and the package of each."""
    found: Sentences = {}
    for name in sorted(packages):
        for file in sorted(distribution(name).files or [], key=str):
            if file.suffix == ".py" and "tests" not in file.parts:
                for docstring in _docstrings(Path(str(file.locate()))):
                    for sentence in _sentences(docstring):
                        found.setdefault(sentence, name)
    return found


def chain_sentences(real: Sequence[str]) -> list[str]:
    """Sentences of a bigram chain of `real`: at most as many of each length as there, none of them real, none twice.

    All words that follow a word in `real` are equally likely. Drawn as often as they follow it, they would make
    sentences so much like the real ones that 19,000 of them teach this network next to nothing.

    `random.Random.random` alone: Python promises that this stream never changes.
    """
    followers: dict[str, dict[str, None]] = defaultdict(dict)
    for sentence in real:
        for word, after in pairwise(["", *sentence.split()]):
            followers[word][after] = None
    following = {word: list(after) for word, after in followers.items()}
    room = Counter(len(sentence.split()) for sentence in real)
    longest, draw = max(room, default=0), random.Random(_SEED).random
    known = set(real)
    made: list[str] = []
    for _ in range(_TRIES * len(real)):
        if len(made) == len(real):
            break
        words: list[str] = []
        word = ""
        while not word.endswith(".") and len(words) <= longest:
            choices = following[word]
            word = choices[int(draw() * len(choices))]
            words.append(word)
        sentence = " ".join(words)
        if sentence not in known and word.endswith(".") and _take(room, len(words)):
            known.add(sentence)
            made.append(sentence)
    return made


def _take(room: Counter[int], length: int) -> bool:
    room[length] -= 1
    return room[length] >= 0


def _docstrings(path: Path) -> Iterator[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's escape sequences
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):  # code for another Python
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _sentences(docstring: str) -> Iterator[str]:
    for paragraph in docstring.split("\n\n"):
        text = " ".join(textwrap.dedent(paragraph).split())
        yield from (sentence for sentence in _SENTENCE_END.split(text) if _SENTENCE.fullmatch(sentence))


def _write(path: Path, sentences: Sentences) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(("", sentence, source, "") for sentence, source in sentences.items())
