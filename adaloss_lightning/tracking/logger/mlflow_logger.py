"""BufferedMLFlowLogger: Lightning's MLflow logger, with the store out of the training loop's way."""

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import MLFlowLogger
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.nn import Module

from adaloss_lightning.tracking.address import sqlite_uri
from adaloss_lightning.tracking.logger import lightning_internals as internals
from adaloss_lightning.tracking.logger.records import MAX_STEP, Metrics, Params, Record, Tags, Text, now_ms
from adaloss_lightning.tracking.logger.resume import CheckpointsRun, Place, RunState, run_to_join
from adaloss_lightning.tracking.logger.run_end import Status, status_of, status_of_fit
from adaloss_lightning.tracking.logger.run_files import RunFiles, require_inside
from adaloss_lightning.tracking.logger.system_metrics import SystemMetrics
from adaloss_lightning.tracking.logger.tracked_run import TrackedRun, stored_params, stored_tags
from adaloss_lightning.tracking.monitors import monitored_in, tags_of
from adaloss_lightning.tracking.names import experiment_name as stored_experiment_name
from adaloss_lightning.tracking.names import plain_text
from adaloss_lightning.tracking.non_finite import NonFinite
from adaloss_lightning.tracking.store import resolve_uri, safe_name
from adaloss_lightning.tracking.tags import NON_FINITE_TAG

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from mlflow.tracking import MlflowClient


