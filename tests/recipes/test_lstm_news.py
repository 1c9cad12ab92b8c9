"""The lstm_news recipe: its files, its corpus, its batches on one rank and two, its network, its report."""

import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise, product
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from mlflow.entities import Metric, Param, Run
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import TrackingError
from adaloss_lightning.tracking.console.app import main as adaloss
from adaloss_lightning.tracking.reports.kept import keep, read
from adaloss_lightning.tracking.reports.results import collect
from recipes.lstm_news import bag_of_words, corpus
from recipes.lstm_news.articles import MAX_ROW, read_articles
from recipes.lstm_news.batches import BucketSampler
from recipes.lstm_news.corpus import chain_sentences, made_corpus, real_sentences
from recipes.lstm_news.data import EncodedArticles, NewsData
from recipes.lstm_news.module import NewsModule, TextLSTM
from recipes.lstm_news.report import HISTORIES, curves_of
from recipes.lstm_news.report import main as report
from recipes.lstm_news.text import PAD, UNKNOWN, Vocabulary, _torchtext, fill_from_file, tokenize
from recipes.lstm_news.words import basic_english
from tests.ports import free_port
from tests.recipes.runs import TINY, config, fit, only_run, run_recipe, write_news
from tests.support.leaving import LeaveGroup

HEADER = "title,text,subject,date\n"
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


@pytest.fixture
def news(folder: Path) -> Path:
    return write_news(folder / "news")


def test_read_articles_cuts_texts_and_drops_copies(folder: Path) -> None:
    # Quoted commas, marks and line ends, Windows' line ends, a byte order mark and a blank line at the end.
    (folder / "True.csv").write_bytes(
        ("\ufeff" + HEADER).encode()
        + b'"One, ""two""","three\nfour five six",politicsNews,"December 31, 2017 "\r\n'
        + "b,ž text,s,d\r\nsame,text,s,d\r\nsame,text,other,d\r\nboth,sides,s,d\r\nc,d,s,d\r\n\r\n".encode()
    )
    (folder / "Fake.csv").write_text(HEADER + "empty, ,s,d\ne,f,s,d\ng,h,s,d\nboth,sides,s,d\ni,j,s,d")
    articles = read_articles(folder, max_words=4)
    assert dict(zip(articles.texts, articles.labels, strict=True)) == {
        'One, "two" three four': 1, "b ž text": 1, "same text": 1, "c d": 1, "e f": 0, "g h": 0, "i j": 0
    }  # fmt: skip
    assert len(articles.texts) == 7


