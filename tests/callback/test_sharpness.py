"""SharpnessCallback on a regression whose Hessian is known."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from adaloss_lightning import AdaLoss, AdaLossCallback, AdamLoss, SharpnessCallback
from tests.callback.models import Regression, fit, regression_loader


def first_inputs(batches: int) -> np.ndarray:
    loader = regression_loader()
    return np.concatenate([batch[0].double().numpy() for batch, _ in zip(loader, range(batches), strict=False)])


def curvature(batches: int) -> float:
    """Of the mean squared error of a linear map with a bias: 2 / n [X 1]^T [X 1]."""
    x = first_inputs(batches)
    x = np.column_stack([x, np.ones(len(x))])
    return float(np.linalg.eigvalsh(2 / len(x) * x.T @ x)[-1])


@pytest.mark.parametrize("batches", [1, 3])
def test_history_is_the_curvature_beside_b_and_rate(batches: int) -> None:
    callback = SharpnessCallback(every=3, batches=batches, tolerance=1e-6)
    model = Regression(lambda p: AdaLoss(p, lr=0.5, b0=2.0))
    trainer = fit(model, AdaLossCallback(), callbacks=[callback])  # 2 epochs of 4 steps
    assert [entry["step"] for entry in callback.history] == [0, 3, 6, 8]
    expected = curvature(batches)
    for entry in callback.history:  # the loss is a quadratic: its Hessian is the same everywhere
        assert entry["lambda_max"] == pytest.approx(expected, rel=1e-5)
        assert entry["error"] <= 1e-4 * expected
        assert entry["critical_b"] == pytest.approx(0.5 * expected / 2, rel=1e-5)
        assert entry["critical_lr"] == pytest.approx(2 / expected, rel=1e-5)
        assert entry["effective_lr"] == pytest.approx(0.5 / entry["b"])
    assert callback.history[0]["b"] == 2
    assert (
        callback.history[-1]["b"]
        == trainer.optimizers[0].b[0].item()
        == pytest.approx(  # type: ignore[attr-defined]
            math.sqrt(4 + sum(model.true_losses[-8:]))
        )
    )


def test_training_is_the_same_with_and_without() -> None:
    with_it, without = (Regression(lambda p: AdaLoss(p, lr=0.5)) for _ in range(2))
    fit(with_it, SharpnessCallback(every=1, batches=2), loader=shuffled())
    fit(without, None, loader=shuffled())
    for ours, theirs in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def shuffled() -> Any:
    loader = regression_loader()
    torch.manual_seed(3)
    return torch.utils.data.DataLoader(loader.dataset, batch_size=2, shuffle=True)


def test_critical_b_of_adamloss_is_where_its_rate_is_critical() -> None:
    callback = SharpnessCallback(tolerance=1e-6)
    fit(Regression(lambda p: AdamLoss(p, lr=0.5)), AdaLossCallback(), callbacks=[callback])
    entry = callback.history[-1]
    assert 0.5 / math.sqrt(entry["critical_b"]) == pytest.approx(entry["critical_lr"], rel=1e-6)


def test_plain_optimizers_have_a_rate_and_no_b() -> None:
    callback = SharpnessCallback()
    trainer = fit(Regression(lambda p: torch.optim.SGD(p, lr=0.25)), callback)
    assert callback.history[0].keys() == {"step", "lambda_max", "error", "critical_lr", "effective_lr"}
    assert callback.history[0]["effective_lr"] == 0.25
    assert trainer.callback_metrics["sharpness/lambda_max"].item() == callback.history[-1]["lambda_max"]


def test_groups_and_loggers_get_names_of_their_own(tmp_path: Path) -> None:
    def two_groups(parameters: Any) -> AdaLoss:
        weight, bias = parameters
        return AdaLoss([{"params": [weight]}, {"params": [bias], "lr": 0.2}], lr=0.1)

    logger = CSVLogger(tmp_path)
    fit(Regression(two_groups), SharpnessCallback(every=4), logger=logger)
    header, *rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert {f"sharpness/critical_b/group{i}" for i in (0, 1)} < set(header.split(","))
    assert len(rows) == 3  # steps 0, 4 and 8


def test_given_batches_and_loss_are_measured() -> None:
    x = torch.tensor([[2.0, 0.0, 0.0]])

    def loss(module: Any, batch: Tensor) -> Tensor:
        return module.net.weight.mul(batch).sum().square() / 2  # of Hessian x x^T

    callback = SharpnessCallback(batches=[x, 2 * x], loss_fn=loss, tolerance=1e-6)
    fit(Regression(), callback)
    assert callback.history[0]["lambda_max"] == pytest.approx((4 + 16) / 2)


def test_a_resumed_run_goes_on_with_its_history(tmp_path: Path) -> None:
    first = SharpnessCallback(every=4)
    trainer = fit(Regression(), first, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = SharpnessCallback(every=4)
    fit(Regression(), second, max_epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert second.history[: len(first.history)] == first.history
    assert [entry["step"] for entry in second.history] == [0, 4, 8]


def test_accumulated_batches_are_measured_once_a_step() -> None:
    callback = SharpnessCallback(every=1)
    fit(Regression(), callback, max_epochs=1, accumulate_grad_batches=2)
    assert [entry["step"] for entry in callback.history] == [0, 1, 2]


def test_the_figure_is_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "figure.png"
    fit(Regression(lambda p: AdaLoss(p)), SharpnessCallback(every=4, path=path))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_figure_goes_to_a_logger_that_takes_artifacts(tmp_path: Path) -> None:
    class Keeping(CSVLogger):
        kept: bytes = b""

        def log_artifact(self, path: Path) -> None:
            assert path.name == "sharpness.png"
            self.kept = path.read_bytes()

    logger = Keeping(tmp_path)
    fit(Regression(), SharpnessCallback(), logger=logger)
    assert logger.kept.startswith(b"\x89PNG")


def test_the_figure_goes_to_lightnings_own_mlflow_logger() -> None:
    kept: list[tuple[str, bytes]] = []

    class Client:
        def log_artifact(self, run_id: str, path: str) -> None:
            kept.append((run_id, Path(path).read_bytes()))

    class MLFlowLogger(DummyLogger):  # Lightning's hands its client out as `experiment`, and has no log_artifact
        run_id = "run"
        experiment = Client()
        log_artifact = None

    fit(Regression(), SharpnessCallback(), logger=MLFlowLogger())
    ((run_id, image),) = kept
    assert run_id == "run"
    assert image.startswith(b"\x89PNG")


def test_a_run_that_diverges_goes_on_without_measurements() -> None:
    callback = SharpnessCallback(every=1)
    with pytest.warns(UserWarning, match=r"SharpnessCallback measures nothing at step .*: Invalid loss="):
        fit(Regression(lambda p: torch.optim.SGD(p, lr=1e30)), callback)
    assert 0 < len(callback.history) < 8


class Manual(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(("model", "callback", "message"), [
    (Manual, SharpnessCallback(), r"cannot take the loss from Manual\.training_step"),
    (Regression, SharpnessCallback(loss_fn=lambda module, batch: torch.ones(2)), "Invalid loss=.* of batch 0"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(model: Any, callback: SharpnessCallback, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        fit(model(), callback)


@pytest.mark.parametrize(("settings", "message"), [
    ({"every": 0}, "Invalid every=0. Must be >= 1"),
    ({"batches": 0}, "Invalid batches=0. Must be >= 1"),
    ({"batches": []}, r"Invalid batches=\[\]. Must be >= 1"),
    ({"max_products": 0}, "Invalid max_products=0"),
])  # fmt: skip
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SharpnessCallback(**settings)
