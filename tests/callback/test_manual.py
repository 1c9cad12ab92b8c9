"""Manual optimization: the loss of a step is the sum of what went backward since the last one."""

import math
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from adaloss_lightning import AdaLoss, AdaLossCallback
from tests.callback.models import Regression, fit
from tests.callback.test_true_loss import SpyPrecision


class Adversarial(pl.LightningModule):
    """Two networks that step in turn, the second at every other batch; it notes each step's true loss."""

    def __init__(self, style: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.style = style
        self.first, self.second = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
        self.losses: tuple[list[float], list[float]] = ([], [])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        optimizers: Any = self.optimizers()
        for index, (net, optimizer) in enumerate(zip((self.first, self.second), optimizers, strict=True)):
            if index == 1 and batch_idx % 2:
                continue

            def loss_of(net: torch.nn.Module = net, index: int = index) -> Tensor:
                loss = torch.nn.functional.mse_loss(net(x), (index + 1) * y)
                self.losses[index].append(loss.detach().double().item())
                return loss

            def closure(loss_of: Any = loss_of, optimizer: Any = optimizer) -> None:
                optimizer.zero_grad()
                self.manual_backward(loss_of())

            if self.style == "closure":
                optimizer.step(closure=closure)
                continue
            optimizer.zero_grad()
            loss = loss_of()
            if self.style == "two backwards":  # real and fake, say: the gradient is that of the sum
                self.manual_backward(0.25 * loss, retain_graph=True)
                self.manual_backward(0.75 * loss)
            else:
                self.manual_backward(loss)
            if self.style == "record":
                optimizer.record_loss(loss)
            optimizer.step(**({"loss": loss} if self.style == "argument" else {}))

    def configure_optimizers(self) -> Any:
        return AdaLoss(self.first.parameters(), lr=0.1), torch.optim.SGD(self.second.parameters(), lr=0.1)


@pytest.mark.parametrize("style", ["plain", "closure", "two backwards", "record", "argument"])
@pytest.mark.parametrize("fp16", [False, True])
def test_each_optimizer_gets_the_loss_of_its_own_step(style: str, fp16: bool) -> None:
    model = Adversarial(style)
    trainer = fit(model, AdaLossCallback(), plugins=[SpyPrecision(2.0**6)] if fp16 else [])
    for optimizer, losses in zip(trainer.optimizers, model.losses, strict=True):
        expected = math.sqrt(1 + sum(losses))
        # 1e-6: the parts of the sum are rounded to float32
        assert optimizer.b[0].item() == pytest.approx(expected, rel=1e-6)
    assert len(model.losses[0]) == 8
    assert len(model.losses[1]) == 4


class BackwardBackwardStepStep(Adversarial):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        optimizers: Any = self.optimizers()
        losses = [torch.nn.functional.mse_loss(net(x), y) for net in (self.first, self.second)]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=batch_idx % 2 == 0)
        for noted, loss in zip(self.losses, losses, strict=True):
            noted.append(loss.detach().double().item())
            self.manual_backward(loss)
        for optimizer in optimizers[::-1]:
            optimizer.step()


def test_the_order_of_backwards_and_steps_does_not_matter() -> None:
    model = BackwardBackwardStepStep()
    trainer = fit(model, AdaLossCallback())
    for optimizer, losses in zip(trainer.optimizers, model.losses, strict=True):
        assert optimizer.b[0].item() == pytest.approx(math.sqrt(1 + sum(losses)), rel=1e-12)


