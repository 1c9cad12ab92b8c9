"""Stacked copies against the same copies trained one by one, in float64."""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt
from adaloss_lightning.rate_adaptive import RateAdaptive
from adaloss_lightning.stacked import Stack

Batch = tuple[Tensor, Tensor]
Make = Callable[..., RateAdaptive]
CLASSES = 3
ROUNDING = 1e-10  # of float64, after a few steps


class Classifier(nn.Module):
    def __init__(self, inputs: int = 4, width: int = 5, normalized: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        # A bias in front of BatchNorm has the gradient 0, of whose rounding Adam would make a step.
        middle = nn.BatchNorm1d(width) if normalized else nn.Tanh()
        self.layers = nn.Sequential(
            nn.Linear(inputs, width, bias=not normalized),
            middle,
            nn.Dropout(dropout) if dropout else nn.Identity(),
            nn.Linear(width, CLASSES),
        )
        self.double()

    def training_loss(self, batch: Batch) -> Tensor:
        return cross_entropy(self.layers(batch[0]), batch[1])

    def example_metrics(self, batch: Batch) -> dict[str, Tensor]:
        scores = self.layers(batch[0])
        return {"loss": cross_entropy(scores, batch[1], reduction="none"), "right": scores.argmax(1) == batch[1]}


def adamw(parameters: object, b0: float) -> LossAdaptive:
    return LossAdaptive(torch.optim.AdamW(parameters, lr=0.1, weight_decay=0.1), b0=b0, rule="adamloss")  # type: ignore[arg-type]


def rmsprop(parameters: object, b0: float) -> LossAdaptive:
    return LossAdaptive(torch.optim.RMSprop(parameters, lr=0.1, momentum=0.5), b0=b0)  # type: ignore[arg-type]


METHODS: dict[str, Make] = {
    "adaloss": partial(AdaLoss, lr=1.0),
    "momentum": partial(AdaLoss, lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.1, alpha=2.0, c=0.3),
    "gradient": partial(AdaLoss, lr=0.5, momentum=0.9, weight_decay=0.1, scale="gradient"),
    "sgd_constant": partial(AdaLoss, lr=0.5, alpha=0.0),
    "adamloss": partial(AdamLoss, lr=0.1, amsgrad=True, weight_decay=0.1, decoupled_weight_decay=True),
    "adamw": adamw,
    "rmsprop": rmsprop,
    "adagrad_norm": partial(AdaGradNorm, lr=1.0, momentum=0.5),
    "adagrad_norm_channel": partial(AdaGradNorm, lr=1.0, granularity="channel"),
    "sgd_decay_sqrt": partial(SGDDecaySqrt, lr=1.0, form="linear", c_s=0.5),
    "adam_sqrt": partial(AdamSqrt, lr=0.1),
}


class Both:
    """The same points, stacked and one by one: every b0 from every one of the modules."""

    def __init__(self, modules: Sequence[Classifier], make: Make, b0s: Sequence[float]) -> None:
        points = [(number, b0) for number in range(len(modules)) for b0 in b0s]
        self.source = [number for number, _ in points]
        self.stack = Stack([modules[number] for number in self.source])
        templates = [make(module.parameters(), b0=1.0) for module in modules]
        self.optimizers = [
            self.stack.optimizer(index, templates[number], modules[number], b0)
            for index, (number, b0) in enumerate(points)
        ]
        self.alone = [copy.deepcopy(modules[number]) for number in self.source]
        self.their_optimizers = [
            make(module.parameters(), b0=b0) for module, (_, b0) in zip(self.alone, points, strict=True)
        ]

    def step(self, batches: Sequence[Batch]) -> list[float]:
        losses = self.stack.losses("training_loss", batches, self.source)
        self.stack.backward(losses)
        for optimizer, loss in zip(self.optimizers, losses.tolist(), strict=True):
            optimizer.step(loss=loss)
        for module, optimizer, number in zip(self.alone, self.their_optimizers, self.source, strict=True):
            optimizer.zero_grad()
            loss = module.train().training_loss(batches[number])
            loss.backward()
            optimizer.step(loss=loss.item())
        return list(losses.tolist())

    def compare(self, batches: Sequence[Batch]) -> None:
        values = self.stack.evaluate("example_metrics", batches, self.source)
        pairs = zip(self.alone, self.optimizers, self.their_optimizers, strict=True)
        for index, (module, ours, theirs) in enumerate(pairs):
            state = self.stack.state_dict(index)
            assert state.keys() == module.state_dict().keys()
            for name, value in module.state_dict().items():
                torch.testing.assert_close(state[name], value, rtol=ROUNDING, atol=ROUNDING)
            for x, y in zip(ours.b + ours.effective_lr, theirs.b + theirs.effective_lr, strict=True):
                torch.testing.assert_close(x, y, rtol=ROUNDING, atol=0.0)
            with torch.no_grad():
                expected = module.eval().example_metrics(batches[self.source[index]])
            torch.testing.assert_close(values["loss"][index], expected["loss"], rtol=ROUNDING, atol=ROUNDING)
            assert torch.equal(values["right"][index], expected["right"])


def draw(count: int, rows: int = 6, inputs: int = 4) -> list[Batch]:
    return [(torch.randn(rows, inputs).double(), torch.randint(0, CLASSES, (rows,))) for _ in range(count)]


@pytest.mark.parametrize("normalized", [False, True], ids=["plain", "batch_norm"])
@pytest.mark.parametrize("name", METHODS)
def test_a_stack_trains_as_its_copies_do_one_by_one(name: str, normalized: bool) -> None:
    torch.manual_seed(0)
    both = Both([Classifier(normalized=normalized) for _ in range(2)], METHODS[name], [0.1, 3.0])
    for rows in (6, 6, 6, 2):  # a short batch at the end of the epoch
        both.step(draw(2, rows))
    both.compare(draw(2))


@settings(max_examples=15)
@given(
    inputs=st.integers(1, 4),
    width=st.integers(1, 4),
    rows=st.integers(2, 5),
    seeds=st.integers(1, 3),
    b0s=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=3),
    name=st.sampled_from(sorted(METHODS)),
    random=st.integers(0, 2**31),
)
def test_whatever_the_shapes(
    inputs: int, width: int, rows: int, seeds: int, b0s: list[float], name: str, random: int
) -> None:
    torch.manual_seed(random)
    both = Both([Classifier(inputs, width) for _ in range(seeds)], METHODS[name], b0s)
    both.step(draw(seeds, rows, inputs))
    both.compare(draw(seeds, rows, inputs))


