"""Use of this machine during a run: CPU, memory, disk, network and GPUs."""

import contextlib
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from adaloss_lightning.tracking.logger.records import Sample, now_ms

if TYPE_CHECKING:
    from mlflow.entities import Run

_PREFIX = "system/"  # where MLflow's UI has a page of its own for the machine's metrics


class SystemMetrics:
    """Samples with MLflow's own monitors on a daemon thread, every `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL` seconds.

    MLflow's own thread would write to the store itself and end with the store's first failure.

    Args:
        put: Takes the samples, with the names that MLflow gives them, numbered from 0 on.
    """

    def __init__(self, put: Callable[[Sample], None]) -> None:
        self._put = put
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a sample in progress is finished."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no NVIDIA GPU, or no nvidia-ml-py
            monitors.append(GPUMonitor())
        interval = MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or 10.0
        number = 0
        while not self._stop.wait(interval):
            values: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            finite = {_PREFIX + name: value for name, value in values.items() if math.isfinite(value)}
            self._put(Sample(finite, now_ms(), number))
            number += 1


def next_sample(run: "Run") -> int:
    """Number of the next sample of a run, as MLflow itself continues them."""
    steps = [metric.step for metric in run.data._metric_objs if metric.key.startswith(_PREFIX)]
    return max(steps, default=-1) + 1