class Gan(Adversarial):
    """The first loss flows through the second network as well, whose gradients are zeroed before its own backward."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        first, second = self.optimizers()
        fooled = (self.second(x + self.first(x)) - 1).square().mean()
        first.zero_grad()
        self.manual_backward(fooled)
        first.step()
        # alternately by the optimizer and by the module, whose zeroing no optimizer hears of
        self.second.zero_grad() if batch_idx % 2 else second.zero_grad()
        real = (self.second(x + y) - 1).square().mean()
        fake = self.second(x + self.first(x).detach()).square().mean()
        self.manual_backward(real)
        self.manual_backward(fake)
        second.step()
        self.losses[0].append(fooled.detach().double().item())
        self.losses[1].append(real.detach().double().item() + fake.detach().double().item())


def test_a_gan_whose_networks_share_gradients() -> None:
    model = Gan()
    trainer = fit(model, AdaLossCallback())
    for optimizer, losses in zip(trainer.optimizers, model.losses, strict=True):
        assert optimizer.b[0].item() == pytest.approx(math.sqrt(1 + sum(losses)), rel=1e-12)


def test_a_step_that_no_backward_reached_says_what_to_do() -> None:
    class Wrong(Adversarial):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            first, second = self.optimizers()
            self.manual_backward(self.first(batch[0]).square().mean())
            first.step()
            second.step()

    with pytest.raises(RuntimeError, match=r"step\(loss=loss\).*record_loss\(loss\).*closure"):
        fit(Wrong(), AdaLossCallback())


def test_accumulation_by_hand() -> None:
    class Accumulating(Adversarial):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            optimizer, _ = self.optimizers()
            loss = torch.nn.functional.mse_loss(self.first(x), y)
            self.losses[0].append(loss.item())
            self.manual_backward(loss / 2)
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()

    model = Accumulating()
    trainer = fit(model, AdaLossCallback())
    means = [sum(model.losses[0][i : i + 2]) / 2 for i in range(0, 8, 2)]
    assert trainer.optimizers[0].b[0].item() == pytest.approx(math.sqrt(1 + sum(means)), rel=1e-7)
    assert trainer.optimizers[1].b[0].item() == 1.0


@pytest.mark.parametrize("make", [AdaLoss, lambda p: torch.optim.SGD(p, lr=0.1, fused=True)])
def test_gradients_may_be_clipped_by_hand_under_mixed_precision(make: Any) -> None:
    class Clipped(Regression):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.compute_loss(batch))
            before = self.net.weight.detach().clone()
            self.clip_gradients(optimizer, gradient_clip_val=1e-3, gradient_clip_algorithm="norm")
            norm = self.net.weight.grad.norm().item()
            optimizer.step()
            assert norm <= 1e-3 * (1 + 1e-5)
            assert not torch.equal(before, self.net.weight)

    fit(Clipped(make), AdaLossCallback(), precision="bf16-mixed")


class Two(Adversarial):
    """Two networks, and of each the losses that its steps should see."""

    def noted(self, index: int, loss: Tensor) -> Tensor:
        self.losses[index].append(loss.detach().double().item())
        return loss

    def loss_of(self, net: torch.nn.Module, batch: Any) -> Tensor:
        return torch.nn.functional.mse_loss(net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.first, self.second)]


class FlatBuffer(Two):
    """All gradients are views of one buffer, which is zeroed by hand."""

    def on_fit_start(self) -> None:
        self.buffer = torch.zeros(sum(p.numel() for p in self.parameters()))
        parts = self.buffer.split([p.numel() for p in self.parameters()])
        for p, part in zip(self.parameters(), parts, strict=True):
            p.grad = part.view_as(p)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.buffer.zero_()
        for index, net in enumerate((self.first, self.second)):
            self.manual_backward(self.noted(index, self.loss_of(net, batch)))
        for optimizer in self.optimizers():
            optimizer.step()


class DoubleBackward(Two):
    """With ``create_graph`` gradients are new tensors, and their ids are used again."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for index, net in enumerate((self.first, self.second)):
            self.manual_backward(self.noted(index, self.loss_of(net, batch)), create_graph=True)
            optimizers[index].step()
            for p in self.parameters():
                p.grad = None


