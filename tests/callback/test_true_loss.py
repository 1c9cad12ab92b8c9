"""b after a Lightning training against the recurrence applied by hand to the losses that training_step returned."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision

from adaloss_lightning import AdaLoss, AdaLossCallback, AdamLoss, LossAdaptive
from tests.callback.models import Regression, fit, optimizer_of, regression_loader, seeded_linear, windows


def b_by_hand(model: Regression, size: int = 1, per_epoch: int = 4, b0: float = 1.0) -> float:
    s = b0 * b0
    for window in windows(model.true_losses, size, per_epoch):
        s += abs(sum(window) / len(window))
    return math.sqrt(s)


@pytest.mark.parametrize("accumulate", [1, 3, 4, 5])
def test_b_grows_by_the_mean_loss_of_each_window_as_it_really_was(accumulate: int) -> None:
    model = Regression()
    trainer = fit(model, AdaLossCallback(b0=0.5), accumulate_grad_batches=accumulate)
    # 1e-7: Lightning hands on loss / N in float32, which is rounded where N is no power of two
    expected = b_by_hand(model, accumulate, b0=0.5)
    assert optimizer_of(trainer).b[0].item() == pytest.approx(expected, rel=1e-7)


def test_weights_equal_a_plain_loop() -> None:
    model = Regression()
    fit(model, AdaLossCallback(), accumulate_grad_batches=3)
    net = seeded_linear()
    s = 1.0
    for _ in range(2):
        batches = list(regression_loader())
        for window in (batches[:3], batches[3:]):
            losses = [torch.nn.functional.mse_loss(net(x), y) for x, y in window]
            gradients = torch.autograd.grad(sum(loss / 3 for loss in losses), list(net.parameters()))
            s += sum(loss.item() for loss in losses) / len(losses)
            with torch.no_grad():
                for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                    parameter -= 0.1 / math.sqrt(s) * gradient
    for ours, theirs in zip(model.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # float32, another order of summation


class SpyPrecision(MixedPrecision):
    """fp16 with a GradScaler on the CPU, where Lightning's own switch refuses it."""

    def __init__(self, init_scale: float, growth_interval: int = 3) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=init_scale, growth_interval=growth_interval)
        super().__init__("16-mixed", "cpu", scaler)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("fused", [True, False])
def test_fp16_feeds_the_unscaled_loss(accumulate: int, fused: bool) -> None:
    model = Regression(lambda parameters: AdaLoss(parameters, lr=0.1, fused=fused))
    precision = SpyPrecision(2.0**5)
    trainer = fit(model, AdaLossCallback(), accumulate_grad_batches=accumulate, plugins=[precision])
    assert precision.scaler is not None
    assert precision.scaler.get_scale() != 2.0**5, "the scale was to change in mid-training"
    assert optimizer_of(trainer).b[0].item() == pytest.approx(b_by_hand(model, accumulate), rel=1e-6)


