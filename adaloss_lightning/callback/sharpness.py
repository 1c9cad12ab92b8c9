"""SharpnessCallback: the largest Hessian eigenvalue during training, beside b and its critical value."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from adaloss_lightning.callback.metrics import suffix_of
from adaloss_lightning.callback.probing import first_batches, loss_of
from adaloss_lightning.callback.sharpness_figure import write_figure
from adaloss_lightning.callback.trainer_internals import (
    muted,
    show_in_callback_metrics,
    step_arguments,
    takes_iterator,
    to_device,
    train_loaders,
)
from adaloss_lightning.extras import require
from adaloss_lightning.optim.engine.loaders import fresh
from adaloss_lightning.optim.engine.snapshot import Snapshot
from adaloss_lightning.optim.rate_adaptive import RateAdaptive, adaptive_in
from adaloss_lightning.theory.sharpness import LossFn, Sharpness, sharpness

FAMILY = "sharpness/"  # of everything that the callback logs
_FIGURE = "sharpness.png"
_SHARDED = ("FSDP", "DeepSpeed", "ModelParallel")  # strategies whose ranks hold parts of the parameters


class SharpnessCallback(Callback):
    r"""Measures the sharpness :math:`\lambda_{\max}` on fixed batches while a model trains.

    Gradient descent is stable on a quadratic where its rate is below :math:`2 / \lambda_{\max}`, that is where b of
    AdaLoss is above :math:`\eta \lambda_{\max} / 2`. Before the first step, then every `every` steps and after the last
    one the callback logs

    - ``sharpness/lambda_max``, by :func:`~adaloss_lightning.theory.sharpness`, and its ``sharpness/error``;
    - ``sharpness/effective_lr`` and what it is stable up to, ``sharpness/critical_lr``: :math:`2 / \lambda_{\max}`;
    - for adaptive optimizers ``sharpness/b`` and what it is stable from, ``sharpness/critical_b``:
      :math:`\eta \lambda_{\max} / 2`, or its square where the rate is :math:`\eta / \sqrt b` as in AdamLoss.

    All but the first two and ``critical_lr`` have the suffixes of :class:`~adaloss_lightning.AdaLossCallback` where
    there are several optimizers or groups. At the end of ``fit`` a figure of them goes to the MLflow logger, as the
    artifact ``sharpness.png``, and to `path`. The bound is that of plain gradient descent: momentum raises it up to
    twofold, and Adam's is that of its scaled Hessian.

    A measurement leaves parameters, gradients, buffers, metrics and random numbers as they were, and costs two to three
    backward passes a batch and product. It runs without autocast. Under DDP each rank measures on batches of its own,
    and that of rank zero is logged.

    Args:
        every: Steps from measurement to measurement, >= 1.
        batches: How many of the first training batches, or the batches themselves; more are a better estimate of the
            whole data's sharpness.
        loss_fn: Gets the module and a batch and returns the loss; None takes ``training_step``, and is refused under
            manual optimization.
        path: File for the figure; its suffix is the format. None writes none. It needs the extra ``[tracking]``.
        tolerance: Of :func:`~adaloss_lightning.theory.sharpness`.
        max_products: Hessian-vector products of a measurement, at most.

    Attributes:
        history: What was measured: a dict a measurement with ``step`` and the values by their names without
            ``sharpness/``. It is kept in the checkpoint.

    Raises:
        ValueError: An argument out of its bounds.
        ModuleNotFoundError: A path without matplotlib, which draws the figure.
        MisconfigurationException: Before the first step, where nothing can be measured.

    Example::

        trainer = Trainer(callbacks=[AdaLossCallback(), SharpnessCallback(every=50, path="sharpness.png")])
    """

    def __init__(
        self,
        every: int = 100,
        batches: int | Sequence[Any] = 1,
        *,
        loss_fn: LossFn | None = None,
        path: str | Path | None = None,
        tolerance: float = 1e-2,
        max_products: int = 50,
    ) -> None:
        for name, value in (("every", every), ("max_products", max_products)):
            if value < 1:
                raise ValueError(f"Invalid {name}={value!r}. Must be >= 1.")
        if (batches if isinstance(batches, int) else len(batches)) < 1:
            raise ValueError(f"Invalid batches={batches!r}. Must be >= 1, or a list of batches.")
        if path is not None:
            require("tracking", "matplotlib")
        self.every = every
        self.batches = batches
        self.loss_fn = loss_fn
        self.path = None if path is None else Path(path)
        self.tolerance = tolerance
        self.max_products = max_products
        self.history: list[dict[str, float]] = []
        self._kept: list[Any] = []
        self._looked = -1  # the step of the last measurement, also of one that failed

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot be measured; forget the last fit, before a checkpoint brings the history of this one."""
        if stage != "fit":
            return
        self.history, self._kept, self._looked = [], [], -1
        strategy = type(trainer.strategy).__name__
        if strategy.startswith(_SHARDED):
            raise MisconfigurationException(
                f"SharpnessCallback cannot work with {strategy}, which spreads parameters over ranks. Use "
                "strategy='ddp'."
            )
        if self.loss_fn is None and (not pl_module.automatic_optimization or takes_iterator(pl_module)):
            raise MisconfigurationException(
                f"SharpnessCallback cannot take the loss from {type(pl_module).__name__}.training_step: it steps "
                "optimizers or draws batches itself. Give loss_fn=..., and batches."
            )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure before the first step and then every `every` steps."""
        if trainer.global_step // self.every > self._looked // self.every:
            self._measure(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure once more, and write the figure."""
        if trainer.global_step > self._looked:
            self._measure(trainer, pl_module)
        self._kept = []
        if trainer.is_global_zero and self.history:
            self._write(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The history."""
        return {"history": [dict(entry) for entry in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of the run that is resumed."""
        self.history = [dict(entry) for entry in state_dict["history"]]
        self._looked = int(self.history[-1]["step"]) if self.history else -1

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._looked = trainer.global_step
        try:
            found = self._sharpness(trainer, pl_module)
        except ValueError as error:
            if not self.history:
                raise MisconfigurationException(f"SharpnessCallback cannot measure: {error}") from error
            rank_zero_warn(f"SharpnessCallback measures nothing at step {trainer.global_step}: {error}")
            return
        values = {"lambda_max": float(found), "error": found.error, **_beside(trainer, max(float(found), 0.0))}
        self.history.append({"step": trainer.global_step, **values})
        metrics = {FAMILY + name: value for name, value in values.items() if math.isfinite(value)}
        show_in_callback_metrics(trainer, {name: torch.tensor(v, dtype=torch.float64) for name, v in metrics.items()})
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _sharpness(self, trainer: Trainer, pl_module: LightningModule) -> Sharpness:
        with muted(trainer, pl_module):
            snapshot = Snapshot(pl_module, drawn_from=train_loaders(trainer).flattened)
            try:
                self._kept = self._kept or self._drawn(trainer)
                return sharpness(
                    pl_module,
                    self.loss_fn or _Step(trainer),
                    self._kept if self.loss_fn is None else [fresh(batch) for batch in self._kept],
                    tolerance=self.tolerance,
                    max_products=self.max_products,
                )
            finally:
                snapshot.restore()

    def _drawn(self, trainer: Trainer) -> list[Any]:
        """The fixed batches, on the device."""
        if isinstance(self.batches, int):
            drawn = first_batches(trainer, self.batches, "SharpnessCallback cannot measure", "batches=[...]")
        else:
            drawn = list(self.batches)
        return [to_device(trainer, batch) for batch in drawn]

    def _write(self, trainer: Trainer) -> None:
        if self.path is not None:
            write_figure(self.history, self.path)
        for logger in trainer.loggers:
            logs: Any = getattr(logger, "log_artifact", None)
            if logs is None and "MLFlowLogger" in (cls.__name__ for cls in type(logger).__mro__):  # Lightning's own
                run_id, client = logger.run_id, logger.experiment  # type: ignore[attr-defined]
                logs = lambda path, run_id=run_id, client=client: client.log_artifact(run_id, str(path))  # noqa: E731
            if logs is not None:
                with tempfile.TemporaryDirectory() as folder:
                    write_figure(self.history, Path(folder) / _FIGURE)
                    logs(Path(folder) / _FIGURE)


class _Step:
    """The loss of ``training_step``."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __call__(self, module: Any, batch: Any) -> Tensor:
        context = self.trainer.precision_plugin.train_step_context()
        with context, torch.autocast(self.trainer.strategy.root_device.type, enabled=False):
            loss: Tensor = loss_of(module.training_step(*step_arguments(self.trainer, fresh(batch), 0)))
        return loss


def _beside(trainer: Trainer, curvature: float) -> dict[str, float]:
    """Rates and b of every group, and the values at which they are critical."""
    values = {"critical_lr": 2 / curvature if curvature > 0 else math.inf}
    for suffix, adaptive, index, group in _groups(trainer):
        rate = group["lr"] if adaptive is None else adaptive.effective_lr[index]
        values[f"effective_lr{suffix}"] = float(rate)
        if adaptive is not None:
            critical = float(group["lr"]) * curvature / 2
            is_squared = adaptive.method.rule(group) == "adamloss"
            values[f"b{suffix}"] = float(adaptive.b[index])
            values[f"critical_b{suffix}"] = critical**2 if is_squared else critical
    return values


def _groups(trainer: Trainer) -> Iterator[tuple[str, RateAdaptive | None, int, dict[str, Any]]]:
    for i, optimizer in enumerate(trainer.optimizers):
        of_optimizer = suffix_of("optimizer", i, trainer.optimizers)
        for index, group in enumerate(optimizer.param_groups):
            of_group = suffix_of("group", index, optimizer.param_groups)
            yield of_optimizer + of_group, adaptive_in(optimizer), index, group
