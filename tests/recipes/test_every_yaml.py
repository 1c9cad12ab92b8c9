"""Every method's YAML of every recipe runs through the real command line, and its run says what it did."""

from pathlib import Path

import numpy as np
import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.recipes.runs import RECIPES, fit, history, only_run, write_news

FILES = sorted(path for path in RECIPES.glob("*/*.yaml") if path.stem not in ("auto", "defaults", "smoke"))
AUTO = sorted(RECIPES.glob("*/auto.yaml"))
B0 = 4.0
# What `--optimizer` makes in the recipes' YAML files, and the values of b under it.
FED = {"adaloss", "adamloss", "adamloss_own"}
CONSTANT = {"sgd_constant", "adam", "adamw"}
OPTIMIZERS = dict.fromkeys(("adaloss", "sgd_constant"), "AdaLoss")
OPTIMIZERS |= dict.fromkeys(("adamloss", "adamloss_own", "adam", "adamw"), "AdamLoss")
OPTIMIZERS |= {"residual_adaloss": "ResidualAdaLoss", "adagrad_norm_authors": "AuthorsAdaGradNorm"}
OPTIMIZERS |= {"adagrad_norm": "AdaGradNorm", "sgd_decay_sqrt": "SGDDecaySqrt", "adam_sqrt": "AdamSqrt"}


def tracked(client: MlflowClient, folder: Path, path: Path, *more: str) -> Run:
    """The run of a YAML at a tiny size, which has what every run has."""
    recipe, method = path.parent.name, path.stem
    assert path.read_text().startswith(f"# python -m recipes.{recipe} fit --config recipes/{recipe}/{method}.yaml\n")
    if recipe == "lstm_news":
        write_news(folder / "news")
    fit(recipe, method, "--seed_everything=7", *more)
    run = only_run(client, recipe)
    assert run.info.status == "FINISHED"
    assert {"recipe": recipe, "method": method, "seed": "7"}.items() <= run.data.params.items()
    wanted = {"train/loss"} | ({"test/return"} if recipe == "pendulum" else {"val/loss", "test/loss"})
    wanted |= {"val/acc", "test/acc"} if recipe in ("digits", "vit_cifar100", "lstm_news") else set()
    wanted |= {"val/rmse", "test/rmse"} if recipe == "tabular" else set()
    assert wanted <= run.data.metrics.keys()
    return run


def suffixes(recipe: str) -> tuple[str, ...]:
    return ("/optimizer0", "/optimizer1") if recipe == "pendulum" else ("",)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_yaml_runs_and_is_tracked(client: MlflowClient, folder: Path, path: Path) -> None:
    recipe, method = path.parent.name, path.stem
    run = tracked(client, folder, path, f"--optimizer.b0={B0}")
    params = run.data.params
    assert {"b0": str(B0), "optimizer": OPTIMIZERS[method]}.items() <= params.items()
    losses = history(client, run, "train/loss")
    for suffix in suffixes(recipe):
        b, rates = (history(client, run, f"adaloss/{name}{suffix}") for name in ("b", "effective_lr"))
        assert len(b) == len(rates) == len(losses) >= 3
        is_adam = OPTIMIZERS[method].startswith("Adam")
        np.testing.assert_allclose(rates, float(params["lr"]) / b ** (0.5 if is_adam else 1), rtol=1e-5)  # float32 logs
        if method in CONSTANT:
            np.testing.assert_allclose(b, B0)
        elif method in FED and recipe != "pendulum":  # whose losses are means over many steps: see its own tests
            power = 1 if is_adam else 2  # s, which the loss feeds, is b for AdamLoss and b^2 for AdaLoss
            fed = float(params.get("optimizer.alpha", 1)) * np.cumsum(losses)
            np.testing.assert_allclose(b**power, B0**power + fed, rtol=1e-5)
        else:
            assert all(np.diff(b) > 0)


@pytest.mark.parametrize("path", AUTO, ids=lambda path: path.parent.name)
def test_every_auto_yaml_runs_with_nothing_given(client: MlflowClient, folder: Path, path: Path) -> None:
    recipe = path.parent.name
    run = tracked(client, folder, path)
    # lr as it was configured, by default torch's own; the callback logs what it chose
    expected = {"b0": "1.0", "lr": "0.01" if recipe == "pendulum" else "0.001"}
    expected |= {"adaloss/alpha": "auto", "adaloss/cooldown": "0.25"}
    assert expected.items() <= run.data.params.items()
    assert (run.data.params["adaloss/lr"] == "0.01") == (recipe == "pendulum")
    for suffix in suffixes(recipe):
        assert all(np.diff(history(client, run, f"adaloss/b{suffix}")) > 0)
    if recipe == "pendulum":
        assert "episode.png" in {item.path for item in client.list_artifacts(run.info.run_id)}
