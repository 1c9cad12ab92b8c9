"""find_lr: what it finds, that it leaves no trace, and what it refuses."""

import copy
import functools
import math
import random
import sys
from collections import UserDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from adaloss_lightning import AdaLoss, AdamLoss, LossAdaptive, find_lr
from adaloss_lightning.optim.engine.snapshot import Snapshot
from adaloss_lightning.optim.probe import STEPS, probe

from .stand_ins import Lookahead, Sign, TensorRate

AUTO: dict[str, Any] = {
    "AdaLoss": lambda p: AdaLoss(p, momentum=0.9, alpha="auto"),
    "AdamLoss": lambda p: AdamLoss(p, eps=1e-20, alpha="auto"),
}
BARE: dict[str, Any] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "Sign": Sign,
    "TensorRate": TensorRate,
    "Lookahead": lambda p: Lookahead(torch.optim.SGD(p, lr=0.1)),
}


def data(batches: int = 4, seed: int = 1) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batches, 8, 3, generator=generator)
    return [(one, one.sum(dim=1, keepdim=True) + 1) for one in x]


def linear(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(3, 1)


def mse(model: nn.Module, batch: Any) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def found(make: Any, loss: Any = mse, batches: Any = None, model: Any = None) -> float:
    return find_lr(model or linear(), loss, data() if batches is None else batches, make, verbose=False)


class Busy(nn.Module):
    """Changes all that a module can hold in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.register_buffer("mask", torch.ones(1, 4).expand(5, 4))
        self.register_buffer("mean", None)
        self.count, self.text = 0, "a"
        self.seen: list[Any] = [0.5]
        self.tally = {"calls": {"forward": 0}}
        self.total = torch.zeros(2)
        self.array = np.zeros(3)
        self.hidden = [nn.BatchNorm1d(3)]  # so that it is in no state_dict
        self.own = torch.Generator().manual_seed(5)
        self.numpys = np.random.default_rng(5)
        self.pythons = random.Random(5)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.text += "b"
        self.seen.append(x.mean().item())
        self.tally["calls"]["forward"] += 1
        self.total += 1
        self.array += 1
        self.new = self.count
        self.mean = x.mean()
        self.hidden[0](x)
        noise = torch.randn(x.shape, generator=self.own) + self.numpys.normal() + self.pythons.random()
        return self.net(x + 0.01 * noise + 0.01 * float(np.random.rand()) + 0.01 * random.random())


def held(model: Busy) -> Any:
    """All that it holds, copied."""
    return copy.deepcopy(
        (
            model.state_dict(), [p.grad for p in model.parameters()], model.count, model.text, model.seen, model.tally,
            model.total, model.array.tolist(), model.hidden[0].state_dict(), model.own.get_state(),
            model.numpys.bit_generator.state, model.pythons.getstate(), sorted(vars(model)),
            torch.get_rng_state(), [x.tolist() if isinstance(x, np.ndarray) else x for x in np.random.get_state()],
            random.getstate(),
        )
    )  # fmt: skip


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize("has_gradients", [False, True])
@pytest.mark.parametrize("name", [*AUTO, *BARE])
def test_it_leaves_no_trace(name: str, has_gradients: bool) -> None:
    model = Busy()
    loader = DataLoader(TensorDataset(torch.randn(64, 3), torch.randn(64, 1)), batch_size=8, shuffle=True)
    if has_gradients:
        mse(model, (torch.randn(8, 3), torch.randn(8, 1))).backward()
    objects = [*model.parameters(), *model.buffers(), model.seen, model.tally, model.total]
    gradients = [p.grad for p in model.parameters()]
    before = held(model)
    assert found((AUTO | BARE)[name], batches=loader, model=model) > 0
    assert same(held(model), before)
    after = [*model.parameters(), *model.buffers(), model.seen, model.tally, model.total]
    assert all(one is other for one, other in zip(objects, after, strict=True))
    assert all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))


class Noisy(Dataset[Any]):
    """Draws from generators of its own."""

    def __init__(self) -> None:
        self.transforms = [np.random.default_rng(3), {"noise": torch.Generator().manual_seed(3)}, random.Random(3)]

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Any:
        numpys, torchs, pythons = self.transforms
        noise = torch.randn(3, generator=torchs["noise"]) + numpys.normal() + pythons.random()  # type: ignore[attr-defined,index]
        return (index + noise).float(), torch.tensor([float(index)])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_order_and_the_noise_of_the_data_are_what_they_would_have_been(workers: int) -> None:
    def drawn(probes: bool) -> list[Any]:
        torch.manual_seed(0)
        more = {"num_workers": 1, "persistent_workers": True} if workers else {}
        loader = DataLoader(Noisy(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(2), **more)
        if probes:
            found(lambda p: torch.optim.Adam(p), lambda model, batch: 1e-4 * mse(model, batch), loader)
        return [batch for _ in range(2) for batch in loader]

    assert same(drawn(True), drawn(False))


def test_a_stream_that_counts_is_read_in_a_copy() -> None:
    class Stream(IterableDataset[Any]):
        position = 0

        def __iter__(self) -> Any:
            for _ in range(16):
                self.position += 1
                yield torch.full((3,), float(self.position)), torch.ones(1)

    stream = Stream()
    found(AUTO["AdamLoss"], batches=DataLoader(stream, batch_size=4))
    assert stream.position == 0


def test_batches_are_given_as_they_were_drawn() -> None:
    """Also where the loss takes parts out of them and writes into them."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        target = batch.pop("y")
        batch["x"].mul_(0.5)
        seen.setdefault(float(target.sum()), set()).add(float(batch["x"].sum()))
        return nn.functional.mse_loss(model(batch["x"]), target)

    seen: dict[float, set[float]] = {}
    batches = [{"x": x, "y": y} for x, y in data()]
    before = copy.deepcopy(batches)
    found(AUTO["AdamLoss"], loss, batches)
    assert same(batches, before)
    assert [len(sums) for sums in seen.values()] == [1] * 4


def test_batches_of_a_class_of_their_own_are_given_as_they_were_drawn() -> None:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        target = batch.pop("y")
        return nn.functional.mse_loss(model(batch["x"]), target)

    plain, own = ([kind({"x": x, "y": y}) for x, y in data()] for kind in (dict, UserDict))
    assert found(AUTO["AdamLoss"], loss, own) == found(AUTO["AdamLoss"], loss, plain)
    assert all(set(batch) == {"x", "y"} for batch in own)


def test_a_loader_of_its_own_kind_is_read_in_a_copy() -> None:
    class Loader:
        """Has a dataset as DataLoader has one, and goes on where it was left."""

        def __init__(self) -> None:
            self.dataset = list(data())
            self.places = [0]

        def __iter__(self) -> Any:
            while self.places[-1] < len(self.dataset):
                self.places.append(self.places[-1] + 1)
                yield self.dataset[self.places[-2]]

    loader = Loader()
    assert found(AUTO["AdamLoss"], batches=loader) > 0
    assert loader.places == [0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 2])
