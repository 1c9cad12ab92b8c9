"""Optimizers of other people's packages, where those are installed. Stand-ins for them are in tests/optim."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from adaloss_lightning import AdaLossCallback, LossAdaptive
from adaloss_lightning.optim.engine.traits import default_rule
from tests.callback.models import Regression, fit, optimizer_of, regression_loader, seeded_linear
from tests.support.cells import cell

SECTION = "Optimizers of other packages"
PACKAGES = {  # by the module that is imported
    "schedulefree": "schedulefree",
    "prodigyopt": "prodigyopt",
    "momo": "momo-opt",
    "pytorch_optimizer": "pytorch-optimizer",
    "torchao.optim": "torchao",
}


def of(package: str, name: str) -> Any:
    """A class of a package; the test is skipped where that is not installed."""
    return getattr(pytest.importorskip(package, reason=f"{PACKAGES[package]} is not installed"), name)


def around_sgd(package: str, name: str) -> Any:
    return lambda p: of(package, name)(torch.optim.SGD(p, lr=0.05))


# what is built, and the rule that it gets: "adaloss" where it is linear in the gradient
BASES: dict[str, tuple[Any, str]] = {
    "schedulefree SGD": (lambda p: of("schedulefree", "SGDScheduleFree")(p, lr=0.05), "adaloss"),
    "schedulefree AdamW": (lambda p: of("schedulefree", "AdamWScheduleFree")(p, lr=0.05), "adamloss"),
    "prodigyopt Prodigy": (lambda p: of("prodigyopt", "Prodigy")(p, lr=1.0), "adamloss"),
    "Lookahead(SGD)": (around_sgd("pytorch_optimizer", "Lookahead"), "adaloss"),
    "ScheduleFreeWrapper(SGD)": (around_sgd("pytorch_optimizer", "ScheduleFreeWrapper"), "adaloss"),
    **{
        name: (lambda p, name=name: of("pytorch_optimizer", name)(p, lr=0.01), "adamloss")
        for name in ("Lion", "Lamb", "Adan", "AdaFactor", "Prodigy", "DAdaptAdam")
    },
    "Ranger21": (lambda p: of("pytorch_optimizer", "Ranger21")(p, num_iterations=100, lr=0.01), "adamloss"),
    "torchao AdamW8bit": (lambda p: of("torchao.optim", "AdamW8bit")(p, lr=0.01), "adamloss"),
}


class InTrainingMode(Regression):
    """Asks for the training mode as Schedule-Free's documentation does."""

    def on_train_epoch_start(self) -> None:
        getattr(self.optimizers(), "train", lambda: None)()


def weights_by_hand(name: str, losses: list[float], epochs: int) -> Any:
    """The bare optimizer in a loop of its own, with the rate set before each step by the recurrence."""
    make, rule = BASES[name]
    net, s = seeded_linear(), 4.0 if rule == "adaloss" else 2.0  # b0 = 2
    base = make(net.parameters())
    getattr(base, "train", lambda: None)()
    eta = base.param_groups[0]["lr"]
    fed = iter(losses)
    for x, y in list(regression_loader()) * epochs:
        base.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        s += next(fed)
        for group in base.param_groups:
            group["lr"] = eta / math.sqrt(s) if isinstance(eta, float) else torch.tensor(float(eta) / math.sqrt(s))
        base.step()
    return net, s


@cell(
    SECTION, "wrapped by the callback, by the rule that fits what they do with a gradient; resumed from a checkpoint",
    "the bare optimizer in a loop, its rate set by the recurrence before each step, bit for bit",
)  # fmt: skip
@pytest.mark.parametrize("name", BASES)
def test_a_base_of_another_package(name: str, tmp_path: Path) -> None:
    make, rule = BASES[name]

    def model() -> InTrainingMode:
        return InTrainingMode(make)

    first, second = model(), model()
    assert default_rule(make(seeded_linear().parameters())) == rule
    trainer = fit(first, AdaLossCallback(rule, b0=2.0), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    trainer = fit(second, AdaLossCallback(rule, b0=2.0), ckpt_path=tmp_path / "half.ckpt")
    net, s = weights_by_hand(name, first.true_losses + second.true_losses, epochs=2)
    assert optimizer_of(trainer).param_groups[0]["adaloss_s"].item() == s
    for ours, theirs in zip(second.net.parameters(), net.parameters(), strict=True):
        assert torch.equal(ours, theirs)


REFUSED: dict[str, Any] = {
    "SAM": lambda p: of("pytorch_optimizer", "SAM")(p, torch.optim.SGD, lr=0.1),
    "AliG": lambda p: of("pytorch_optimizer", "AliG")(p),
}


@cell("Set-up that is refused", "SAM and its relatives, which need their closure", "no batch was trained", "refused")
@pytest.mark.parametrize("name", REFUSED)
def test_bases_of_other_packages_that_need_a_closure(name: str) -> None:
    model = Regression(REFUSED[name])
    with pytest.raises(MisconfigurationException, match=f"cannot adapt {name}: .*without a closure"):
        fit(model, AdaLossCallback())
    assert model.true_losses == []


@cell(SECTION, "MoMo brings its own use of the loss: `LossAdaptive` refuses it", "the error", "refused")
@pytest.mark.parametrize("name", ["Momo", "MomoAdam"])
def test_momo_is_not_wrapped(name: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid base={name}.*does not adapt to the loss itself"):
        LossAdaptive(of("momo", name)(seeded_linear().parameters()))


@cell(SECTION, "a group that is added to Prodigy in mid-training shares s with the others", "the recurrence by hand")
def test_prodigy_with_a_later_group() -> None:
    net, late = seeded_linear(), seeded_linear()
    base = of("prodigyopt", "Prodigy")(net.parameters(), lr=1.0)
    optimizer = LossAdaptive(base, rule=default_rule(base))
    for x, y in regression_loader():
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(net(x) + late(x), y)
        loss.backward()
        before = optimizer.b[0].item()
        optimizer.step(loss=loss)
        assert [b.item() for b in optimizer.b] == [before + loss.item()] * len(optimizer.b)
        if len(optimizer.b) == 1:
            optimizer.add_param_group({"params": late.parameters(), "lr": 1.0})
    assert not torch.equal(late.weight, seeded_linear().weight)
