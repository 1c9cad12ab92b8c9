"""Another rank of a point: what Lightning's launchers start, `python -m ...sweeping.rank`."""

import os

from adaloss_lightning.tracking.joined_run import joined_run
from adaloss_lightning.tracking.sweeping.guest import TASK_VARIABLE
from adaloss_lightning.tracking.sweeping.project import call_main
from adaloss_lightning.tracking.sweeping.worker import Task


def main() -> None:
    """Runs the point's command line; it fails loudly, and Lightning then ends the other ranks."""
    task = Task.from_json(os.environ[TASK_VARIABLE])
    with joined_run(task.tracking_uri, task.run_id):
        call_main(task.module, task.args)


if __name__ == "__main__":
    main()
