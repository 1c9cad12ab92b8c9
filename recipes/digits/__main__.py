"""`python -m recipes.digits {fit,validate,test} --config recipes/digits/<method>.yaml`."""

from recipes.digits.data import DigitsData
from recipes.digits.module import DigitsModule
from recipes.shared.cli import RecipeCLI, run_from_shell


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    RecipeCLI("digits", DigitsModule, DigitsData, args)


if __name__ == "__main__":
    run_from_shell(main)
