"""`python -m recipes.pendulum {fit,validate,test} --config recipes/pendulum/<method>.yaml`."""

import warnings
from pathlib import Path

from recipes.pendulum.cli import PendulumCLI
from recipes.pendulum.data import PendulumData
from recipes.pendulum.module import PendulumModule
from recipes.shared.cli import run_from_shell


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    with warnings.catch_warnings():
        # A roll-out needs the policy as it is now: no other process can make the next one ahead of time.
        warnings.filterwarnings("ignore", message=".*does not have many workers")
        PendulumCLI("pendulum", PendulumModule, PendulumData, Path(__file__).with_name("defaults.yaml"), args)


if __name__ == "__main__":
    run_from_shell(main)
