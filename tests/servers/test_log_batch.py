"""Logged values arrive as they were, through a real server and into a database alike."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger
from adaloss_lightning.tracking.logger.records import MAX_BYTES, MAX_ENTRIES
from tests.servers.proxy import Fate, Proxy
from tests.servers.servers import TrackingServer

ODD_NUMBERS = [0.1, -0.0, 5e-324, 1e-308, 1.7e308, -1.7e308, 1 / 3, 123456789012345678, np.float32(0.1), True]
ODD_TEXTS = ['"quoted"', "back\\slash", "two\nlines", "ü, 漢字 and 🙂", "</script>", "{}", ""]


@pytest.fixture(params=["server", "database"])
def uri(request: pytest.FixtureRequest, folder: Path, server: TrackingServer) -> str:
    return server.url if request.param == "server" else f"sqlite:///{folder}/mlflow.db"


def test_it_arrives_as_it_was(uri: str) -> None:
    logger = BufferedMLFlowLogger("odd", tracking_uri=uri)
    for index, number in enumerate(ODD_NUMBERS):
        logger.log_metrics({"a name/with.all - of_it": number}, np.int64(index - 3))
    logger.log_hyperparams({f"p{index}": text for index, text in enumerate(ODD_TEXTS)})
    logger.log_tags({f"t{index}": text for index, text in enumerate(ODD_TEXTS)})
    logger.log_tags({"t0": "replaced"})
    # More in one record than one call takes, a param that has another value already, and values behind them.
    logger.log_metrics({f"m{index}": float(index) for index in range(MAX_ENTRIES + 1)}, 7)
    logger.log_hyperparams({"p1": "changed", "new": "1"})
    logger.log_metrics({"last": 1.0})
    assert logger.flush()
    client = MlflowClient(uri)
    run = client.get_run(str(logger.run_id))
    history = client.get_metric_history(run.info.run_id, "a name/with.all - of_it")
    arrived = {point.step: point.value for point in history}
    assert arrived == {index - 3: float(number) for index, number in enumerate(ODD_NUMBERS)}
    assert len(history) == len(ODD_NUMBERS)
    assert {key: run.data.params[key] for key in run.data.params if key.startswith("p")} == {
        f"p{index}": text for index, text in enumerate(ODD_TEXTS)
    }
    assert run.data.params["new"] == "1"
    assert {key: run.data.tags[key] for key in run.data.tags if key in {f"t{index}" for index in range(9)}} == {
        f"t{index}": text for index, text in enumerate(ODD_TEXTS)
    } | {"t0": "replaced"}
    assert {key: run.data.metrics[key] for key in ("m0", f"m{MAX_ENTRIES}", "last")} == {
        "m0": 0.0, f"m{MAX_ENTRIES}": float(MAX_ENTRIES), "last": 1.0,
    }  # fmt: skip
    logger.finalize()


def test_requests_stay_below_mlflows_megabyte(folder: Path, server: TrackingServer) -> None:
    """Counted in the JSON of MLflow's client, which escapes what is not ASCII."""
    lengths: list[int] = []

    def decide(method: str, path: str, headers: Mapping[str, str]) -> Fate:
        if path.endswith("/runs/log-batch"):
            lengths.append(int(headers["Content-Length"]))
        return "pass"

    values = {f"{'漢' * 240}{index}": index / 3 for index in range(100)}
    with Proxy(server.url, decide) as proxy:
        logger = BufferedMLFlowLogger("wide", tracking_uri=proxy.url)
        for step in range(20):
            logger.log_metrics(values, step)
        assert logger.flush()
        assert 500_000 < max(lengths) <= MAX_BYTES
        logger.log_hyperparams({f"p{index}": "漢" * 5000 for index in range(60)})  # too much for one call
        logger.finalize()
    run = MlflowClient(server.url).get_run(str(logger.run_id))
    assert (len(run.data.metrics), len(run.data.params), run.info.status) == (100, 60, "FINISHED")
