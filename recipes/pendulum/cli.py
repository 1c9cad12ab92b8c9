"""PendulumCLI: the recipes' command line for a module that makes two optimizers out of one `--optimizer`."""

from lightning.pytorch.cli import LightningArgumentParser
from torch.optim import Optimizer

from recipes.cli import RecipeCLI


class PendulumCLI(RecipeCLI):
    """RecipeCLI that hands `--optimizer` to the module, which builds it once for the actor and once for the critic.

    LightningCLI itself would build one optimizer over all parameters. `--optimizer.b0` stays what sweeps set.
    """

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Fit and test: there is no validation set to choose a policy by."""
        return {name: skip for name, skip in RecipeCLI.subcommands().items() if name != "validate"}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Links `--optimizer` to the module's argument `optimizer`; there is no `--lr_scheduler`."""
        super().add_arguments_to_parser(parser)
        parser.add_optimizer_args((Optimizer,), link_to="model.optimizer")
        # A scheduler would be accepted and never used.
        self.auto_configure_optimizers = False

    def instantiate_classes(self) -> None:
        """Builds everything, then drops the linked copy of the optimizer: the params of the run would hold it twice."""
        super().instantiate_classes()
        self.config[self.subcommand].model.pop("optimizer")
