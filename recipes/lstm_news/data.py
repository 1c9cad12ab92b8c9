"""The articles as numbered words, in one fixed split."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipes.lstm_news.articles import read_articles
from recipes.lstm_news.batches import BucketSampler
from recipes.lstm_news.corpus import describe, made_corpus
from recipes.lstm_news.text import PAD, UNKNOWN, Vocabulary, tokenize
from recipes.shared.data import ThreeSets, seed_of_run, split_indices
from recipes.shared.settings import require_at_least

PARTS = ("train", "val", "test")


class Batch(NamedTuple):
    """Articles filled up to the longest of them.

    Attributes:
        tokens: Numbers of the words, `PAD` after the last, shape `[n, longest]`, int64.
        lengths: Words of each article. A list, as packing wants them on the CPU and Lightning moves tensors only.
        labels: 1 for true and 0 for fake, shape `[n]`, float32.
    """

    tokens: Tensor
    lengths: list[int]
    labels: Tensor


def describe_data() -> str:
    """Where the articles come from unless a folder of files is given."""
    return f"made from {describe()}; the published files are read with --data.root"


class EncodedArticles(Dataset[Batch]):
    """Articles of any length in one array; one index operation fetches a whole batch.

    An article without words, such as one of marks that the tokenizer drops, counts as one unknown word: an LSTM takes
    no sequence of length zero.

    Args:
        articles: Numbered words of each article.
        labels: Label of each article.
    """

    def __init__(self, articles: Sequence[np.ndarray], labels: Sequence[int] | np.ndarray) -> None:
        articles = [article if len(article) else np.array([UNKNOWN]) for article in articles]
        self.lengths = np.array([len(article) for article in articles], dtype=np.int64)
        self._ends = np.cumsum(self.lengths)
        self._words = np.concatenate(articles) if len(articles) else np.empty(0, dtype=np.int64)
        self.labels = np.asarray(labels, dtype=np.float32)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, indices: int | Sequence[int]) -> Batch:
        chosen = np.atleast_1d(indices)
        lengths = self.lengths[chosen]
        places = np.arange(lengths.max())
        is_word = places < lengths[:, None]
        tokens = np.full(is_word.shape, PAD, dtype=np.int64)
        starts = self._ends[chosen] - lengths
        tokens[is_word] = self._words[(starts[:, None] + places)[is_word]]
        return Batch(torch.from_numpy(tokens), lengths.tolist(), torch.from_numpy(self.labels[chosen]))


class NewsData(ThreeSets):
    """True and fake news from `True.csv` and `Fake.csv`, or real and made-up sentences in the same format.

    The split is fixed, and the same share of each class: 60 % training, 20 % validation, 20 % test, no text twice. The
    vocabulary is that of the training set.

    Args:
        source: `files` reads the CSV files in `root`; `made` makes a corpus from the docstrings of installed packages
            and keeps it in the user's cache. None takes `files` where `root` is given, else `made`.
        root: Folder with `True.csv` and `Fake.csv` (columns title, text, subject, date).
        batch_size: Articles per training step and rank.
        eval_batch_size: Articles per validation or test step and rank.
        max_words: Words of title and text that are kept of each article.
        vocabulary_size: Rows of the network's embedding: the vocabulary holds the most frequent words, `<unk>` and
            `<pad>` included, up to this number.
        min_count: How often a word must occur in the training set to belong to the vocabulary.
        seed: Of the order of the training batches, each epoch another. None takes that of `seed_everything`.

    Raises:
        ValueError: A number out of its bounds, `files` without a `root` or `made` with one.

    Attributes:
        tokens: After `setup`, the words of each text, by the name of its set.
        labels: After `setup`, the labels, by the name of the set.
        vocabulary: After `setup`, the numbering of the words.
        description: After `setup`, what the articles are, for reports.
    """

    def __init__(
        self,
        source: Literal["made", "files"] | None = None,
        root: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 256,
        max_words: int = 200,
        vocabulary_size: int = 10_000,
        min_count: int = 3,
        seed: int | None = None,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        require_at_least(1, max_words=max_words, min_count=min_count)
        require_at_least(3, vocabulary_size=vocabulary_size)  # <unk>, <pad> and a word
        require_at_least(0, seed=seed)
        if source is not None and (source == "files") != (root is not None):
            raise ValueError(f"Invalid root={root} with source={source}. Must be a folder for files, none for made.")
        self.root = root
        self.max_words = max_words
        self.vocabulary_size = vocabulary_size
        self.min_count = min_count
        self.seed = seed
        self.vocabulary = Vocabulary([])
        self.description = ""
        self.tokens: dict[str, list[list[str]]] = {}
        self.labels: dict[str, np.ndarray] = {}

    def prepare_data(self) -> None:
        """Makes the corpus where there is none yet, in one process of each machine."""
        if self.root is None:
            made_corpus()

    def read(self) -> dict[str, Dataset[Any]]:
        """Reads and numbers the articles."""
        articles = read_articles(made_corpus() if self.root is None else Path(self.root), self.max_words)
        labels = np.array(articles.labels)
        for part, indices in zip(PARTS, split_indices(labels), strict=True):
            self.tokens[part] = [tokenize(articles.texts[index]) for index in indices]
            self.labels[part] = labels[indices]
        kind = f"made from {describe()}" if self.root is None else "True.csv and Fake.csv"
        self.description = f"{len(labels)} texts ({', '.join(str(len(self.labels[part])) for part in PARTS)}), {kind}"
        self.use(Vocabulary.build(self.tokens["train"], self.vocabulary_size, self.min_count))
        return self.sets

    def use(self, vocabulary: Vocabulary) -> None:
        """Numbers the words by another vocabulary, such as the one of a checkpoint."""
        self.vocabulary = vocabulary
        self.sets = {
            part: EncodedArticles([vocabulary.encode(text) for text in texts], self.labels[part])
            for part, texts in self.tokens.items()
        }

    def loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
        """Batches of similar length; without shuffling the longest articles come first."""
        articles: Any = self.sets[name]
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        seed = seed_of_run() if self.seed is None else self.seed
        sampler = BucketSampler(articles.lengths, batch_size, ranks, rank, shuffle, seed)
        return DataLoader(articles, batch_size=None, sampler=sampler)
