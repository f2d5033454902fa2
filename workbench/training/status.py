"""Progress of a training: `status.json`, alarms, and a progress bar in a terminal or lines in a log."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from torch import Tensor
from tqdm import tqdm

from ..config import Config
from ..runs import Run
from .samples import FixedSamples, spread

LINE_EVERY = 30.0  # seconds between lines in a log
# Share of the spread of real images below which samples count as collapsed. Healthy samples of twins had 0.66 and more from step 25 to 4,000,
# with and without EMA; grids that showed one image throughout had 0.12 to 0.32. An untrained G without EMA has 0.05: the first steps do not count.
COLLAPSED, TRAINED = 1 / 3, 100


class Status:
    """Reports the progress of a training that starts at `step`, in its main process; writes `status.json` at most once a second."""

    def __init__(self, run: Run, config: Config, step: int):
        self.run, self.config = run, config
        self.alarms: list[str] = []
        self._bar = tqdm(total=config.steps, initial=step, unit="step", desc=run.name, disable=not sys.stderr.isatty())
        self._start = (time.monotonic(), step)
        self._status_at = self._line_at = 0.0
        self._status_every = 1.0  # seconds
        run.set_status(state="running", step=step, steps=config.steps, message="", seconds_per_step=None)

    def update(self, step: int) -> None:
        """Report that `step` G steps are done."""
        self._bar.update(step - self._bar.n)
        now = time.monotonic()
        if now - self._status_at > self._status_every:
            start, first = self._start
            pace = (now - start) / (step - first)
            self.run.set_status(step=step, seconds_per_step=pace, message="")
            self._status_at = now
            self._status_every = max(1.0, 50 * (time.monotonic() - now))  # at most 2 % of the time, on a slow disk too
            if self._bar.disable and now - self._line_at > LINE_EVERY:
                left, speed = pace * (self.config.steps - step), self.config.batch_size / pace
                say(f"step {step}/{self.config.steps}  {speed:.0f} images/s  {left / 60:.1f} minutes left")
                self._line_at = now

    def report(self, work: str) -> None:
        """Say what takes the next while, so that a user who waits for a stop knows why."""
        self.run.set_status(message=work)

    def watch_history(self, row: dict) -> None:
        """Raise an alarm if D's loss is almost 0, so that D no longer learns."""
        if row["loss_d"] < 1e-3 and row["d_real"] - row["d_fake"] > 2 and row["step"] >= TRAINED:
            self.alarm(
                f"D wins: at step {row['step']} its loss is {row['loss_d']:.2g}, so it no longer learns; lower lr_d, or set sn_d=True"
            )

    def watch_samples(self, x: Tensor, step: int, fixed: FixedSamples) -> None:
        """Raise an alarm if the samples x (B, 3, S, S) of a trained generator are nearly equal, overall or within each class."""
        if step >= TRAINED and spread(x, fixed.y) < COLLAPSED * fixed.real_spread:
            self.alarm(
                f"collapse: at step {step} all samples look nearly the same "
                f"(pixel spread {spread(x, fixed.y):.3g}, real images {fixed.real_spread:.3g})"
            )

    def alarm(self, text: str) -> None:
        """Warn of a problem once per kind, which is the text before the colon; the training continues."""
        if not any(alarm.split(":")[0] == text.split(":")[0] for alarm in self.alarms):
            self.alarms.append(text)
            self.run.set_status(alarms=self.alarms)
            with suppress(OSError):
                print(f"ALARM: {text}", file=sys.stderr, flush=True)

    def finish(self, state: str, step: int, message: str) -> None:
        """Report how the training ended."""
        self._bar.close()
        self.run.clean()
        self.run.set_status(state=state, step=step, message=message)
        say(message)


def say(text: str) -> None:
    """Print a line; a closed pipe or a full disk does not end the training."""
    with suppress(OSError):
        print(text, flush=True)
