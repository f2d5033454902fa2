"""Handling of signals for a while, without importing torch."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


@contextmanager
def signals_to(handler: Callable, numbers: Iterable[int]) -> Iterator[None]:
    """Context in which `handler` handles these signals; no effect outside the main thread, where Python allows no handlers."""
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
