"""`python -m recipes.tabular {fit,validate,test} --config recipes/tabular/<method>.yaml --data.name <table>`."""

from recipes.shared.cli import RecipeCLI, run_from_shell
from recipes.tabular.data import TabularData
from recipes.tabular.module import TabularModule


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    RecipeCLI("tabular", TabularModule, TabularData, args, links={"data.name": "model.name"})


if __name__ == "__main__":
    run_from_shell(main)
