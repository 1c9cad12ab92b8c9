"""Import paths of version 0.1.0: they lead to where a module is now, with a `DeprecationWarning` that says so."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ROOT = "adaloss_lightning."
_MODULES = {
    "accumulator": "optim.recurrence",
    "adagrad_norm": "optim.adagrad_norm",
    "baselines": "optim.baselines",
    "loss_adaptive": "optim.loss_adaptive",
    "optimizers": "optim.adaloss",
    "rate_adaptive": "optim.rate_adaptive",
    "tracking.app": "tracking.console.app",
    "tracking.lifecycle": "tracking.logger.run_end",
    "tracking.log_every_epoch": "tracking.callbacks",
    "tracking.remember": "tracking.callbacks",
    "tracking.report": "tracking.reports.report",
    "tracking.sweep": "tracking.sweeps.sweep",
    "tracking.sync": "tracking.console.sync",
}


class Moved(MetaPathFinder, Loader):
    """Finds the modules that have moved, once no other finder has found them."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for the former name of a module; None for any other name."""
        return ModuleSpec(name, self) if name.removeprefix(_ROOT) in _MODULES and name.startswith(_ROOT) else None

    def create_module(self, spec: ModuleSpec) -> None:
        """An empty module; the import system then takes the one that `exec_module` puts in its place."""

    def exec_module(self, module: ModuleType) -> None:
        """Puts the module where it is now under its former name too."""
        former = module.__name__
        now = _ROOT + _MODULES[former.removeprefix(_ROOT)]
        warnings.warn(f"{former} is {now} now. Import from there.", DeprecationWarning, stacklevel=2)
        sys.modules[former] = importlib.import_module(now)
