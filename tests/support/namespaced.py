"""Trainings under either of Lightning's names. Run as a script for the one that the tests do not import."""

import importlib
import math
import sys
from typing import Any

import torch

from adaloss_lightning import AdaLossCallback

CASES = ("accumulation", "manual")


def model_of(pl: Any, case: str) -> Any:
    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = case != "manual"
            torch.manual_seed(0)
            self.net = torch.nn.Linear(3, 1)
            self.losses: list[float] = []

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = (self.net(batch) - 1).square().mean()
            self.losses.append(loss.item())
            if self.automatic_optimization:
                return loss
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return None

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.1)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    return Model()


def assert_trains(namespace: str, case: str) -> None:
    """Train eight batches and compare with the recurrence on the losses that ``training_step`` returned."""
    pl = importlib.import_module(namespace)
    model, size = model_of(pl, case), 3 if case == "accumulation" else 1
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", precision="64-true", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[AdaLossCallback()],
        **({"accumulate_grad_batches": size} if size > 1 else {}),
    )  # fmt: skip
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=2))
    s = 1.0
    epochs = (model.losses[:4], model.losses[4:])
    windows = [epoch[i : i + size] for epoch in epochs for i in range(0, 4, size)]
    for window in windows:
        s += sum(window) / len(window)
    eta = 0.1 if case == "manual" else 0.1 * 0.1 ** ((len(windows) - 1) // 3)  # Lightning steps no scheduler by hand
    optimizer = trainer.optimizers[0]
    # float64 up to the metrics, which Lightning holds in float32
    assert math.isclose(optimizer.b[0].item(), math.sqrt(s), rel_tol=1e-14)
    assert math.isclose(optimizer.effective_lr[0].item(), eta / math.sqrt(s), rel_tol=1e-14)
    assert math.isclose(float(trainer.callback_metrics["adaloss/b"]), math.sqrt(s), rel_tol=1e-6)


if __name__ == "__main__":
    for each in CASES:
        assert_trains(sys.argv[1], each)
