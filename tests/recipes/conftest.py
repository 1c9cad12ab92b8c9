"""The same empty folder and store for each test as for the tests of tracking."""

from tests.tracking.conftest import client, ctrl_c, empty_database, folder, patient

__all__ = ["client", "ctrl_c", "empty_database", "folder", "patient"]
