"""Time of a step, ours beside torch's own and its peers': `python -m benchmarks.step_time`.

Each pair times one step of both, in an order that alternates, on the very same parameters and gradients, and against
torch's own optimizers on the same state too. Five tables: whole steps; the share of the copy bandwidth that they reach;
what our own Python takes around a base that does nothing; the same with many parameter groups; memory.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import torch

from adaloss_lightning import LossAdaptive
from benchmarks.common import (
    PROBLEMS,
    RESULTS,
    TINY,
    Columns,
    Make,
    Parameters,
    Row,
    arguments,
    compare,
    copy_with_gradients,
    print_table,
    step_of,
    sweep_caches,
    take_turns,
    tiny,
    write_json,
)
from benchmarks.memory import memory_of_optimizer
from benchmarks.optimizers import ADAM, ADAMW, OURS, PEERS, SGD, SGD_PEERS, TORCH, Idle, SGDAndRead, grouped

NAMES = {"problem": "{problem}", "ours": "{ours}", "beside": "{beside}"}
TIMES = {"ours, us": "{ours_us:.0f}", "beside, us": "{theirs_us:.0f}"}
RATIO = {"ratio": "{ratio:.3f}", "quartiles": "{ratio_low:.3f} to {ratio_high:.3f}"}
ADDED = {"added, us": "{added_us:+.0f} +- {added_error_us:.0f}"}
COLUMNS: dict[str, Columns] = {
    "step": NAMES | TIMES | RATIO | ADDED,
    "bandwidth": {
        "problem": "{problem}",
        "optimizer": "{ours}",
        "moved, MB": "{megabytes:.1f}",
        "GB/s": "{gigabytes_per_s:.1f}",
        "a copy, GB/s": "{copy_gigabytes_per_s:.1f}",
        "share": "{share:.0%}",
    },
    "python": {"caches": "{problem}"} | TIMES | ADDED,
    "groups": {"parameter groups": "{problem}", "ours": "{ours}", "beside": "{beside}"} | TIMES | ADDED,
    "memory": NAMES | {"kept, bytes a group": "{kept:.0f}", "at the peak of a step": "{peak:.0f}"},
}

# For each parameter, the numbers that a step must move (it reads parameter, gradient and state, and writes all but the
# gradient; AdaGradNorm reads the gradient twice) and those that it has in memory.
MOVED = {"AdaLoss": (3, 2), "SGD(fused)": (3, 2), "AdaGradNorm": (4, 2), "AdamLoss": (7, 4), "Adam(fused)": (7, 4)}
COPY = 3  # moved for each number that is copied: a processor reads the line that it is about to overwrite
BASES = {"AdaLoss": "SGD", "AdamLoss": "Adam", "LossAdaptive(AdamW)": "AdamW", "LossAdaptive(SGD)": "SGD"}
READS = {
    "SGD(fused) + a read of each gradient": SGDAndRead,
    "SGD(fused) + a read of all in one vector": partial(SGDAndRead, in_one=True),
}
GROUPS = (1, 10, 100, 1000)


class Measurement(NamedTuple):
    """One row, not yet measured."""

    table: str
    problem: str
    ours: str
    beside: str
    measure: Callable[[], Row]

    def row(self) -> Row:
        """Measures."""
        return {key: getattr(self, key) for key in ("table", "problem", "ours", "beside")} | self.measure()


class Suite:
    """All measurements.

    Args:
        pairs: Of each comparison, at most.
        seconds: Of each comparison, at most.
    """

    def __init__(self, pairs: int, seconds: float) -> None:
        self.pairs, self.seconds = pairs, seconds

    def longer(self) -> "Suite":
        """The same with four times as many pairs: half the error."""
        return Suite(4 * self.pairs, 4 * self.seconds)

    def measurements(self, problems: dict[str, Callable[[], Parameters]]) -> Iterator[Measurement]:
        """Those of each problem, then those that have none."""
        for problem, make in problems.items():
            parameters = cache(make)
            yield from self.steps(problem, parameters)
            if problem != TINY:  # no matter of bandwidth
                yield from self.bandwidth(problem, parameters)
            if problem == "ViT-S/16":
                yield from self.memory(f"{problem}, 1 group", parameters, 1)
        yield from self.memory("1,000 groups of one tensor", lambda: tiny(1000), 1000)
        yield from self.python()
        yield from self.groups()

    def steps(self, problem: str, parameters: Callable[[], Parameters]) -> Iterator[Measurement]:
        """Whole steps."""

        def measurement(ours: str, beside: str, theirs: Make, share_state: bool) -> Measurement:
            suite = self.longer() if "(fused)" in beside else self  # a few percent are at stake there

            def measure() -> Row:
                return suite._compare(parameters(), OURS[ours], theirs, share_state=share_state)

            return Measurement("step", problem, ours, beside, measure)

        families = {"AdaLoss": SGD, "AdamLoss": ADAM, "LossAdaptive(AdamW)": ADAMW, "AdaGradNorm": SGD}
        for ours, family in families.items():
            for beside, theirs in family.items():
                yield measurement(ours, beside, theirs, True)
        for ours, peers in {"AdaGradNorm": READS, "AdaLoss": SGD_PEERS, "AdamLoss": PEERS}.items():
            for beside, theirs in peers.items():
                yield measurement(ours, beside, theirs, False)

    def bandwidth(self, problem: str, parameters: Callable[[], Parameters]) -> Iterator[Measurement]:
        """Bytes that a step must move, over its time, beside a copy in as much memory."""

        def measurement(name: str) -> Measurement:
            def measure() -> Row:
                copies = copy_with_gradients(parameters())
                count = sum(p.numel() for p in copies)
                moved, held = (4 * count * numbers for numbers in MOVED[name])
                source = torch.rand(held // 8)  # source and target take what the step has in memory
                target = torch.empty_like(source)
                step = step_of({**OURS, **TORCH}[name](copies))
                turns = take_turns(step, lambda: target.copy_(source), self.pairs, seconds=self.seconds)
                copied = 4 * COPY * source.numel()
                return {
                    "megabytes": moved / 1e6,
                    "gigabytes_per_s": moved / turns.ours_us / 1e3,
                    "copy_gigabytes_per_s": copied / turns.theirs_us / 1e3,
                    "share": moved / copied / turns.ratio,
                    "pairs": turns.pairs,
                }

            return Measurement("bandwidth", problem, name, "a copy", measure)

        yield from map(measurement, MOVED)

    def memory(self, problem: str, parameters: Callable[[], Parameters], groups: int) -> Iterator[Measurement]:
        """Bytes of tensors over those of the base, for each group."""

        def measurement(ours: str, beside: str) -> Measurement:
            def measure() -> Row:
                mine = memory_of_optimizer(parameters(), grouped(OURS[ours], groups))
                base = memory_of_optimizer(parameters(), grouped(TORCH[beside], groups))
                return {"kept": (mine.kept - base.kept) / groups, "peak": (mine.peak - base.peak) / groups}

            return Measurement("memory", problem, ours, beside, measure)

        yield from (measurement(ours, f"{base}(fused)") for ours, base in BASES.items())
        yield measurement("AdaGradNorm", "SGD(fused)")

    def python(self) -> Iterator[Measurement]:
        """LossAdaptive around a base whose step does nothing."""

        def measurement(problem: str, sweep: Callable[[], Any] | None) -> Measurement:
            def measure() -> Row:
                return self._compare(tiny(1), lambda p: LossAdaptive(Idle(p)), Idle, before=sweep)

            return Measurement("python", problem, "LossAdaptive", "a base that does nothing", measure)

        yield measurement("warm", None)
        yield measurement("swept between steps", sweep_caches)

    def groups(self) -> Iterator[Measurement]:
        """LossAdaptive with one tensor of 4 in each of its groups."""

        def measurement(count: int) -> Measurement:
            def measure() -> Row:
                ours, theirs = grouped(OURS["LossAdaptive(SGD)"], count), grouped(SGD["SGD(fused)"], count)
                return self._compare(tiny(count), ours, theirs)

            return Measurement("groups", f"{count:,}", "LossAdaptive(SGD)", "SGD(fused)", measure)

        yield from map(measurement, GROUPS)

    def _compare(self, parameters: Parameters, ours: Make, theirs: Make, **options: Any) -> Row:
        return compare(parameters, ours, theirs, self.pairs, seconds=self.seconds, **options).row()


def main() -> None:
    parser = arguments("step_time", __doc__)
    parser.add_argument("--pairs", type=int, default=200, help="of each comparison, at most")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each comparison, at most")
    parser.add_argument("--problems", nargs="*", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--only", default="", help="measure what has this text in `table: ours / beside`")
    parser.set_defaults(json=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    suite = Suite(options.pairs, options.seconds)
    wanted = [
        one
        for one in suite.measurements({name: PROBLEMS[name] for name in options.problems})
        if options.only in f"{one.table}: {one.ours} / {one.beside}"
    ]
    rows: list[Row] = []
    for table, columns in COLUMNS.items():
        if chosen := [one for one in wanted if one.table == table]:
            rows += print_table((one.row() for one in chosen), columns)
    is_whole = not options.only and set(options.problems) == set(PROBLEMS)
    if path := options.json or (RESULTS / "step_time.json" if is_whole else None):
        write_json(path, "step_time", rows, columns=COLUMNS)


if __name__ == "__main__":
    main()
