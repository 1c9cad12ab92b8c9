"""Time until something happens, in fresh processes: `python -m benchmarks.startup [--pairs N]`.

Each command takes turns with one that does the same without this package.
"""

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.common import RESULTS, Columns, Row, print_table, take_turns, write_json

QUIET = "logger=False, enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False"
FIT = f"""
import logging, warnings
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
warnings.simplefilter("ignore")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
Trainer(max_steps=1, accelerator="cpu", callbacks=callbacks, {QUIET}).fit(BoringModel())
"""
CONSOLE = "from adaloss_lightning.tracking.console.app import main; main(['--help'])"
PAIRS = {  # what is timed: the code with this package, and the code without
    "import adaloss_lightning": ("import adaloss_lightning", "pass"),
    "its optimizers, beside torch": ("from adaloss_lightning import AdaLoss", "import torch"),
    "its callback, beside Lightning": ("from adaloss_lightning import AdaLossCallback", "import lightning.pytorch"),
    "adaloss --help, beside an empty program": (CONSOLE, "pass"),
    "a run of one step with the callback, beside one without": (
        f"from adaloss_lightning import AdaLossCallback; callbacks = [AdaLossCallback()]\n{FIT}",
        f"callbacks = []\n{FIT}",
    ),
}
COLUMNS: Columns = {
    "": "{name}",
    "ms": "{ours_ms:.0f}",
    "beside, ms": "{theirs_ms:.0f}",
    "ratio": "{ratio:.2f} ({ratio_low:.2f} to {ratio_high:.2f})",
    "added, ms": "{added_ms:.0f} +- {error_ms:.0f}",
}


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def row(name: str, ours: str, theirs: str, pairs: int) -> Row:
    found = take_turns(partial(run, ours), partial(run, theirs), pairs, warm_up=1)
    return found.row(
        name=name,
        ours_ms=found.ours_us / 1e3,
        theirs_ms=found.theirs_us / 1e3,
        added_ms=found.added_us / 1e3,
        error_ms=found.added_error_us / 1e3,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10, help="of processes for each line, after one that warms up")
    parser.add_argument("--json", type=Path, default=RESULTS / "startup.json", help="where the numbers go")
    given = parser.parse_args()
    rows = print_table((row(name, *codes, given.pairs) for name, codes in PAIRS.items()), COLUMNS)
    write_json(given.json, "startup", [{"table": "startup", **one} for one in rows], columns={"startup": COLUMNS})


if __name__ == "__main__":
    main()
