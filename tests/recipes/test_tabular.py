"""The tabular recipe: its tables and its network."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.metrics import r2_score, root_mean_squared_error
from sklearn.preprocessing import StandardScaler

from recipes.shared.data import split_indices
from recipes.tabular.data import TABLES, Name, TabularData
from recipes.tabular.module import TabularModule
from tests.recipes.runs import QUIET, config, only_run, run_recipe

LOADERS = {"diabetes": load_diabetes, "breast_cancer": load_breast_cancer, "wine": load_wine}
PARTS = ("train", "val", "test")


def ready(name: Name, **sizes: int) -> TabularData:
    data = TabularData(name, **sizes)
    data.setup("fit")
    return data


@pytest.mark.parametrize(("name", "sizes"), [
    ("diabetes", [266, 88, 88]), ("breast_cancer", [343, 113, 113]), ("wine", [106, 36, 36]),
])  # fmt: skip
def test_sets_are_the_table_standardized_by_the_training_set(name: Name, sizes: list[int]) -> None:
    features, targets = LOADERS[name](return_X_y=True)
    groups = np.zeros(len(targets)) if name == "diabetes" else targets
    parts = split_indices(groups)
    assert [len(part) for part in parts] == sizes
    assert sorted(np.concatenate(parts)) == list(range(len(targets)))
    scaled = StandardScaler().fit(features[parts[0]]).transform(features)
    data = ready(name)
    for part, rows in zip(PARTS, parts, strict=True):
        ours = data.sets[part]
        np.testing.assert_allclose(ours.inputs, scaled[rows], rtol=1e-5, atol=1e-6)  # float32
        np.testing.assert_array_equal(ours.targets, targets[rows])  # raw
        assert ours.targets.dtype == (torch.float32 if name == "diabetes" else torch.int64)
        share = np.bincount(groups[rows].astype(int)) / np.bincount(groups.astype(int))
        np.testing.assert_allclose(share, len(rows) / len(targets), atol=0.02)  # one wine of 48 is 0.02


def test_the_split_of_the_regression_is_fixed() -> None:
    # Numbers written down once: a split that moves makes old and new results incomparable.
    assert split_indices(np.zeros(442))[2][:6].tolist() == [1, 6, 10, 12, 15, 21]
    first_targets = load_diabetes().target[[1, 6, 10]]
    assert ready("diabetes").sets["test"].targets[:3].tolist() == first_targets.tolist()


@pytest.mark.parametrize(("name", "n_out"), [("diabetes", 1), ("breast_cancer", 2), ("wine", 3)])
def test_the_network_fits_its_table(name: Name, n_out: int) -> None:
    data = ready(name)
    features, targets = next(iter(data.test_dataloader()))
    module = TabularModule(name, width=5, depth=3)
    n_in = features.shape[1]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert parameters == (n_in + 1) * 5 + 2 * 6 * 5 + 6 * n_out
    assert module(features).shape == (targets.shape if name == "diabetes" else (len(targets), n_out))
    linear = TabularModule(name, depth=0)
    assert [tuple(parameter.shape) for parameter in linear.parameters()] == [(n_out, n_in), (n_out,)]


def test_the_loss_of_the_regression_begins_at_the_mean_square_of_its_targets() -> None:
    data = ready("diabetes", batch_size=266)
    ((_, targets),) = data.train_dataloader()
    loss = TabularModule("diabetes").loss(torch.zeros(266), targets).item()
    assert loss == pytest.approx((targets.double() ** 2).mean().item())
    assert 25_000 < loss < 32_000


def test_errors_of_the_regression_are_those_of_the_whole_set() -> None:
    torch.manual_seed(0)
    data, module = ready("diabetes", eval_batch_size=30), TabularModule("diabetes")  # batches of 30, 30 and 28
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    for stage, run in (("val", trainer.validate), ("test", trainer.test)):
        (metrics,) = run(module, datamodule=data, verbose=False)
        targets = data.sets[stage].targets.numpy()
        predicted = module(data.sets[stage].inputs).detach().numpy()
        rmse = root_mean_squared_error(targets, predicted)
        assert metrics == pytest.approx(
            {f"{stage}/rmse": rmse, f"{stage}/loss": rmse**2, f"{stage}/r2": r2_score(targets, predicted)}, rel=1e-5
        )


def test_the_name_on_the_command_line_chooses_table_and_network(client: MlflowClient) -> None:
    few = ["--data.name=wine", "--optimizer.lr=1", "--trainer.max_epochs=2", *QUIET]
    run_recipe("tabular", "fit", config("tabular", "adaloss"), *few)
    run = only_run(client, "tabular")
    assert run.data.params["data.name"] == "wine"
    assert {"val/loss", "val/acc", "test/loss", "test/acc"} <= run.data.metrics.keys()
    assert not {"val/rmse", "test/rmse"} & run.data.metrics.keys()


@pytest.mark.parametrize("make", [
    lambda: TabularModule(width=0), lambda: TabularModule(depth=-1), lambda: TabularData(batch_size=0),
])  # fmt: skip
def test_impossible_sizes_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"Invalid \w+=-?\d+\. Must be >= \d"):
        make()


def test_every_table_has_a_test() -> None:
    assert TABLES.keys() == LOADERS.keys()
