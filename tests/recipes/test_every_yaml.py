"""Every method's YAML of every recipe runs through the real command line, and its run says what it did."""

from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from tests.recipes.runs import RECIPES, fit, history, only_run, write_news

FILES = sorted(path for path in RECIPES.glob("*/*.yaml") if path.stem not in ("defaults", "smoke"))
B0 = 4.0
# What `--optimizer` makes in the recipes' YAML files, and the values of b under it.
FED = {"adaloss", "adamloss", "adamloss_own"}
CONSTANT = {"sgd_constant", "adam", "adamw"}
OPTIMIZERS = dict.fromkeys(("adaloss", "sgd_constant"), "AdaLoss")
OPTIMIZERS |= dict.fromkeys(("adamloss", "adamloss_own", "adam", "adamw"), "AdamLoss")
OPTIMIZERS |= {"adagrad_norm": "AdaGradNorm", "sgd_decay_sqrt": "SGDDecaySqrt", "adam_sqrt": "AdamSqrt"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_yaml_runs_and_is_tracked(client: MlflowClient, folder: Path, path: Path) -> None:
    recipe, method = path.parent.name, path.stem
    assert path.read_text().startswith(f"# python -m recipes.{recipe} fit --config recipes/{recipe}/{method}.yaml\n")
    if recipe == "lstm_news":
        write_news(folder / "news")
    fit(recipe, method, f"--optimizer.b0={B0}", "--seed_everything=7")
    run = only_run(client, recipe)
    assert run.info.status == "FINISHED"
    params, metrics = run.data.params, run.data.metrics
    expected = {"recipe": recipe, "method": method, "b0": str(B0), "seed": "7", "optimizer": OPTIMIZERS[method]}
    assert expected.items() <= params.items()
    wanted = {"train/loss"} | ({"test/return"} if recipe == "pendulum" else {"val/loss", "test/loss"})
    wanted |= {"val/acc", "test/acc"} if recipe in ("digits", "vit_cifar100", "lstm_news") else set()
    wanted |= {"val/rmse", "test/rmse"} if recipe == "tabular" else set()
    assert wanted <= metrics.keys()
    losses = history(client, run, "train/loss")
    for suffix in ("/optimizer0", "/optimizer1") if recipe == "pendulum" else ("",):
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
