"""Precision, accumulation, clipping and what a module may override: every single step against float64."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from adaloss_lightning import AdaLoss, AdaLossCallback
from tests.callback.models import Regression, fit, optimizer_of, regression_loader
from tests.callback.test_true_loss import SpyPrecision
from tests.support.cells import cell
from tests.support.steps import ETA, ByHand, Watch, assert_steps, clip_by_norm, clip_by_value, epochs, gradient_of

EPOCHS = 3
TABLE = "Precision, accumulation and clipping"
# What a displacement may differ by: a few roundings of the format in which forward and backward are computed (half an
# ulp each: 2^-53, 2^-24, 2^-11, 2^-8), and, for weights that are bfloat16 themselves, one rounding of each weight.
PRECISIONS: dict[str, dict[str, float]] = {
    "64-true": {"s_rtol": 1e-14, "rtol": 1e-13},
    "32-true": {"s_rtol": 1e-6, "rtol": 1e-5},
    "bf16-mixed": {"s_rtol": 1e-6, "rtol": 0.03},
    # here the loss is bfloat16 too, and loses one rounding when Lightning divides it by 3
    "bf16-true": {"s_rtol": 2.0**-8, "rtol": 0.03, "ulp": 2.0**-8},
    "16-mixed": {"s_rtol": 1e-6, "rtol": 0.005},
}
DTYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
ACCUMULATIONS: dict[str, Any] = {"1": 1, "3": 3, "4": 4, "scheduled 1-3-4": {0: 1, 1: 3, 2: 4}}
CLIPPINGS: dict[str, Any] = {
    "none": ({}, lambda gradient: gradient),
    "norm": ({"gradient_clip_val": 1.0}, clip_by_norm),
    "value": ({"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"}, clip_by_value),
}


def trained(
    model: Regression, precision: str = "64-true", accumulate: Any = 1, watch: Watch | None = None, **settings: Any
) -> Watch:
    watch = watch or Watch()
    callbacks = [watch, *settings.pop("callbacks", [])]
    if isinstance(accumulate, dict):
        callbacks.append(pl.callbacks.GradientAccumulationScheduler(accumulate))
    else:
        settings["accumulate_grad_batches"] = accumulate
    if precision == "16-mixed":  # a scale at which the first gradients do not fit into float16
        settings["plugins"] = [SpyPrecision(2.0**15, growth_interval=1000)]
    else:
        settings["precision"] = precision
    loader = regression_loader(dtype=DTYPES.get(precision, torch.float32))
    fit(model, AdaLossCallback(), loader, **{"max_epochs": EPOCHS, "callbacks": callbacks, **settings})
    return watch


@cell(TABLE, "every combination of these", "each step worked out in float64 from where it started")
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
@pytest.mark.parametrize("clipping", CLIPPINGS)
@pytest.mark.parametrize("accumulate", ACCUMULATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cross_table(precision: str, accumulate: str, clipping: str, fused: bool) -> None:
    model = Regression(lambda parameters: AdaLoss(parameters, lr=ETA, fused=None if fused else False))
    arguments, clip = CLIPPINGS[clipping]
    watch = trained(model, precision, ACCUMULATIONS[accumulate], **arguments)
    steps = ByHand(clip).run(model, watch, epochs(ACCUMULATIONS[accumulate], EPOCHS))
    assert_steps(watch, steps, **PRECISIONS[precision])
    assert optimizer_of(model.trainer).param_groups[0]["fused"] is fused
    skipped = [step.skipped for step in steps]
    assert any(skipped) is (precision == "16-mixed")
    assert not all(skipped)


SECTION = "Overrides, modules and losses"


class WarmUp(Regression):
    """Lightning's own example of an override: it sets the rate in the group by hand."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        for group in optimizer.param_groups:
            group["lr"] = warm_up(self.trainer.global_step)
        optimizer.step(closure=optimizer_closure)


def warm_up(step: int) -> float:
    return min(1.0, (step + 1) / 5) * ETA


class ClosureFirst(Regression):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()
        optimizer.step()


class StepsAtEveryOtherBatch(Regression):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if batch_idx % 2:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


@cell(
    SECTION,
    "`optimizer_step` that sets the learning rate in the group",
    "each step in float64, at the rate set by hand",
)
@pytest.mark.parametrize("precision", ["64-true", "16-mixed"])
def test_optimizer_step_that_sets_the_rate(precision: str) -> None:
    model = WarmUp()
    watch = trained(model, precision)
    steps = ByHand(etas=[warm_up(step) for step in range(4 * EPOCHS)]).run(model, watch, [1] * EPOCHS)
    assert_steps(watch, steps, **PRECISIONS[precision])


@cell(SECTION, "`optimizer_step` that calls the closure first and `step()` without it", "each step in float64")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_optimizer_step_that_calls_the_closure_first(accumulate: int) -> None:
    model = ClosureFirst()
    watch = trained(model, "64-true", accumulate)
    assert_steps(watch, ByHand().run(model, watch, [accumulate] * EPOCHS), **PRECISIONS["64-true"])


