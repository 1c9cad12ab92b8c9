"""`python -m recipes.two_layer {fit,validate,test} --config recipes/two_layer/<method>.yaml`."""

from recipes.shared.cli import RecipeCLI, run_from_shell
from recipes.two_layer.data import TwoLayerData
from recipes.two_layer.module import TwoLayerModule


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    RecipeCLI("two_layer", TwoLayerModule, TwoLayerData, args, links={"data.dim": "model.dim"})


if __name__ == "__main__":
    run_from_shell(main)
