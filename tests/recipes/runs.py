"""Runs of every recipe at tiny sizes, through the real command lines."""

import csv
import importlib
from pathlib import Path

import numpy as np
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

import recipes

RECIPES = Path(recipes.__file__).parent
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
ROLLOUT = 208  # frames of one environment: an episode of 200 steps ends in each of the first roll-outs
VIT = {"img_size": 32, "patch_size": 16, "embed_dim": 16, "depth": 1, "num_heads": 1}
SMOKE = f"--config={RECIPES / 'vit_cifar100' / 'smoke.yaml'}"
TINY = {
    "digits": ["--trainer.max_epochs=2", "--trainer.limit_train_batches=3"],
    "python_gpt": [
        "--trainer.max_epochs=2", f"--data.root={RECIPES}", "--data.context=8", "--data.train_windows=12",
        "--data.eval_windows=5", "--data.batch_size=4", "--model.width=8", "--model.depth=1", "--model.heads=2",
    ],
    "tabular": ["--trainer.max_epochs=2", "--model.width=8"],
    "linear_regression": ["--trainer.max_epochs=2", "--data.n=8", "--data.d=5", "--data.steps_per_epoch=3"],
    "two_layer": [
        "--trainer.max_epochs=4", "--trainer.check_val_every_n_epoch=2",
        "--data.n=6", "--data.n_eval=5", "--data.dim=7", "--model.width=32",
    ],
    "vit_cifar100": [SMOKE, f"--model.options={VIT}", "--trainer.max_epochs=1", "--trainer.limit_train_batches=3"],
    "lstm_news": [
        "--trainer.max_epochs=2", "--data.root=news", "--data.batch_size=8", "--data.min_count=1",
        "--data.vocabulary_size=64", "--model.embedding=4", "--model.hidden=3",
    ],
    "pendulum": [
        "--trainer.max_epochs=2", f"--data.rollout={ROLLOUT}", "--data.num_envs=1", "--data.epoch_rollouts=2",
        "--data.test_episodes=2", "--model.passes=2", "--model.minibatch=64",
    ],
}  # fmt: skip
TINY = {recipe: [*options, "--trainer.log_every_n_steps=1", *QUIET] for recipe, options in TINY.items()}


def config(recipe: str, method: str) -> str:
    return f"--config={RECIPES / recipe / method}.yaml"


def run_recipe(recipe: str, command: str, *arguments: str) -> None:
    importlib.import_module(f"recipes.{recipe}.__main__").main([command, *arguments])


def fit(recipe: str, method: str, *more: str) -> None:
    run_recipe(recipe, "fit", config(recipe, method), *TINY[recipe], *more)


def only_run(client: MlflowClient, experiment: str | None = None) -> Run:
    known = [one.experiment_id for one in client.search_experiments() if experiment in (None, one.name)]
    (found,) = client.search_runs(known)
    return found


def history(client: MlflowClient, run: Run, name: str) -> np.ndarray:
    return np.array([point.value for point in client.get_metric_history(run.info.run_id, name)])


def write_news(folder: Path, count: int = 20, seed: int = 0) -> Path:
    """Official files with different texts of 1 to 9 words; true ones say `yes` more often."""
    random = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for name, extra in (("True.csv", "yes"), ("Fake.csv", "no")):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["title", "text", "subject", "date"])
            for number in range(count):
                words = random.choice([extra, "a", "b", "c"], size=random.integers(1, 10))
                writer.writerow([f"t{number}", " ".join(words) + f" {extra}{number}", "news", "June 1, 2017"])
    return folder
