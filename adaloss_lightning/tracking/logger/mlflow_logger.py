"""BufferedMLFlowLogger: Lightning's MLflow logger, with the store out of the training loop's way."""

import logging
import math
import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.fabric.utilities.logger import _add_prefix, _convert_params, _flatten_dict
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import Logger
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.nn import Module

from adaloss_lightning.tracking.address import redacted, sqlite_uri, storable
from adaloss_lightning.tracking.logger.batch import MAX_ENTRIES, MAX_PARAMS_OR_TAGS, Record
from adaloss_lightning.tracking.logger.checkpoints import CheckpointLinks
from adaloss_lightning.tracking.logger.resume import (
    Place,
    RunState,
    fit_in_progress,
    is_for_checkpoint_folder,
    match_states,
    read_run_states,
    run_to_join,
)
from adaloss_lightning.tracking.logger.run_end import Status, status_of
from adaloss_lightning.tracking.logger.system_metrics import SystemMetrics
from adaloss_lightning.tracking.logger.tracked_run import TrackedRun, now_ms, stored_tags
from adaloss_lightning.tracking.monitors import monitored_in, tags_of
from adaloss_lightning.tracking.names import MAX_PARAM, plain_text
from adaloss_lightning.tracking.names import experiment_name as stored_experiment_name
from adaloss_lightning.tracking.non_finite import NonFinite
from adaloss_lightning.tracking.store import make_private, require_known_kind, resolve_uri, safe_name
from adaloss_lightning.tracking.tags import NON_FINITE_TAG

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import ModelCheckpoint
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

_LAST_STEP = 2**63 - 1
_LONGEST_NAME = 255  # bytes of a file's name, on every usual file system


