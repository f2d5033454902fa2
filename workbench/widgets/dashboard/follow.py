# ruff: noqa: RUF001
"""A dashboard without its widgets: it reads the folder of a run, waits for the end of its training, and prints lines meanwhile."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from os import PathLike
from pathlib import Path
from typing import Any

from ...figures import records
from ...figures.histories import constant_rates
from ...messages import WorkbenchError, say_once
from ...progress import clock, interactive, tell
from ...runs import ACTIVE, Run
from ...views.train import sample_grid, summary_png

BADGES = {"created": "not started", "starting": "starting…", "running": "training", "stopping": "stopping…"}  # others: the state itself
STILL_EVERY = 30.0  # seconds between pictures for a page without a kernel, while the run trains
LONGEST = 1e9  # seconds; anything longer is a damaged record


class Dashboard:
    """The live view of a run.

    It stays up to date as long as its kernel lives: display it and run other cells, or wait for the end of the training with
    `await Dashboard(run).follow()`.

    Parameters
    ----------
    run : Run, str or path
        The run, its name, or the path of its folder.
    widgets
        Whether to show it in a front end; by default where there is one. In a callback of a widget nothing tells.

    Attributes
    ----------
    run : Run
        The run.
    head : dict
        Name, state, messages, facts and progress.
    rows, spectra, evaluations : list of dict
        The records of the run.
    samples : list of int
        Steps of the sample grids.
    view : DashboardView or None
        Its widgets, in a front end.
    """

    def __init__(self, run: Run | str | PathLike, widgets: bool | None = None):
        self.run = Run(run) if isinstance(run, (str, PathLike)) else run
        self.head: dict = {}
        self.rows: list[dict] = []
        self.spectra: list[dict] = []
        self.evaluations: list[dict] = []
        self.samples: list[int] = []
        self.waiting = False  # whether a cell waits in `follow`
        self._poll, self._every = 0.5, 10.0
        self._unreadable = ""  # why the newest samples cannot be shown
        self._stamps: dict = {}
        self._still: Any = None  # an `Output`: what a page shows where the widgets cannot be
        self._still_of: tuple = ()
        self._still_at = 0.0
        self._task: asyncio.Task | None = None
        self._home: asyncio.AbstractEventLoop | None = None  # the loop of the task
        self._freed: asyncio.Event | None = None
        self.view = None
        self.refresh()
        if interactive() if widgets is None else widgets:
            from .view import DashboardView  # not without a front end: widgets would only enlarge the notebook

            self.view = DashboardView(self)
            self._keep_watching()

    def __repr__(self) -> str:
        return f"Dashboard({self.head['name']!r}, {self.head['state']}, step {self.head['step']} of {self.head['steps']})"

    # ------------------------------------------------------------------------------------------------- following

    async def follow(self, wait: bool | None = None, poll: float = 0.5, every: float = 10.0) -> Run:
        """Show the run, and wait for the end of its training; without a front end, print lines meanwhile.

        In JupyterLab this shows the dashboard and does not wait: the next cells run, and the page can be reloaded. Where it waits, an
        interrupt (the stop square, Ctrl-C) asks the training to save and stop; a second one ends the wait and lets the training continue.

        Parameters
        ----------
        wait
            Whether to wait; by default only without a front end. In JupyterLab, other cells then wait too, unless "Let other cells run"
            is clicked, and a page that is reloaded shows no widgets before the end.
        poll
            Seconds between reads of the run folder.
        every
            Seconds between printed lines.

        Returns
        -------
        Run
            The run.

        Raises
        ------
        WorkbenchError
            With the reason, if it has waited and the training failed.
        """
        self._poll, self._every = poll, every
        here = interactive()
        if here:
            self.show()
        if not (wait or (wait is None and not here)):
            return self.run
        with _interrupts_as_calls(self._interrupted):
            self._interrupts, self._freed = 0, asyncio.Event()
            self._loop = asyncio.get_running_loop()
            self._show_waiting(True)
            freed = self._loop.create_task(self._freed.wait())
            watching = self._keep_watching()
            await asyncio.wait({watching, freed}, return_when=asyncio.FIRST_COMPLETED)
            freed.cancel()
            self._show_waiting(False)
        if not watching.done():
            print(f"{self.run.name} trains on; to wait for it again: {self.command('wait=True')}", flush=True)
            return self.run
        status = watching.result()
        if not here:
            self.show()
        if status["state"] in ("failed", "lost", "unreadable"):
            raise WorkbenchError(status["message"])
        if status["state"] == "stopped":
            tell(status["message"])
        return self.run

    def command(self, options: str = "") -> str:
        """A line for any notebook that follows this run, also one whose kernel knows nothing yet."""
        return f"import workbench as wb; await wb.Dashboard({json.dumps(self.run.name)}).follow({options})"

    def show(self) -> None:
        """Display the dashboard, and a still picture for where its widgets cannot be; without a front end the picture alone."""
        from IPython.display import display

        if not self.view:
            display(self)
            return
        from ..outputs import Output, page

        display(self.view.bundle(), raw=True)
        self._still, self._still_of = Output(self.view.still(self._picture())), self._state()
        page().reveal_cell()

    def _ipython_display_(self) -> None:
        if not self.view:
            raise NotImplementedError  # then IPython asks for the MIME bundle
        self.show()

    def free(self) -> None:
        """End the cell that waits in `follow`; the training goes on. Thread-safe."""
        if self._freed:
            self._loop.call_soon_threadsafe(self._freed.set)

    def call_at_home(self, call: Callable[[], None]) -> None:
        """Call a function in the loop of this dashboard; that of a callback may end, with its page."""
        if self._home:
            self._home.call_soon_threadsafe(call)
        else:
            call()

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            self._freed.set()
        else:
            self.run.stop()
            tell("interrupted: the training saves and stops; a second interrupt leaves it alone")

    def _show_waiting(self, waiting: bool) -> None:
        self.waiting = waiting
        if self.view:
            self.view.update()

    def _keep_watching(self) -> asyncio.Task:
        """The only task that keeps this dashboard up to date."""
        if self._task is None or self._task.done():
            self._home = asyncio.get_running_loop()
            self._task = self._home.create_task(self._watch())
            self._task.add_done_callback(self._report)
        return self._task

    def _report(self, task: asyncio.Task) -> None:
        """Say why the dashboard no longer changes; a task alone would not."""
        if not task.cancelled() and (error := task.exception()):
            say_once(f"the dashboard of {self.run.name} has stopped: {type(error).__name__}: {error}; show it again")

    async def _watch(self) -> dict:
        """Read the run folder until its training ends; returns the last status."""
        here, printed, alarms = interactive(), -math.inf, []
        while True:
            began = time.monotonic()
            status = self.refresh()
            over = status["state"] not in ACTIVE
            if over and self.view:
                self.view.keep_in_notebook()
            self._update_still(over)
            if not here:
                for alarm in status["alarms"]:
                    if alarm not in alarms:
                        tell(f"alarm: {alarm}")
                alarms = status["alarms"]
                if over or began - printed >= self._every:
                    tell(self.line())
                    printed = began
            if over:
                break
            await asyncio.sleep(max(self._poll, 4 * (time.monotonic() - began)))  # reading a long history takes time
        return status

    def _state(self) -> tuple:
        """What a still picture shows."""
        return self.head["state"], self.samples[-1:], tuple(self.head["alarms"])

    def _picture(self) -> bytes:
        """PNG: samples and curves at the end, which take a second or two; the newest samples before; b"" if there are none."""
        with suppress(WorkbenchError):
            if not self.head["active"] and (self.rows or self.samples):
                return summary_png(self.run)
        return self.sample(self.samples[-1])[0] if self.samples else b""

    def _update_still(self, now: bool) -> None:
        """Draw the still picture again if it is out of date, but not too often."""
        if not self._still or self._state() == self._still_of or not (now or time.monotonic() - self._still_at > STILL_EVERY):
            return
        self._still.replace(self.view.still(self._picture()))
        self._still_of, self._still_at = self._state(), time.monotonic()

    # ------------------------------------------------------------------------------------------------- reading the folder

    def refresh(self) -> dict:
        """Read the run folder once; returns the status."""
        status = self.run.status()
        if self._changed(self.run.path / "history.jsonl"):
            self.rows = records.history(self.run.history())
        if self._changed(self.run.path / "spectra.jsonl"):
            self.spectra = records.spectra(self.run.spectra())
        if self._changed(self.run.path / "evaluations.jsonl"):
            self.evaluations = records.evaluations(self.run.evaluations())
        self.samples = self.run.sample_steps()
        if self.samples and self._changed(self.run.sample_path(self.samples[-1])):
            self._unreadable = self.sample(self.samples[-1])[1]
        self.head = self._head(status)
        if self.view:
            self.view.update()
        return status

    def sample(self, step: int) -> tuple[bytes, str]:
        """The sample grid of a step as PNG and "", or b"" and the reason why it cannot be read."""
        path = self.run.sample_path(step)
        try:
            sample_grid(path)
            return path.read_bytes(), ""
        except (WorkbenchError, OSError) as error:  # damaged, or deleted by a resumed training
            return b"", str(error)

    def _changed(self, file: Path) -> bool:
        """Whether a file has changed since the last call."""
        stamp = (file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else None
        changed = self._stamps.get(file) != stamp
        self._stamps[file] = stamp
        return changed

    def _head(self, status: dict) -> dict:
        state, rows, config = status["state"], self.rows, None
        with suppress(WorkbenchError):  # the status reports it
            config = self.run.config
        step, steps = (min(max(0, status[name]), 2**53) for name in ("step", "steps"))
        pace = records.number(status["seconds_per_step"]) or _pace(rows)
        facts = {"steps": f"{step:,} / {steps:,}", "done": f"{100 * step // max(1, steps)} %"}
        if pace and 0 < pace < math.inf:
            facts |= {"steps/s": _short(1 / pace)} | ({"images/s": _short(config.batch_size / pace)} if config else {})
        if rows and 0 <= rows[-1].get("seconds", math.nan) < LONGEST:
            facts["elapsed"] = clock(rows[-1]["seconds"])
        if pace and state in ACTIVE and 0 < (steps - step) * pace < LONGEST:
            facts["left"] = clock((steps - step) * pace)
        broken = state in ("failed", "lost", "unreadable")
        return dict(
            name=self.run.name,
            about=(config and f"{Path(config.data).name} · {config.image_size}×{config.image_size} · batch {config.batch_size}") or "",
            state=state,
            badge=BADGES.get(state, state),
            active=state in ACTIVE,
            alarms=[*status["alarms"], *filter(None, [status["message"] if broken else "", self._unreadable])],
            message="" if broken or state == "finished" else _message(state, status["message"]),  # its badge says finished
            collapsed=any(alarm.startswith("collapse") for alarm in status["alarms"]),
            rates=constant_rates(rows),
            log=self.run.log_tail(20) if broken else "",
            step=step,
            steps=steps,
            facts=facts,
            sample_every=config.sample_every if config else 0,
        )

    def line(self) -> str:
        """The progress of the training in one line."""
        head, facts, row = self.head, self.head["facts"], self.rows[-1] if self.rows else {}
        words = [f"step {head['step']}/{head['steps']}", facts["done"]]
        words += [f"{facts[unit]} {unit}" for unit in ("steps/s", "images/s", "left") if unit in facts]
        words += [f"{net} {row[key]:.2f}" for net, key in (("D", "loss_d"), ("G", "loss_g")) if key in row]
        words += [f"γ {key.removeprefix('gamma_')} {row[key]:.2f}" for key in row if re.fullmatch(r"gamma_[gd]\d+", key)]
        return "  ".join(words if head["active"] else [*words, head["badge"]])

    # ------------------------------------------------------------------------------------------------- the front end

    def _repr_mimebundle_(self, include=None, exclude=None):
        data = {"text/plain": repr(self)}
        if not self.head["active"] and (picture := self._picture()):
            data["image/png"] = base64.b64encode(picture).decode()
        return data


def _message(state: str, work: str) -> str:
    """What the training does, or what a stop waits for."""
    return f"stopping after {work or 'this step'}; then it saves a checkpoint" if state == "stopping" else work


def _pace(rows: list[dict]) -> float | None:
    """Seconds per step from the last two rows of a history; None if they are incomplete."""
    if len(rows) < 2 or not all("seconds" in row for row in rows[-2:]) or rows[-1]["step"] <= rows[-2]["step"]:
        return None
    return (rows[-1]["seconds"] - rows[-2]["seconds"]) / (rows[-1]["step"] - rows[-2]["step"])


def _short(number: float) -> str:
    """Two or more digits: 0.034, 6.9, 442."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


@contextmanager
def _interrupts_as_calls(callback: Callable[[], None]) -> Iterator[None]:
    """Each SIGINT (Jupyter's stop square, Ctrl-C) only calls `callback` in the event loop."""
    if threading.current_thread() is not threading.main_thread():  # a subshell cannot handle signals
        yield
        return
    # ipykernel cancels an awaiting cell at the first SIGINT, and does not pass on the second.
    loop, context = asyncio.get_running_loop(), copy_context()  # the context decides which cell prints
    before = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(callback, context=context))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
