"""Requests to save and stop: signals, the `stop` file, or the end of a process that waits for the training."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import torch
import torch.distributed as dist
from accelerate import Accelerator

from ..parameters import whole
from ..processes import SUSPENDED, members
from ..runs import Run
from ..signals import signals_to, wake

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK_EVERY, MOST_STEPS = 1.0, 1000  # seconds between looks for a request, and the most steps
ANSWER = 15.0  # seconds in which a suspended process must go on; torch's launcher and Slurm kill what has not stopped after 30


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
    """Whether to save and stop: a signal, the `stop` file, the end of a waiting process, or `max_hours` since `start` (by default now).

    Looks about once a second, at steps on which all processes agree, so that no step waits for the disk or for another process.

    No process that is suspended (SIGSTOP) keeps the others from stopping: they wait for it in a library, where no signal reaches Python. So a
    thread of each lets those of its machine go on, and kills one that does not within `ANSWER` seconds; the others end then, see
    `process_group`.
    """

    def __init__(self, accelerator: Accelerator, run: Run, signals: list[int], max_hours: float | None, start: float | None = None):
        self._accelerator, self._run, self._signals, self.max_hours = accelerator, run, signals, max_hours
        self._looked_at = time.monotonic()
        self._start = self._looked_at if start is None else start
        self._step: int | None = None  # when it looked last
        self._next = 0
        if accelerator.num_processes > 1:
            reader, writer = os.pipe()
            for end in (reader, writer):
                os.set_blocking(end, False)
            signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            threading.Thread(target=self._wake_others, args=(reader, members()), daemon=True).start()

    def _wake_others(self, signals: int, pids: list[int | None]) -> None:
        requested, suspended = False, dict[int, float]()  # since when
        while dist.is_initialized():  # also while one saves, and the others wait for the end
            time.sleep(0.5)
            with suppress(BlockingIOError):
                requested = bool(os.read(signals, 64)) or requested
            requested = requested or self._requested()
            for rank, pid in enumerate(pids):
                if requested and pid and wake(pid):
                    SUSPENDED.add(rank)
                    if time.monotonic() - suspended.setdefault(rank, time.monotonic()) > ANSWER:
                        os.kill(pid, signal.SIGKILL)

    @property
    def out_of_time(self) -> bool:
        """Whether `max_hours` have passed, and a step was made: else a run that is started again and again would never go on."""
        return self.max_hours is not None and self._step is not None and time.monotonic() - self._start >= 3600 * self.max_hours

    def __call__(self, step: int) -> bool:
        """Whether to stop before this step; the same in all processes."""
        several = self._accelerator.num_processes > 1
        if step < self._next and (several or not self._signals):
            return False
        now = time.monotonic()
        pace = 0.0 if self._step is None else (now - self._looked_at) / max(1, step - self._step)
        stop = bool(self._signals) or self._requested()
        if several:
            both = torch.tensor([float(stop), pace], device=self._accelerator.device)
            total, pace = self._accelerator.reduce(both, "sum").tolist()
            stop, pace = total > 0, pace / self._accelerator.num_processes
        self._step, self._looked_at = step, now
        self._next = step + (max(1, min(MOST_STEPS, int(LOOK_EVERY / pace))) if pace else 1)
        return stop

    def _requested(self) -> bool:
        stop = self.out_of_time or (self._run.path / "stop").exists()
        return stop or any(not psutil.pid_exists(pid) for pid in waiting_processes())


def waiting_processes() -> list[int]:
    """The processes that wait for the training: a notebook, and the command or the sweep that started it."""
    pids = (whole(pid) for pid in os.environ.get("WORKBENCH_WAITING", "").split(","))
    return [pid for pid in pids if pid]