class Exploding(Regression):
    """Its gradients overflow at the scale of the first steps, its loss does not."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.scales: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.scales.append(self.trainer.precision_plugin.scaler.get_scale())
        return self.compute_loss(batch)

    def on_after_backward(self) -> None:
        if self.scales[-1] > 2.0**4:
            next(self.parameters()).grad[0, 0] = math.inf


@pytest.mark.parametrize("make", [
    lambda p: AdaLoss(p, lr=0.1, momentum=0.9),
    lambda p: AdaLoss(p, lr=0.1, momentum=0.9, fused=False),
    lambda p: AdamLoss(p),
    lambda p: torch.optim.Adagrad(p, lr=0.1),
])  # fmt: skip
def test_an_overflow_step_moves_nothing(make: Any) -> None:
    model = Exploding(make)
    precision = SpyPrecision(2.0**6, growth_interval=1000)
    weights: list[torch.Tensor] = []
    bs: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            weights.append(model.net.weight.detach().clone())
            bs.append(trainer.optimizers[0].b[0].item())

    trainer = fit(model, AdaLossCallback(), callbacks=[Watch()], plugins=[precision])
    skipped = [scale > 2.0**4 for scale in model.scales]
    assert sum(skipped) == 2, "two overflows, then a scale that holds"
    optimizer = optimizer_of(trainer)
    start = 1.0
    s = start
    for index, (skip, loss) in enumerate(zip(skipped, model.true_losses, strict=True)):
        s += 0.0 if skip else loss
        expected = s if optimizer.param_groups[0]["adaloss_rule"] == "adamloss" else math.sqrt(s)
        assert bs[index] == pytest.approx(expected, rel=1e-6)
    assert torch.equal(weights[0], seeded_linear().weight)
    assert torch.equal(weights[1], weights[0])
    assert not torch.equal(weights[2], weights[1])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions(precision: Any) -> None:
    dtype = {"bf16-true": torch.bfloat16, "64-true": torch.float64}.get(precision, torch.float32)
    model = Regression()
    trainer = fit(model, AdaLossCallback(), regression_loader(dtype=dtype), precision=precision)
    assert optimizer_of(trainer).b[0].dtype == torch.float64
    assert optimizer_of(trainer).b[0].item() == pytest.approx(b_by_hand(model), rel=1e-12)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("fp16", [True, False])
def test_clipping_works_with_the_fused_kernel_that_we_chose(algorithm: str, fp16: bool) -> None:
    plugins = [SpyPrecision(2.0**4)] if fp16 else []
    model = Regression(lambda parameters: AdaLoss(parameters, lr=0.1))
    norms: list[float] = []
    model.on_before_zero_grad = lambda optimizer: norms.extend(
        p.grad.norm().item() for p in model.parameters() if p.grad is not None
    )
    trainer = fit(
        model, AdaLossCallback(), plugins=plugins, gradient_clip_val=0.01, gradient_clip_algorithm=algorithm
    )  # fmt: skip
    assert optimizer_of(trainer).param_groups[0]["fused"] is True
    assert norms
    assert max(norms) <= 0.01 * math.sqrt(3) * (1 + 1e-5)
    assert optimizer_of(trainer).b[0].item() == pytest.approx(b_by_hand(model), rel=1e-6)


def test_a_dict_with_the_loss() -> None:
    class Dict(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": self.compute_loss(batch), "other": torch.tensor(100.0)}

    model = Dict()
    trainer = fit(model, AdaLossCallback())
    assert optimizer_of(trainer).b[0].item() == pytest.approx(b_by_hand(model), rel=1e-12)


@pytest.mark.filterwarnings("ignore:.*training_step. returned .None.")  # Lightning's notice that it was skipped
@pytest.mark.parametrize("fp16", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_step_that_returns_none_uses_no_stale_loss(fp16: bool, accumulate: int) -> None:
    class Sometimes(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if batch_idx in (1, 2) else self.compute_loss(batch)

    model = Sometimes()
    plugins = [SpyPrecision(2.0**4)] if fp16 else []
    trainer = fit(model, AdaLossCallback(), plugins=plugins, accumulate_grad_batches=accumulate)
    # Of 4 batches the second and third are None, so windows of two hold one loss each; but under fp16 Lightning leaves
    # out the step of a window whose last batch is None.
    used = model.true_losses[1::2] if fp16 and accumulate == 2 else model.true_losses
    assert optimizer_of(trainer).b[0].item() == pytest.approx(math.sqrt(1 + sum(used)), rel=1e-6)


def test_a_non_finite_loss_costs_its_step_and_nothing_else() -> None:
    class Spoiled(Regression):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.compute_loss(batch)
            if batch_idx == 2:
                self.true_losses.pop()
                return loss * math.nan
            return loss

    model = Spoiled()
    trainer = fit(model, AdaLossCallback())
    assert optimizer_of(trainer).b[0].item() == pytest.approx(b_by_hand(model), rel=1e-12)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_changing_accumulation_schedule() -> None:
    model = Regression()
    schedule = pl.callbacks.GradientAccumulationScheduler({0: 1, 1: 3})
    trainer = fit(model, AdaLossCallback(), callbacks=[schedule])
    s = 1.0
    for window in [[loss] for loss in model.true_losses[:4]] + windows(model.true_losses[4:], 3, 4):
        s += sum(window) / len(window)
    assert optimizer_of(trainer).b[0].item() == pytest.approx(math.sqrt(s), rel=1e-7)


def test_wrapping_equals_wrapping_by_hand() -> None:
    by_callback, by_hand = Regression(), Regression(lambda p: LossAdaptive(torch.optim.SGD(p, lr=0.1)))
    fit(by_callback, AdaLossCallback())
    fit(by_hand, AdaLossCallback())
    assert torch.equal(by_callback.net.weight, by_hand.net.weight)


class AccumulatesByOverrides(Regression):
    """Adds up the gradients of two batches: it zeroes at every other one and steps at every other one."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.compute_loss(batch) / 2

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if batch_idx % 2 == 0:
            optimizer.zero_grad(set_to_none=epoch > 0)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
        optimizer.step(closure) if batch_idx % 2 else closure()


def test_accumulation_by_overrides_counts() -> None:
    model = AccumulatesByOverrides()
    trainer = fit(model, AdaLossCallback())
    assert optimizer_of(trainer).b[0].item() == pytest.approx(b_by_hand(model, 2), rel=1e-12)


@pytest.mark.parametrize("zeroes", [True, False])
def test_a_closure_that_is_run_again_replaces_the_loss_of_the_first_try(zeroes: bool) -> None:
    """... where the gradients were zeroed between; where they were not, both losses are in them."""

    class Again(Regression):
        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            if zeroes or len(self.true_losses) % 2 == 1:  # the loss of the first try is there already
                optimizer.zero_grad()

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any) -> None:
            closure()
            with torch.no_grad():
                self.net.bias += 0.5  # so that the second try has another loss
            optimizer.step(closure)

    model = Again()
    trainer = fit(model, AdaLossCallback())
    assert len(model.true_losses) == 2 * trainer.global_step
    counted = model.true_losses[1::2] if zeroes else model.true_losses
    assert optimizer_of(trainer).b[0].item() == pytest.approx(math.sqrt(1 + sum(counted)), rel=1e-12)