def test_a_batch_without_a_finite_loss_is_left_out(at: int, bad: float) -> None:
    batches = data()
    batches[at] = (batches[at][0], batches[at][1] * bad)
    others = [batch for index, batch in enumerate(data()) if index != at]
    for name, make in AUTO.items():  # which leave out such a step: the order of the others is another one
        assert 0.3 < found(make, batches=batches) / found(make, batches=others) < 3.3, name


@pytest.mark.parametrize("k", [1e-4, 3.0, 1e4])
@pytest.mark.parametrize("name", AUTO)
def test_the_unit_of_the_loss_does_not_matter(name: str, k: float) -> None:
    assert found(AUTO[name], lambda *given: k * mse(*given)) == pytest.approx(found(AUTO[name]), rel=1e-6)


@pytest.mark.parametrize("offset", [-1e3, 1e3])
@pytest.mark.parametrize("name", BARE)
def test_a_constant_beside_the_loss_hardly_matters(name: str, offset: float) -> None:
    """It enters nothing but the tolerance, so the rate is at most a few steps of the grid larger."""
    ratio = found(BARE[name], lambda *given: mse(*given) + offset) / found(BARE[name])
    assert 0.3 < ratio < 1e4


@pytest.mark.parametrize("curvature", [1e-3, 1.0, 1e3])
def test_the_rate_of_a_quadratic_is_just_below_where_it_diverges(curvature: float) -> None:
    """Gradient descent on a/2 |w|^2 contracts below 2/a, the fastest at 1/a."""
    model = linear()
    lr = found(
        lambda p: torch.optim.SGD(p, lr=1.0), lambda m, _: curvature / 2 * (m.weight**2).sum(), [0], model
    )  # fmt: skip
    assert 0.1 / curvature < lr < 2 / curvature