class BufferedMLFlowLogger(MLFlowLogger):
    """Drop-in for Lightning's `MLFlowLogger` that works with current MLflow and never makes training wait.

    Everything logged goes to a spool on disk, and from there, in batches, to the store, by a background thread. A
    store that cannot be reached, hangs or fails is reported once and tried again and again; training never fails
    because of it.
    What has not arrived when the process ends, even by SIGKILL, is delivered by the next process that logs to the same
    store from the same folder, or by `adaloss sync`; each value arrives once.

    - Non-finite metrics are not logged (MLflow would keep inf as 1.8e308 and match NaN with `< 0.1`); the tag
      `non_finite` names each such metric, the first step it happened, and whether it lasted to the end.
    - The tag `adaloss.monitors` keeps the mode, min or max, of each metric that a callback or a scheduler monitors.
    - The run ends FINISHED, FAILED, or KILLED after Ctrl-C, SIGTERM and SIGKILL.
    - `save_dir` is the run's artifact folder, so that LightningCLI's config and Lightning's checkpoints become
      artifacts. For a store whose artifacts are elsewhere it is a folder under `.adaloss/`, which the artifacts of the
      run follow: a checkpoint that Lightning deletes is deleted there too.
    - A `fit` that resumes a checkpoint of a trainer with the callback `RememberRun` continues that checkpoint's run,
      whether it is given by a path, as `last` or `hpc`, or found by Lightning itself.
    - Only rank 0 writes.

    Args:
        experiment_name: Created where it does not exist.
        run_name: Name of the new run; None: `run-` and the start of its key.
        tracking_uri: Where the store is. None: `MLFLOW_TRACKING_URI`, else MLflow's default, `sqlite:///mlflow.db`.
        tags: Tags of the new run.
        run_id: Goes on with this run instead of starting one.
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
        # Not MLFlowLogger.__init__: it opens the store, unlocked, on every rank. A test compares the attributes.
        Logger.__init__(self)
        if save_dir and not tracking_uri and not os.environ.get("MLFLOW_TRACKING_URI"):
            tracking_uri = sqlite_uri(Path(save_dir, "mlflow.db"))
        joined = run_to_join()
        if joined is not None:
            tracking_uri, run_id = joined
        experiment_name, run_name = stored_experiment_name(experiment_name), run_name and plain_text(run_name)
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

        self._run = TrackedRun(
            self._tracking_uri, experiment_name, run_name, tags, run_id, artifact_location, self._state_to_resume,
            finalize_timeout,
        )  # fmt: skip
        self._resume_from = resume_from
        self._resumed: tuple[str, RunState] | None = None
        self._synchronous = bool(synchronous)
        self._is_held = False
        self._artifact_dir: Path | None = None
        self._has_no_folder = False
        self._stored_name = self._run.stored_name
        self._non_finite = NonFinite()
        self._log_system_metrics = log_system_metrics
        self._system_metrics: SystemMetrics | None = None
        self._links: CheckpointLinks | None = None

    def __getstate__(self) -> dict[str, Any]:
        # A spawned rank has threads and connections of its own.
        return self.__dict__ | {"_mlflow_client": None, "_system_metrics": None}

    # The run ----------------------------------------------------------------------------------------------------------

    @property
    @rank_zero_experiment
    def experiment(self) -> "MlflowClient":
        """The `MlflowClient`, for calls of your own, which are not spooled. A store that is away gives a dummy."""
        if self._mlflow_client is None:
            require_known_kind(self._tracking_uri)
            if self._tracking_uri.startswith("http"):
                from mlflow.tracking import MlflowClient

                self._mlflow_client = MlflowClient(self._tracking_uri)  # connects in each call, not before
            else:
                run = self._run.opened()
                if run is None:
                    return _DummyExperiment()  # type: ignore[return-value]  # as on the other ranks
                self._mlflow_client = run.client
        return self._mlflow_client

    @property
    def tracking_uri(self) -> str:
        """Address of the store."""
        return self._tracking_uri

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

    # Lightning makes the folder of checkpoints from these two. It has to be the same when a run is resumed,
    # whether or not a server answers that day.
    @property
    def name(self) -> str | None:
        """The experiment: its identifier; its name for a store that is no local file, or cannot be opened."""
        if is_for_checkpoint_folder() and self.save_dir is not None:
            return ""  # `save_dir` is this run's alone
        if self._run.is_remote:
            return safe_name(self._experiment_name)
        return self.experiment_id or (safe_name(self._experiment_name) if _is_rank_zero() else None)

    @property
    def version(self) -> str | None:
        """The run: its `run_id`; its key, a tag, for a store that is no local file, or cannot be opened."""
        if is_for_checkpoint_folder() and self.save_dir is not None:
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

    def _state_to_resume(self) -> RunState:
        path, loggers = self._resume_from, [self]
        if not _is_rank_zero():
            return {}
        if path is None and (fit := fit_in_progress()) is not None:
            trainer, path = fit
            loggers = [logger for logger in trainer.loggers if isinstance(logger, BufferedMLFlowLogger)]
        if not path:
            return {}
        if self._resumed is None or self._resumed[0] != str(path):  # the file is read once
            states = match_states(read_run_states(path), [logger.place for logger in loggers])
            self._resumed = str(path), states[loggers.index(self)]
        return self._resumed[1]

    def continue_run(self, state: RunState) -> None:
        """Goes on with the run of a checkpoint's `run_state`.

        Without effect once something is logged, and for a run that is given by its id or by a sweep.
        """
        self._run.go_on(state)

    # Files ------------------------------------------------------------------------------------------------------------

    @property
    def save_dir(self) -> str | None:
        """Folder for files of the run, on rank 0; None on the other ranks, and where it cannot be made."""
        if not _is_rank_zero() or self._has_no_folder:
            return None
        if self._artifact_dir is None:
            run = None if self._run.is_remote else self._run.opened()
            folder = (run.artifact_dir if run is not None else None) or self._run.staging_dir
            self._run.start()
            try:
                make_private(folder)
            except OSError:
                log.warning("Cannot make the folder %s for files of the run: its checkpoints are no artifacts.", folder)
                self._has_no_folder = True
                return None
            self._artifact_dir = folder
        return str(self._artifact_dir)

    @rank_zero_only
    def log_text(self, text: str, artifact_file: str) -> None:
        """Takes `text` as an artifact and returns at once.

        Raises:
            ValueError: `artifact_file` leads out of the artifacts, or is no name for a file.
        """
        _require_inside("artifact_file", artifact_file)
        self._put({"text": plain_text(text), "file": artifact_file})

    @rank_zero_only
    def log_artifact(self, local_path: str | Path, artifact_path: str = "") -> None:
        """Copies a file to the run's artifacts, into the folder `artifact_path` there.

        Raises:
            ValueError: `artifact_path` leads out of the artifacts, or is no name for a folder.
        """
        _require_inside("artifact_path", artifact_path or Path(local_path).name)
        if self.save_dir is None:  # which has been reported
            return
        target = Path(self.save_dir, artifact_path, Path(local_path).name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not (target.exists() and target.samefile(local_path)):
            shutil.copyfile(local_path, target)
        self._mirror()

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: "ModelCheckpoint") -> None:
        """Makes the artifacts follow the checkpoints there are now."""
        if self._log_model and self.save_dir is not None:
            try:
                if self._links is None:
                    self._links = CheckpointLinks(Path(self.save_dir), keep_all=self._log_model == "all")
                self._links.update(checkpoint_callback)
            except OSError as error:  # a full disk must not end the run
                log.warning("Cannot keep the checkpoint as an artifact of %s: %s", self._run.label, error)
                self._links = None
                self._log_model = False
        self._mirror()

    def _mirror(self) -> None:
        if self._artifact_dir is not None and self._artifact_dir == self._run.staging_dir:
            self._forget_password(self._artifact_dir / "config.yaml")
            self._put({"mirror": True})

    def _forget_password(self, config: Path) -> None:
        # What LightningCLI's own SaveConfigCallback has written there holds the address as it was given.
        if redacted(self._tracking_uri) != self._tracking_uri and config.is_file():
            text = config.read_text()
            config.write_text(text.replace(self._tracking_uri, storable(self._tracking_uri)))

    # Metrics, params, tags --------------------------------------------------------------------------------------------

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Takes the metrics and returns at once; text values are left out, non-finite ones become a tag.

        A step beyond the 64 bits of MLflow's is the last one that they hold.
        """
        # step may be one of NumPy's numbers
        at = max(-_LAST_STEP, min(int(step or 0), _LAST_STEP))
        self._put_metrics(_add_prefix(metrics, self._prefix, self.LOGGER_JOIN_CHAR), at)

    def _put_metrics(self, metrics: Mapping[str, Any], at: int) -> None:
        values: dict[str, float] = {}
        has_new = False
        for given, value in metrics.items():
            if isinstance(value, str):
                continue
            name = self._stored_name(given)
            value = float(value)
            if math.isfinite(value):
                values[name] = value
            elif self._non_finite.add(name, at):
                has_new = True
        if has_new:
            self.log_tags({NON_FINITE_TAG: self._non_finite.text()})
        self._non_finite.recover(values)
        for part in _parts(values, MAX_ENTRIES):
            self._put({"m": part, "t": now_ms(), "s": at})

    def _put_sample(self, metrics: Mapping[str, float], number: int) -> None:
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._put({"m": finite, "t": now_ms(), "n": number})

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Takes the params, nested ones flattened with `/`, and returns at once.

        MLflow never changes a param: of a run that is gone on with, those it has stay as they are.
        """
        given = _flatten_dict(_convert_params(params))
        flat = {self._stored_name(str(key)): plain_text(str(value)) for key, value in given.items()}
        cut = [key for key, value in flat.items() if len(value) > MAX_PARAM]
        if cut:
            log.warning("Params are cut to the %d characters that MLflow takes: %s", MAX_PARAM, ", ".join(cut))
            flat |= {key: flat[key][:MAX_PARAM] for key in cut}
        for part in _parts(flat, MAX_PARAMS_OR_TAGS):
            self._put({"p": part})

    @rank_zero_only
    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Takes the tags and returns at once; a later value of a tag replaces the earlier one."""
        for part in _parts(stored_tags(tags, self._stored_name), MAX_PARAMS_OR_TAGS):
            self._put({"g": part})

    @rank_zero_only
    def log_graph(self, model: Module, input_array: Any = None) -> None:
        """Tags the run with what its callbacks monitor: Lightning calls this when a Trainer is set up. No graph."""
        trainer = getattr(model, "_trainer", None)  # the property raises where there is none
        if trainer is not None:
            prefixed = partial(_add_prefix, prefix=self._prefix, separator=self.LOGGER_JOIN_CHAR)
            tags = tags_of(trainer, lambda metric: self._stored_name(*prefixed({metric: 0.0})))
            self._non_finite.monitored |= monitored_in(tags).keys()
            self.log_tags(tags)

    def _put(self, record: Record) -> None:
        if self._log_system_metrics:
            self._log_system_metrics = False  # once, until the run ends
            self._system_metrics = SystemMetrics(self._put_sample)
        self._run.put(record)
        if self._synchronous:
            self._run.drain()

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until everything logged so far is in the store.

        Returns:
            True when it is (on ranks other than 0 always), False after `timeout` seconds.
        """
        return self._run.flush(timeout)

    # The end ----------------------------------------------------------------------------------------------------------

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
        """Delivers what is left and ends the run; says once what the store did not take, and raises nothing."""
        if not self._run.is_started or self._is_held:
            return
        if status == "failed":
            # Lightning calls Ctrl-C, SIGTERM and faults alike "failed", from within the exception's handler.
            self._end_run(status_of(sys.exc_info()[1]) if sys.exc_info()[1] else "FAILED")
        else:
            self._end_run("FINISHED")

    @rank_zero_only
    def _end_run(self, status: Status) -> None:
        if self._system_metrics is not None:
            self._system_metrics.stop()
            self._system_metrics = None
        if self._non_finite.has_some_left:
            self.log_tags({NON_FINITE_TAG: self._non_finite.text(has_ended=True)})
        if self._links is not None:
            with suppress(OSError):  # a full disk; the checkpoints there are stay
                self._links.finish()
        self._mirror()
        self._run.end(status)


def _is_rank_zero() -> bool:
    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]  # set by Lightning


def _require_inside(option: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or parts[0] == "/" or plain_text(path) != path:
        raise ValueError(f"Invalid {option}={path!r}. Must be a path inside the run's artifacts, such as notes/a.txt.")
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise ValueError(f"Invalid {option}={path!r}. Must have names of at most {_LONGEST_NAME} bytes.")


def _parts(items: dict[str, Any], size: int) -> Iterator[dict[str, Any]]:
    """`items` in pieces of at most `size`."""
    if len(items) <= size:
        if items:
            yield items
        return
    pairs = list(items.items())
    for start in range(0, len(pairs), size):
        yield dict(pairs[start : start + size])
