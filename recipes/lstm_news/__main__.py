"""`python -m recipes.lstm_news {fit,validate,test} --config recipes/lstm_news/<method>.yaml`."""

from recipes.lstm_news.data import NewsData
from recipes.lstm_news.module import NewsModule
from recipes.shared.cli import RecipeCLI, run_from_shell


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    # The vocabulary's size is set before any data are read, as the optimizer takes the parameters first.
    RecipeCLI("lstm_news", NewsModule, NewsData, args, links={"data.vocabulary_size": "model.words"})


if __name__ == "__main__":
    run_from_shell(main)
