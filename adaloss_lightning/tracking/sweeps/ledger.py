"""The runs of a sweep in the store: the parent, a child for each point, and how each ended."""

import socket
import sys
from collections.abc import Mapping

from mlflow.entities import Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from adaloss_lightning.tracking.errors import StoreError
from adaloss_lightning.tracking.logger.run_end import Status
from adaloss_lightning.tracking.logger.tracked_run import stored_tags
from adaloss_lightning.tracking.metrics import has_diverged
from adaloss_lightning.tracking.names import StoredNames, run_name
from adaloss_lightning.tracking.retry import Patience, impatient
from adaloss_lightning.tracking.runs import MlflowClient, all_runs
from adaloss_lightning.tracking.store import ensure_experiment
from adaloss_lightning.tracking.sweeps.executors.task import Outcome
from adaloss_lightning.tracking.sweeps.resume import HOST_TAG, SWEEP_TAG, Earlier
from adaloss_lightning.tracking.tags import (
    COLOUR_TAG,
    DIVERGED_TAG,
    ERROR_TAG,
    KIND_TAG,
    METRIC_TAG,
    MODE_TAG,
    NON_FINITE_TAG,
    PARENT_TAG,
)

NODE_TAG = "adaloss.ray_node"


class Ledger:
    """Writes what happens to a sweep. A store that is away for a while is waited for.

    Args:
        client: Client of the store.
        experiment: Name of the experiment; created where it does not exist.
        identity: Of the sweep; a tag of all its runs.
        params: What was swept; params of all its runs, as MLflow's filters drop children that lack the parent's.
        compared: Tags of the parent: the metric and the mode that the user asked to compare.
    """

    def __init__(
        self,
        client: MlflowClient,
        experiment: str,
        identity: str,
        params: Mapping[str, str],
        compared: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._patiently = Patience(client.tracking_uri)
        with impatient():  # nothing has begun yet that would be worth waiting for
            self._experiment_id = ensure_experiment(client, experiment)
        self._tags = {SWEEP_TAG: identity, HOST_TAG: socket.gethostname()}
        self._params, self._compared = dict(params), dict(compared or {})
        self.parent_id = ""

    def begin(self, name: str) -> None:
        """Starts the parent run."""
        self.parent_id = self._create_run(name, {KIND_TAG: "sweep"} | self._compared, {})

    def resume(self, earlier: Earlier) -> None:
        """Goes on under the parent of an earlier sweep; its runs that died with it are KILLED.

        One that was killed before it had written its params gets them.
        """
        self.parent_id = earlier.parent.info.run_id
        self._patiently(self._client.update_run, self.parent_id, status="RUNNING")
        known = earlier.parent.data.params
        self._log_params(self.parent_id, {key: value for key, value in self._params.items() if key not in known})
        for tag, value in {HOST_TAG: self._tags[HOST_TAG], **self._compared}.items():
            self._patiently(self._client.set_tag, self.parent_id, tag, value)
        if self._compared:  # the mode that belonged to another metric, say
            for tag in earlier.parent.data.tags.keys() & {METRIC_TAG, MODE_TAG} - self._compared.keys():
                self._patiently(self._client.delete_tag, self.parent_id, tag)
        self._end_children(earlier.unfinished)

    def start_point(self, name: str, params: Mapping[str, str], colour: str = "") -> str:
        """Starts the run of a point and returns its identifier; the colour is for MLflow's charts."""
        tags = {KIND_TAG: "point", PARENT_TAG: self.parent_id} | ({COLOUR_TAG: colour} if colour else {})
        return self._create_run(name, tags, params)

    def settle(self, run_id: str, outcome: Outcome) -> Run:
        """Makes the stored run say how its point ended, whatever the project's own code left there.

        Returns:
            The run as the project left it.

        Raises:
            MlflowException: The store refuses: the run was deleted.
        """
        run = self._patiently(self._client.get_run, run_id)
        if run.info.status != outcome.status:
            self._patiently(self._client.set_terminated, run_id, outcome.status)
        tags = {HOST_TAG: outcome.host, NODE_TAG: outcome.node, ERROR_TAG: outcome.error}
        if has_diverged(run, None):  # also where nothing in the project looks for it, so that MLflow's filters find it
            tags[DIVERGED_TAG] = run.data.tags.get(DIVERGED_TAG) or run.data.tags.get(NON_FINITE_TAG) or "at the end"
        new = [
            RunTag(key, text)
            for key, text in stored_tags(tags, StoredNames()).items()
            if text and text != run.data.tags.get(key)
        ]
        if new:
            self._patiently(self._client.log_batch, run_id, tags=new)
        if outcome.output:
            self._patiently(self._client.log_text, run_id, outcome.output, "error.txt")
        return run

    def close(self, status: Status) -> None:
        """Ends the parent, and as KILLED what still runs under it.

        Does not wait for the store after a KILLED sweep: the user may have pressed Ctrl-C because it is away.
        """
        if status == "KILLED":
            self._patiently.limit_s = 0.0
        running = f"tags.`{PARENT_TAG}` = '{self.parent_id}' and attributes.status = 'RUNNING'"
        try:
            children = self._patiently(all_runs, self._client, self._experiment_id, running)
            self._end_children([run.info.run_id for run in children])
            self._patiently(self._client.set_terminated, self.parent_id, status)
        except (StoreError, MlflowException) as error:
            print(f"Some runs may stay RUNNING in the store: {error}", file=sys.stderr)

    def _end_children(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            self._patiently(self._client.set_terminated, run_id, "KILLED")

    def _create_run(self, name: str, tags: dict[str, str], params: Mapping[str, str]) -> str:
        run = self._patiently(
            self._client.create_run, self._experiment_id, run_name=run_name(name), tags=resolve_tags(tags | self._tags)
        )
        self._log_params(str(run.info.run_id), self._params | dict(params))
        return str(run.info.run_id)

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        if params:
            self._patiently(self._client.log_batch, run_id, params=[Param(*pair) for pair in params.items()])
