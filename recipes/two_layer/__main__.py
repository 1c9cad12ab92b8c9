"""`python -m recipes.two_layer {fit,validate,test} --config recipes/two_layer/<method>.yaml`."""

import warnings
from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser

from recipes.shared.cli import RecipeCLI, run_from_shell
from recipes.two_layer.data import TwoLayerData
from recipes.two_layer.module import TwoLayerModule


class _TwoLayerCLI(RecipeCLI):
    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.link_arguments("data.dim", "model.dim")
        parser.set_defaults({"checkpoint.monitor": "val/loss", "checkpoint.mode": "min"})


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    with warnings.catch_warnings():
        # The whole set is one tensor in memory: worker processes would only cost time.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        _TwoLayerCLI("two_layer", TwoLayerModule, TwoLayerData, Path(__file__).with_name("defaults.yaml"), args)


if __name__ == "__main__":
    run_from_shell(main)
