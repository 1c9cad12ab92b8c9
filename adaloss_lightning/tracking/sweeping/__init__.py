"""The points of a sweep, where they run, and how it goes on after an interruption."""
