"""Two trainers take turns, on one rank and on two."""

from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.store import resolve_uri
from benchmarks import allreduce, lightning_step
from benchmarks.lightning_step import (
    AFTER_THE_SEARCH,
    FED,
    FED_AND_LOGGED,
    FED_AND_SILENT,
    ON_ONE,
    ON_SEVERAL,
    PLAIN_SGD,
    race,
)
from benchmarks.ranks import on_ranks


def test_race_lets_both_sides_make_all_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []

    class Noting(lightning_step.Batches):
        def __iter__(self) -> Any:
            for batch in super().__iter__():
                turns.append(self.side)
                yield batch

    monkeypatch.setattr(lightning_step, "Batches", Noting)
    monkeypatch.setattr(lightning_step, "WARM_UP", 2)
    times = race((FED, PLAIN_SGD), 1, 3, 4, 8)
    assert [len(one) for one in times] == [3, 3]
    assert min(map(min, times)) > 0
    assert turns == [0, 1] * 6  # the last step of each has no request after it, and does not count


def test_a_search_for_eta_takes_no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning_step, "WARM_UP", 2)
    times = race((AFTER_THE_SEARCH, PLAIN_SGD), 1, 3, 4, 8)
    assert [len(one) for one in times] == [3, 3]


def test_side_with_a_logger_logs_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(lightning_step, "WARM_UP", 2)
    race((FED_AND_SILENT, FED_AND_LOGGED), 1, 3, 4, 8)
    client = MlflowClient(resolve_uri(None))
    (experiment,) = client.search_experiments(filter_string="name = 'lightning_step'")
    (run,) = client.search_runs([experiment.experiment_id])
    for metric in ("train/loss", "adaloss/loss", "adaloss/b", "adaloss/effective_lr"):
        assert len(client.get_metric_history(run.info.run_id, metric)) == 6, metric


def test_with_and_without_callback_and_logger_on_one_and_on_several_ranks() -> None:
    for cases in (ON_ONE, ON_SEVERAL):
        sides = {(side.callback is None, side.logger) for pair in cases for side in pair}
        assert sides >= {(True, None), (False, None), (False, "mlflow"), (False, "silent")}


def take_turns_and_all_reduce(rank: int, ranks: int) -> tuple[list[int], list[dict[str, Any]]]:
    times = race((FED, PLAIN_SGD), ranks, 3, 4, 8)
    return [len(one) for one in times], allreduce.train(rank, ranks, "computes", 2, 4, 0.0)


@pytest.mark.process
def test_two_ranks_take_the_same_turns_and_reduce_the_loss_once_a_step() -> None:
    counts, rows = on_ranks(take_turns_and_all_reduce, 2)
    assert counts == [3, 3]
    assert {row["way"]: row["all_reduces"] for row in rows} == {"before backward": 1, "within the step": 1, "none": 0}
    assert all(row["both_us"] > row["step_us"] > 0 for row in rows)