@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("method", [AdaLoss, AdamLoss])
def test_the_effective_rate_peaks_at_what_it_was_in_the_run(method: Any, power: float) -> None:
    """Of losses that fall as a power of the step, whatever the rate, b is known for every step of the warm-up."""
    warmup = 400
    losses = [step**-power for step in range(1, warmup + 1)]

    def make(steps: int, parameters: Any) -> Any:
        optimizer = method(parameters, lr=1.0)
        optimizer.warm_up(steps)
        return optimizer

    def loss(model: nn.Module, batch: float) -> Tensor:
        return batch + 0 * model.weight.sum()

    lrs = [found(functools.partial(make, steps), loss, losses[:STEPS]) for steps in (0, STEPS, warmup)]
    assert lrs[1] == lrs[0]
    growth = (1 + math.fsum(losses)) / (1 + math.fsum(losses[:STEPS]))  # of the divisor, squared
    assert lrs[2] / lrs[0] == pytest.approx(math.sqrt(growth), rel=0.01)


def test_bare_sgd_gets_a_rate_in_inverse_units_of_the_loss() -> None:
    lrs = [found(BARE["SGD"], lambda *given, k=k: k * mse(*given)) for k in (1.0, 100.0)]
    assert lrs[0] / lrs[1] == pytest.approx(100, rel=1e-6)


@pytest.mark.parametrize("name", [*AUTO, "SGD", "AdamW"])
def test_training_at_what_it_finds_lowers_the_loss(name: str) -> None:
    make, model = (AUTO | BARE)[name], linear()
    lr = found(make)
    optimizer = make(model.parameters())
    optimizer.param_groups[0]["lr"] = lr
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        loss = mse(model, data()[step % 4])
        loss.backward()
        optimizer.step(**({"loss": loss} if name in AUTO else {}))
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.05 * sum(losses[:4])


def test_groups_keep_their_ratio() -> None:
    seen: list[tuple[float, ...]] = []

    class Watches(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            seen.append(tuple(group["lr"] for group in self.param_groups))
            return super().step(closure)

    model = linear()
    rates = {"weight": 0.01, "bias": 0.5}
    lr = found(lambda _: Watches([{"params": [p], "lr": rates[n]} for n, p in model.named_parameters()]), model=model)
    steps = [rates for rates in seen if rates != (0.01, 0.01)]  # of a toy, by which the kind of optimizer is told
    assert {round(weight / bias, 12) for weight, bias in steps if bias} == {0.02}
    assert max(bias for _, bias in steps) >= lr
    frozen = found(
        lambda _: Watches([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.0}], lr=0.1), model=model
    )  # fmt: skip
    assert frozen > 0
    assert seen[-1][1] == 0.0


@pytest.mark.parametrize("loader", [True, False])
def test_one_batch_is_enough(loader: bool) -> None:
    batches = DataLoader(TensorDataset(*data(1)[0]), batch_size=8) if loader else data(1)
    assert found(AUTO["AdamLoss"], batches=batches) > 0


@pytest.mark.parametrize("batches", [[], (), iter([]), DataLoader(TensorDataset(torch.ones(0, 3)))])
def test_refuses_to_go_without_batches(batches: Any) -> None:
    with pytest.raises(ValueError, match=r"^Invalid batches: there are none\."):
        found(AUTO["AdamLoss"], batches=batches)