class ZeroedByTheModule(Two):
    """The first loss reaches both networks; the second network's gradients are then zeroed in place."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        self.manual_backward(
            self.noted(0, self.loss_of(torch.nn.Sequential(self.first, Broadcast(), self.second), batch))
        )
        self.second.zero_grad(set_to_none=False)
        self.manual_backward(self.noted(1, self.loss_of(self.second, batch)))
        first.step()
        second.step()
        self.zero_grad()


class Broadcast(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3)


class Reentrant(Two):
    """A checkpointed part has a backward of its own, within the backward of the loss."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        x = batch[0].requires_grad_()
        for index, net in enumerate((self.first, self.second)):
            predicted = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=True)
            self.manual_backward(self.noted(index, torch.nn.functional.mse_loss(predicted, batch[1])))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


class Unfrozen(Two):
    """The second network is trained from the second epoch on."""

    def on_train_epoch_start(self) -> None:
        self.second.requires_grad_(self.current_epoch > 0)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers: Any = self.optimizers()
        for index, net in enumerate((self.first, self.second)[: self.current_epoch + 1]):
            self.manual_backward(self.noted(index, self.loss_of(net, batch)))
            optimizers[index].step()
            optimizers[index].zero_grad()


class Unwrapped(Two):
    """Steps the optimizers without Lightning's proxy."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for index, optimizer in enumerate(self.optimizers(use_pl_optimizer=False)):
            optimizer.zero_grad()
            self.manual_backward(self.noted(index, self.loss_of((self.first, self.second)[index], batch)))
            optimizer.step()


class OneOfTwo(Two):
    """The only optimizer owns the first network alone; the loss of the second is another's business."""

    def __init__(self) -> None:
        super().__init__()
        self.losses = ([],)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.first.parameters(), lr=0.1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.noted(0, self.loss_of(self.first, batch)))
        self.manual_backward(self.loss_of(self.second, batch))
        optimizer.step()
        self.zero_grad()


class ReplacesParameters(Two):
    """Replaces a weight in each epoch, as splatting and re-initialized layers do."""

    def on_train_epoch_start(self) -> None:
        optimizer = self.trainer.optimizers[0]
        self.first.weight = torch.nn.Parameter(self.first.weight.detach() + 0.1)
        optimizer.param_groups[0]["params"] = list(self.first.parameters())

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for index, optimizer in enumerate(self.optimizers()):
            half = self.loss_of((self.first, self.second)[index], batch) / 2
            self.manual_backward(self.noted(index, half))
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError("out of memory")


class LeavesOutABatch(Two):
    """The backward of every other batch raises, after it has reached some parameters; the batch is left out."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for index, optimizer in enumerate(self.optimizers()):
            net = (self.first, self.second)[index]
            if batch_idx % 2:
                with pytest.raises(RuntimeError, match="out of memory"):
                    self.manual_backward(net(batch[0]).sum() + (Fails.apply(net.weight)).sum())
                optimizer.zero_grad()
            else:
                self.manual_backward(self.noted(index, self.loss_of(net, batch)))
                optimizer.step()
                optimizer.zero_grad()


class SeveralNumbers(Two):
    """A loss of several numbers goes backward with a gradient of its own; each step is given its loss."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for index, optimizer in enumerate(self.optimizers()):
            errors = ((self.first, self.second)[index](batch[0]) - batch[1]).square()
            self.manual_backward(errors, gradient=torch.full_like(errors, 1 / errors.numel()))
            optimizer.step(loss=self.noted(index, errors.mean()))
            optimizer.zero_grad()


