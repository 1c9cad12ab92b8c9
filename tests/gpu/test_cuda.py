"""On a real CUDA device: steps that never wait for the host, and the numbers of the CPU. Skipped where none is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from adaloss_lightning import AdaGradNorm, AdaLoss, AdaLossCallback, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICE = "cuda"


def capturable_adam(params: Any, lr: float) -> torch.optim.Optimizer:
    """Adam that may be captured in a CUDA graph, where that is."""
    params = list(params)
    return torch.optim.Adam(params, lr=lr, capturable=params[0].is_cuda)


# those whose steps read nothing on the host, by the contract
SILENT: dict[str, Callable[[Any], Any]] = {
    "AdaLoss": lambda p: AdaLoss(p, lr=0.1),
    "AdaLoss momentum": lambda p: AdaLoss(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "AdamLoss": lambda p: AdamLoss(p, lr=0.01),
    "AdamLoss amsgrad decoupled": lambda p: AdamLoss(p, lr=0.01, amsgrad=True, decoupled_weight_decay=True),
    "LossAdaptive(AdamW)": lambda p: LossAdaptive(torch.optim.AdamW(p, lr=0.01, fused=True), rule="adamloss"),
    "capturable, unchecked": lambda p: LossAdaptive(capturable_adam(p, lr=0.01), check_finite=False),
}
OTHERS: dict[str, Callable[[Any], Any]] = {
    "unfused": lambda p: AdaLoss(p, lr=0.1, fused=False),
    "unfused, unchecked": lambda p: LossAdaptive(torch.optim.SGD(p, lr=0.1, foreach=False), check_finite=False),
    "AdaGradNorm": lambda p: AdaGradNorm(p, lr=0.1),
    "AdaGradNorm channel": lambda p: AdaGradNorm(p, lr=0.1, granularity="channel"),
    "SGDDecaySqrt": lambda p: SGDDecaySqrt(p, lr=0.1),
    "AdamSqrt": lambda p: AdamSqrt(p, lr=0.01),
}
METHODS = SILENT | OTHERS


@contextmanager
def nothing_waits() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def network(device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double().to(device)


def batches(device: str, count: int = 5) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(16, 6, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [(x.to(device), x.sum(dim=1, keepdim=True).to(device)) for x in rows]


def train(make: Callable[[Any], Any], device: str, silent: bool, spoiled: int | None = None) -> tuple[Any, list[Any]]:
    net = network(device)
    optimizer = make(net.parameters())
    for index, (x, y) in enumerate(batches(device)):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        if index == spoiled:
            loss = loss * torch.inf
        if silent and index > 1:  # the first steps make state and load kernels
            torch.cuda.synchronize()
            with nothing_waits():
                optimizer.step(loss=loss)
                _ = optimizer.b, optimizer.effective_lr, optimizer.last_loss
        else:
            optimizer.step(loss=loss)
    return optimizer, [p.detach().cpu() for p in net.parameters()]


@pytest.mark.parametrize("spoiled", [None, 0, 3])
@pytest.mark.parametrize("name", METHODS)
def test_the_numbers_of_the_cpu(name: str, spoiled: int | None) -> None:
    if spoiled is not None and name not in SILENT | {"unfused": None}:
        pytest.skip("the baselines do not look at the loss")
    if spoiled is not None and name == "capturable, unchecked":
        pytest.skip("gives up the protection of the parameters")
    optimizer, weights = train(METHODS[name], DEVICE, name in SILENT, spoiled)
    control, expected = train(METHODS[name], "cpu", False, spoiled)
    assert all(b.device.type == DEVICE and b.dtype == torch.float64 for b in optimizer.b)
    # the fused kernels of an accelerator read a tensor lr in float32: 6e-8 of a step
    torch.testing.assert_close([b.cpu() for b in optimizer.b], control.b, rtol=1e-6, atol=0)
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", SILENT)
def test_resume_on_the_device(name: str) -> None:
    whole, weights = train(SILENT[name], DEVICE, False)
    net = network(DEVICE)
    optimizer = SILENT[name](net.parameters())
    for index, (x, y) in enumerate(batches(DEVICE)):
        if index == 2:
            saved = optimizer.state_dict()
            optimizer = SILENT[name](net.parameters())
            optimizer.load_state_dict(saved)
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimizer.step(loss=loss)
    assert all(torch.equal(a, b) for a, b in zip(optimizer.b, whole.b, strict=True))
    assert all(torch.equal(p.detach().cpu(), q) for p, q in zip(net.parameters(), weights, strict=True))


class Regression(pl.LightningModule):
    def __init__(self, make: Callable[[Any], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(6, 1)
        self.make = make
        self.losses: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = torch.nn.functional.mse_loss(self.net(batch[0].to(self.dtype)).float(), batch[1].float())
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        return self.make(self.net.parameters())


@pytest.mark.parametrize("clip", [None, 1.0])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("name", ["AdaLoss", "AdamLoss", "LossAdaptive(AdamW)"])
def test_lightning(name: str, precision: Any, accumulate: int, clip: float | None) -> None:
    model = Regression(SILENT[name])
    x = torch.cat([rows for rows, _ in batches("cpu")])
    trainer = pl.Trainer(
        max_epochs=1, accelerator="gpu", devices=1, precision=precision, accumulate_grad_batches=accumulate,
        gradient_clip_val=clip, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[AdaLossCallback()],
    )  # fmt: skip
    trainer.fit(model, DataLoader(TensorDataset(x, x.sum(dim=1, keepdim=True)), batch_size=16))
    optimizer: Any = trainer.optimizers[0]
    windows = [model.losses[i : i + accumulate] for i in range(0, len(model.losses), accumulate)]
    means = [sum(window) / len(window) for window in windows]
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    s = 1.0 + sum(means)
    b = s if name != "AdaLoss" else s**0.5
    if scaler is None or scaler.get_scale() == 65536.0:  # otherwise a first step overflowed, and its loss stays out
        assert optimizer.b[0].item() == pytest.approx(b, rel=1e-5)
    else:
        assert optimizer.b[0].item() < b
