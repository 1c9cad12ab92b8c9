"""`python -m recipes.linear_regression {fit,validate,test} --config recipes/linear_regression/<method>.yaml`."""

import warnings
from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser

from recipes.linear_regression.data import RegressionData
from recipes.linear_regression.module import RegressionModule
from recipes.shared.cli import RecipeCLI, run_from_shell


class RegressionCLI(RecipeCLI):
    """RecipeCLI whose model has as many unknowns as the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the link to what all recipes have."""
        super().add_arguments_to_parser(parser)
        parser.link_arguments("data.d", "model.d")


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    defaults = Path(__file__).with_name("defaults.yaml")
    with warnings.catch_warnings():
        # The whole problem is one tensor in memory: worker processes would only cost time.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        RegressionCLI("linear_regression", RegressionModule, RegressionData, defaults, args)


if __name__ == "__main__":
    run_from_shell(main)
