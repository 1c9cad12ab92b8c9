"""Memory of tensors that a piece of code takes, counted by torch's own profiler."""

import gc
import os
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Make, Parameters, copy_with_gradients, step_of

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler writes when it starts and stops, each time


class Memory(NamedTuple):
    """Bytes over those held before."""

    peak: int
    kept: int


def memory_of(run: Callable[[], Any]) -> tuple[Memory, Any]:
    """Bytes of tensors on the CPU that `run` allocates, and what it returns, which keeps its tensors alive."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        result = run()
    levels = list(accumulate(_changes(profiler), initial=0))
    return Memory(max(levels), levels[-1]), result


def _changes(profiler: profile) -> Iterator[int]:
    results = profiler.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        yield event.nbytes()


def memory_of_optimizer(parameters: Parameters, make: Make) -> Memory:
    """What an optimizer keeps, and that with what a step takes on top. The parameters and gradients are not counted."""
    copies = copy_with_gradients(parameters)
    built, step = memory_of(lambda: step_of(make(copies)))
    step()
    stepped, _ = memory_of(step)
    return Memory(built.kept + stepped.peak, built.kept)
