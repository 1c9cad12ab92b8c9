"""Errors a user can do something about: the console shows them as one line, without a traceback."""


class TrackingError(Exception):
    """The message names the value that is wrong and what would be right."""


class StoreError(TrackingError):
    """The place where runs are kept cannot be opened or written."""


class SweepError(TrackingError):
    """A sweep or a report was asked for something that does not exist or makes no sense."""
