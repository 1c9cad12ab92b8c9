"""Use of this machine during a run: CPU, memory, disk, network and GPUs."""

import contextlib
import threading
from collections.abc import Callable, Mapping

from adaloss_lightning.tracking.logger.stored_run import SYSTEM_PREFIX


class SystemMetrics:
    """Samples with MLflow's own monitors on a daemon thread, and hands the values to `log`, which spools them.

    MLflow's own thread would write to the store itself and end with the store's first failure.

    Args:
        log: Takes the values, named as MLflow names them, and the number of the sample, from 0 on.
        interval: Seconds between samples; None: `MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`, else 10.
    """

    def __init__(self, log: Callable[[Mapping[str, float], int], None], interval: float | None = None) -> None:
        from mlflow.environment_variables import MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL

        self._log = log
        self._interval = interval or MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL.get() or 10.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a sample in progress is finished."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no NVIDIA GPU, or no nvidia-ml-py
            monitors.append(GPUMonitor())
        sample = 0
        while not self._stop.wait(self._interval):
            values: dict[str, float] = {}
            for monitor in monitors:
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            self._log({SYSTEM_PREFIX + name: value for name, value in values.items()}, sample)
            sample += 1
