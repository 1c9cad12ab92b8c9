"""`python -m recipes.lstm_news.bag_of_words`: what the recipe's data give away without any order of words."""

import sys
from collections.abc import Sequence

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from recipes.lstm_news.data import NewsData

PENALTIES = (0.1, 1.0, 10.0)  # scikit-learn's C; the validation set chooses


def main() -> None:
    """Prints the test accuracy of logistic regression on single words, and on words and neighbouring pairs."""
    data = NewsData()
    data.prepare_data()
    data.setup("fit")
    sys.stdout.write(f"{data.description}\n")
    for length, name in ((1, "single words"), (2, "words and pairs")):
        sys.stdout.write(f"{name}: {100 * accuracy(data, length):.1f} %\n")


def accuracy(data: NewsData, length: int) -> float:
    """Test accuracy of logistic regression on which runs of up to `length` words a text has."""
    counts = CountVectorizer(analyzer=lambda text: _runs(text, length), binary=True, min_df=2)
    train = counts.fit_transform(data.tokens["train"])
    val, test = (counts.transform(data.tokens[part]) for part in ("val", "test"))
    models = [LogisticRegression(C=c, solver="liblinear").fit(train, data.labels["train"]) for c in PENALTIES]
    best = max(models, key=lambda model: model.score(val, data.labels["val"]))
    return float(best.score(test, data.labels["test"]))


def _runs(text: Sequence[str], length: int) -> list[str]:
    return [" ".join(text[i : i + n]) for n in range(1, length + 1) for i in range(len(text) - n + 1)]


if __name__ == "__main__":
    main()