@pytest.mark.parametrize(("content", "message"), [
    (b"", "it is empty"),
    (HEADER.encode(), "0 articles with a text. Must be >= 3"),
    (b"title,text,date\na,b,c\n", "line 1: columns title,text,date. Must be title,text,subject,date"),
    (HEADER.encode() + b"a,b,c,d\na,b,c\n", "line 3: 3 fields. Must be 4"),
    (HEADER.encode() + b'a,"b\nb",c,d\na,b,c,d,e\n', "line 4: 5 fields"),
    (HEADER.encode() + b'a,b,c,d\na,"b,c,d\na,b,c,d\n', "line 3: unexpected end of data"),
    (HEADER.encode() + b'a,b,c,d\na,"b"b,c,d\n', "line 3: ',' expected after '\"'"),
    (HEADER.encode() + 'a,b,c,d\na,"b\né",c,d\n'.encode("latin-1"), "line 4: no UTF-8"),
    (HEADER.encode("utf-16"), "line 1: no UTF-8"),
    (HEADER.encode() + b"a,b,c,d\na," + b"b" * MAX_ROW + b",c,d\n", "line 3: a row of more than 131072 bytes"),
    (HEADER.encode() + b'a,"' + b"b\n" * MAX_ROW, "line 2: a row of more than 131072 bytes"),
])  # fmt: skip
def test_read_articles_names_the_line_of_a_fault(folder: Path, content: bytes, message: str) -> None:
    write_news(folder)
    (folder / "True.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"Invalid .*True\.csv") as error:
        read_articles(folder, 200)
    assert message in str(error.value)


def test_read_articles_refuses_a_missing_file_and_copies_alone(folder: Path) -> None:
    write_news(folder)
    (folder / "True.csv").write_bytes((folder / "Fake.csv").read_bytes())
    with pytest.raises(ValueError, match=r"Invalid .*Fake.csv: 0 different articles of its own"):
        read_articles(folder, 200)
    (folder / "True.csv").unlink()
    with pytest.raises(ValueError, match=r"Cannot read .*True.csv: No such file.*--data.root must be a folder"):
        read_articles(folder, 200)


@pytest.mark.parametrize("start", [b"a,", b'a,"'])
def test_read_articles_does_not_read_a_gigabyte_in_one_field(folder: Path, start: bytes) -> None:
    write_news(folder)
    with (folder / "Fake.csv").open("wb") as file:
        file.write(HEADER.encode() + start)
        file.truncate(2**30)  # zeros that take no room on the disk
    tracemalloc.start()
    with pytest.raises(ValueError, match="line 2: a row of more than"):
        read_articles(folder, 200)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**21


@pytest.fixture
def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed distribution whose docstrings are known."""
    nouns = ["number", "matrix", "vector", "array"]
    facts = [f"Returns the {a} of the {b} with one more {c}." for a in nouns for b in nouns for c in nouns]
    site = folder / "site"
    (site / "tiny" / "tests").mkdir(parents=True)
    (site / "tiny-1.5.dist-info").mkdir()
    (site / "tiny-1.5.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.5\n")
    files = {
        "tiny/b.py": '"""' + "\n\n".join(facts) + '"""\n',
        "tiny/a.py": '"""Short one.\n\n    Adds the two\n    given numbers, then rounds. This has x = 3 in it."""\n',
        "tiny/tests/t.py": '"""Tests are not part of what is read."""\n',
        "tiny/old.py": "print 'Python two is not read at all.'\n",
    }
    for name, text in files.items():
        (site / name).write_text(text)
    (site / "tiny-1.5.dist-info" / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    monkeypatch.syspath_prepend(str(site))
    return "tiny"


def test_chain_sentences_have_the_pairs_and_lengths_of_real_ones(package: str) -> None:
    sentences = real_sentences([package])
    assert next(iter(sentences)) == "Adds the two given numbers, then rounds."  # a.py comes before b.py
    assert len(sentences) == 1 + 64
    assert set(sentences.values()) == {"tiny"}
    real = [*sentences, "Adds the number of the vector and one more to it.", "Returns the given one at last now."]
    made = chain_sentences(real)
    assert made == chain_sentences(real)
    assert len(set(made)) == len(made) > 3
    assert not set(made) & set(real)
    pairs, made_pairs = ({pair for text in some for pair in pairwise(["", *text.split()])} for some in (real, made))
    assert made_pairs <= pairs
    lengths, made_lengths = (Counter(len(text.split()) for text in some) for some in (real, made))
    assert all(count <= lengths[length] for length, count in made_lengths.items())


def test_made_corpus_is_balanced_in_the_published_format_and_kept(
    package: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_corpus([package], folder / "cache")
    articles = read_articles(made, 200)
    lengths = [
        Counter(len(text.split()) for text, label in zip(articles.texts, articles.labels, strict=True) if label == one)
        for one in (0, 1)
    ]
    assert lengths[0] == lengths[1]
    assert sum(lengths[0].values()) > 3
    monkeypatch.setattr(corpus, "real_sentences", None)  # not needed again
    assert made_corpus([package], folder / "cache") == made
    assert [path.name for path in (folder / "cache").iterdir()] == [made.name]


@pytest.mark.parametrize("source", ["made", None])
def test_data_without_a_folder_are_the_made_corpus(
    package: str, folder: Path, monkeypatch: pytest.MonkeyPatch, source: Literal["made"] | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr("recipes.lstm_news.data.made_corpus", lambda: made_corpus([package]))
    monkeypatch.setattr("recipes.lstm_news.data.describe", lambda: corpus.describe([package]))
    data = NewsData(source=source)
    data.prepare_data()
    assert list((folder / "cache" / "adaloss_lightning" / "lstm_news").glob("*/True.csv"))
    data.setup("fit")
    assert data.description.endswith("made from tiny 1.5")
    assert set(data.labels["train"]) == {0, 1}


def test_vocabulary_numbers_words_by_frequency_then_alphabet() -> None:
    assert tokenize("The cat's mat (old), sat.") == ["the", "cat", "'", "s", "mat", "(", "old", ")", ",", "sat", "."]
    texts = [["b", "a", "c"], ["b", "a"], ["b", "d", "d"]]
    assert Vocabulary.build(texts, size=10).words == ["<unk>", "<pad>", "b", "a", "d", "c"]
    assert Vocabulary.build(texts, size=10, min_count=2).words == ["<unk>", "<pad>", "b", "a", "d"]
    vocabulary = Vocabulary.build(texts, size=4)
    assert vocabulary.words == ["<unk>", "<pad>", "b", "a"]
    assert vocabulary.encode(["a", "never", "b"]).tolist() == [3, UNKNOWN, 2]
    assert len(vocabulary) == 4  # looking up an unknown word adds none


def test_tokenizer_without_torchtext_gives_its_tokens() -> None:
    tokenize = pytest.importorskip("torchtext.data.utils").get_tokenizer("basic_english")
    draw = random.Random(0)
    pieces = [*"aBß0 \t\n\u00a0'\".,()!?;:-<>/&", "<br />", "<BR />", '<b"r />', "İ", "...", "it's"]
    for _ in range(2000):
        sample = "".join(draw.choices(pieces, k=12))
        assert basic_english(sample) == tokenize(sample), repr(sample)


def test_data_without_torchtext_are_the_same(news: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (news / "True.csv").open("a") as file:
        file.write('The <unk> cat\'s,"a ""mat"", (old); sat.",s,d\n')
    with monkeypatch.context() as patch:
        for name in ("torchtext", *(name for name in sys.modules if name.startswith("torchtext."))):
            patch.setitem(sys.modules, name, None)
        without = data_of(news)
    pytest.importorskip("torchtext")
    with_it = data_of(news)
    assert without.tokens == with_it.tokens
    assert without.vocabulary.words == with_it.vocabulary.words
    assert len(without.vocabulary) == 12
    for one, other in zip(without.train_dataloader(), with_it.train_dataloader(), strict=True):
        assert torch.equal(one.tokens, other.tokens)
        assert (one.lengths, one.labels.tolist()) == (other.lengths, other.labels.tolist())


def data_of(news: Path) -> NewsData:
    _torchtext.cache_clear()
    data = NewsData(root=str(news), vocabulary_size=12, min_count=2, seed=1)
    data.setup("fit")
    _torchtext.cache_clear()
    return data


def test_word_vectors_fill_the_rows_they_know(folder: Path) -> None:
    path = folder / "glove.txt"
    path.write_text("b 1 2.5\nunheard 3 4\nnew york 5 -6e-1\n")
    embedding = torch.zeros(6, 2)  # more rows than words
    assert fill_from_file(embedding, Vocabulary(["<unk>", "<pad>", "a", "b", "new york"]), path) == 2
    assert torch.equal(embedding, torch.tensor([[0, 0], [0, 0], [0, 0], [1, 2.5], [5, -0.6], [0, 0]]))
    path.write_text("b 1 2\na 1\n")
    with pytest.raises(ValueError, match=r"glove.txt, line 2: 1 values. Must be embedding=2"):
        fill_from_file(embedding, Vocabulary(["a"]), path)
    path.write_text("a x 1\n")
    with pytest.raises(ValueError, match=r"glove.txt, line 1: could not convert .*. Must be numbers"):
        fill_from_file(embedding, Vocabulary(["a"]), path)
    with pytest.raises(ValueError, match=r"Cannot read .*absent: No such file"):
        fill_from_file(embedding, Vocabulary(["a"]), folder / "absent")


@pytest.mark.parametrize(("count", "ranks"), [(1000, 1), (1000, 2), (997, 3), (33, 4), (5, 8)])
def test_bucket_sampler_shares_each_epoch_among_ranks_in_step(count: int, ranks: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 200, count)
    samplers = [BucketSampler(lengths, 4, ranks, rank, seed=3) for rank in range(ranks)]
    single = BucketSampler(lengths, 4 * ranks, seed=3)
    used = set()
    for epoch in range(3):
        for sampler in (*samplers, single):
            sampler.set_epoch(epoch)
        dealt = [list(sampler) for sampler in samplers]
        assert {len(batches) for batches in dealt} == {len(samplers[0])}  # a rank with more would wait for ever
        indices = [index for batches in dealt for batch in batches for index in batch]
        assert len(set(indices)) == len(indices) > count - ranks
        used |= set(indices)
        # A step of all ranks is a step of one process with their batch size together.
        together = [sorted(chain.from_iterable(batches)) for batches in zip(*dealt, strict=True)]
        assert len(indices) < count or together == [sorted(batch) for batch in single]
    assert len(used) == count or count < ranks  # who is left out changes


def test_bucket_sampler_gives_similar_lengths_in_another_order_each_epoch() -> None:
    lengths = np.random.default_rng(1).integers(1, 201, 6400)
    sampler = BucketSampler(lengths, 32)
    first = list(sampler)
    # 50 batches of 32 from 200 lengths that are equally likely: about 4 lengths a batch, and not 200.
    assert np.mean([np.ptp(lengths[batch]) for batch in first]) < 8
    longest = [lengths[batch].max() for batch in first]
    assert abs(np.corrcoef(longest[:-1], longest[1:])[0, 1]) < 0.3  # no epoch from long to short; 1 / sqrt(199) = 0.07
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(BucketSampler(lengths, 32, seed=1)) != first


@pytest.mark.parametrize("ranks", [1, 3])
def test_bucket_sampler_evaluates_every_example_once(ranks: int) -> None:
    samplers = [BucketSampler([5, 1, 9, 9, 2, 7, 3], 2, ranks, rank, shuffle=False) for rank in range(ranks)]
    assert [len(list(sampler)) for sampler in samplers] == [len(sampler) for sampler in samplers]
    assert sorted(index for sampler in samplers for batch in sampler for index in batch) == list(range(7))
    if ranks == 1:
        assert list(samplers[0]) == [[2, 3], [5, 0], [6, 4], [1]]  # the longest first


def test_batch_pads_the_articles() -> None:
    articles = EncodedArticles([np.array(words) for words in ([5, 6, 7], [8], [9, 3])], [1, 0, 1])
    batch = articles[[1, 2]]
    assert batch.tokens.tolist() == [[8, PAD], [9, 3]]
    assert (batch.lengths, batch.labels.tolist()) == ([1, 2], [0.0, 1.0])
    assert articles[0].tokens.tolist() == [[5, 6, 7]]


def test_text_without_words_is_one_unknown_word() -> None:
    vocabulary = Vocabulary(["<unk>", "<pad>", "a"])
    articles = EncodedArticles([vocabulary.encode(tokenize(text)) for text in (";:", "a", ";")], [1, 0, 1])
    batch = articles[[0, 1, 2]]
    assert (batch.tokens.tolist(), batch.lengths) == ([[UNKNOWN], [2], [UNKNOWN]], [1, 1, 1])
    assert TextLSTM(words=3, embedding=4, hidden=3, dropout=0.0)(batch.tokens, batch.lengths).isfinite().all()


def test_network_is_the_lstm_of_the_equations_on_each_text_alone() -> None:
    torch.manual_seed(0)
    network = TextLSTM(words=9, embedding=4, hidden=3, dropout=0.5).double().eval()
    texts = [[2, 3, 4, 5], [8], [7, 2, 7]]
    lengths = [len(text) for text in texts]
    tokens = torch.tensor([text + [PAD] * (4 - len(text)) for text in texts])
    expected = [slow_logit(network, text) for text in texts]
    # 1e-12: both sides are in float64 and sum a few dozen terms.
    np.testing.assert_allclose(network(tokens, lengths).detach().numpy(), expected, rtol=1e-12)


def slow_logit(network: TextLSTM, text: Sequence[int]) -> float:
    """Hochreiter and Schmidhuber's cell, word by word, once from each side."""
    values = {name: value.detach().numpy() for name, value in network.named_parameters()}
    vectors = [values["embedding.weight"][number] for number in text]
    states = []
    for suffix, order in (("", vectors), ("_reverse", vectors[::-1])):
        w, u, b, d = (values[f"lstm.{name}_l0{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        h = c = np.zeros(3)
        for x in order:
            i, f, g, o = np.split(w @ x + b + u @ h + d, 4)
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
        states.append(h)
    return float(values["linear.weight"][0] @ np.concatenate(states) + values["linear.bias"][0])


def test_data_are_split_without_copies_and_numbered_by_the_training_set(news: Path) -> None:
    data = NewsData(root=str(news), min_count=1)
    data.setup("fit")
    parts = {part: [" ".join(text) for text in texts] for part, texts in data.tokens.items()}
    assert {part: len(texts) for part, texts in parts.items()} == {"train": 24, "val": 8, "test": 8}
    assert len({text for texts in parts.values() for text in texts}) == 40
    assert all(labels.mean() == 0.5 for labels in data.labels.values())
    assert set(data.vocabulary.words[2:]) == {word for text in parts["train"] for word in text.split()}
    assert data.description == "40 texts (24, 8, 8), True.csv and Fake.csv"
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert all(len(batch.lengths) == len(batch.labels) == len(batch.tokens) for batch in loader)


def test_bag_of_words_sees_pairs_but_no_order(folder: Path) -> None:
    names = iter("".join(letters) for letters in product("abcdefgh", repeat=3))
    for file, text in (("True.csv", "first second"), ("Fake.csv", "second first")):
        rows = [f"{next(names)},{text},s,d\n" for _ in range(20)]
        (folder / file).write_text(HEADER + "".join(rows))
    data = NewsData(root=str(folder))
    data.setup("fit")
    assert [bag_of_words.accuracy(data, length) for length in (1, 2)] == [0.5, 1.0]


@pytest.mark.parametrize("make", [
    lambda: NewsData(batch_size=0), lambda: NewsData(eval_batch_size=0), lambda: NewsData(max_words=0),
    lambda: NewsData(min_count=0), lambda: NewsData(vocabulary_size=2), lambda: NewsData(seed=-1),
    lambda: NewsData(source="files"), lambda: NewsData(source="made", root="somewhere"),
    lambda: NewsModule(words=0), lambda: NewsModule(embedding=0), lambda: NewsModule(hidden=0),
    lambda: NewsModule(dropout=1.0), lambda: NewsModule(dropout=-0.1),
])  # fmt: skip
def test_impossible_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"Invalid \w+=.*\. Must be "):
        make()


@pytest.mark.process
def test_torchtext_is_imported_when_it_is_needed() -> None:
    code = "import sys, recipes.lstm_news.text; assert 'torchtext' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_checkpoint_carries_the_vocabulary_to_other_data(client: MlflowClient, folder: Path, news: Path) -> None:
    fit("lstm_news", "adamloss")
    run = only_run(client)
    assert run.data.params["corpus"].startswith("40 texts (24, 8, 8)")
    assert "torch" in run.data.params["machine"]
    (path,) = Path(run.info.artifact_uri, "checkpoints").iterdir()
    module = NewsModule.load_from_checkpoint(path).eval()
    data = NewsData(root=str(news), min_count=1)
    data.setup("fit")
    assert module.vocabulary.words == data.vocabulary.words
    # Other articles, whose own vocabulary numbers the same words in another way.
    write_news(folder / "other", count=60, seed=5)
    more = ["--data.root=other", f"--ckpt_path={path}", "--trainer.logger.experiment_name=other"]
    run_recipe("lstm_news", "test", config("lstm_news", "adamloss"), *TINY["lstm_news"], *more)
    other = NewsData(root="other", min_count=1)
    other.setup("test")
    assert other.vocabulary.words != module.vocabulary.words
    texts = [torch.from_numpy(module.vocabulary.encode(text)) for text in other.tokens["test"]]
    logits = np.array([module(text[None], [len(text)]).item() for text in texts])
    expected = np.mean((logits > 0) == other.labels["test"])
    assert only_run(client, "other").data.metrics["test/acc"] == pytest.approx(expected)


def test_training_starts_from_word_vectors(folder: Path, news: Path) -> None:
    (folder / "vectors.txt").write_text("yes 1 2 3 4\n")
    module = NewsModule(words=64, embedding=4, hidden=3, vectors="vectors.txt")
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), lr=0.0)
    Trainer(max_epochs=1, accelerator="cpu", **QUIET).fit(module, datamodule=NewsData(root=str(news), min_count=1))
    row = module.network.embedding.weight[module.vocabulary.words.index("yes")]
    assert row.tolist() == [1, 2, 3, 4]


