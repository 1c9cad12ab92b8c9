"""`adaloss doctor`: what is installed here, what works, and what to do about the rest."""

import importlib
import importlib.util
import os
import platform
import re
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from adaloss_lightning.tracking.errors import TrackingError
from adaloss_lightning.version import __version__

_DISTRIBUTION = "adaloss-lightning"
_OPTIONAL = ("recipes", "ray", "bench")  # extras; what the console itself needs is in `tracking`
_WITH_DATA = ("vit_cifar100", "lstm_news")  # recipes whose real data are not in a package


class Finding(NamedTuple):
    """One line of the doctor's report.

    Attributes:
        subject: What was looked at.
        text: What was found.
        remedy: What to do; empty where nothing is wrong.
    """

    subject: str
    text: str
    remedy: str = ""


def doctor(tracking_uri: str | None = None) -> int:
    """Prints what was found, line by line.

    Args:
        tracking_uri: Store to look at; None takes the one that runs would go to.

    Returns:
        Exit code: 0 where nothing is wrong, 1 otherwise.
    """
    wrong = 0
    for finding in findings(tracking_uri):
        wrong += bool(finding.remedy)
        print(f"{'!' if finding.remedy else ' '} {finding.subject:<12} {finding.text}", flush=True)
        if finding.remedy:
            print(f"  {'':<12} -> {finding.remedy}", flush=True)
    print("Nothing is wrong." if not wrong else f"{wrong} to put right: see the lines with an arrow.")
    return 1 if wrong else 0


def findings(tracking_uri: str | None) -> Iterator[Finding]:
    """All that is looked at, the quick things first."""
    yield Finding("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}", _no_posix())
    yield Finding("adaloss", f"adaloss-lightning {__version__}")
    yield from _guarded("core", _packages)
    yield from _guarded("devices", _devices)
    yield from _guarded("kernels", _kernels)
    yield from _guarded("store", lambda: _store(tracking_uri))
    yield from _guarded("spool", _spool)
    yield from _data()


def _guarded(subject: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A look that fails is a finding, and the others go on."""
    try:
        yield from look()
    except ImportError as error:
        yield Finding(subject, f"{error.name or error} is not installed", "pip install 'adaloss-lightning[tracking]'")
    except TrackingError as error:
        yield Finding(subject, "out of order", str(error))


# -- what is installed -------------------------------------------------------------------------------------------------


def _packages() -> Iterator[Finding]:
    for extra in ("", "tracking", *_OPTIONAL):
        names = _required(extra)
        text = ", ".join(f"{name} {_version(name) or 'not installed'}" for name in names)
        install = "" if all(map(_version, names)) else f"pip install '{_DISTRIBUTION}{extra and f'[{extra}]'}'"
        if install and extra in _OPTIONAL:
            yield Finding(extra, f"{text} (optional: {install})")
        else:
            yield Finding(extra or "core", text, install)


def _required(extra: str) -> list[str]:
    """Packages that an extra adds, or those of all installations, as the package's own metadata name them."""
    named = [
        re.match(r"([\w.-]+)[^;]*(?:;.*extra == .(\w+))?", line) for line in metadata.requires(_DISTRIBUTION) or ()
    ]
    return [found[1] for found in named if found and (found[2] or "") == extra and found[1] != _DISTRIBUTION]


def _no_posix() -> str:
    return "tracking and sweeps need POSIX: use WSL" if platform.system() == "Windows" else ""


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# -- torch -------------------------------------------------------------------------------------------------------------


def _devices() -> Iterator[Finding]:
    import torch

    accelerators = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        accelerators.append("MPS, without float64: s is kept in float32")
    yield Finding("devices", f"{torch.get_num_threads()} CPU threads; {', '.join(accelerators) or 'no accelerator'}")


def _kernels() -> Iterator[Finding]:
    import torch

    from adaloss_lightning import AdaLoss, AdamLoss

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        for kind in (AdaLoss, AdamLoss):
            chosen = []
            for dtype in (torch.float32, torch.bfloat16, torch.float16):
                optimizer = kind([torch.nn.Parameter(torch.ones(4, device=device, dtype=dtype))])
                is_fused = optimizer.param_groups[0]["fused"]
                chosen.append(f"{str(dtype).removeprefix('torch.')} {'fused' if is_fused else 'default'}")
            yield Finding("kernels", f"{kind.__name__} on {device}: {', '.join(chosen)}")
    why = "as long as parameters, gradients and state are dense and lie alike in memory"
    yield Finding("kernels", f"fused is torch's own kernel, {why}; default is where it is wrong in this torch")


# -- tracking ----------------------------------------------------------------------------------------------------------


def _store(tracking_uri: str | None) -> Iterator[Finding]:
    from adaloss_lightning.tracking.address import redacted, sqlite_path
    from adaloss_lightning.tracking.retry import impatient
    from adaloss_lightning.tracking.store import open_store, resolve_uri

    uri = resolve_uri(tracking_uri)
    path = sqlite_path(uri)
    if path is not None and not Path(path).exists():
        folder = Path(path).parent
        if folder.is_dir() and os.access(folder, os.W_OK):
            yield Finding("store", f"{redacted(uri)}: none yet, the first run makes it")
        else:
            yield Finding("store", f"{redacted(uri)} cannot be made", f"make {folder} a folder you may write to")
        return
    with impatient():
        open_store(uri).search_experiments(max_results=1)
    if path is None:
        yield Finding("store", f"{redacted(uri)}: answers; whether it takes runs, the first one tells")
    else:
        yield Finding("store", f"{redacted(uri)}: answers, and can be written")


def _spool() -> Iterator[Finding]:
    from adaloss_lightning.tracking.logger.recovery import is_left, waiting
    from adaloss_lightning.tracking.logger.spool import spool_roots

    roots = spool_roots()
    left = [folder for folder in waiting(roots) if is_left(folder)]
    if left:
        count = f"{len(left)} runs that are over wait" if len(left) > 1 else "1 run that is over waits"
        yield Finding("spool", f"{count} in {roots[0]} to be delivered", "adaloss sync")
    else:
        yield Finding("spool", f"nothing waits in {roots[0]}")


# -- recipes -----------------------------------------------------------------------------------------------------------


def _data() -> Iterator[Finding]:
    """What recipes say of their data. They are found by name: tracking knows no recipe."""
    for name in _WITH_DATA:
        module = f"recipes.{name}.data"
        try:
            if importlib.util.find_spec(module) is None:
                continue
            yield Finding("data", f"{name}: {importlib.import_module(module).describe_data()}")
        except ImportError as error:
            yield Finding("data", f"{name}: {error.name} is not installed (optional)")
