"""The public model for these files: embedding, one bidirectional LSTM layer, dropout, one linear layer."""

import os
import platform
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from recipes.lstm_news.data import Batch, NewsData
from recipes.lstm_news.text import PAD, Vocabulary, fill_from_file
from recipes.shared.module import Supervised
from recipes.shared.settings import require_at_least


class TextLSTM(nn.Module):
    """One score per text from the last state of a bidirectional LSTM in each direction.

    Args:
        words: Rows of the embedding, at least the size of the vocabulary.
        embedding: Size of a word's vector.
        hidden: Units of the LSTM in each direction.
        dropout: Share of the 2 * hidden features that are dropped in training.
    """

    def __init__(self, words: int, embedding: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, embedding, padding_idx=PAD)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * hidden, 1)

    def forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """Logits that the texts are true, shape `[n]`, of word numbers of shape `[n, longest]`."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(tokens), torch.tensor(lengths), batch_first=True, enforce_sorted=False
        )
        _, (state, _) = self.lstm(packed)  # [2, n, hidden]
        logits: Tensor = self.linear(self.dropout(torch.cat([state[0], state[1]], dim=1))).squeeze(1)
        return logits


class NewsModule(Supervised):
    """Trains by binary cross-entropy; logs `{train,val,test}/loss` and `{val,test}/acc`.

    A checkpoint holds the vocabulary, without which the rows of the embedding mean nothing, and numbers the words of
    the data that are run with it.

    Args:
        words: Rows of the embedding; on the command line `--data.vocabulary_size`.
        embedding: Size of a word's vector.
        hidden: Units of the LSTM in each direction.
        dropout: Share of the LSTM's features that are dropped in training.
        vectors: File of word vectors in GloVe's format, of size `embedding`, to start from.

    Raises:
        ValueError: A size below 1, or a dropout outside [0, 1).

    Attributes:
        vocabulary: The words that the rows of the embedding stand for; empty before `setup` or a checkpoint.
    """

    def __init__(
        self,
        words: int = 10_000,
        embedding: int = 64,
        hidden: int = 64,
        dropout: float = 0.5,
        vectors: str | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, words=words, embedding=embedding, hidden=hidden)
        if not 0 <= dropout < 1:
            raise ValueError(f"Invalid dropout={dropout}. Must be in [0, 1).")
        self.save_hyperparameters(logger=False)
        self.network = TextLSTM(words, embedding, hidden, dropout)
        self.vectors = vectors
        self.vocabulary = Vocabulary([])

    def setup(self, stage: str) -> None:
        """Takes the vocabulary of the data, which Lightning has set up before, and its word vectors for training."""
        if not self.vocabulary:
            self.vocabulary = self._data.vocabulary
            if self.vectors is not None and self.trainer.state.fn == TrainerFn.FITTING:
                fill_from_file(self.network.embedding.weight, self.vocabulary, Path(self.vectors))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the vocabulary."""
        checkpoint["vocabulary"] = self.vocabulary.words

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the vocabulary of the checkpoint, and lets the data take it."""
        self.vocabulary = Vocabulary(checkpoint["vocabulary"])
        if self._trainer is not None and self._data.vocabulary.words != self.vocabulary.words:
            self._data.use(self.vocabulary)

    def on_fit_start(self) -> None:
        """Logs data and machine, which reports quote."""
        for logger in self.trainer.loggers:
            logger.log_hyperparams({"corpus": self._data.description, "machine": machine(self.device)})

    def forward(self, tokens: Tensor, lengths: list[int]) -> Tensor:
        """Logits that the texts are true, shape `[n]`, of word numbers of shape `[n, longest]`."""
        logits: Tensor = self.network(tokens, lengths)
        return logits

    def outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits and labels."""
        return self(batch.tokens, batch.lengths), batch.labels

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Mean binary cross-entropy of the batch."""
        return nn.functional.binary_cross_entropy_with_logits(predicted, targets)

    def hits(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Whether the sign of a logit tells the label."""
        return (predicted > 0) == (targets > 0)

    @property
    def _data(self) -> NewsData:
        data: NewsData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data


def machine(device: torch.device) -> str:
    """The machine that trains."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    cores = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    return f"{name}, {cores}, {platform.machine()}, torch {torch.__version__}"
