"""Folders that nobody but their user can look into."""

from pathlib import Path


def make_private(folder: Path) -> None:
    """Makes a folder, and those above it that are not there, for its user alone; one that is there stays as it is.

    Raises:
        OSError: It cannot be made.
    """
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(0o700, exist_ok=True)  # another process may have made it meanwhile
