"""Requests to save and stop: signals, the `stop` file, or the end of a process that waits for the training."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import torch
from accelerate import Accelerator

from ..parameters import whole
from ..runs import Run
from ..signals import signals_to

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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


def stop_requested(accelerator: Accelerator, run: Run, signals: list[int]) -> bool:
    """Whether any process received a signal, the `stop` file exists, or a waiting process has ended; the same in all processes."""
    stop = bool(signals) or (run.path / "stop").exists() or any(not psutil.pid_exists(pid) for pid in waiting_processes())
    if accelerator.num_processes > 1:  # all must stop at the same step
        flag = torch.tensor(float(stop), device=accelerator.device)
        stop = accelerator.reduce(flag, "sum").item() > 0
    return stop


def waiting_processes() -> list[int]:
    """The processes that wait for the training: a notebook, and the sweep that started it."""
    pids = (whole(pid) for pid in os.environ.get("WORKBENCH_WAITING", "").split(","))
    return [pid for pid in pids if pid]
