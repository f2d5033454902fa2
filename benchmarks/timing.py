"""Timing calls in turn, so that other work on the machine slows all of them alike."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def seconds(work: Callable[[], object]) -> float:
    """The duration of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(timers: Mapping[str, Callable[[], T]], rounds: int, warmup: int = 1) -> dict[str, list[T]]:
    """Call every timer once per round: name -> what it returned, such as seconds, without warm-up rounds."""
    times: dict[str, list[T]] = {name: [] for name in timers}
    for number in range(warmup + rounds):
        for name, timer in timers.items():
            duration = timer()
            if number >= warmup:
                times[name].append(duration)
    return times


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median of the ratios of measurements in the same round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak_memory() -> int:
    """The peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
