"""Each way to give a step its loss gives the same step, to the last bit."""

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adaloss_lightning import AdaLoss, AdamLoss, LossAdaptive

from ..optim.methods import equal, snapshot
from .strategies import SGD_GROUPS, Training, trainings

METHODS: dict[str, Any] = {
    "AdaLoss": AdaLoss,
    "AdamLoss": AdamLoss,
    "RMSprop": lambda groups: LossAdaptive(torch.optim.RMSprop(groups), rule="adamloss"),
}
OWN = SGD_GROUPS.map(lambda own: {key: own[key] for key in own if key.startswith("adaloss") or key == "lr"})


def by_argument(optimizer: Any, loss: float) -> Any:
    return optimizer.step(loss=loss)


def by_argument_before_all_others(optimizer: Any, loss: float) -> Any:
    optimizer.record_loss(100.0)
    return optimizer.step(lambda: 200.0, loss=loss)


def by_record(optimizer: Any, loss: float) -> Any:
    optimizer.record_loss(loss)
    return optimizer.step()


def by_record_before_the_closure(optimizer: Any, loss: float) -> Any:
    optimizer.record_loss(100.0)
    optimizer.record_loss(torch.tensor([loss], dtype=torch.float64, requires_grad=True))
    return optimizer.step(lambda: 200.0)


def by_global_record(optimizer: Any, loss: float) -> Any:
    optimizer.record_loss(loss, is_global=True)
    return optimizer.step()


def by_synced_record(optimizer: Any, loss: float) -> Any:
    optimizer.record_loss(loss)
    optimizer.begin_sync()
    return optimizer.step()


def by_closure(optimizer: Any, loss: float) -> Any:
    return optimizer.step(lambda: torch.tensor(loss, dtype=torch.float64))


def after_a_discarded_one(optimizer: Any, loss: float) -> Any:
    optimizer.record_loss(100.0)
    optimizer.discard_loss()
    return optimizer.step(lambda: loss)


def changed_in_place_after_it_was_recorded(optimizer: Any, loss: float) -> Any:
    x = torch.tensor(loss, dtype=torch.float64)
    optimizer.record_loss(x)
    x.fill_(100.0)
    return optimizer.step()


WAYS = (
    by_argument, by_argument_before_all_others, by_record, by_record_before_the_closure, by_global_record,
    by_synced_record, by_closure, after_a_discarded_one, changed_in_place_after_it_was_recorded,
)  # fmt: skip


@settings(max_examples=50)
@given(
    trainings(OWN),
    st.sampled_from(sorted(METHODS)),
    st.lists(st.sampled_from(WAYS), min_size=5, max_size=5),
)
def test_any_mix_of_ways(training: Training, name: str, ways: list[Any]) -> None:
    parameters, others = training.parameters(), training.parameters()
    plain, mixed = (METHODS[name](training.param_groups(p)) for p in (parameters, others))
    for step, (loss, way) in enumerate(zip(training.losses, ways, strict=False)):
        training.give_gradients(parameters, step)
        training.give_gradients(others, step)
        plain.step(loss=loss)
        assert float(way(mixed, loss)) == loss
        assert mixed.recorded_loss is None
        assert mixed.last_loss.item() == loss
        first, second = (
            snapshot(o, [p for group in ps for p in group]) for o, ps in ((plain, parameters), (mixed, others))
        )
        assert equal(first, second)
