"""Handling of signals for a while, without importing torch."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil


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


def wake(pid: int) -> bool:
    """Let a process of this machine go on if it is suspended (SIGSTOP, a debugger); whether it was."""
    with suppress(psutil.Error, OSError):
        if psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
            os.kill(pid, signal.SIGCONT)
            return True
    return False
