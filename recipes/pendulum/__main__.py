"""`python -m recipes.pendulum {fit,validate,test} --config recipes/pendulum/<method>.yaml`."""

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer

from recipes.pendulum.data import PendulumData
from recipes.pendulum.module import PendulumModule
from recipes.shared.cli import RecipeCLI, run_from_shell
from recipes.shared.settings import settings_refused


class PendulumCLI(RecipeCLI):
    """RecipeCLI that hands `--optimizer` to the module, which builds it once for the actor and once for the critic.

    LightningCLI itself would build one optimizer over all parameters. `--optimizer.b0` stays what sweeps set.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links `--optimizer` to the module's argument `optimizer`; there is no `--lr_scheduler`."""
        super().add_arguments_to_parser(parser)
        parser.add_optimizer_args((Optimizer,), link_to="model.optimizer")
        # A scheduler would be accepted and never used.
        self.auto_configure_optimizers = False

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Trains without validation unless it is asked for: the last policy is the one that is tested."""
        if self.config["fit"].trainer.limit_val_batches is None:
            self.trainer.limit_val_batches = 0
        super().fit(model, **kwargs)

    def instantiate_classes(self) -> None:
        """Builds everything, then drops the linked copy of the optimizer: the params of the run would hold it twice."""
        super().instantiate_classes()
        if self.subcommand == "fit":
            with settings_refused():
                self.model.configure_optimizers()  # the trainer does it when there is a run already
        self.config[self.subcommand].model.pop("optimizer")


def main(args: list[str] | None = None) -> None:
    """Runs the recipe with `args`, by default those of the command line."""
    PendulumCLI("pendulum", PendulumModule, PendulumData, args)


if __name__ == "__main__":
    run_from_shell(main)
