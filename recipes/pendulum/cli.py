"""PendulumCLI: the recipes' command line for a module that makes two optimizers out of one `--optimizer`."""

from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer

from recipes.shared.cli import RecipeCLI
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
        """Trains without validation, as nothing is chosen by it: the last policy is the one that is tested."""
        self.trainer.limit_val_batches = 0
        super().fit(model, **kwargs)

    def instantiate_classes(self) -> None:
        """Builds everything, then drops the linked copy of the optimizer: the params of the run would hold it twice."""
        super().instantiate_classes()
        if self.subcommand == "fit":
            with settings_refused():
                self.model.configure_optimizers()  # the trainer does it when there is a run already
        self.config[self.subcommand].model.pop("optimizer")
