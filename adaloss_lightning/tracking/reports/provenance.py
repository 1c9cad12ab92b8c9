"""Provenance of a report: the facts that its runs carry about themselves."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from adaloss_lightning.tracking.grid import LOG_B0
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.runs import Run
from adaloss_lightning.tracking.tags import COMMIT_TAG
from adaloss_lightning.version import __version__

_POINT = ("method", "b0", LOG_B0, "seed")  # what the table is arranged by
_MOST = 12  # values listed of a param that differs


def facts(results: Results) -> list[tuple[str, str]]:
    """Name and value of each fact, in reading order."""
    runs = list(results.runs.values())
    ends = Counter(str(run.info.status).lower() for run in runs)
    rows = [
        ("Experiment", results.experiment),
        ("Recipe", _values(runs, "recipe")),
        ("Runs", f"{len(runs):,}: " + ", ".join(f"{count:,} {status}" for status, count in ends.most_common())),
        ("Rows", ", ".join(results.methods)),
        ("b0", ", ".join(f"{b0:g}" for b0 in results.b0s)),
        ("Seeds", _shortened(results.seeds)),
        ("Started", _dates(runs)),
        ("Time of a run", _duration(runs)),
        ("Machine", _values(runs, "machine")),
        ("Code", ", ".join(sorted({commit[:12] for run in runs if (commit := run.data.tags.get(COMMIT_TAG))}))),
        ("Sweep", results.parent_id or ""),
        ("Report", f"adaloss-lightning {__version__}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"),
    ]
    return [(name, value) for name, value in rows if value]


def params(results: Results) -> list[tuple[str, str]]:
    """Every param but those of the table: its value, or its values where runs differ."""
    runs = list(results.runs.values())
    names = sorted({name for run in runs for name in run.data.params})
    return [(name, _values(runs, name)) for name in names if name not in _POINT and not name.startswith("sweep.")]


def _values(runs: Sequence[Run], param: str) -> str:
    return _shortened(sorted({run.data.params[param] for run in runs if param in run.data.params}))


def _shortened(values: Sequence[str]) -> str:
    more = f" and {len(values) - _MOST} more" if len(values) > _MOST else ""
    return ", ".join(values[:_MOST]) + more


def _dates(runs: Sequence[Run]) -> str:
    starts = [datetime.fromtimestamp(run.info.start_time / 1000, UTC) for run in runs if run.info.start_time]
    if not starts:
        return ""
    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (min(starts), max(starts)))
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def _duration(runs: Sequence[Run]) -> str:
    seconds = sorted((run.info.end_time - run.info.start_time) / 1000 for run in runs if run.info.end_time)
    if not seconds:
        return ""
    return f"{seconds[0]:.1f} to {seconds[-1]:.1f} s, median {seconds[len(seconds) // 2]:.1f} s"
