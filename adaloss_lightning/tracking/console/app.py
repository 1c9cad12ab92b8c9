"""The console command `adaloss`: sweep, report, leaderboard, ui, sync, doctor, theory."""

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from adaloss_lightning.extras import not_installed
from adaloss_lightning.tracking.console.theory import add_theory
from adaloss_lightning.tracking.errors import TrackingError, one_line
from adaloss_lightning.tracking.names import plain_text
from adaloss_lightning.tracking.terminal import show
from adaloss_lightning.version import __version__

USAGE_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default the process's.

    Returns:
        Exit code: 0, 1 when points of a sweep failed, 2 for what the user can put right, 130 after Ctrl-C or SIGTERM.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    cut = given.index("--") if "--" in given else len(given)
    try:
        arguments = console_parser().parse_args(given[:cut])
        if given[cut + 1 :] and arguments.command is not _sweep:
            raise TrackingError(f"Only sweep takes arguments after --, got {shlex.join(given[cut + 1 :])}.")
        arguments.extra = given[cut + 1 :]
        _require_names(arguments)
        code: int = arguments.command(arguments)
    except TrackingError as error:
        print(f"adaloss: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except ModuleNotFoundError as error:  # of a project that is swept, `module` makes a SweepError
        print(f"adaloss: error: {not_installed(error.name, 'tracking')}", file=sys.stderr)
        return USAGE_ERROR
    except SystemExit as stop:  # argparse, after --help or its own message
        return stop.code if isinstance(stop.code, int) else USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if not type(error).__module__.startswith("mlflow"):
            raise  # a fault of this program, with its traceback
        # The store was there and is no more, or takes the password no longer.
        uri = arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        print(f"adaloss: error: the MLflow store: {one_line(error, uri, 500)}", file=sys.stderr)
        return USAGE_ERROR
    return code


def console_parser() -> argparse.ArgumentParser:
    """The parser of the command line, up to the `--` after which LightningCLI's arguments begin."""
    parser = argparse.ArgumentParser(
        "adaloss", description="Sweeps, reports and the rest of adaloss-lightning.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"adaloss-lightning {__version__}")
    commands = parser.add_subparsers(required=True, metavar="{sweep,report,leaderboard,ui,sync,doctor,theory}")
    store = argparse.ArgumentParser(add_help=False)
    store.add_argument("--tracking-uri", metavar="URI", help="MLflow store instead of MLFLOW_TRACKING_URI or mlflow.db")
    compared = argparse.ArgumentParser(add_help=False)
    compared.add_argument(
        "--metric", help="what is compared (default: test/acc, or what the task has: val/acc, test/return, test/loss)"
    )
    modes = compared.add_mutually_exclusive_group()
    modes.add_argument("--minimize", dest="mode", action="store_const", const="min", help="small values are good")
    modes.add_argument("--maximize", dest="mode", action="store_const", const="max", help="large values are good")

    sweep = commands.add_parser(
        "sweep",
        parents=[store, compared],
        allow_abbrev=False,
        help="run methods over b0, seeds and any other option; the same command continues it",
        epilog="Arguments after -- go to the recipe's LightningCLI, for example: -- --trainer.max_epochs 3",
    )
    sweep.add_argument("--recipe", required=True, help="digits, another recipe, or any module with main(args)")
    sweep.add_argument("--methods", required=True, help="comma-separated, each a YAML file of the recipe")
    sweep.add_argument("--b0", required=True, help="comma-separated numbers > 0")
    sweep.add_argument("--seeds", default="1", help="comma-separated whole numbers (default: 1)")
    sweep.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="OPTION=VALUE,VALUE",
        help="values of any LightningCLI option, as in --grid optimizer.lr=0.1,0.01; may be given again",
    )
    sweep.add_argument("--jobs", type=int, help="runs at the same time (default: 1; with ray, what there is room for)")
    sweep.add_argument("--executor", choices=("local", "ray"), default="local", help="where to run (default: local)")
    sweep.add_argument("--fresh", action="store_true", help="start a new sweep instead of continuing an earlier one")
    sweep.add_argument("--experiment", help="MLflow experiment (default: the recipe's name)")
    sweep.set_defaults(command=_sweep)

    report = commands.add_parser(
        "report", parents=[store, compared], allow_abbrev=False, help="tables, figures and a page"
    )
    shown = report.add_mutually_exclusive_group(required=True)
    shown.add_argument("--experiment", action="append", help="its newest sweep is shown; give it again to compare more")
    shown.add_argument("--runs", type=Path, metavar="FILE", help="runs.json of an earlier report, instead of a store")
    report.add_argument("--out", help="folder for the report's files (default: reports/<experiment>)")
    report.set_defaults(command=_report)

    leaderboard = commands.add_parser(
        "leaderboard",
        parents=[store],
        allow_abbrev=False,
        help="compare optimizers at their defaults and tuned; the same command continues it",
    )
    leaderboard.add_argument(
        "--quick", action="store_true", help="two seeds, half as long; only small tasks unless --tasks"
    )
    leaderboard.add_argument("--tasks", help="comma-separated (default: all whose data are there)")
    leaderboard.add_argument("--methods", help="comma-separated, beside auto (default: all)")
    leaderboard.add_argument("--jobs", type=int, help="runs at the same time (default: 2 where there are two cores)")
    leaderboard.add_argument("--out", help="folder of results and page (default: in reports)")
    leaderboard.set_defaults(command=_leaderboard)

    ui = commands.add_parser("ui", parents=[store], allow_abbrev=False, help="open the MLflow UI on the right store")
    ui.add_argument("--port", type=int, default=5000, help="default: 5000")
    ui.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, for this machine only")
    ui.add_argument("--no-browser", action="store_true", help="only print where the UI is")
    ui.set_defaults(command=_ui)
    sync = commands.add_parser(
        "sync",
        parents=[store],
        allow_abbrev=False,
        help="deliver what runs could not: a server away, a killed process",
    )
    sync.add_argument("--spool", type=Path, metavar="DIR", help="default: ADALOSS_SPOOL or .adaloss")
    sync.add_argument("--discard", action="store_true", help="delete what cannot be delivered even now")
    sync.set_defaults(command=_sync)
    add_theory(commands)
    doctor = commands.add_parser(
        "doctor", parents=[store], allow_abbrev=False, help="what works here, and what does not"
    )
    doctor.set_defaults(command=_doctor)
    return parser


def _require_names(arguments: argparse.Namespace) -> None:
    given = getattr(arguments, "experiment", None)
    for name in given if isinstance(given, list) else [] if given is None else [given]:
        if not name.strip() or plain_text(name) != name:
            raise TrackingError(f"Invalid --experiment={name!r}. Must be a name of characters that UTF-8 has.")
    if getattr(arguments, "out", None) == "":
        raise TrackingError("Invalid --out=''. Must be a folder.")


def _sweep(arguments: argparse.Namespace) -> int:
    from adaloss_lightning.tracking.console.summary import show_summary, store_option
    from adaloss_lightning.tracking.grid import Grid
    from adaloss_lightning.tracking.sweeps.project import Project
    from adaloss_lightning.tracking.sweeps.sweep import Sweep

    grid = Grid.parse(arguments.methods, arguments.b0, arguments.seeds, arguments.grid)
    project = Project.find(arguments.recipe)
    sweep = Sweep(
        project,
        grid,
        experiment=arguments.experiment,
        jobs=arguments.jobs,
        extra=arguments.extra,
        uri=arguments.tracking_uri,
        executor=arguments.executor,
        fresh=arguments.fresh,
        metric=arguments.metric,
        mode=arguments.mode,
    )
    store = store_option(sweep.client.tracking_uri)
    status = sweep.run()
    for point, error in sweep.standing.failed:
        print(f"failed: {point}: {error}", file=sys.stderr)
    if status == "KILLED":
        print(
            "Stopped. The same command continues it. "
            f"What was done is kept: adaloss report --experiment {shlex.quote(sweep.experiment)}{store}",
            file=sys.stderr,
        )
        return INTERRUPTED
    if sweep.done_before == len(grid.points()):
        print("Nothing is left to do: all points of this sweep are done. --fresh starts a new one.")
    show_summary(sweep, store)
    return 1 if sweep.standing.failed or status == "FAILED" else 0


def _report(arguments: argparse.Namespace) -> int:
    from adaloss_lightning.tracking.reports.kept import read
    from adaloss_lightning.tracking.reports.report import folder_for, text_table, write_report
    from adaloss_lightning.tracking.reports.results import collect_all
    from adaloss_lightning.tracking.retry import impatient
    from adaloss_lightning.tracking.store import open_store

    with impatient():
        if arguments.runs is None:
            client = open_store(arguments.tracking_uri, reading=True)
            results = collect_all(client, arguments.experiment, arguments.metric, arguments.mode)
        elif arguments.metric or arguments.mode or arguments.tracking_uri:
            raise TrackingError(
                "Invalid options beside --runs, whose file says what is compared. Leave out all but --out."
            )
        else:
            results = read(arguments.runs)
        folder = Path(arguments.out or folder_for(results.experiment))
        show(text_table(results))
        show("\n" + "\n".join(f"wrote {path}" for path in write_report(results, folder)))
    return 0


def _leaderboard(arguments: argparse.Namespace) -> int:
    # Recipes are found by name: nothing of this package imports them.
    try:
        command = importlib.import_module("recipes.leaderboard.command")
    except ModuleNotFoundError as error:
        raise TrackingError(
            f"The leaderboard needs {error.name}, which is not there: pip install 'adaloss-lightning[recipes,bench]'."
        ) from error
    names = {name: getattr(arguments, name) for name in ("tasks", "methods")}
    chosen = {name: text.split(",") if text else None for name, text in names.items()}
    out = Path(arguments.out) if arguments.out else None
    given = {"is_quick": arguments.quick, "jobs": arguments.jobs, "out": out, "uri": arguments.tracking_uri}
    code: int = command.run(**chosen, **given)
    return code


def _ui(arguments: argparse.Namespace) -> int:
    from adaloss_lightning.tracking.console.ui import serve

    return serve(arguments.tracking_uri, arguments.port, arguments.host, not arguments.no_browser)


def _sync(arguments: argparse.Namespace) -> int:
    from adaloss_lightning.tracking.console.sync import sync

    return sync(arguments.tracking_uri, arguments.spool, discard_rest=arguments.discard)


def _doctor(arguments: argparse.Namespace) -> int:
    from adaloss_lightning.tracking.console.doctor import doctor

    return doctor(arguments.tracking_uri)


if __name__ == "__main__":
    sys.exit(main())
