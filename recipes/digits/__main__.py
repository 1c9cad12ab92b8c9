"""`python -m recipes.digits {fit,validate,test} --config recipes/digits/<method>.yaml`."""

import warnings
from pathlib import Path

from recipes.digits.data import DigitsData
from recipes.digits.module import DigitsModule
from recipes.shared.cli import RecipeCLI, run_from_shell


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    with warnings.catch_warnings():
        # The whole set is one tensor in memory: worker processes would only cost time.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        RecipeCLI("digits", DigitsModule, DigitsData, Path(__file__).with_name("defaults.yaml"), args)


if __name__ == "__main__":
    run_from_shell(main)
