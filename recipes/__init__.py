"""The experiments of the paper and one that runs anywhere, each a folder with `python -m recipes.<name>`."""
