"""Problems, two steps timed in turns, and results as a table and as JSON, for all benchmarks.

Two steps are timed in pairs, in an order that alternates, in one process, where it can be on the very same memory: two
copies of 87 MB differ in speed by several percent just by where they happen to lie, and a machine's speed drifts.
"""

import argparse
import datetime
import inspect
import json
import platform
import statistics
import string
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from adaloss_lightning.tracking.sweeps.executors.shares import available_cores

Parameters = list[torch.nn.Parameter]
Make = Callable[[Any], Any]  # an optimizer of these parameters or groups
Step = Callable[[], Any]
Row = dict[str, Any]
Columns = Mapping[str, str]  # heading: format of a cell, e.g. "{ratio:.3f}"

LOSS = torch.tensor(0.7)
RESULTS = Path(__file__).parent / "results"


# -- problems ----------------------------------------------------------------------------------------------------------


def vit_small_net() -> torch.nn.Module:
    """ViT-S/16 with 100 classes."""
    import timm

    return timm.create_model("vit_small_patch16_224", num_classes=100)


def vit_small() -> Parameters:
    """Its 21.7 M parameters in 152 tensors."""
    return list(vit_small_net().parameters())


def resnet50() -> Parameters:
    """ResNet-50 with 1,000 classes: 25.6 M parameters in 161 tensors."""
    import timm

    return list(timm.create_model("resnet50").parameters())


def lstm() -> Parameters:
    """20,000 words of size 128, two layers of 256 units: 3.5 M parameters in 11 tensors."""
    layers = (torch.nn.Embedding(20_000, 128), torch.nn.LSTM(128, 256, num_layers=2), torch.nn.Linear(256, 1))
    return [p for layer in layers for p in layer.parameters()]


def tiny(count: int = 2000, size: int = 4) -> Parameters:
    """Many tensors of a few numbers, where all time is overhead."""
    return [torch.nn.Parameter(torch.randn(size)) for _ in range(count)]


TINY = "2,000 tensors of 4"
PROBLEMS: dict[str, Callable[[], Parameters]] = {
    "ViT-S/16": vit_small,
    "ResNet-50": resnet50,
    "LSTM": lstm,
    TINY: tiny,
}


def with_gradients(parameters: Parameters) -> Parameters:
    """The same parameters, with a gradient of 1e-3 everywhere."""
    for p in parameters:
        p.grad = torch.full_like(p, 1e-3)
    return parameters


def copy_with_gradients(parameters: Parameters) -> Parameters:
    """Copies of the values, with gradients."""
    return with_gradients([torch.nn.Parameter(p.detach().clone()) for p in parameters])


