"""Requests to save and stop: signals, the `stop` file, or the end of a process that waits for the training."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import torch
from accelerate import Accelerator

from ..parameters import whole
from ..runs import Run
from ..signals import signals_to

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_EVERY, MOST_STEPS = 1.0, 1000  # seconds between looks for a request, and the most steps


def interrupts():
    """Context in which the signals raise KeyboardInterrupt, for the time before there is anything to save."""
    return signals_to(signal.default_int_handler, SIGNALS)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Context in which signals are only noted, so that the training can save and stop after its current step."""
    received: list[int] = []

    def note(number, frame):
        if not received:
            with suppress(OSError):
                print("\nsaving, then stopping ...", file=sys.stderr, flush=True)
        received.append(number)

    with signals_to(note, SIGNALS):
        yield received


class StopRequests:
    """Whether to save and stop: a signal, the `stop` file, the end of a waiting process, or `max_hours` since this training started.

    Looks about once a second, at steps on which all processes agree, so that no step waits for the disk or for another process.
    """

    def __init__(self, accelerator: Accelerator, run: Run, signals: list[int], max_hours: float | None):
        self._accelerator, self._run, self._signals, self.max_hours = accelerator, run, signals, max_hours
        self._start = self._looked_at = time.monotonic()
        self._step: int | None = None  # when it looked last
        self._next = 0

    @property
    def out_of_time(self) -> bool:
        """Whether `max_hours` have passed."""
        return self.max_hours is not None and time.monotonic() - self._start >= 3600 * self.max_hours

    def __call__(self, step: int) -> bool:
        """Whether to stop before this step; the same in all processes."""
        several = self._accelerator.num_processes > 1
        if step < self._next and (several or not self._signals):
            return False
        now = time.monotonic()
        pace = 0.0 if self._step is None else (now - self._looked_at) / max(1, step - self._step)
        stop = bool(self._signals) or self.out_of_time or (self._run.path / "stop").exists()
        stop = stop or any(not psutil.pid_exists(pid) for pid in waiting_processes())
        if several:
            both = torch.tensor([float(stop), pace], device=self._accelerator.device)
            total, pace = self._accelerator.reduce(both, "sum").tolist()
            stop, pace = total > 0, pace / self._accelerator.num_processes
        self._step, self._looked_at = step, now
        self._next = step + (max(1, min(MOST_STEPS, int(LOOK_EVERY / pace))) if pace else 1)
        return stop


def waiting_processes() -> list[int]:
    """The processes that wait for the training: a notebook, and the command or the sweep that started it."""
    pids = (whole(pid) for pid in os.environ.get("WORKBENCH_WAITING", "").split(","))
    return [pid for pid in pids if pid]
