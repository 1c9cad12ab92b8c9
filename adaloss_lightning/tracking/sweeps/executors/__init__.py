"""Executors: where the points of a sweep run."""
