"""Files of version 0.1.0 go on as they went on there."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from adaloss_lightning import AdaGradNorm, AdaLoss, AdaLossCallback, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt

# Of each optimizer: its state_dict after two steps, the weights then, and weights and b after a third one.
SAVED: dict[str, Any] = json.loads(Path(__file__).with_name("version_0_1_0.json").read_text())
MAKE: dict[str, Any] = {
    "AdaLoss": lambda p: AdaLoss(p, lr=0.1, b0=0.5, momentum=0.9),
    "AdamLoss": lambda p: AdamLoss(p, lr=0.01, alpha=2.0, c=0.25),
    "LossAdaptive(RMSprop)": lambda p: LossAdaptive(torch.optim.RMSprop(p, lr=0.01), rule="adamloss"),
    "AdaGradNorm": lambda p: AdaGradNorm(p, lr=1.0, b0=0.5),
    "AdaGradNorm(channel)": lambda p: AdaGradNorm(p, lr=1.0, b0=0.5, granularity="channel"),
    "SGDDecaySqrt": lambda p: SGDDecaySqrt(p, lr=0.1),
    "AdamSqrt": lambda p: AdamSqrt(p, lr=0.01),
}


def decoded(saved: Any) -> Any:
    """Tensors are kept as their numbers and their dtype."""
    if isinstance(saved, list):
        return [decoded(one) for one in saved]
    if not isinstance(saved, dict):
        return saved
    if saved.keys() == {"tensor", "dtype"}:
        return torch.tensor(saved["tensor"], dtype=getattr(torch, saved["dtype"]))
    return {int(key) if key.isdigit() else key: decoded(value) for key, value in saved.items()}


@pytest.mark.parametrize("name", SAVED)
def test_a_state_dict_goes_on(name: str) -> None:
    saved = SAVED[name]
    weights = nn.Parameter(torch.tensor(saved["weights"], dtype=torch.float64))
    optimizer = MAKE[name]([weights])
    optimizer.load_state_dict(decoded(saved["state_dict"]))
    weights.grad = 3 * torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    optimizer.step(loss=0.5)
    # float64, and kernels of torch's that may have changed their order of operations
    torch.testing.assert_close(weights.detach(), torch.tensor(saved["next"], dtype=torch.float64), rtol=1e-14, atol=0)
    assert [b.item() for b in optimizer.b] == pytest.approx(saved["b"], rel=1e-15)


class TwoWeights(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1, bias=False).double()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return (self.net(batch[0]) - batch[1]).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(epochs: int, checkpoint: Path | None = None) -> tuple[TwoWeights, pl.Trainer]:
    x = torch.arange(8.0, dtype=torch.float64).reshape(4, 2) / 4
    trainer = pl.Trainer(
        max_epochs=epochs, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", callbacks=[AdaLossCallback(b0=0.5)],
    )  # fmt: skip
    model = TwoWeights()
    data = DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=2)
    trainer.fit(model, data, ckpt_path=checkpoint)
    return model, trainer


def test_a_checkpoint_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "version_0_1_0.ckpt"
    fit(1)[1].save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["adaloss_lightning"]  # which 0.1.0 did not write; the rest is Lightning's
    weight = torch.tensor([[0.8143539096922903, 0.16036136115224112]], dtype=torch.float64)
    buffer = torch.tensor([[-6.435872460276327, -7.913820595216292]], dtype=torch.float64)
    group = {
        "lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False,
        "foreach": None, "differentiable": False, "fused": None, "adaloss_b0": 0.5, "adaloss_alpha": 1.0,
        "adaloss_c": 0.0, "adaloss_rule": "adaloss", "adaloss_effective_lr": 0.03963635690722128,
        "adaloss_s": torch.tensor(6.365207110345298, dtype=torch.float64), "params": [0],
    }  # fmt: skip
    checkpoint["state_dict"] = OrderedDict({"net.weight": weight})
    checkpoint["optimizer_states"] = [{"state": {0: {"momentum_buffer": buffer}}, "param_groups": [group]}]
    torch.save(checkpoint, path)
    model, trainer = fit(2, path)
    optimizer: Any = trainer.optimizers[0]
    assert model.net.weight.tolist() == [pytest.approx([1.330691070937581, 0.8035511855362578], rel=1e-13)]
    assert optimizer.b[0].item() == pytest.approx(2.6864585021496237, rel=1e-14)