class RecordsEarlier(Two):
    """What is recorded in one batch serves the step in the next."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for index, optimizer in enumerate(self.optimizers()):
            self.manual_backward(self.loss_of((self.first, self.second)[index], batch))
            if batch_idx % 2 == 0:
                optimizer.record_loss(self.noted(index, torch.tensor(7.0 + index)))
            else:
                optimizer.step()
                optimizer.zero_grad()


@pytest.mark.parametrize(
    "make",
    [
        FlatBuffer, DoubleBackward, ZeroedByTheModule, Reentrant, Unfrozen, Unwrapped, OneOfTwo, ReplacesParameters,
        LeavesOutABatch, SeveralNumbers, RecordsEarlier,
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph=True")
def test_each_optimizer_gets_the_losses_in_its_gradients(make: Any) -> None:
    model = make()
    trainer = fit(model, AdaLossCallback())
    for optimizer, losses in zip(trainer.optimizers, model.losses, strict=True):
        assert optimizer.b[0].item() == pytest.approx(math.sqrt(1 + sum(losses)), rel=1e-12)
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_a_backward_that_lightning_did_not_announce_is_refused() -> None:
    class Plain(Two):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()[0]
            self.manual_backward(self.loss_of(self.first, batch))
            self.loss_of(self.first, batch).backward()
            optimizer.step(**({"loss": 1.0} if batch_idx == 0 else {}))

    model = Plain()
    with pytest.raises(
        RuntimeError, match=r"self\.manual_backward\(loss\) instead of loss\.backward.*step\(loss=loss\)"
    ):
        fit(model, AdaLossCallback())
    assert model.global_step == 1, "the step that was given its loss"
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


class PlainAtFirst(Two):
    """Its first backward is one that Lightning does not announce; it makes a step once another was announced."""

    def __init__(self, at_once: bool) -> None:
        super().__init__()
        self.at_once = at_once

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 0 and not self.losses[0]:
            self.loss_of(self.first, batch).backward()
        if batch_idx > 0 or self.at_once:
            self.manual_backward(self.noted(0, self.loss_of(self.first, batch)))
            self.optimizers()[0].step()


class PlainAtFirstAlone(PlainAtFirst):
    """... with one optimizer."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return [super().optimizers(use_pl_optimizer)]


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("make", [PlainAtFirst, PlainAtFirstAlone])
def test_a_backward_that_lightning_did_not_announce_is_refused_before_any_that_it_did(make: Any, at_once: bool) -> None:
    model = make(at_once)
    with pytest.raises(RuntimeError, match=r"self\.manual_backward\(loss\) instead of loss\.backward"):
        fit(model, AdaLossCallback())
    assert model.global_step == 0
    assert torch.equal(model.first.weight, make(at_once).first.weight)


class StepsAfterPlainAlone(Two):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.loss_of(self.first, batch).backward()
        self.optimizers()[0].step()


def test_a_backward_that_lightning_did_not_announce_is_named_where_it_is_the_only_one() -> None:
    with pytest.raises(RuntimeError, match=r"self\.manual_backward\(loss\) instead of loss\.backward"):
        fit(StepsAfterPlainAlone(), AdaLossCallback())


class NewAndPlain(Two):
    """Its optimizers are replaced after the first epoch, and the new ones begin with a backward of torch's own."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.trainer.strategy.optimizers = self.configure_optimizers()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 1 and batch_idx == 0:
            self.loss_of(self.first, batch).backward()
            return
        self.manual_backward(self.noted(0, self.loss_of(self.first, batch)))
        optimizer: Any = self.optimizers()[0]
        optimizer.step()
        optimizer.zero_grad()


def test_a_backward_that_lightning_did_not_announce_is_refused_in_a_replaced_optimizer() -> None:
    model = NewAndPlain()
    with pytest.raises(RuntimeError, match=r"self\.manual_backward\(loss\) instead of loss\.backward"):
        fit(model, AdaLossCallback())
    assert model.current_epoch == 1


def test_a_loss_of_several_numbers_beside_one_of_one_is_refused() -> None:
    class Mixed(Two):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer: Any = self.optimizers()[0]
            self.manual_backward(self.loss_of(self.first, batch))
            errors = (self.first(batch[0]) - batch[1]).square()
            self.manual_backward(errors, gradient=torch.ones_like(errors))
            optimizer.step()

    with pytest.raises(RuntimeError, match=r"loss of several numbers.*step\(loss=loss\)"):
        fit(Mixed(), AdaLossCallback())
