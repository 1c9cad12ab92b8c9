"""Addresses of stores and servers: what kind they are, and how they may be shown and kept."""

import re
from pathlib import Path
from urllib.parse import quote, urlsplit

SQLITE = "sqlite:///"
_SECRET = re.compile("pass|pwd|token|secret|key", re.IGNORECASE)
_USER_INFO = re.compile(r"[\w+]+://([^:/]*(?::[^@]*)?)@")  # as SQLAlchemy reads it: a password may have any / ? or #


def sqlite_path(uri: str) -> Path | None:
    """Absolute path of the database file of a SQLite address; None for any other store or a database in memory."""
    if not uri.startswith(SQLITE):
        return None
    location = _as_sqlalchemy_reads(uri)
    if not location or ":memory:" in location:
        return None
    return Path(location).absolute()


def sqlite_uri(path: Path) -> str:
    """Address of the database file `path`, with `?` and `%XX` in its folders' names quoted.

    Raises:
        ValueError: The installed SQLAlchemy has no address for such a path.
    """
    location = str(path.absolute())
    for name in (location, re.sub(r"\?|%(?=[0-9A-Fa-f]{2})", lambda found: quote(found[0]), location)):
        if _as_sqlalchemy_reads(f"{SQLITE}{name}") == location:
            return f"{SQLITE}{name}"
    raise ValueError(f"Invalid folder {path.parent}. Must have no ? in its name, which SQLAlchemy before 2.1 cuts off.")


def _as_sqlalchemy_reads(uri: str) -> str | None:
    # It reads the address for MLflow, and only from 2.1 on it decodes what is quoted.
    from sqlalchemy.engine import make_url

    return make_url(uri).database


def without_user_info(uri: str) -> str:
    """`uri` without user name and password.

    It still leads to the store: MLflow then takes them from `MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`,
    PostgreSQL from `PGUSER`, `PGPASSWORD` or `~/.pgpass`.
    """
    user_info = _user_info(uri)
    return uri.replace(f"{user_info}@", "", 1) if user_info else uri


def storable(uri: str) -> str:
    """The address as it may be written down: without a user name, with stars for passwords among its settings."""
    return without_secrets(without_user_info(uri), uri)


def redacted(uri: str) -> str:
    """The address with stars for a user name and passwords, fit for messages."""
    return without_secrets(uri, uri)


def without_secrets(text: str, uri: str) -> str:
    """`text` with stars for the user name and passwords that are in `uri`."""
    user_info = _user_info(uri)
    if user_info:
        text = text.replace(f"{user_info}@", "***@")
    for setting in urlsplit(without_user_info(uri)).query.split("&"):
        name, equals, _ = setting.partition("=")
        if equals and _SECRET.search(name):
            text = text.replace(setting, f"{name}=***")
    return text


def _user_info(uri: str) -> str:
    as_web = urlsplit(uri).netloc.rpartition("@")[0]
    if uri.startswith(("http://", "https://")) and _has_port(uri):
        return as_web  # an @ may stand in the path
    found = _USER_INFO.match(uri)
    return max(as_web, found[1] if found else "", key=len)


def _has_port(uri: str) -> bool:
    """Whether an address has a port or none, and not the start of a password there."""
    try:
        return urlsplit(uri).port != 0
    except ValueError:
        return False
