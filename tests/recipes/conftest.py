"""The same empty folder and store for each test as for the tests of tracking."""

from tests.tracking.conftest import client, empty_database, folder, no_delivery_outlives_its_test, patient

__all__ = ["client", "empty_database", "folder", "no_delivery_outlives_its_test", "patient"]
