"""A byte-level GPT on the source of Python's own standard library: real data that every machine has."""
