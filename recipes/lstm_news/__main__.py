"""`python -m recipes.lstm_news {fit,validate,test} --config recipes/lstm_news/<method>.yaml`."""

import warnings
from pathlib import Path

from lightning.pytorch.cli import LightningArgumentParser

from recipes.lstm_news.data import NewsData
from recipes.lstm_news.module import NewsModule
from recipes.shared.cli import RecipeCLI, run_from_shell


class NewsCLI(RecipeCLI):
    """RecipeCLI whose network has a row for each word of the data's vocabulary."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links the size: the optimizer takes the parameters before any data are read."""
        super().add_arguments_to_parser(parser)
        parser.link_arguments("data.vocabulary_size", "model.words")


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    with warnings.catch_warnings():
        # All articles lie in memory as numbers: worker processes would only cost time.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        NewsCLI("lstm_news", NewsModule, NewsData, Path(__file__).with_name("defaults.yaml"), args)


if __name__ == "__main__":
    run_from_shell(main)