class Line(nn.Module):
    """loss = mean (w x - y)^2 / 2"""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def training_loss(self, batch: Batch) -> Tensor:
        return ((self.w * batch[0] - batch[1]) ** 2).mean() / 2


@pytest.mark.parametrize("rule", ["adaloss", "adamloss"])
def test_a_stack_follows_the_equations(rule: str) -> None:
    x, y = [1.0, 2.0], [2.0, -1.0]
    starts, b0s = [0.5, -1.0], [0.5, 2.0]
    lines = [Line(w) for w in starts]
    stack = Stack(lines)
    optimizers = [
        stack.optimizer(i, LossAdaptive(torch.optim.SGD([line.w], lr=0.3), rule=rule), line, b0)  # type: ignore[arg-type]
        for i, (line, b0) in enumerate(zip(lines, b0s, strict=True))
    ]
    weights, s = list(starts), [b0**2 if rule == "adaloss" else b0 for b0 in b0s]
    for _ in range(5):
        losses = stack.losses("training_loss", [(torch.tensor(x).double(), torch.tensor(y).double())], [0, 0])
        stack.backward(losses)
        for i, optimizer in enumerate(optimizers):
            optimizer.step(loss=losses[i].item())
            errors = [weights[i] * a - b for a, b in zip(x, y, strict=True)]
            s[i] += sum(error**2 for error in errors) / 4
            weights[i] -= 0.3 / math.sqrt(s[i]) * sum(e * a for e, a in zip(errors, x, strict=True)) / 2
    assert [stack.state_dict(i)["w"].item() for i in (0, 1)] == pytest.approx(weights, rel=1e-12)
    assert lines[0].w.item() == 0.5  # what the stack was made of stays


@pytest.mark.parametrize("name", ["momentum", "adamloss", "adagrad_norm"])
def test_a_loss_that_is_not_finite_stops_its_own_points_alone(name: str) -> None:
    torch.manual_seed(0)
    both = Both([Classifier() for _ in range(2)], METHODS[name], [0.1, 3.0])
    both.step(draw(2))
    before = [both.stack.state_dict(index) for index in range(4)]
    fine, bad = draw(2)
    bad[0][0, 0] = torch.nan
    losses = both.step([fine, bad])
    assert [math.isfinite(loss) for loss in losses] == [True, True, False, False]
    for index in range(4):
        now = both.stack.state_dict(index)
        assert all(torch.equal(now[key], before[index][key]) for key in now) == (index >= 2)
    both.step(draw(2))  # the next batch is fine, and they go on with the state that they had
    both.compare(draw(2))


def test_a_parameter_that_is_not_used_or_not_trained_stays() -> None:
    torch.manual_seed(0)
    module = Classifier()
    module.layers[0].bias.requires_grad_(False)  # type: ignore[union-attr]
    module.register_parameter("unused", nn.Parameter(torch.ones(2).double()))
    both = Both([module], partial(AdaLoss, weight_decay=0.5), [1.0, 2.0])
    both.step(draw(1))
    both.compare(draw(1))
    assert torch.equal(both.stack.state_dict(1)["unused"], torch.ones(2).double())


def test_what_cannot_be_stacked_is_refused() -> None:
    one, other = Classifier(), Classifier(width=6)
    with pytest.raises(ValueError, match="Invalid modules=\\[\\]"):
        Stack([])
    with pytest.raises(ValueError, match="Must be of one architecture"):
        Stack([one, other])
    with pytest.raises(RuntimeError, match="random"):
        Stack([Classifier(dropout=0.5)] * 2).losses("training_loss", draw(1), [0, 0])
    stack = Stack([one])
    with pytest.raises(ValueError, match="parameters of the module"):
        stack.optimizer(0, AdaLoss(other.parameters()), one, 1.0)
    with pytest.raises(ValueError, match=r"Invalid b0=-1\.0"):
        stack.optimizer(0, AdaLoss(one.parameters()), one, -1.0)
    with pytest.raises(ValueError, match="b0=1e\\+200"):  # its square is more than float64 holds
        stack.optimizer(0, AdaLoss(one.parameters()), one, 1e200)
    stepped = AdaLoss(one.parameters())
    one.training_loss(draw(1)[0]).backward()
    stepped.step(loss=1.0)
    with pytest.raises(ValueError, match="has not stepped"):
        stack.optimizer(0, stepped, one, 1.0)
