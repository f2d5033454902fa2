# ruff: noqa: RUF001
"""The live view of a run: progress, curves, samples and a stop button.

Training writes the run folder and the dashboard reads it, so either may come and go without the other: close the tab,
restart the kernel, and `await Dashboard("name").follow()` shows the same training again. What is shown is decided here;
`dashboard.js` draws it.
"""

from __future__ import annotations

import asyncio
import base64
import io
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

import anywidget
import numpy as np
import traitlets
from IPython.display import display
from PIL import Image

from ..figures import records
from ..figures.grids import sample_grid
from ..messages import say_once
from ..metrics.protocols import brief
from ..parameters import WorkbenchError
from ..progress import clock, interactive
from ..runs import ACTIVE, Run
from ..training.diagnostics import effective, margin
from .assets import source

BADGES = {"created": "not started", "starting": "starting…", "running": "training", "stopping": "stopping…"}  # the others: as they are

LONGEST = 1e9  # seconds that can be a training's
POINTS = 600  # of a curve that go to the browser
LAYER_POINTS = 100  # the same of a layer, of which there are many
PREVIEW_BYTES = 120_000  # a larger sample grid goes into the saved notebook as a JPEG


class Dashboard(anywidget.AnyWidget):
    """The live view of a run.

    It is up to date as long as its kernel lives, whatever else runs there: display it and go on with other cells, or wait
    for the end of the training with `await Dashboard(run).follow()`.

    Parameters
    ----------
    run : Run, str or path
        The run, its name, or the path of its folder.

    Attributes
    ----------
    run : Run
        What is shown.
    """

    _esm = source("dashboard.js")
    _css = source("dashboard.css")

    summary = traitlets.Dict().tag(sync=True)  # the head: name, state, messages, progress
    charts = traitlets.List().tag(sync=True)  # title, unit, curves (name, colour, steps, values)
    diagnostics = traitlets.List().tag(sync=True)  # further charts, folded away at first; some of curves by layer
    samples = traitlets.List().tag(sync=True)  # steps of the sample grids
    preview = traitlets.Bytes().tag(sync=True)  # the newest grid, for when there is no kernel to ask for it
    waiting = traitlets.Bool(False).tag(sync=True)  # whether a cell waits in `follow`

    def __init__(self, run):
        self.run = Run(run) if isinstance(run, (str, PathLike)) else run
        self._poll, self._every = 0.5, 10.0
        self._rows: list[dict] = []
        self._unreadable = ""  # why the newest samples cannot be shown
        self._stamps: dict = {}
        self._handles: list = []
        self._task: asyncio.Task | None = None
        self._freed: asyncio.Event | None = None
        super().__init__()
        self.on_msg(self._receive)
        self.refresh()
        if interactive():
            self._keep_watching()

    def __repr__(self) -> str:
        head = self.summary
        return f"Dashboard({head['name']!r}, {head['state']}, step {head['step']} of {head['steps']})"

    # ------------------------------------------------------------------------------------------------- following

    async def follow(self, poll: float = 0.5, every: float = 10.0) -> Run:
        """Show the run until its training ends; without a front end, print a line now and then instead.

        Meanwhile the stop button and subshell consoles work; other cells of the notebook wait, unless "let other cells
        run" is clicked. An interrupt (the stop square, Ctrl-C) asks the training to save and stop, a second one leaves it alone.

        Parameters
        ----------
        poll
            Seconds between looks into the run folder.
        every
            Seconds between printed lines.

        Returns
        -------
        Run
            What was followed.

        Raises
        ------
        WorkbenchError
            With the reason, if the training failed.
        """
        self._poll, self._every = poll, every
        here = interactive()
        if here:
            self.show()
        with _interrupts_as_calls(self._interrupted):
            self._interrupts, self._freed = 0, asyncio.Event()
            self._loop = asyncio.get_running_loop()
            self.waiting = True
            freed = self._loop.create_task(self._freed.wait())
            watching = self._keep_watching()
            await asyncio.wait({watching, freed}, return_when=asyncio.FIRST_COMPLETED)
            freed.cancel()
            self.waiting = False
        if not watching.done():
            print(f"{self.run.name} trains on; to wait for it again: await Dashboard({self.run.name!r}).follow()", flush=True)
            return self.run
        status = watching.result()
        if not here:
            self.show()
        if status["state"] in ("failed", "lost", "unreadable"):
            raise WorkbenchError(status["message"])
        if status["state"] == "stopped":
            print(status["message"], flush=True)
        return self.run

    def show(self) -> None:
        """Display the dashboard; without a front end, a picture of it."""
        if handle := display(self, display_id=True):  # None outside of IPython
            self._handles.append(handle)

    def _interrupted(self) -> None:
        self._interrupts += 1
        if self._interrupts > 1:
            return self._freed.set()
        self.run.stop()
        print("interrupted: the training saves and stops; a second interrupt leaves it alone", flush=True)

    def _keep_watching(self) -> asyncio.Task:
        """The task that keeps this dashboard up to date; there is one at most."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())
        return self._task

    async def _watch(self) -> dict:
        """Look into the run folder until no training works on it; the last status."""
        here, printed, alarms = interactive(), -math.inf, []
        while True:
            began = time.monotonic()
            status = self.refresh()
            over = status["state"] not in ACTIVE
            if not here:
                for alarm in status["alarms"]:
                    if alarm not in alarms:
                        print(f"alarm: {alarm}", flush=True)
                alarms = status["alarms"]
                if over or began - printed >= self._every:
                    print(self.line(), flush=True)
                    printed = began
            if over:
                break
            await asyncio.sleep(max(self._poll, 4 * (time.monotonic() - began)))  # a long history takes its time to read
        for handle in self._handles:
            handle.update(self)  # now with the picture that the notebook keeps
        return status

    # ------------------------------------------------------------------------------------------------- reading the folder

    def refresh(self) -> dict:
        """Look into the run folder once; its status."""
        status = self.run.status()
        with self.hold_sync():
            if self._changed(self.run.path / "history.jsonl", self.run.path / "evaluations.jsonl"):
                self._rows = records.history(self.run.history())
                self.charts = charts(self._rows, self.run.evaluations())
            if self._changed(self.run.path / "history.jsonl", self.run.path / "spectra.jsonl"):
                self.diagnostics = diagnostic_charts(self._rows, self.run.spectra())
            samples = self.run.sample_steps()
            if samples and self._changed(self.run.sample_path(samples[-1])):
                try:
                    sample_grid(self.run.sample_path(samples[-1]))
                    self.preview = _preview(self.run.sample_path(samples[-1]).read_bytes())
                    self._unreadable = ""
                except (WorkbenchError, OSError) as error:  # damaged, or dropped meanwhile by a training that was resumed
                    self.preview, self._unreadable = b"", str(error)
            self.samples = samples
            self.summary = self._summary(status)
        return status

    def _changed(self, *files: Path) -> bool:
        """Whether one of the files is another than at the last call."""
        stamp = [(file.stat().st_mtime_ns, file.stat().st_size) if file.exists() else None for file in files]
        changed = self._stamps.get(files) != stamp
        self._stamps[files] = stamp
        return changed

    def _summary(self, status: dict) -> dict:
        state, rows, config = status["state"], self._rows, None
        with suppress(WorkbenchError):  # then the status says so
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
        alarms = [*status["alarms"], *([status["message"]] if broken else []), *([self._unreadable] if self._unreadable else [])]
        return dict(
            name=self.run.name,
            about=(config and f"{Path(config.data).name} · {config.image_size}×{config.image_size} · batch {config.batch_size}") or "",
            state=state,
            badge=BADGES.get(state, state),
            active=state in ACTIVE,
            alarms=alarms,
            message="" if broken or state == "finished" else status["message"],  # its badge says finished
            log=self.run.log_tail(20) if broken else "",
            step=step,
            steps=steps,
            facts=[[value, unit] for unit, value in facts.items()],
            sample_every=config.sample_every if config else 0,
        )

    def line(self) -> str:
        """Where the training stands, in one line of plain text."""
        head, row = self.summary, self._rows[-1] if self._rows else {}
        facts = {unit: value for value, unit in head["facts"]}
        words = [f"step {head['step']}/{head['steps']}", facts["done"]]
        words += [f"{facts[unit]} {unit}" for unit in ("steps/s", "images/s", "left") if unit in facts]
        words += [f"{net} {row[key]:.2f}" for net, key in (("D", "loss_d"), ("G", "loss_g")) if key in row]
        words += [f"γ {key.removeprefix('gamma_')} {row[key]:.2f}" for key in _gammas(self._rows)]
        return "  ".join(words if head["active"] else [*words, head["badge"]])

    # ------------------------------------------------------------------------------------------------- the front end

    def open(self) -> None:
        """Open the connection to the front end, where there is one: without, the widget would only weigh the notebook down."""
        if interactive():
            super().open()

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = ({"text/plain": repr(self)}, {}) if self.comm is None else super()._repr_mimebundle_(**kwargs)
        if not self.summary["active"] and (self._rows or self.samples):
            # What GitHub, an untrusted notebook and an export show. It takes a second or two, which a view that opens cannot
            # wait for; a training that goes on gets its picture at the end.
            from .. import figures

            try:
                data["image/png"] = base64.b64encode(figures.summary_png(self.run)).decode()
            except WorkbenchError as error:
                say_once(str(error))
        return data, metadata

    def _receive(self, widget, content: dict, buffers: list) -> None:
        """What the front end asks for. This may run in another thread (a subshell), so it leaves the traits alone."""
        kind, step = (content.get(name) if isinstance(content, dict) else None for name in ("kind", "step"))
        try:
            if kind == "stop":
                self.run.stop()
            elif kind == "free":
                if self._freed:  # else no cell waits
                    self._loop.call_soon_threadsafe(self._freed.set)
            elif kind == "sample" and isinstance(step, int) and 0 <= step < 2**53:
                self._send_samples(step)
            else:
                say_once(f"the dashboard of {self.run.name} was sent what is no request: {repr(content)[:80]}")
        except WorkbenchError as error:
            say_once(str(error))

    def _send_samples(self, step: int) -> None:
        """The sample grid of a step, or why it cannot be shown; nothing where it is not there."""
        path, message = self.run.sample_path(step), dict(kind="sample", step=step)
        if not path.exists():
            return self.send(message, [])
        try:
            sample_grid(path)
            self.send(message, [path.read_bytes()])
        except (WorkbenchError, OSError) as error:
            self.send(message | dict(reason=str(error)), [])


# ----------------------------------------------------------------------------------------------------- what is drawn


def charts(rows: list[dict], evaluations: list[dict]) -> list[dict]:
    """The charts of a run, in the form that `dashboard.js` draws: one per topic of the history and one per score."""
    gammas = [(f"{key[6].upper()} {key[7:]}", key[6], key) for key in _gammas(rows)]
    topics = (  # title, unit, whether the axis must show zero, curves: name, colour, key in the history
        ("Losses", "hinge loss", False, [("D", "d", "loss_d"), ("G", "g", "loss_g")]),
        ("Output of D", "logit", False, [("real", "real", "d_real"), ("fake", "fake", "d_fake")]),
        ("Attention", "γ, by map size", True, gammas),
        ("Learning rates", "rate", True, [("D", "d", "lr_d"), ("G", "g", "lr_g")]),
    )
    drawn = []
    for title, unit, zero, curves in topics:
        empty = "no attention" if rows and not curves else "no values yet"
        lines = [_curve(name, colour, [(row["step"], row.get(key)) for row in rows]) for name, colour, key in curves]
        drawn.append(dict(title=title, unit=unit, zero=zero, empty=empty, curves=lines))
    # One chart per score and protocol: scores of different protocols do not compare.
    evaluations = records.evaluations(evaluations)
    for score, protocol in dict.fromkeys((name, row["protocol"]) for row in evaluations for name in row["scores"]):
        scored = {row["step"]: row["scores"][score] for row in evaluations if row["protocol"] == protocol and score in row["scores"]}
        points = sorted(scored.items())
        line = [_curve("", "score", points)]
        drawn.append(dict(title=score, unit=brief(protocol), note=protocol, zero=True, empty="", curves=line))
    return drawn


def diagnostic_charts(rows: list[dict], spectra: list[dict]) -> list[dict]:
    """The charts that tell why a training goes as it goes; none for a run that did not keep track of these things.

    Charts of singular values have `layers` (name, colour, curves), which share `steps`: one of them is shown with all its curves, the
    first curve of the others pale behind it.
    """
    if not (spectra or any("grad_norm_d" in row for row in rows)):
        return []
    margins = _curve("real − fake", "d", [(row["step"], margin(row)) for row in rows], POINTS // 2)
    norms = [
        ("D", "d", "grad_norm_d"),
        ("max", "d", "grad_norm_d_max"),
        ("G", "g", "grad_norm_g"),
        ("max", "g", "grad_norm_g_max"),
    ]
    shares = [("real", "real", "saturated_real"), ("fake", "fake", "saturated_fake")]

    def curves(keys):
        return [_curve(name, colour, [(row["step"], row.get(key)) for row in rows], POINTS // 2) for name, colour, key in keys]

    drawn = [
        dict(title="Gradients", unit="norm, mean and maximum since the last logged step", log=True, curves=curves(norms)),
        dict(title="Margin of D", unit="mean logit on real less that on fake images", zero=True, curves=[margins]),
        dict(title="Saturation of D", unit="share of images that D's hinge loss is flat at", zero=True, curves=curves(shares)),
    ]
    spectra = _thinned_rows(records.spectra(spectra))
    names = records.layer_names(spectra)
    for letter in "GD":
        layers = [_layer(name, name[2:], spectra, weight=True) for name in names if name[0] == letter]
        drawn.append(dict(title=f"Weights of {letter}", unit="largest singular value of", log=True, layers=layers))
    layers = [_layer(name, name, spectra, weight=False) for name in names]
    drawn.append(dict(title="Weights at work", unit="after spectral normalization, of", log=True, layers=layers))
    steps = [row["step"] for row in spectra]
    return [dict(zero=False, log=False, empty="no values yet", curves=[], layers=[], steps=steps) | chart for chart in drawn]


def _layer(name: str, label: str, spectra: list[dict], weight: bool) -> dict:
    """Curves of a layer: of its weight the largest singular value and, where it is divided by that, the estimate; or of what it works with."""
    rows = [row["layers"].get(name, dict(exact=[None])) for row in spectra]
    curves = {"exact": [row["exact"][0] for row in rows], "estimate": [row.get("estimate") for row in rows]}
    if not weight:
        curves = {"exact": [effective(row) for row in rows]}
    curves = {name: [value and float(f"{value:.5g}") for value in values] for name, values in curves.items() if any(values)}
    return dict(name=label, colour=name[0].lower(), curves=[dict(name=name, values=values) for name, values in curves.items()])


def _thinned_rows(rows: list[dict], limit: int = LAYER_POINTS) -> list[dict]:
    """At most `limit` rows, evenly spread and with the last, so chosen that a growing list does not flicker."""
    stride = 1 << max(0, math.ceil(math.log2(max(1, len(rows)) / (limit - 1))))
    return [row for k, row in enumerate(rows) if k % stride == 0 or k == len(rows) - 1]


def thin(steps: np.ndarray, values: np.ndarray, limit: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points of a curve, with its ends and the extremes of each stretch.

    Stretches are a power of two long and start at its multiples: a growing curve does not flicker.
    """
    n = len(values)
    if n <= limit:
        return steps, values
    length = 2 ** math.ceil(math.log2(2 * n / (limit - 4)))
    keep = {0, n - 1}
    for start in range(0, n, length):
        stretch = values[start : start + length]
        keep |= {start + int(stretch.argmin()), start + int(stretch.argmax())}
    keep = sorted(keep)
    return steps[keep], values[keep]


