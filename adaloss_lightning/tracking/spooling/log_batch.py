"""MLflow's `log_batch`, made of the records of a spool."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from adaloss_lightning.tracking.spooling.batch import Record

if TYPE_CHECKING:
    from mlflow.store.tracking.rest_store import RestStore
    from mlflow.tracking import MlflowClient

_TOO_LARGE = 413  # HTTP: of a proxy before the server, as a rule
_as_json = lru_cache(maxsize=4096)(json.dumps)  # of names


class RequestTooLargeError(Exception):
    """A request of this size does not get to the server; a smaller one may."""


def log_batch(client: "MlflowClient", run_id: str, records: Sequence[Record]) -> None:
    """Delivers the metrics, params and tags of `records` in one call.

    The body of a request to a tracking server is written straight from the records. MLflow's client makes objects of
    them, protobufs of those, JSON of these, and reads and writes that once more: 30 ms for a thousand metrics, in which
    the training waits for Python's lock.

    Args:
        client: Of the store.
        run_id: The run.
        records: Not more than one call takes (`Batch`).

    Raises:
        RequestTooLargeError: To be tried with fewer records.
        Exception: Whatever MLflow raises for a store that is away, fails or refuses.
    """
    from mlflow.store.tracking.rest_store import RestStore

    store = getattr(getattr(client, "_tracking_client", None), "store", None)
    if type(store) is RestStore and not store.get_host_creds().use_databricks_sdk:
        _post(store, run_id, records)
    else:
        _call(client, run_id, records)


def _post(store: "RestStore", run_id: str, records: Sequence[Record]) -> None:
    from mlflow.protos.service_pb2 import LogBatch
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    endpoint, method = store._METHOD_TO_INFO[LogBatch]
    params, tags = ([{"key": key, "value": value} for key, value in some] for some in _params_and_tags(records))
    rest = json.dumps({"run_id": run_id, "params": params, "tags": tags})
    metrics = ",".join(text for record in records if "m" in record for text in _metrics(record))
    body = f'{rest[:-1]}, "metrics": [{metrics}]}}'
    answer = http_request(
        store.get_host_creds(), endpoint, method, data=body.encode(), extra_headers={"Content-Type": "application/json"}
    )
    if answer.status_code == _TOO_LARGE:
        raise RequestTooLargeError(f"413: a request of {len(body)} bytes is too large")
    verify_rest_response(answer, endpoint)


def _metrics(record: Record) -> Iterator[str]:
    rest = f',"timestamp":{record["t"]},"step":{record["s"]}}}'
    for key, value in record["m"].items():
        yield f'{{"key":{_as_json(key)},"value":{value!r}{rest}'


def _call(client: "MlflowClient", run_id: str, records: Sequence[Record]) -> None:
    from mlflow.entities import Metric, Param, RunTag

    params, tags = _params_and_tags(records)
    client.log_batch(
        run_id,
        metrics=[Metric(k, v, r["t"], r["s"]) for r in records if "m" in r for k, v in r["m"].items()],
        params=[Param(key, value) for key, value in params],
        tags=[RunTag(key, value) for key, value in tags],
        synchronous=True,
    )


def _params_and_tags(records: Sequence[Record]) -> "tuple[list[tuple[str, Any]], list[tuple[str, Any]]]":
    # The store refuses one tag twice in a call; the latest counts, as if they had come one by one.
    tags = {key: value for record in records for key, value in record.get("g", {}).items()}
    return [pair for record in records for pair in record.get("p", {}).items()], list(tags.items())
