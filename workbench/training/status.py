"""Telling how a training stands: `status.json`, alarms, and a progress bar on a terminal or a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from torch import Tensor
from tqdm import tqdm

from ..config import Config
from ..runs import Run
from .samples import FixedSamples, spread

LINE_EVERY = 30.0  # seconds between lines, where there is no terminal
COLLAPSED = 0.05  # of the spread of real images


class Status:
    """What the main process of a training tells; `status.json` is renewed at most once a second.

    Parameters
    ----------
    step
        G steps taken before.
    """

    def __init__(self, run: Run, config: Config, step: int):
        self.run, self.config = run, config
        self.alarms: list[str] = []
        self._bar = tqdm(total=config.steps, initial=step, unit="step", desc=run.name, disable=not sys.stderr.isatty())
        self._began = (time.monotonic(), step)
        self._status_at = self._line_at = 0.0
        self._status_every = 1.0  # seconds
        run.set_status(state="running", step=step, steps=config.steps, message="", seconds_per_step=None)

    def update(self, step: int) -> None:
        """Tell that so many G steps have been taken."""
        self._bar.update(step - self._bar.n)
        now = time.monotonic()
        if now - self._status_at > self._status_every:
            began, first = self._began
            pace = (now - began) / (step - first)
            self.run.set_status(step=step, seconds_per_step=pace)
            self._status_at = now
            self._status_every = max(1.0, 50 * (time.monotonic() - now))  # where a disk is slow, at most 2 % of the time
            if self._bar.disable and now - self._line_at > LINE_EVERY:
                left, speed = pace * (self.config.steps - step), self.config.batch_size / pace
                say(f"step {step}/{self.config.steps}  {speed:.0f} images/s  {left / 60:.1f} minutes left")
                self._line_at = now

    def watch_history(self, row: dict) -> None:
        """Raise an alarm if D has won: its loss is about 0, and it no longer learns."""
        if row["loss_d"] < 1e-3 and row["d_real"] - row["d_fake"] > 2 and row["step"] >= 100:
            self.alarm(
                f"D wins: at step {row['step']} its loss is {row['loss_d']:.2g}, so it no longer learns; lower lr_d, or set sn_d=True"
            )

    def watch_samples(self, x: Tensor, step: int, fixed: FixedSamples) -> None:
        """Raise an alarm if samples (B, 3, S, S) of a trained generator look all the same."""
        if step > 0 and spread(x) < COLLAPSED * fixed.real_spread:
            self.alarm(
                f"collapse: at step {step} all samples look nearly the same "
                f"(pixel spread {spread(x):.3g}, real images {fixed.real_spread:.3g})"
            )

    def alarm(self, text: str) -> None:
        """Tell of something that training goes on after; once per kind, which is what stands before the colon."""
        if not any(alarm.split(":")[0] == text.split(":")[0] for alarm in self.alarms):
            self.alarms.append(text)
            self.run.set_status(alarms=self.alarms)
            with suppress(OSError):
                print(f"ALARM: {text}", file=sys.stderr, flush=True)

    def finish(self, state: str, step: int, message: str) -> None:
        """Tell how it ended."""
        self._bar.close()
        self.run.clean()
        self.run.set_status(state=state, step=step, message=message)
        say(message)


def say(text: str) -> None:
    """Print a line; that nobody reads it any more, or the log's disk is full, ends no training."""
    with suppress(OSError):
        print(text, flush=True)
