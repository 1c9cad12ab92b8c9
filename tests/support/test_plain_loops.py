"""Loops without Lightning, each an example of how its library is used. (Plain DDP is in test_strategies.py.)"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.precision import MixedPrecision

from adaloss_lightning import AdaLoss, AdamLoss, LossAdaptive
from tests.callback.models import regression_loader, seeded_linear
from tests.optim.stand_ins import ScheduleFree
from tests.support import steps
from tests.support.cells import cell

SECTION = "Outside Lightning"
METHODS: dict[str, Any] = {
    "AdaLoss": lambda p: AdaLoss(p, lr=steps.ETA),
    "AdaLoss, not fused": lambda p: AdaLoss(p, lr=steps.ETA, fused=False),
    "LossAdaptive(SGD)": lambda p: LossAdaptive(torch.optim.SGD(p, lr=steps.ETA)),
}


def flat(net: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in net.parameters()])


@cell(
    SECTION,
    "`torch.amp.GradScaler`: scaled backward, `record_loss`, `scaler.step`",
    "each step in float64; overflows move nothing",
)
@pytest.mark.parametrize("clip", [False, True], ids=["", "unscale_ and clip"])
@pytest.mark.parametrize("method", METHODS)
def test_grad_scaler(method: str, clip: bool) -> None:
    net = seeded_linear()
    optimizer = METHODS[method](net.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15)
    s, overflows = 1.0, 0
    for x, y in list(regression_loader()) * 3:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = torch.nn.functional.mse_loss(net(x), y)
        scaler.scale(loss).backward()
        optimizer.record_loss(loss)  # the true one, before the scale
        if clip:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        before, scale = flat(net), scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        if scaler.get_scale() < scale:
            overflows += 1
            assert torch.equal(flat(net), before)
        else:
            s += loss.item()
            gradient = steps.gradient_of(before, x.double(), y.double())
            step = steps.ETA / math.sqrt(s) * (steps.clip_by_norm(gradient) if clip else gradient)
            # 0.005: a few roundings to float16, 2^-11 each
            assert (before - flat(net) - step).norm() <= 0.005 * step.norm()
        assert optimizer.b[0].item() == pytest.approx(math.sqrt(s), rel=1e-12)
    assert 0 < overflows < 12


@pytest.fixture
def accelerator() -> Iterator[Any]:
    """A function that makes one; Accelerate keeps its state in the process and has to be told to forget it."""
    accelerate = pytest.importorskip("accelerate")
    yield lambda **settings: accelerate.Accelerator(cpu=True, **settings)
    for state in (accelerate.state.AcceleratorState, accelerate.state.GradientState, accelerate.state.PartialState):
        state._reset_state()


@cell(
    SECTION, "Hugging Face Accelerate: `record_loss` on your own optimizer, `step` on the prepared one",
    "each step in float64",
)  # fmt: skip
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_accelerate(method: str, accumulate: int, precision: str, accelerator: Any) -> None:
    engine = accelerator(gradient_accumulation_steps=accumulate, mixed_precision=precision)
    net = seeded_linear()
    optimizer = METHODS[method](net.parameters())
    model, prepared, loader = engine.prepare(net, optimizer, regression_loader())
    assert prepared.optimizer is optimizer, "so what is recorded at it reaches the prepared one's step"
    s, window = 1.0, []
    for x, y in list(loader) * 3:
        before = flat(net)
        with engine.accumulate(model):
            loss = torch.nn.functional.mse_loss(model(x), y)
            engine.backward(loss)
            window.append((x.double(), y.double(), loss.item()))
            if engine.sync_gradients:
                optimizer.record_loss(sum(loss for _, _, loss in window) / len(window))
            prepared.step()
            prepared.zero_grad()
        if len(window) < accumulate:
            assert torch.equal(flat(net), before)
            continue
        s += sum(loss for _, _, loss in window) / accumulate
        gradient = sum(steps.gradient_of(before, x, y) for x, y, _ in window) / accumulate
        step = steps.ETA / math.sqrt(s) * gradient
        # a few roundings to float32 (2^-24 each) or bfloat16 (2^-8)
        assert (before - flat(net) - step).norm() <= (1e-5 if precision == "no" else 0.03) * step.norm()
        assert optimizer.b[0].item() == pytest.approx(math.sqrt(s), rel=1e-12)
        window.clear()


@cell(SECTION, "Accelerate's prepared `step(closure)`", "the loop that records the loss, bit for bit")
def test_accelerate_closure(accelerator: Any) -> None:
    engine = accelerator()

    def train(by_closure: bool) -> Any:
        net = seeded_linear()
        optimizer = AdamLoss(net.parameters())
        model, prepared = engine.prepare(net, optimizer)
        for x, y in regression_loader():

            def closure(x: Any = x, y: Any = y) -> Any:
                prepared.zero_grad()
                loss = torch.nn.functional.mse_loss(model(x), y)
                engine.backward(loss)
                return loss

            if by_closure:
                prepared.step(closure)
            else:
                optimizer.record_loss(closure())
                prepared.step()
        return flat(net), optimizer.b

    (one, b), (other, other_b) = train(True), train(False)
    assert torch.equal(one, other)
    assert torch.equal(b[0], other_b[0])


@cell(SECTION, "Accelerate's `save_state` and `load_state`", "the same run undisturbed, bit for bit")
def test_accelerate_resumed(accelerator: Any, tmp_path: Path) -> None:
    def train(engine: Any, model: Any, prepared: Any, optimizer: Any) -> None:
        for x, y in regression_loader():
            prepared.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            engine.backward(loss)
            optimizer.record_loss(loss)
            prepared.step()

    def fresh() -> Any:
        engine, net = accelerator(), seeded_linear()
        optimizer = AdaLoss(net.parameters(), lr=steps.ETA, momentum=0.9)
        return engine, *engine.prepare(net, optimizer), optimizer

    first = fresh()
    train(*first)
    first[0].save_state(str(tmp_path))
    train(*first)
    second = fresh()
    second[0].load_state(str(tmp_path))
    train(*second)
    assert torch.equal(flat(first[1]), flat(second[1]))
    assert torch.equal(first[3].b[0], second[3].b[0])


@cell(
    SECTION, "what Accelerate's prepared optimizer does not hand on: `step(loss=...)` and `record_loss`",
    "the error, and that nothing moved", "limit",
)  # fmt: skip
def test_accelerate_hands_on_no_keyword(accelerator: Any) -> None:
    net = seeded_linear()
    optimizer = AdaLoss(net.parameters())
    prepared = accelerator().prepare(optimizer)
    with pytest.raises(TypeError, match="loss"):
        prepared.step(loss=1.0)
    with pytest.raises(AttributeError, match="record_loss"):
        prepared.record_loss(1.0)
    with pytest.raises(RuntimeError, match=r"step\(loss=loss\).*record_loss\(loss\).*closure"):
        prepared.step()
    assert torch.equal(flat(net), flat(seeded_linear()))
    assert optimizer.b[0].item() == 1.0


@cell(
    SECTION, "Accelerate's `train` and `eval` of the prepared optimizer, as Schedule-Free needs them",
    "the mode of the base",
)  # fmt: skip
def test_accelerate_train_and_eval(accelerator: Any) -> None:
    base = ScheduleFree(seeded_linear().parameters())
    prepared = accelerator().prepare(LossAdaptive(base))
    prepared.train()
    assert base.mode == "train"
    prepared.eval()
    assert base.mode == "eval"


def fabric_with(precision: str) -> Any:
    if precision != "16-mixed":
        return Fabric(accelerator="cpu", devices=1, precision=precision)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15)
    return Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)])


@cell(
    SECTION, "Lightning Fabric's prepared optimizer: `step(loss=...)`, `record_loss`, accumulation and clipping",
    "each step in float64; overflows move nothing",
)  # fmt: skip
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("clip", [False, True], ids=["", "clip_gradients"])
@pytest.mark.parametrize("method", METHODS)
def test_fabric(method: str, clip: bool, accumulate: int, precision: str) -> None:
    fabric = fabric_with(precision)
    net = seeded_linear()
    model, optimizer = fabric.setup(net, METHODS[method](net.parameters()))
    scaler = getattr(fabric._precision, "scaler", None)
    s, window, overflows = 1.0, [], 0
    for x, y in list(regression_loader()) * 4:
        before = flat(net)
        is_accumulating = len(window) + 1 < accumulate
        with fabric.no_backward_sync(model, enabled=is_accumulating):
            loss = torch.nn.functional.mse_loss(model(x).float(), y)
            fabric.backward(loss / accumulate)
        window.append((x.double(), y.double(), loss.item()))
        if is_accumulating:
            continue
        if clip:
            fabric.clip_gradients(model, optimizer, max_norm=1.0, error_if_nonfinite=False)
        mean, scale = sum(loss for _, _, loss in window) / accumulate, scaler and scaler.get_scale()
        if s < 20:
            optimizer.step(loss=mean)
        else:
            optimizer.record_loss(mean)
            optimizer.step()
        optimizer.zero_grad()
        if scaler and scaler.get_scale() < scale:
            overflows += 1
            assert torch.equal(flat(net), before)
        else:
            s += mean
            gradient = sum(steps.gradient_of(before, x, y) for x, y, _ in window) / accumulate
            step = steps.ETA / math.sqrt(s) * (steps.clip_by_norm(gradient) if clip else gradient)
            # a few roundings to float32 (2^-24 each), to float16 (2^-11) or to bfloat16 (2^-8)
            allowed = {"32-true": 1e-5, "16-mixed": 0.005, "bf16-mixed": 0.03}[precision]
            assert (before - flat(net) - step).norm() <= allowed * step.norm()
        assert optimizer.b[0].item() == pytest.approx(math.sqrt(s), rel=1e-12)
        window.clear()
    assert s > 20, "both ways were to be taken"
    assert (overflows > 0) is (precision == "16-mixed")


@cell(SECTION, "Fabric's `step(loss=...)` that `GradScaler` skips: its loss is no later step's", "the error")
def test_fabric_forgets_the_loss_of_a_skipped_step() -> None:
    fabric = fabric_with("16-mixed")
    net = seeded_linear()
    model, optimizer = fabric.setup(net, AdaLoss(net.parameters()))
    x, y = next(iter(regression_loader()))
    loss = torch.nn.functional.mse_loss(model(x).float(), y)
    fabric.backward(loss * math.inf)
    optimizer.step(loss=loss)
    optimizer.zero_grad()
    assert optimizer.b[0].item() == 1.0
    fabric.backward(torch.nn.functional.mse_loss(model(x).float(), y) * 1e-3)
    with pytest.raises(RuntimeError, match=r"has no loss to adapt to"):
        optimizer.step()


@cell(SECTION, "Fabric's `save` and `load`", "the same run undisturbed, bit for bit")
def test_fabric_resumed(tmp_path: Path) -> None:
    fabric = fabric_with("32-true")

    def fresh() -> Any:
        net = seeded_linear()
        return fabric.setup(net, AdamLoss(net.parameters()))

    def train(model: Any, optimizer: Any) -> None:
        for x, y in regression_loader():
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            fabric.backward(loss)
            optimizer.step(loss=loss)

    model, optimizer = fresh()
    train(model, optimizer)
    fabric.save(tmp_path / "state.ckpt", {"model": model, "optimizer": optimizer})
    train(model, optimizer)
    again, resumed = fresh()
    fabric.load(tmp_path / "state.ckpt", {"model": again, "optimizer": resumed})
    train(again, resumed)
    assert torch.equal(flat(again), flat(model))
    assert torch.equal(resumed.b[0], optimizer.b[0])