@pytest.mark.parametrize("loss", [
    lambda model, batch: mse(model, batch) * math.nan,
    lambda model, batch: mse(model, batch) * math.inf,
    lambda model, batch: mse(model, batch).log() - math.inf,
])  # fmt: skip
@pytest.mark.parametrize("name", [*AUTO, *BARE])
def test_refuses_a_loss_that_is_never_finite_and_changes_nothing(name: str, loss: Any) -> None:
    model = Busy()
    before = held(model)
    with pytest.raises(ValueError, match=r"^Invalid loss=(nan|-?inf) of the first batch\."):
        found((AUTO | BARE)[name], loss, model=model)
    assert same(held(model), before)


class Rises:
    """A loss that rises with each call, whatever the rate is."""

    calls = 0

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        self.calls += 1
        return mse(model, batch) * 0 + 10.0**self.calls


def test_refuses_a_loss_that_rises_at_every_rate() -> None:
    rises = Rises()
    with pytest.raises(ValueError, match=r"^Invalid lr: the loss rises or is not finite at every rate down to 1e-08"):
        found(AUTO["AdamLoss"], rises)
    assert rises.calls < 100, "hopeless rates stop early"


class Raises:
    """A loss whose parts check their arguments, as those of torch.distributions do."""

    def __init__(self, error: type[BaseException], above: float) -> None:
        self.error, self.above, self.raised = error, above, 0

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        if not model.weight.abs().max() < self.above:
            self.raised += 1
            raise self.error("nan")
        return mse(model, batch)


@pytest.mark.parametrize("error", [ValueError, AssertionError, FloatingPointError, torch.linalg.LinAlgError])
def test_a_rate_at_which_the_model_raises_is_out(error: Any) -> None:
    raises = Raises(error, above=2.0)
    assert 1e-4 < found(BARE["SGD"], raises) < 10
    assert raises.raised


def test_of_several_ranks_none_goes_on_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaloss_lightning.optim.probe.spans_ranks", lambda group: True)
    module = sys.modules["adaloss_lightning.optim.find_lr"]  # under this name the package has the function
    monkeypatch.setattr(module, "mean_over_ranks", lambda loss, optimizer: loss.item())
    with pytest.raises(ValueError, match=r"^nan$"):
        found(BARE["SGD"], Raises(ValueError, above=2.0))


def test_what_is_raised_at_every_rate_is_the_cause() -> None:
    calls = 0

    def loss(model: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > STEPS:  # each batch has been seen once, at a rate of 0
            raise ValueError("bad rate")
        return mse(model, batch)

    with pytest.raises(ValueError, match=r"^Invalid lr: ") as raised:
        found(BARE["SGD"], loss)
    assert str(raised.value.__cause__) == "bad rate"


@pytest.mark.parametrize("at", [1, 2, 40])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_changes_nothing(error: Any, at: int) -> None:
    model = Busy()
    before = held(model)
    calls = 0

    def loss(model: nn.Module, batch: Any) -> Tensor:
        nonlocal calls
        value = mse(model, batch)
        calls += 1
        if calls == at:
            raise error
        return value

    with pytest.raises(error):
        found(AUTO["AdamLoss"], loss, model=model)
    assert calls == at
    assert same(held(model), before)


@pytest.mark.parametrize("name", [*AUTO, "SGD", "AdamW"])
def test_negative_losses(name: str) -> None:
    """Of the same gradients from the same distance to c: the same rate."""
    mirrored = found(
        lambda p: (AUTO | BARE)[name](p), lambda model, batch: mse(model, batch) - 40.0
    )  # fmt: skip
    assert 0 < mirrored < 1e5


def test_refuses_an_optimizer_whose_rates_are_all_zero() -> None:
    with pytest.raises(ValueError, match=r"^Invalid lr=0 in every parameter group\. Must be > 0 in one"):
        found(lambda p: torch.optim.SGD(p, lr=0.0))


def test_it_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    lr = find_lr(linear(), mse, data(), AUTO["AdamLoss"])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"lr {lr:.3g}, found in ")