class Descent(NewsModule):
    """Plain gradient descent without dropout, which a larger batch repeats."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


@pytest.mark.process
def test_two_ranks_train_and_test_as_one_process_with_their_batches_together(
    folder: Path, news: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    outcomes = []
    for ranks in (1, 2):
        torch.manual_seed(0)
        module = Descent(words=64, embedding=4, hidden=3, dropout=0.0)
        data = NewsData(root=str(news), min_count=1, batch_size=8 // ranks, eval_batch_size=3, seed=2)
        trainer = Trainer(
            max_epochs=2, accelerator="cpu", devices=ranks, strategy="ddp_spawn" if ranks > 1 else "auto",
            callbacks=[LeaveGroup()], **QUIET,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
        (metrics,) = trainer.test(module, datamodule=data, verbose=False)
        outcomes.append((metrics, {name: value.detach().numpy() for name, value in module.network.named_parameters()}))
    (metrics, one), (metrics_of_two, two) = outcomes
    for name in one:
        # 1e-5: six steps in float32, whose sums over 8 articles are taken in another order.
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-5, err_msg=name)
    assert metrics_of_two == pytest.approx(metrics, abs=1e-5)


def made_up_run(client: MlflowClient, experiment: str, method: str, b0: float, accuracy: float) -> Run:
    """Two epochs of 150 steps, logged every 50: b = b0 + 10 t, eta = 0.5."""
    run = client.create_run(experiment)
    params = {
        "recipe": "lstm_news",
        "method": method,
        "b0": b0,
        "seed": 1,
        "lr": 0.5,
        "trainer.max_epochs": 2,
        "corpus": "12 texts",
        "machine": "a machine",
    }
    points = [("train/loss", 0.7 - step / 1000, step) for step in range(49, 300, 50)]
    points += [("adaloss/b", b0 + 10 * (step + 1), step) for step in range(49, 300, 50)]
    points += [("adaloss/effective_lr", 0.5 / (b0 + 10 * (step + 1)) ** 0.5, step) for step in range(49, 300, 50)]
    points += [("val/acc", 0.5, 149), ("val/acc", accuracy, 299), ("test/acc", accuracy, 299)]
    metrics = [Metric(name, value, 0, step) for name, value, step in points]
    client.log_batch(run.info.run_id, metrics, [Param(key, str(value)) for key, value in params.items()])
    client.set_terminated(run.info.run_id)
    return client.get_run(run.info.run_id)


def test_curves_are_means_per_epoch_and_one_over_b(client: MlflowClient) -> None:
    run = made_up_run(client, client.create_experiment("e"), "adamloss", 2.0, 0.75)
    curves = curves_of(keep(collect(client, "e"), HISTORIES), run)
    np.testing.assert_allclose(curves.loss, [0.7 - 0.099, 0.7 - 0.249])
    np.testing.assert_allclose(curves.accuracy, [50, 75])
    np.testing.assert_allclose(curves.rate, [0.5 / 1502**0.5, 0.5 / 3002**0.5])
    np.testing.assert_allclose(curves.steps, [50, 100, 150, 200])
    np.testing.assert_allclose(curves.inverse_b, [1 / 502, 1 / 1002, 1 / 1502, 1 / 2002])


def test_report_without_a_logged_b_names_the_callback(client: MlflowClient) -> None:
    run = client.create_run(client.create_experiment("e"))
    for key, value in {"recipe": "lstm_news", "method": "adam", "b0": 1.0, "seed": 1}.items():
        client.log_param(run.info.run_id, key, value)
    with pytest.raises(TrackingError, match=r"No run of experiment 'e' has logged adaloss/b"):
        report(["--experiment", "e"])


def test_sweep_as_published_fills_figures_2_and_4(client: MlflowClient, folder: Path, news: Path) -> None:
    methods = ["adamloss", "adam", "adam_sqrt"]
    sweep = ["--methods", ",".join(methods), "--b0", "0.1,400", "--seeds", "1"]
    assert adaloss(["sweep", "--recipe", "lstm_news", *sweep, "--", *TINY["lstm_news"]]) == 0
    report(["--experiment", "lstm_news", "--out", str(folder / "out")])
    assert all((folder / "out" / name).stat().st_size > 10_000 for name in ("figure_2.png", "figure_4.png"))
    lines = (folder / "out" / "lstm_news.md").read_text().splitlines()
    assert "eta, in the paper 1: adamloss 1, adam 1, adam_sqrt 1. Epochs: 2. Seeds: 1." in lines
    assert all(any(line.startswith(f"| {method} |") for line in lines) for method in methods)
    assert "| source | claim | criterion | verdict | why | our numbers |" in lines
    assert sum("| not tested | one seed, it takes 3 |" in line for line in lines) == 4
    results = read(folder / "out" / "runs.json")
    drawn = {method: curves_of(results, results.runs[method, 0.1, "1"]) for method in methods}
    # 3 steps an epoch: Adam keeps 1 / sqrt(b0), AdamSqrt counts steps.
    np.testing.assert_allclose(drawn["adam"].rate, [0.1**-0.5] * 2, rtol=1e-6)
    np.testing.assert_allclose(drawn["adam_sqrt"].rate, [3.1**-0.5, 6.1**-0.5], rtol=1e-6)
    assert all(np.diff(drawn["adamloss"].rate) < 0)
