"""`python -m recipes.vit_cifar100 {fit,validate,test} --config recipes/vit_cifar100/<method>.yaml`."""

from recipes.shared.cli import RecipeCLI, run_from_shell
from recipes.vit_cifar100.data import CIFAR100Data
from recipes.vit_cifar100.module import FineTuning


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    RecipeCLI("vit_cifar100", FineTuning, CIFAR100Data, args)


if __name__ == "__main__":
    run_from_shell(main)