class BufferedMLFlowLogger(MLFlowLogger):
    """Drop-in for Lightning's `MLFlowLogger` that works with current MLflow and never makes training wait.

    Everything logged goes to a spool on disk, and from there, in batches, to the store, by a background thread. A
    store that cannot be reached, hangs or fails is reported once and tried again; training never fails because of it.
    What has not arrived when the process ends, even by SIGKILL, is delivered by the next process that logs to the same
    store from the same folder, or by `adaloss sync`; each value arrives once.

    - The tag `non_finite` names each metric that was not finite, which MLflow cannot store.
    - The run ends FINISHED, FAILED, or KILLED after Ctrl-C, SIGTERM and SIGKILL.
    - `save_dir` is the run's artifact folder, or one that its artifacts follow: LightningCLI's config and Lightning's
      checkpoints become artifacts.
    - A `fit` that resumes a checkpoint of a trainer with the callback `RememberRun` continues that checkpoint's run.
    - Only rank 0 writes.

    Args:
        experiment_name: Created where it does not exist.
        run_name: Name of the new run; None: `run-` and the start of its key.
        tracking_uri: Where the store is. None: `MLFLOW_TRACKING_URI`, else MLflow's default, `sqlite:///mlflow.db`.
        tags: Tags of the new run.
        run_id: Continues this run instead of starting one.
        save_dir: Folder of the default store instead of the working folder; no effect with a tracking URI.
        log_model: Whether checkpoints that a ModelCheckpoint keeps elsewhere than in `save_dir` become artifacts too:
            True those that it keeps, "all" also those that it deletes.
        prefix: Put before every metric's name.
        artifact_location: Where artifacts of a new experiment go.
        synchronous: True makes every logging call wait until it is delivered or the store fails.
        finalize_timeout: Seconds without progress after which the end of a run stops waiting for the store, a fifth of
            that for one that answers with errors. While the store takes what is left, it waits until all is there.
        resume_from: A checkpoint that `RememberRun` has marked: continues its run. None: the one that `fit` resumes;
            False: none, the run is a new one. Without effect beside `run_id`.
        log_system_metrics: Samples CPU, memory, disk, network and GPUs of rank 0's machine every ten seconds
            (`MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`), as metrics `system/...`.

    Raises:
        StoreError: On the first use, when MLflow has no store for such an address.
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
        finalize_timeout: float = 10.0,
        resume_from: str | Path | Literal[False] | None = None,
        log_system_metrics: bool = False,
    ) -> None:
        if save_dir and not tracking_uri and not os.environ.get("MLFLOW_TRACKING_URI"):
            tracking_uri = sqlite_uri(Path(save_dir, "mlflow.db"))
        tracking_uri, run_id = run_to_join() or (tracking_uri, run_id)
        tracking_uri = resolve_uri(tracking_uri)
        experiment_name, run_name = stored_experiment_name(experiment_name), run_name and plain_text(run_name)
        self.tags, self._prefix = tags, prefix
        internals.build_without_store(
            self, experiment_name=experiment_name, tracking_uri=tracking_uri, run_name=run_name, run_id=run_id,
            log_model=log_model, prefix=prefix, artifact_location=artifact_location,
        )  # fmt: skip
        checkpoint = CheckpointsRun(self, resume_from)
        self._run = TrackedRun(
            tracking_uri, experiment_name, run_name, tags, run_id, artifact_location, checkpoint.state,
            partial(internals.is_logged_to, self), finalize_timeout,
        )  # fmt: skip
        self._synchronous, self._is_held = bool(synchronous), False
        self._files, self._non_finite = RunFiles(self._run, log_model), NonFinite()
        self._stored_name, self._log_system_metrics = self._run.stored_name, log_system_metrics
        self._system_metrics: SystemMetrics | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A spawned rank has threads and connections of its own.
        return self.__dict__ | {"_system_metrics": None}

    @property
    @rank_zero_experiment
    def experiment(self) -> "MlflowClient":
        """The `MlflowClient`, for calls of your own, which are not spooled. A store that is away gives a dummy."""
        client = self._run.client()
        return internals.no_experiment() if client is None else client  # as on the other ranks

    @property
    def tracking_uri(self) -> str:
        """Address of the store."""
        return self._run.uri

    @property
    def run_id(self) -> str | None:
        """Identifier of the run, which is started if it was not; None on other ranks and while the store is away."""
        if self._run.run_id is None and _is_rank_zero():
            self._run.opened()
        return self._run.run_id

    @property
    def experiment_id(self) -> str | None:
        """Identifier of the experiment; None on other ranks and while the store is away."""
        if self._run.experiment_id is None and _is_rank_zero():
            self._run.opened()
        return self._run.experiment_id

    def suggest_name(self, name: str) -> None:
        """Names the run, unless it was given a name or has begun."""
        self._run.run_name = self._run.run_name or name

    # Lightning makes the folder of checkpoints from these two. It has to be the same when a run is resumed, whether or
    # not a server answers that day. A `save_dir` is this run's alone.
    @property
    def name(self) -> str | None:
        """The experiment: its identifier; its name for a store that is no local file, or cannot be opened."""
        if internals.is_for_checkpoint_folder() and self.save_dir is not None:
            return ""
        if self._run.is_remote:
            return safe_name(self._run.experiment)
        return self.experiment_id or (safe_name(self._run.experiment) if _is_rank_zero() else None)

    @property
    def version(self) -> str | None:
        """The run: its `run_id`; its key, a tag, for a store that is no local file, or cannot be opened."""
        if internals.is_for_checkpoint_folder() and self.save_dir is not None:
            return ""
        if self._run.is_remote:
            return self._run.key
        return self.run_id or (self._run.key if _is_rank_zero() else None)

    @property
    def run_state(self) -> RunState:
        """What a checkpoint has to hold so that `continue_run` finds the run again; asks no store."""
        return self._run.state

    @property
    def place(self) -> Place:
        """Address of the store, without secrets, and name of the experiment: what a checkpoint's run is found by."""
        return self._run.place

    def continue_run(self, state: RunState) -> None:
        """Continues the run of a `run_state`, unless something is logged or the run is given by its identifier."""
        self._run.go_on(state)

    @property
    def save_dir(self) -> str | None:
        """Folder for files of the run, on rank 0; None on the other ranks, and where it cannot be made."""
        folder = self._files.folder() if _is_rank_zero() else None
        return None if folder is None else str(folder)

    @rank_zero_only
    def log_text(self, text: str, artifact_file: str) -> None:
        """Takes `text` as an artifact and returns at once.

        Raises:
            ValueError: `artifact_file` leads out of the artifacts, or is no name for a file.
        """
        require_inside("artifact_file", artifact_file)
        self._put(Text(plain_text(text), artifact_file))

    @rank_zero_only
    def log_artifact(self, local_path: str | Path, artifact_path: str = "") -> None:
        """Copies a file to the run's artifacts, into the folder `artifact_path` there; reports a disk that is full.

        Raises:
            OSError: The file cannot be read.
            ValueError: `artifact_path` leads out of the artifacts, or is no name for a folder.
        """
        self._files.copy(Path(local_path), artifact_path)
        self._put_staged()

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: "ModelCheckpoint") -> None:
        """Makes the artifacts follow the checkpoints there are now."""
        self._files.follow(checkpoint_callback)
        self._put_staged()

    def _put_staged(self) -> None:
        if (record := self._files.staged()) is not None:
            self._put(record)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Takes the metrics and returns at once; text values are left out, non-finite ones become a tag.

        A step beyond the 64 bits of MLflow's is the last one that they hold.
        """
        at = max(-MAX_STEP, min(int(step or 0), MAX_STEP))  # step may be one of NumPy's numbers
        values = {self._name_of(name): float(value) for name, value in metrics.items() if not isinstance(value, str)}
        finite, has_new = self._non_finite.sift(values, at)
        if has_new:
            self.log_tags({NON_FINITE_TAG: self._non_finite.text()})
        if finite:
            self._put(Metrics(finite, now_ms(), at))

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Takes the params, nested ones flattened with `/`, and returns at once.

        MLflow never changes a param: those that a continued run has stay as they are.
        """
        if texts := stored_params(internals.flat(params), self._stored_name):
            self._put(Params(texts))

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Takes the tags and returns at once; a later value of a tag replaces the earlier one."""
        if tags:
            self._put(Tags(stored_tags(tags, self._stored_name)))

    @rank_zero_only
    def log_graph(self, model: Module, input_array: Any = None) -> None:
        """Tags the run with what its callbacks monitor: Lightning calls this when a Trainer is set up. No graph."""
        if (trainer := internals.trainer_of(model)) is not None:
            tags = tags_of(trainer, self._name_of)
            self._non_finite.monitored |= monitored_in(tags).keys()
            self.log_tags(tags)

    def _name_of(self, metric: str) -> str:
        return self._stored_name(internals.prefixed(metric, self._prefix, self.LOGGER_JOIN_CHAR))

    def _put(self, record: Record) -> None:
        self._run.put(record)
        if self._log_system_metrics and self._system_metrics is None and self._run.is_in_progress:
            self._system_metrics = SystemMetrics(self._run.put)
        if self._synchronous:
            self._run.drain()

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until everything logged so far is in the store, which other ranks need not; False after `timeout` s."""
        return self._run.flush(timeout)

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
            if self._run.is_started:
                self._end_run(status_of(error))

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Delivers what is left and ends the run; reports once what the store did not take, and raises nothing."""
        if self._run.is_started and not self._is_held:
            self._end_run(status_of_fit(status))

    @rank_zero_only
    def _end_run(self, status: Status) -> None:
        if self._system_metrics is not None:
            self._system_metrics.stop()
        if self._non_finite.has_some_left:
            self.log_tags({NON_FINITE_TAG: self._non_finite.text(has_ended=True)})
        self._files.finish()
        self._put_staged()
        self._run.end(status)
        self._system_metrics = None


def _is_rank_zero() -> bool:
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]  # set by Lightning