def test_the_cost_is_bounded() -> None:
    """From 1e-8 to 1e4 there are 25 rates, and nothing is tried twice."""
    tried: list[float] = []
    p = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=1.0)
    steps = 0

    def step(index: int) -> float:
        nonlocal steps
        steps += 1
        lr = optimizer.param_groups[0]["lr"]
        if index == STEPS - 1 and lr > 0:  # the first run has a rate of 0
            tried.append(lr)
        return 1.0  # no rate is better than another

    result = probe(optimizer, step, lambda: None)
    assert 1 <= len(set(tried)) == len(tried) <= 25
    assert result.batches == steps <= STEPS + 25 * STEPS


def found_by_probe(loss_at: Callable[[float], float]) -> float:
    """Of bare SGD whose loss depends on the exponent of the rate alone: of rates `10**(exponent / 2) / sqrt(2)`."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)

    def step(index: int) -> float:
        lr = optimizer.param_groups[0]["lr"]
        return loss_at(2 * math.log10(lr * math.sqrt(2))) if lr else 1.0

    return probe(optimizer, step, lambda: None).lr


@pytest.mark.parametrize("from_first", [-7, -2, 0, 3])
@pytest.mark.parametrize("rise", [0.1, 0.2, 0.33, 0.4, 100.0, math.inf, math.nan])
def test_it_takes_a_quarter_of_the_rate_at_which_the_loss_is_worse(from_first: int, rise: float) -> None:
    """Worse is by 0.05 of the first loss, 1."""

    def loss_at(exponent: float) -> float:
        return 0.5 if exponent < from_first + 0.5 else 0.5 + rise * (exponent - from_first)

    critical = from_first + (0.0 if math.isnan(rise) else round(8 * 0.05 / rise) / 8)
    assert found_by_probe(loss_at) == pytest.approx(10 ** (critical / 2) / math.sqrt(2) / 4, rel=1e-6)


@pytest.mark.parametrize(("losses", "critical"), [
    ({0: 0.5, 1: 0.7, 2: 0.7, 3: 0.4}, 0.25),  # good by luck beyond two that are not: not tried
    ({0: 0.5, 1: 0.7, 2: 0.4, 3: 0.6, 4: 0.6}, 2.25),  # one that is not, by chance
    ({-1: 0.48, 0: 0.51, 1: 0.49, 2: 0.57, 3: 0.57}, 1.5),  # the best is far below
])  # fmt: skip
def test_the_critical_rate_of_scores(losses: dict[int, float], critical: float) -> None:
    lr = found_by_probe(lambda exponent: losses.get(round(exponent), 0.5 if exponent < 0 else 0.9))
    assert lr == pytest.approx(10 ** (critical / 2) / math.sqrt(2) / 4, rel=1e-6)


def test_the_first_steps_do_not_count() -> None:
    """Those of the small rates are the best, as a loss that has not begun to fall is about the same for all."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)

    def step(index: int) -> float:
        lr = optimizer.param_groups[0]["lr"]
        return 1.0 + 4.0 * lr if index < 5 else 1.0 - min(lr, 1.0) / 2

    assert probe(optimizer, step, lambda: None).lr > 0.1


def test_a_snapshot_puts_back_what_was_replaced() -> None:
    model = Busy()
    before = held(model)
    snapshot = Snapshot(model)
    model.net[0].weight.data = torch.zeros(4, 3)
    model.net[1] = nn.Identity()
    model.seen = []
    model.tally["calls"] = {}
    del model.text
    snapshot.restore()
    assert same(held(model), before)


def test_a_compiled_model() -> None:
    model = linear()
    compiled = torch.compile(model, backend="eager")
    assert find_lr(compiled, mse, data(), AUTO["AdamLoss"], verbose=False) == found(AUTO["AdamLoss"])
    torch._dynamo.reset()


def test_an_optimizer_that_wraps_an_adaptive_one() -> None:
    lr = found(lambda p: Lookahead(LossAdaptive(torch.optim.SGD(p, lr=0.1), alpha="auto")))
    assert 1e-3 < lr < 1e3
