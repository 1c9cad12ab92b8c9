"""The digits recipe: its data and its networks."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from sklearn.datasets import load_digits

from recipes.digits.data import DigitsData
from recipes.digits.module import DigitsModule
from recipes.shared.data import TensorExamples, split_indices
from tests.recipes.runs import config, only_run, run_recipe


def test_an_epoch_shorter_than_the_logging_interval_is_logged(client: MlflowClient) -> None:
    few = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=3", "--trainer.enable_progress_bar=false"]
    run_recipe("digits", "fit", config("digits", "adaloss"), *few)
    run = only_run(client)
    assert run.info.run_name == "adaloss b0=1.0 seed=1"
    for name in ("train/loss", "adaloss/loss", "adaloss/b", "adaloss/effective_lr"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)][-2:] == [2, 5], name


def test_the_split_is_fixed_whole_and_stratified() -> None:
    target = load_digits().target
    train, val, test = split_indices(target)
    assert (len(train), len(val), len(test)) == (1079, 359, 359)
    assert sorted([*train, *val, *test]) == list(range(1797))
    for part, share in ((train, 0.6), (val, 0.2), (test, 0.2)):
        np.testing.assert_allclose(np.bincount(target[part]) / np.bincount(target), share, atol=0.005)
    # Numbers written down once: a split that moves makes old and new results incomparable.
    assert test[:10].tolist() == [3, 7, 13, 19, 36, 38, 43, 48, 53, 55]
    np.random.seed(5)
    assert all(np.array_equal(a, b) for a, b in zip(split_indices(target), (train, val, test), strict=True))


def test_batches_are_the_examples_standardized_by_the_training_set() -> None:
    data = DigitsData(batch_size=100)
    data.setup("fit")
    images, labels = (torch.cat(parts) for parts in zip(*data.train_dataloader(), strict=True))
    assert images.shape == (1079, 1, 8, 8)
    assert abs(images.mean()) < 1e-5
    assert abs(images.std() - 1) < 1e-5
    raw = load_digits()
    train = split_indices(raw.target)[0]
    # Shuffled, but the same pairs: compare the sums of the pixels per class.
    expected = (raw.images[train] - raw.images[train].mean()) / raw.images[train].std(ddof=1)
    for digit in range(10):
        ours = images[labels == digit].sum().item()
        np.testing.assert_allclose(ours, expected[raw.target[train] == digit].sum(), rtol=1e-3)  # float32 sums


def test_a_batch_fetched_at_once_is_the_single_examples() -> None:
    examples = TensorExamples(torch.randn(5, 1, 8, 8), torch.arange(5))
    images, labels = examples.__getitems__([3, 0])
    assert torch.equal(images, torch.stack([examples[3][0], examples[0][0]]))
    assert labels.tolist() == [3, 0]


@pytest.mark.parametrize(("net", "parameters"), [("mlp", 65 * 2048 + 2049 * 10), ("cnn", None), ("vit", None)])
def test_every_network_scores_ten_digits(net: str, parameters: int | None) -> None:
    module = DigitsModule(net=net)
    assert module(torch.randn(4, 1, 8, 8)).shape == (4, 10)
    assert parameters in (None, sum(parameter.numel() for parameter in module.parameters()))


@pytest.mark.parametrize("make", [
    lambda: DigitsModule(net="vit", width=30), lambda: DigitsModule(width=0),
    lambda: DigitsData(batch_size=0), lambda: DigitsData(eval_batch_size=-1),
])  # fmt: skip
def test_impossible_sizes_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"Invalid \w+=-?\d+\. Must be >= 1"):
        make()


@pytest.mark.process
def test_only_the_vit_imports_timm() -> None:
    code = "import sys; from recipes.digits.module import DigitsModule; DigitsModule('cnn'), DigitsModule('mlp')"
    code += "; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