def _curve(name: str, colour: str, points: list[tuple], limit: int = POINTS) -> dict:
    """A thinned curve of the finite points, at five digits: JSON has no NaN, and the notebook keeps the text."""
    finite = [(step, value) for step, value in points if value is not None and abs(value) < records.LARGEST]  # NaN is not
    table = np.array(finite, float).reshape(-1, 2)
    steps, values = thin(table[:, 0], table[:, 1], limit)
    return dict(name=name, colour=colour, steps=[int(s) for s in steps], values=[float(f"{v:.5g}") for v in values])


def _preview(png: bytes) -> bytes:
    """A picture as it is when it is small, else scaled down and as JPEG."""
    if len(png) <= PREVIEW_BYTES:
        return png
    picture, stream = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    picture.thumbnail((600, 600))
    picture.save(stream, "JPEG", quality=60)
    return stream.getvalue()


def _gammas(rows: list[dict]) -> list[str]:
    """The keys of the attention strengths in a history: gamma_g16, gamma_d16, ..."""
    return [key for key in (rows[-1] if rows else ()) if re.fullmatch(r"gamma_[gd]\d+", key)]


def _pace(rows: list[dict]) -> float | None:
    """Seconds per step by the last two rows of a history; None where they do not tell."""
    if len(rows) < 2 or not all("seconds" in row for row in rows[-2:]) or rows[-1]["step"] <= rows[-2]["step"]:
        return None
    return (rows[-1]["seconds"] - rows[-2]["seconds"]) / (rows[-1]["step"] - rows[-2]["step"])


def _short(number: float) -> str:
    """Two or more digits: 0.034, 6.9, 442."""
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


# ----------------------------------------------------------------------------------------------------- signals


@contextmanager
def _interrupts_as_calls(callback: Callable[[], None]) -> Iterator[None]:
    """Let each SIGINT (Jupyter's stop square, Ctrl-C) call `callback` in the event loop and do nothing else."""
    if threading.current_thread() is not threading.main_thread():  # a subshell: it can neither get nor handle signals
        yield
        return
    # ipykernel cancels an awaiting cell at the first SIGINT, and never tells it of the second.
    loop, context = asyncio.get_running_loop(), copy_context()  # the context says which cell prints
    before = signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(callback, context=context))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