# -- timing ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Medians over pairs, times in microseconds.

    `ratio_low` and `ratio_high` are the quartiles of the ratio, `added_error_us` is the standard error of `added_us`,
    from the median distance to it.
    """

    ours_us: float
    theirs_us: float
    ratio: float
    ratio_low: float
    ratio_high: float
    added_us: float
    added_error_us: float
    pairs: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[float, float]]) -> "Comparison":
        """Of the times (ours, theirs) of at least two pairs."""
        pairs = list(pairs)
        ours, theirs = zip(*pairs, strict=True)
        low, middle, high = statistics.quantiles((a / b for a, b in pairs), method="inclusive")
        added = [a - b for a, b in pairs]
        medians = statistics.median(ours), statistics.median(theirs)
        return cls(*medians, middle, low, high, statistics.median(added), median_error(added), len(pairs))

    def row(self, **what: Any) -> Row:
        """One row of a table."""
        return {**what, **asdict(self)}


def median_error(values: Sequence[float]) -> float:
    """Standard error of the median of normal numbers, from the median distance to it: outliers count little."""
    middle = statistics.median(values)
    return 1.4826 * 1.2533 * statistics.median(abs(one - middle) for one in values) / len(values) ** 0.5


def take_turns(
    ours: Step, theirs: Step, pairs: int, *, seconds: float = 60.0, before: Step | None = None, warm_up: int = 3
) -> Comparison:
    """Times both in pairs.

    Args:
        ours: One of the two.
        theirs: The other.
        pairs: Their number at most.
        seconds: What all pairs may take together; ten are made in any case.
        before: Called before each of the two, not timed.
        warm_up: Pairs before the first that counts.
    """
    times: list[tuple[float, float]] = []
    steps, end = (ours, theirs), time.perf_counter() + seconds
    for index in range(-warm_up, pairs):
        taken = [0.0, 0.0]
        for which in (0, 1) if index % 2 else (1, 0):
            if before is not None:
                before()
            begin = time.perf_counter()
            steps[which]()
            taken[which] = 1e6 * (time.perf_counter() - begin)
        if index >= 0:
            times.append((taken[0], taken[1]))
        if len(times) >= 10 and time.perf_counter() > end:
            break
    return Comparison.of(times)


def step_of(optimizer: Any, loss: torch.Tensor | float = LOSS) -> Step:
    """One step, with the loss for an optimizer that takes one. Called once, so that the optimizer has its state."""
    takes_loss = "loss" in inspect.signature(optimizer.step).parameters
    value = torch.as_tensor(loss)
    step: Step = (lambda: optimizer.step(loss=value)) if takes_loss else optimizer.step
    step()
    return step


def steps_of(
    parameters: Any, ours: Make, theirs: Make, *, share_state: bool = True, loss: torch.Tensor | float = LOSS
) -> tuple[Step, Step]:
    """A step of each of two optimizers of the same parameters, which use one state in turn if they share it."""
    one, other = ours(parameters), theirs(parameters)
    step = step_of(one, loss)
    if share_state:
        other.state = one.state
    return step, step_of(other, loss)


def compare(
    parameters: Parameters, ours: Make, theirs: Make, pairs: int, *, share_state: bool = True, **options: Any
) -> Comparison:
    """Steps of two optimizers on the same copies of parameters, and their gradients; `options` are of `take_turns`."""
    copies = copy_with_gradients(parameters)
    return take_turns(*steps_of(copies, ours, theirs, share_state=share_state), pairs, **options)


def sweep_caches() -> None:
    """Reads 256 MB, so that nothing else is left in the caches."""
    _large().sum()


@cache
def _large() -> torch.Tensor:
    return torch.ones(2**26)


# -- results -----------------------------------------------------------------------------------------------------------


def cell(template: str, row: Row) -> str:
    """The formatted cell, empty where the row lacks the value."""
    fields = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    return template.format(**row) if all(row.get(name) is not None for name in fields) else ""


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(columns: Columns) -> str:
    rule = ["---:" if ":" in template else "---" for template in columns.values()]  # numbers to the right
    return f"{_line(columns)}\n|{'|'.join(rule)}|"


def markdown(rows: Iterable[Row], columns: Columns) -> str:
    """A table of Markdown."""
    return "\n".join([_head(columns), *(_line(cell(one, row) for one in columns.values()) for row in rows)])


def print_table(rows: Iterable[Row], columns: Columns) -> list[Row]:
    """Prints each row as soon as it is there, and returns all of them."""
    print(_head(columns), flush=True)
    printed = []
    for row in rows:
        print(_line(cell(one, row) for one in columns.values()), flush=True)
        printed.append(row)
    print()
    return printed


def environment() -> Row:
    """Where and when the numbers were measured."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": available_cores(),
        "machine": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def write_json(
    path: Path, name: str, rows: list[Row], *, columns: Mapping[str, Columns] | None = None, **notes: Any
) -> None:
    """Writes what `benchmarks.page` reads.

    Args:
        path: Of the file.
        name: Of the benchmark.
        rows: Of all of its tables. Where there are several, `row["table"]` says which one.
        columns: The columns of each table, by its name; a table that has none here is shown with all of its values.
        **notes: What else belongs to the environment.
    """
    content = {"name": name, "environment": environment() | notes, "columns": dict(columns or {}), "rows": rows}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def arguments(name: str, description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--json", type=Path, default=RESULTS / f"{name}.json", help="where the numbers go")
    return parser
