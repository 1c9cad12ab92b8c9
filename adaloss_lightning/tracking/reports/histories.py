"""Histories of one metric of many runs: one call of the store for many runs wherever the store can do that."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import pandas as pd

from adaloss_lightning.tracking.runs import MlflowClient

_LONG = 1500  # points from which on MLflow's sampling of a run is faster than reading all of it
_CHUNK = 100  # runs a call
_CALLS_AT_ONCE = 8
_FEWEST, _MOST = 200, 1000  # runs whose histories are read
_POINTS = 100_000  # of one metric, read in a few seconds
_SAMPLED_POINTS = 2_000_000  # of one metric, sampled by the database in some ten seconds

History: TypeAlias = "pd.Series[float]"  # values of a metric by ascending step
Histories: TypeAlias = dict[str, dict[str, History]]  # by metric and run


class HistoryReader:
    """Reads histories from `client`, whole or, where they are long, evenly sampled.

    MLflow's client reads one run and metric a call, 29 ms on SQLite. Its database stores read many runs in one call,
    0.7 ms a run, and sample long histories in SQL; a tracking server offers neither to clients, so there several calls
    are under way at once.

    Args:
        client: Client of the store.
        points: About how many points of a long history are wanted.
    """

    def __init__(self, client: MlflowClient, points: int) -> None:
        self._client, self._points = client, points
        store: Any = getattr(getattr(client, "_tracking_client", None), "store", None)
        self._store: Any = store if hasattr(store, "get_metric_history_bulk") else None

    def affordable_runs(self, run_id: str, metric: str) -> int:
        """How many runs can be read in reasonable time, judged by the length of one."""
        if self._store is None:
            return _FEWEST
        length = self._length(run_id, metric)
        if length <= _LONG:
            return max(_FEWEST, min(_MOST, _POINTS // max(1, length)))
        # Its last step is about its length, and cheap to know.
        steps = int(self._store.get_max_step_for_metric(run_id, metric))
        return max(1, min(_FEWEST, _SAMPLED_POINTS // max(1, steps)))

    def read(self, run_ids: Sequence[str], metric: str) -> Iterator[tuple[str, History]]:
        """Yields the history of every run that has the metric; of a step that was logged twice the last value."""
        if self._store is None:
            with ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
                points = pool.map(lambda run_id: self._client.get_metric_history(run_id, metric), run_ids)
                yield from ((run_id, _history(found)) for run_id, found in zip(run_ids, points, strict=True) if found)
            return
        is_long = bool(run_ids) and self._length(run_ids[0], metric) > _LONG
        for first in range(0, len(run_ids), _CHUNK):
            chunk = list(run_ids[first : first + _CHUNK])
            by_run: dict[str, list[Any]] = {}
            for point in self._sampled(chunk, metric) if is_long else self._whole(chunk, metric):
                by_run.setdefault(point.run_id, []).append(point)
            yield from ((run_id, _history(found)) for run_id, found in by_run.items())

    def _length(self, run_id: str, metric: str) -> int:
        return len(self._store.get_metric_history_bulk([run_id], metric, _LONG + 1))

    def _whole(self, run_ids: list[str], metric: str) -> list[Any]:
        room = _LONG * len(run_ids)
        points: list[Any] = self._store.get_metric_history_bulk(run_ids, metric, room)
        # Points come run by run and stop at the limit: there the last run may be cut, and others are missing.
        return points if len(points) < room else self._sampled(run_ids, metric)

    def _sampled(self, run_ids: list[str], metric: str) -> list[Any]:
        return list(self._store.get_metric_history_bulk_interval(run_ids, metric, self._points, None, None))


def _history(points: Sequence[Any]) -> History:
    # in the order of their timestamps, so that a dict keeps the last value of a step
    return pd.Series({point.step: point.value for point in points}, dtype=float).sort_index()
