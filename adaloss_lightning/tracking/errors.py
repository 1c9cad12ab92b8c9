"""Errors a user can do something about: the console shows them as one line, without a traceback."""

import re

from adaloss_lightning.tracking.address import without_secrets

_PAGE = re.compile(
    r"\.?\s*(?:Response \w+:)?\s*'?<(?:!doctype|html|\?xml)\b.*?(?:</html>\s*'?|$)", re.IGNORECASE | re.DOTALL
)


class TrackingError(Exception):
    """The message names the value that is wrong and what would be right."""


class StoreError(TrackingError):
    """The place where runs are kept cannot be opened or written."""


class SweepError(TrackingError):
    """A sweep or a report was asked for something that does not exist or makes no sense."""


def one_line(error: BaseException, uri: str, limit: int = 400) -> str:
    """What an error says, on one line of at most `limit` characters, without the passwords in a store's address."""
    text = without_secrets(" ".join(without_page(str(error)).split()), uri) or type(error).__name__
    text = text.partition(" [SQL:")[0]  # the statement and its values, which say nothing about the database
    return text if len(text) <= limit else f"{text[: limit - 4].rpartition(' ')[0] or text[: limit - 4]} ..."


def without_page(text: str) -> str:
    """`text` without the page that a proxy sends beside the status of its answer, and MLflow puts into its errors."""
    return _PAGE.sub("", text)
