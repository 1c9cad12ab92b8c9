"""`python -m recipes.vit_cifar100 {fit,validate,test} --config recipes/vit_cifar100/<method>.yaml`."""

import warnings
from pathlib import Path

from recipes.shared.cli import RecipeCLI, run_from_shell
from recipes.vit_cifar100.data import CIFAR100Data
from recipes.vit_cifar100.module import FineTuning


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    with warnings.catch_warnings():
        # --data.num_workers has a default that fits the machine; one that a user gives is meant.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        RecipeCLI("vit_cifar100", FineTuning, CIFAR100Data, Path(__file__).with_name("defaults.yaml"), args)


if __name__ == "__main__":
    run_from_shell(main)
