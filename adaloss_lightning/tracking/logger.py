"""BufferedMLFlowLogger: Lightning's MLflow logger, with the store out of the training loop's way."""

import contextvars
import logging
import math
import os
import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.logger import _add_prefix, _convert_params, _flatten_dict
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from adaloss_lightning.tracking.delivery import Delivery, batch_sender, now_ms
from adaloss_lightning.tracking.lifecycle import Status, status_of
from adaloss_lightning.tracking.store import ensure_experiment, local_artifact_dir, open_store, resolve_uri

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

NON_FINITE_TAG = "non_finite"
_MAX_VALUE = 500  # characters of a param, of a tag ten times that: what every MLflow since 1.28 takes
_joined_run: contextvars.ContextVar[tuple[str, str] | None] = contextvars.ContextVar("joined_run", default=None)


@contextmanager
def joined_run(tracking_uri: str, run_id: str) -> Iterator[None]:
    """Loggers built inside the block write to this run, whatever their arguments say: how a sweep hands out runs."""
    token = _joined_run.set((tracking_uri, run_id))
    try:
        yield
    finally:
        _joined_run.reset(token)


class BufferedMLFlowLogger(MLFlowLogger):
    """Drop-in for Lightning's `MLFlowLogger` that works with current MLflow and never makes training wait.

    Metrics, params and tags are kept in memory and delivered in batches by a background thread. A store that fails is
    tried again and again; what it did not take by the end of the run is said once, in `finalize`, and never raised.
    Only starting the run talks to the store at once, and raises.

    - Non-finite metrics are not logged (MLflow would keep inf as 1.8e308 and match NaN with `< 0.1`); the tag
      `non_finite` names each such metric and the first step it happened.
    - The run ends FINISHED, FAILED, or KILLED after Ctrl-C and SIGTERM.
    - `save_dir` is the run's artifact folder, so that LightningCLI's config and Lightning's checkpoints become
      artifacts. For a store whose artifacts are elsewhere it is a folder under `mlruns/`, uploaded at the end.
    - Only rank 0 writes.

    Args:
        experiment_name: Created where it does not exist.
        run_name: Name of the new run; MLflow invents one for None.
        tracking_uri: Where the store is. None: `MLFLOW_TRACKING_URI`, else MLflow's default, `sqlite:///mlflow.db`.
        tags: Tags of the new run.
        run_id: Goes on with this run instead of starting one.
        save_dir: Folder of the default store instead of the working folder; no effect with a tracking URI.
        log_model: As in `MLFlowLogger`.
        prefix: Put before every metric's name.
        artifact_location: Where artifacts of a new experiment go.
        synchronous: True makes every logging call wait until it is delivered.
        finalize_timeout: Seconds the end of a run waits for the store at most.

    Raises:
        StoreError: On the first use, when the store cannot be opened or the run cannot be started.
    """

    def __init__(
        self,
        experiment_name: str = "lightning_logs",
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: dict[str, Any] | None = None,
        run_id: str | None = None,
        save_dir: str | None = None,
        log_model: Literal[True, False, "all"] = False,
        prefix: str = "",
        artifact_location: str | None = None,
        synchronous: bool | None = None,
        finalize_timeout: float = 30.0,
    ) -> None:
        # Not MLFlowLogger.__init__: it opens the store, unlocked, on every rank. A test compares the attributes.
        Logger.__init__(self)
        if save_dir and not tracking_uri and not os.environ.get("MLFLOW_TRACKING_URI"):
            tracking_uri = f"sqlite:///{Path(save_dir).absolute()}/mlflow.db"
        joined = _joined_run.get()
        if joined is not None:
            tracking_uri, run_id = joined
        self._experiment_name = experiment_name
        self._experiment_id: str | None = None
        self._tracking_uri = resolve_uri(tracking_uri)
        self._run_name = run_name
        self._run_id = run_id
        self.tags = tags
        self._log_model = log_model
        self._logged_model_time: dict[str, float] = {}
        self._checkpoint_callback = None
        self._prefix = prefix
        self._artifact_location = artifact_location
        self._log_batch_kwargs: dict[str, bool] = {}
        self._initialized = False
        self._mlflow_client: MlflowClient | None = None  # type: ignore[assignment]  # opened by the first use

        self._synchronous = bool(synchronous)
        self._finalize_timeout = finalize_timeout
        self._artifact_dir: Path | None = None
        self._is_staged = self._is_held = False
        self._non_finite: dict[str, int] = {}
        self._known_params: frozenset[str] = frozenset()
        self._failures: list[str] = []
        self._delivery: Delivery | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A spawned rank gets the run, not this process's thread and connections.
        return self.__dict__ | {"_delivery": None, "_mlflow_client": None, "_initialized": False}

    @property
    @rank_zero_experiment
    def experiment(self) -> "MlflowClient":
        """The `MlflowClient`; the first access starts the run."""
        if not self._initialized or self._mlflow_client is None:
            self._mlflow_client = self._start_run()
        return self._mlflow_client

    def _start_run(self) -> "MlflowClient":
        from mlflow.tracking.context.registry import resolve_tags

        client = open_store(self._tracking_uri)
        if self._run_id is None:
            experiment_id = ensure_experiment(client, self._experiment_name, self._artifact_location)
            run = client.create_run(experiment_id, tags=resolve_tags(self.tags), run_name=self._run_name)
            self._run_id = run.info.run_id
        else:
            run = client.get_run(self._run_id)
            self._known_params = frozenset(run.data.params)
            client.update_run(self._run_id, status="RUNNING")
        self._experiment_id = run.info.experiment_id
        self._artifact_dir = local_artifact_dir(run.info.artifact_uri)
        self._is_staged = self._artifact_dir is None
        if self._artifact_dir is None:
            self._artifact_dir = Path("mlruns", str(self._experiment_id), str(self._run_id), "artifacts").absolute()
        self._initialized = True
        return client

    @property
    def save_dir(self) -> str | None:
        """Folder for files of the run, on rank 0; None on the other ranks."""
        if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # set by Lightning
            return None
        _ = self.experiment
        return str(self._artifact_dir)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Takes the metrics and returns at once; text values are left out, non-finite ones become a tag."""
        from mlflow.entities import Metric

        stamp, step = now_ms(), step or 0
        entries = []
        prefixed: Mapping[str, Any] = _add_prefix(metrics, self._prefix, self.LOGGER_JOIN_CHAR)
        for name, value in prefixed.items():
            if isinstance(value, str):
                continue
            name = re.sub("[^a-zA-Z0-9_/. -]+", "", name)  # what MLflow accepts
            if math.isfinite(value):
                entries.append(Metric(key=name, value=float(value), timestamp=stamp, step=step))
            elif name not in self._non_finite:
                self._non_finite[name] = step
                self.log_tags({NON_FINITE_TAG: ", ".join(f"{key} (step {at})" for key, at in self._non_finite.items())})
        self._put(entries)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Takes the params, nested ones flattened with `/`, and returns at once.

        MLflow never changes a param: of a run that is gone on with, those it has stay as they are.
        """
        from mlflow.entities import Param

        _ = self.experiment
        flat = {str(key): str(value)[:_MAX_VALUE] for key, value in _flatten_dict(_convert_params(params)).items()}
        self._put([Param(key=key, value=value) for key, value in flat.items() if key not in self._known_params])

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Takes the tags and returns at once; a later value of a tag replaces the earlier one."""
        from mlflow.entities import RunTag

        self._put([RunTag(key=key, value=str(value)[: 10 * _MAX_VALUE]) for key, value in tags.items()])

    @rank_zero_only
    def log_text(self, text: str, artifact_file: str) -> None:
        """Writes `text` as an artifact. A failure is said in `finalize`."""
        client, run_id = self.experiment, self.run_id
        try:
            client.log_text(run_id, text, artifact_file)
        except Exception as error:
            self._failures.append(f"artifact {artifact_file} ({error})")

    def _put(self, entries: list[Any]) -> None:
        if not entries:
            return
        client = self.experiment
        if self._delivery is None:
            self._delivery = Delivery(batch_sender(client, str(self._run_id)))
        self._delivery.put(entries)
        if self._synchronous:
            self._delivery.flush()

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until everything logged so far is in the store.

        Returns:
            True when it is (on ranks other than 0 always), False after `timeout` seconds.
        """
        return self._delivery is None or self._delivery.flush(timeout)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps the run RUNNING through several trainer calls; the end of the block ends it the way the block ended."""
        self._is_held = True
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._is_held = False
            if self._initialized:
                self._end_run(status_of(error))

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Delivers what is left and ends the run; says once what the store did not take, and raises nothing."""
        if not self._initialized:
            return
        if status == "failed":
            # Lightning calls Ctrl-C, SIGTERM and faults alike "failed", from within the exception's handler.
            self._finish(status_of(sys.exc_info()[1]) if sys.exc_info()[1] else "FAILED")
        else:
            self._finish("FINISHED")

    def _finish(self, status: Status) -> None:
        if self._is_held:
            self.flush(self._finalize_timeout)
        else:
            self._end_run(status)

    @rank_zero_only
    def _end_run(self, status: Status) -> None:
        client, run_id = self.experiment, str(self._run_id)
        try:
            if self._checkpoint_callback:
                self._scan_and_log_checkpoints(self._checkpoint_callback)
            if self._is_staged and self._artifact_dir is not None and self._artifact_dir.is_dir():
                client.log_artifacts(run_id, str(self._artifact_dir))
        except Exception as error:
            self._failures.append(f"artifacts ({error})")
        delivered = self.flush(self._finalize_timeout)
        if delivered:
            try:
                client.set_terminated(run_id, status)
            except Exception as error:
                self._failures.append(f"status {status} ({error})")
        self._say_what_is_missing(delivered)
        if delivered and self._delivery is not None:
            self._delivery.close()
            self._delivery = None

    def _say_what_is_missing(self, delivered: bool) -> None:
        missing = self._failures + (self._delivery.rejected if self._delivery else [])
        if self._delivery and not delivered:
            missing.insert(0, f"{self._delivery.pending} metrics, params or tags ({self._delivery.last_error})")
        if missing:
            log.warning("The MLflow store did not take everything of run %s: %s", self._run_id, "; ".join(missing))
        self._failures.clear()
