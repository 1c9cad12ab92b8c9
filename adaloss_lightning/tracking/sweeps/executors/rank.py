"""Another rank of a point: what Lightning's launchers start, `python -m ...sweeping.rank`."""

import os

from adaloss_lightning.tracking.logger.resume import joined_run
from adaloss_lightning.tracking.sweeps.executors.worker import Task
from adaloss_lightning.tracking.sweeps.guest import TASK_VARIABLE
from adaloss_lightning.tracking.sweeps.project import call_main


def main() -> None:
    """Runs the point's command line; it fails loudly, and Lightning then ends the other ranks."""
    task = Task.from_json(os.environ[TASK_VARIABLE])
    with joined_run(task.tracking_uri, task.run_id):
        call_main(task.module, task.args)


if __name__ == "__main__":
    main()