@cell(
    SECTION, "`optimizer_step` that steps at every other batch: the other losses never enter b", "each step in float64"
)
def test_optimizer_step_that_leaves_steps_out() -> None:
    model = StepsAtEveryOtherBatch()
    watch = trained(model)
    by_hand = ByHand()
    batches = list(regression_loader(dtype=torch.float64)) * EPOCHS
    for index, batch in enumerate(batches):
        if index % 2:
            by_hand._step(model, watch, [batch], index, 1)
        else:
            assert torch.equal(watch.weights[index + 1], watch.weights[index])
            assert watch.s[index + 1] == watch.s[index]
    assert_steps(watch, by_hand.steps, **PRECISIONS["64-true"])


class ClipsItself(Regression):
    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")


class ClipsByHand(Regression):
    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)


@cell(SECTION, "`configure_gradient_clipping` override", "each step in float64")
@pytest.mark.parametrize("fused", [True, False], ids=["fused", "not fused"])
@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("model_class", [ClipsItself, ClipsByHand], ids=["clip_gradients", "clip_grad_norm_"])
def test_configure_gradient_clipping(model_class: Any, precision: str, fused: bool) -> None:
    model = model_class(lambda parameters: AdaLoss(parameters, lr=ETA, fused=None if fused else False))
    watch = trained(model, precision)
    steps = ByHand(clip_by_norm).run(model, watch, [1] * EPOCHS)
    assert_steps(watch, steps, **PRECISIONS[precision])


class Compilable(Regression):
    """Notes its losses outside the compiled ``training_step``, which would break the graph there."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return torch.nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.true_losses.append(outputs["loss"].item())


@cell(SECTION, "a `torch.compile`d module (`fit(torch.compile(model))`, or compiled layers)", "each step in float64")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("what", ["module", "layer"])
def test_compiled_module(what: str, backend: str) -> None:
    torch.compiler.reset()
    model = Compilable()
    if what == "layer":
        model.net.compile(backend=backend)
    watch = trained(torch.compile(model, backend=backend) if what == "module" else model)
    assert torch._dynamo.utils.counters["frames"]["ok"] >= 1
    assert_steps(watch, ByHand().run(model, watch, [1] * EPOCHS), **PRECISIONS["64-true"])


class TwoLosses(Regression):
    """The loss is the sum of two; both and a metric are returned beside it and logged."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        fit_loss = torch.nn.functional.mse_loss(self.net(x), y)
        decay = 0.5 * self.net.weight.square().sum()
        loss = fit_loss + decay
        self.true_losses.append(loss.item())
        self.log_dict({"fit": fit_loss, "decay": decay})
        return {"loss": loss, "fit": fit_loss.detach(), "decay": decay.detach(), "count": 3}


@cell(SECTION, "several losses in a dict output: b gets the one that is called `loss`", "the recurrence on those")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_several_losses(accumulate: int) -> None:
    model = TwoLosses()
    watch = trained(model, "64-true", accumulate)
    s = 1.0
    for start in range(0, 4 * EPOCHS, 4):
        epoch = model.true_losses[start : start + 4]
        for window in [epoch[i : i + accumulate] for i in range(0, 4, accumulate)]:
            s += sum(window) / len(window)
    assert watch.s[-1] == pytest.approx(s, rel=1e-14)


class Shaped(Regression):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.compute_loss(batch).reshape(1)


@cell(SECTION, "a loss of shape `[1]`", "each step in float64")
def test_a_loss_of_shape_one() -> None:
    model = Shaped()
    watch = trained(model)
    assert_steps(watch, ByHand().run(model, watch, [1] * EPOCHS), **PRECISIONS["64-true"])


@cell(
    SECTION,
    "parameter groups with a `b0`, an `alpha`, a `c` and an eta of their own",
    "the recurrence of each group, step by step",
)
@pytest.mark.parametrize("bare", [True, False], ids=["wrapped by the callback", "AdaLoss"])
def test_groups_with_their_own_settings(bare: bool) -> None:
    model = Regression()
    own = {"adaloss_b0": 3.0, "adaloss_alpha": 0.5, "adaloss_c": 1.0, "lr": 0.02}
    groups = [{"params": [model.net.weight]}, {"params": [model.net.bias], **own}]
    model.make_optimizer = lambda _: torch.optim.SGD(groups, lr=ETA) if bare else AdaLoss(groups, lr=ETA)
    watch = trained(model)
    s = [1.0, 9.0]
    batches = list(regression_loader(dtype=torch.float64)) * EPOCHS
    for index, ((x, y), loss) in enumerate(zip(batches, model.true_losses, strict=True)):
        s = [s[0] + loss, s[1] + 0.5 * abs(loss - 1.0)]
        rates = torch.tensor([ETA / math.sqrt(s[0])] * 3 + [0.02 / math.sqrt(s[1])], dtype=torch.float64)
        expected = watch.weights[index] - rates * gradient_of(watch.weights[index], x, y)
        torch.testing.assert_close(watch.weights[index + 1], expected, rtol=1e-12, atol=1e-13)
    optimizer: Any = optimizer_of(model.trainer)
    assert [b.item() ** 2 for b in optimizer.b] == pytest.approx(s, rel=1e-14)
