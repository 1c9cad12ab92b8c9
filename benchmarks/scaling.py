"""Growth of the cost: `python -m benchmarks.scaling [--json PATH] [--seconds N]`.

AdaLoss beside SGD and AdamLoss beside Adam (both fused) as parameters, tensors and groups become more; an optimizer
after 10,000 steps beside a new one; the all-reduce of one loss on 1, 2 and 4 ranks, and a model of it for more. Steps
are timed in pairs that alternate, on the same parameters, gradients and state. What needs more than 60 % of the free
memory is left out and named.
"""

import gc
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import psutil
import torch

from benchmarks.common import (
    Columns,
    Comparison,
    Parameters,
    Row,
    arguments,
    print_table,
    step_of,
    steps_of,
    take_turns,
    tiny,
    with_gradients,
    write_json,
)
from benchmarks.device_time import PAIRS, Pair
from benchmarks.ranks import MODEL, ranks

SHARE_OF_MEMORY = 0.6
TIMES = {
    "ours": "{ours}",
    "beside": "{beside}",
    "ours, us": "{ours_us:.0f}",
    "theirs, us": "{theirs_us:.0f}",
    "ratio": "{ratio:.3f}",
    "quartiles": "{ratio_low:.3f} to {ratio_high:.3f}",
    "added, us": "{added_us:+.0f}",
}
TABLES: dict[str, Columns] = {
    "parameters": {"parameters": "{count:,}"} | TIMES | {"left out": "{left_out}"},
    "tensors": {"tensors": "{count:,}"} | TIMES,
    "groups": {"groups": "{count:,}"} | TIMES,
    "steps": {
        "optimizer": "{ours}",
        "after steps": "{count:,}",
        "a step, us": "{ours_us:.1f}",
        "of a new one, us": "{theirs_us:.1f}",
        "ratio": "{ratio:.3f}",
        "bytes of state added": "{bytes}",
        "Python objects added": "{objects}",
    },
    "ranks": {"ranks": "{count:,}", "measured, us": "{measured_us:.0f}", "model, us": "{model_us:.0f}"},
}


def grouped(parameters: Parameters, count: int) -> list[Row]:
    """The parameters in so many groups of the same size."""
    size = len(parameters) // count
    return [{"params": parameters[i * size : (i + 1) * size]} for i in range(count)]


def side_by_side(pair: Pair, parameters: Any, seconds: float, pairs: int = 200) -> Comparison:
    """A step of ours beside torch's, on the same parameters, gradients and state."""
    steps = steps_of(parameters, pair.make, pair.make_theirs)
    return take_turns(*steps, pairs, seconds=seconds, warm_up=2)


def parameters(counts: Iterable[int], seconds: float) -> Iterator[Row]:
    """Ten tensors of more and more numbers each."""
    for count in counts:
        for pair in PAIRS:
            row = {"table": "parameters", "count": count, "ours": pair.ours, "beside": pair.beside}
            # parameter and gradient, and in seven passes, Adam's, two moments
            needed = (4 if pair.passes == 7 else 2) * 4 * count
            free = psutil.virtual_memory().available
            if needed > SHARE_OF_MEMORY * free:
                yield row | {"left_out": f"needs {needed / 1e9:.0f} GB of {free / 1e9:.0f} GB that are free"}
            else:
                yield side_by_side(pair, with_gradients(tiny(10, count // 10)), seconds).row(**row)


def tensors(counts: Iterable[int], total: int, seconds: float) -> Iterator[Row]:
    """The same number of parameters in more and more tensors."""
    for count in counts:
        for pair in PAIRS:
            compared = side_by_side(pair, with_gradients(tiny(count, total // count)), seconds)
            yield compared.row(table="tensors", count=count, ours=pair.ours, beside=pair.beside)


def groups(counts: Iterable[int], seconds: float) -> Iterator[Row]:
    """The same tensors, as many as the most groups, in more and more groups."""
    counts = list(counts)
    for count in counts:
        for pair in PAIRS:
            compared = side_by_side(pair, grouped(with_gradients(tiny(max(counts), 4)), count), seconds)
            yield compared.row(table="groups", count=count, ours=pair.ours, beside=pair.beside)


def steps(count: int, seconds: float) -> Iterator[Row]:
    """An optimizer that has made many steps beside a new one, on the same parameters."""
    for pair in PAIRS:
        held = with_gradients(tiny(10, 100))
        old, new = pair.make(held), pair.make(held)
        ours, theirs = step_of(old), step_of(new)
        ours()
        gc.collect()
        before = len(gc.get_objects())
        for _ in range(count):
            ours()
        gc.collect()
        growth = {
            "objects": len(gc.get_objects()) - before,
            "bytes": len(pickle.dumps(old.state_dict())) - len(pickle.dumps(new.state_dict())),
        }
        compared = take_turns(ours, theirs, 500, seconds=seconds)
        yield compared.row(table="steps", count=count, ours=pair.ours, **growth)


def main(args: list[str] | None = None) -> None:
    """Measures everything."""
    parser = arguments("scaling", __doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each row; ten pairs are made in any case")
    parser.add_argument("--most", type=float, default=1e9, help="parameters")
    options = parser.parse_args(args)
    torch.set_num_threads(options.threads)
    seconds = options.seconds
    counts = [10**k for k in range(5, 10) if 10**k <= options.most]
    rows: list[Row] = []
    for name, found in {
        "parameters": parameters(counts, seconds),
        "tensors": tensors([1, 10, 100, 1000, 10_000], 1_000_000, seconds),
        "groups": groups([1, 10, 100, 1000], seconds),
        "steps": steps(10_000, seconds),
        "ranks": ranks([1, 2, 4], [2**k for k in range(3, 11)], 1000),
    }.items():
        rows += print_table(found, TABLES[name])
    print(MODEL)
    write_json(options.json, "scaling", rows, columns=TABLES, model=MODEL)


if __name__ == "__main__":
    main()
