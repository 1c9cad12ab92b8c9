"""The process that tests run in: its threads, signals and environment, and the tier of each test."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings

# pytest's workers share the cores, and hand their share on to the processes that they start: threads of OpenMP spin
# where they have no core. Set before anything imports torch, which reads it once.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(workers))))

# MLflow's telemetry would draw from Python's random numbers in a thread, and ask a server that CI may not reach.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

# A shell starts its background jobs with SIGINT ignored, and whatever they start inherits that: the trainings, sweeps
# and servers that tests interrupt would not hear of it. A handler here means the default there.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A module whose tests belong elsewhere says so with `pytestmark`.
TIERS = {
    "optim": "unit",
    "properties": "random",
    "callback": "lightning",
    "benchmarks": "lightning",
    "recipes": "lightning",
    "support": "lightning",
    "tracking": "lightning",
    "docs": "lightning",
    "distributed": "process",
    "examples": "process",
    "packaging": "process",
    "gpu": "gpu",
    "servers": "server",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier: that of its folder, unless it has one. Those of no folder are units."""
    for item in items:
        if not any(item.get_closest_marker(tier) for tier in ("process", "browser", *TIERS.values())):
            item.add_marker(TIERS.get(item.path.parent.name, "unit"))


# The same examples each time, nothing kept between runs, no timing.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),  # not explain, which takes minutes on the state machine
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("repeatable")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, whose runs go to a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(autouse=True)
def signals_are_put_back() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good after the first one, and Ray leaves a handler of SIGTERM behind.

    What a later test starts would inherit the first, and not hear of it when it is interrupted.
    """
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def environment_is_put_back() -> Iterator[None]:
    """Lightning's DDP leaves LOCAL_RANK behind, by which the next DDP takes itself for a rank and waits for others."""
    with patch.dict(os.environ):
        yield
