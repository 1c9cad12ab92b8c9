"""`python -m recipes.python_gpt {fit,validate,test} --config recipes/python_gpt/<method>.yaml`."""

from recipes.python_gpt.data import PythonData
from recipes.python_gpt.module import GPTModule
from recipes.shared.cli import RecipeCLI, run_from_shell


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    RecipeCLI("python_gpt", GPTModule, PythonData, args, links={"data.context": "model.context"})


if __name__ == "__main__":
    run_from_shell(main)
