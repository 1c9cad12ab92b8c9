"""`python -m recipes.linear_regression {fit,validate,test} --config recipes/linear_regression/<method>.yaml`."""

from recipes.linear_regression.data import RegressionData
from recipes.linear_regression.module import RegressionModule
from recipes.shared.cli import RecipeCLI, run_from_shell


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    RecipeCLI("linear_regression", RegressionModule, RegressionData, args, links={"data.d": "model.d"})


if __name__ == "__main__":
    run_from_shell(main)
