"""The widgets of a `Dashboard`: ipywidgets, and charts of plotly. All text from runs is escaped."""

from __future__ import annotations

import html
import io
import threading
from dataclasses import replace
from functools import partial

import ipywidgets
from IPython import get_ipython
from PIL import Image

from .. import figures
from ..figures import records
from ..figures.charts import Chart
from ..messages import WorkbenchError, say_once
from .chart import LiveChart

POINTS = 8_000  # of all lines of a chart
WIDTH = 640  # of the charts, in pixels
PREVIEW_BYTES = 120_000  # a larger sample grid is saved in the notebook as a JPEG
TABS = ("Curves", "Scores", "Diagnostics", "Layers")
EMPTY = "no values yet"
TONES = {"running": "success", "finished": "success", "starting": "warning", "stopping": "warning", "failed": "danger", "lost": "danger"}
STYLE = """<style>
.wb-dashboard .wb-samples img { image-rendering: pixelated; }
.wb-dashboard .badge { padding: 1px 10px; border: 1px solid currentColor; border-radius: 99px; font-weight: 600; }
.wb-dashboard :is(.badge.running, .badge.finished) { color: var(--jp-success-color0, #16804f); }
.wb-dashboard :is(.badge.starting, .badge.stopping) { color: var(--jp-warn-color0, #9a5b00); }
.wb-dashboard :is(.badge.failed, .badge.lost, .badge.unreadable, .alarm) { color: var(--jp-error-color0, #c02626); }
.wb-dashboard .note { padding: 4px 12px; border-left: 4px solid currentColor; white-space: pre-line; overflow-wrap: anywhere; line-height: 1.4; }
.wb-dashboard .farewell { display: none; }
.jupyter-widgets-disconnected .farewell { display: block; }
.wb-dashboard .jupyter-widgets-disconnected::before { display: none; }
.wb-dashboard pre { max-height: 240px; overflow: auto; line-height: 1.3; }
</style>"""


class DashboardView:
    """The widgets of a dashboard.

    Parameters
    ----------
    dashboard : Dashboard
        Its attributes are read at every `update`.
    """

    def __init__(self, dashboard) -> None:
        self._dashboard = dashboard
        self._lock = threading.RLock()  # messages of the front end may arrive in another thread (a subshell)
        self._drawn: dict[str, tuple] = {}  # tab -> the values of its charts
        self._picture_of: tuple = ()
        self._reason = ""  # why the samples cannot be shown
        self._make_head()
        self._make_samples()
        self._make_charts()
        body = ipywidgets.Box([self._samples, self._tab], layout=dict(flex_flow="row wrap", align_items="flex-start"))
        self.root = ipywidgets.VBox([self._style, self._bar_row, self._progress, self._facts, self._notes, body])
        self.root.add_class("wb-dashboard")
        for control in (self._slider, self._tab, self._smoothing, self._layer):
            control.comm.on_msg(partial(self._receive, control))
        self.update()

    def bundle(self) -> dict:
        """The MIME bundle for a notebook."""
        return dict(self.root._repr_mimebundle_())

    def update(self) -> None:
        """Show the state of the dashboard; only changes go to the front end."""
        with self._lock:
            self._update_head()
            self._update_slider()
            self._update_samples()
            self._update_charts()

    def keep_in_notebook(self) -> None:
        """Save this view in the notebook, to be shown without a kernel."""
        with self._lock:
            if len(self._image.value) > PREVIEW_BYTES:
                self._image.value = _preview(self._image.value)
            for chart in self._panes["Curves"].children:
                if isinstance(chart, LiveChart):
                    chart.keep_in_notebook()

    def _receive(self, control: ipywidgets.Widget, message: dict) -> None:
        """Apply a change of a control, and report that the kernel is idle again.

        While a cell awaits, ipykernel 7 does not report this, and a widget of ipywidgets waits for it before it sends its next change.
        """
        control._handle_msg(message)
        kernel = getattr(get_ipython(), "kernel", None)
        if kernel and self._dashboard.waiting:
            for state in ("idle", "busy"):
                kernel.session.send(kernel.iopub_socket, "status", dict(execution_state=state), parent=message)

    # ------------------------------------------------------------------------------------------------- the head

    def _make_head(self) -> None:
        self._style = ipywidgets.HTML(STYLE)
        self._name, self._facts, self._notes = (ipywidgets.HTML() for _ in range(3))
        self._stop = ipywidgets.Button(
            description="Stop", icon="stop", button_style="danger", tooltip="Save a checkpoint and stop the training"
        )
        self._free = ipywidgets.Button(
            description="Let other cells run",
            tooltip="A cell waits for the end of the training: end that cell now; the training and this view go on",
        )
        self._stop.on_click(lambda _: self._request_stop())
        self._free.on_click(lambda _: self._dashboard.free())
        self._progress = ipywidgets.IntProgress(layout=dict(width="100%"))
        self._bar_row = ipywidgets.HBox(
            [self._name, self._free, self._stop], layout=dict(justify_content="space-between", align_items="center")
        )
        self._name.layout.flex = "1 1 auto"

    def _request_stop(self) -> None:
        try:
            self._dashboard.run.stop()
            self._dashboard.refresh()
        except WorkbenchError as error:
            say_once(str(error))

    def _update_head(self) -> None:
        head = self._dashboard.head
        text = {name: html.escape(str(head[name])) for name in ("name", "about", "badge", "state", "message", "log")}
        self._name.value = f"<b style='font-size: 17px'>{text['name']}</b> {text['about']} <span class='badge {text['state']}' role='status'>{text['badge']}</span>"
        self._progress.max = max(1, head["steps"])
        self._progress.value = min(head["step"], self._progress.max)
        self._progress.bar_style = TONES.get(head["state"], "")
        self._facts.value = " &emsp; ".join(f"<b>{html.escape(value)}</b> {unit}" for unit, value in head["facts"].items())
        self._stop.disabled = not head["active"] or head["state"] == "stopping"
        self._free.layout.display = None if self._dashboard.waiting and head["active"] else "none"
        alarms = html.escape("\n".join(head["alarms"]))
        again = html.escape(f'await Dashboard("{head["name"]}").follow()')
        notes = [f"<div class='note alarm' role='alert'>{alarms}</div>" if alarms else ""]
        notes += [f"<div class='note message' role='status'>{text['message']}</div>" if text["message"] else ""]
        notes += [f"<details><summary>last lines of the log</summary><pre>{text['log']}</pre></details>" if text["log"] else ""]
        gone = f"The kernel of this view is gone; the training goes on without it. To watch it again: {again}"
        notes += [f"<div class='note farewell'>{gone}</div>" if head["active"] else ""]
        self._notes.value = "".join(notes)

    # ------------------------------------------------------------------------------------------------- samples

    def _make_samples(self) -> None:
        self._caption = ipywidgets.HTML()
        self._image = ipywidgets.Image(format="png", layout=dict(width="100%", object_fit="contain"))
        self._slider = ipywidgets.IntSlider(min=0, max=0, readout=False, layout=dict(flex="1 1 auto"))
        self._newest = ipywidgets.Button(description="newest", layout=dict(width="80px", flex="0 0 auto"))
        self._slider.observe(lambda _: self.update(), "value")
        self._newest.on_click(lambda _: self._to_newest())
        self._steps: list[int] = []
        row = ipywidgets.HBox([self._slider, self._newest])
        self._samples = ipywidgets.VBox([self._caption, self._image, row], layout=dict(width="350px", margin="0 12px 0 0"))
        self._samples.add_class("wb-samples")

    def _update_slider(self) -> None:
        """Give the slider the current steps; it stays at its step, or at the newest."""
        steps = self._dashboard.samples
        if steps == self._steps:
            return
        step = None if self._slider.value == len(self._steps) - 1 else self._step  # None: the newest
        self._steps = list(steps)
        last = max(0, len(steps) - 1)
        with self._slider.hold_trait_notifications():
            self._slider.max = last
            self._slider.value = last if step is None or step not in steps else steps.index(step)

    @property
    def _step(self) -> int | None:
        """The step of the samples."""
        return self._steps[min(self._slider.value, len(self._steps) - 1)] if self._steps else None

    def _update_samples(self) -> None:
        step, newest = self._step, self._steps[-1] if self._steps else None
        self._slider.disabled = self._newest.disabled = step is None
        if step is None:
            self._image.layout.display = "none"
            self._caption.value = f"no samples yet; they come every {self._dashboard.head['sample_every']} steps"
            return
        path = self._dashboard.run.sample_path(step)
        stamp = (step, path.stat().st_mtime_ns if path.exists() else 0)
        if stamp != self._picture_of:
            picture, reason = self._dashboard.sample(step)
            self._picture_of = stamp
            self._reason = reason
            self._image.layout.display = None if picture else "none"
            if picture:
                self._image.format, self._image.value = "png", picture
        words = f"<b>Samples</b> step {step:,}" + (", the newest" if step == newest else "")
        self._caption.value = f"{words}: {html.escape(self._reason)}" if self._reason else words

    def _to_newest(self) -> None:
        with self._lock:
            self._slider.value = self._slider.max

    # ------------------------------------------------------------------------------------------------- charts

    def _make_charts(self) -> None:
        self._panes = {name: ipywidgets.VBox() for name in TABS}
        self._smoothing = ipywidgets.FloatSlider(description="Smoothing", min=0, max=0.99, step=0.01, continuous_update=False)
        self._layer = ipywidgets.Dropdown(description="Layer", layout=dict(width="360px"))
        pages = [ipywidgets.VBox([self._smoothing, self._panes["Curves"]]), self._panes["Scores"], self._panes["Diagnostics"]]
        self._tab = ipywidgets.Tab([*pages, ipywidgets.VBox([self._layer, self._panes["Layers"]])], titles=TABS)
        self._tab.layout.flex = f"1 1 {WIDTH}px"
        for widget, name in ((self._tab, "selected_index"), (self._smoothing, "value"), (self._layer, "value")):
            widget.observe(lambda _: self.update(), name)

    def _update_charts(self) -> None:
        """Draw the open tab only."""
        tab, board = TABS[self._tab.selected_index or 0], self._dashboard
        if tab == "Layers":
            self._update_layers()
        source = dict(
            Curves=(board.rows, self._smoothing.value), Scores=(board.evaluations,), Diagnostics=(board.rows, board.spectra), Layers=(board.spectra, self._layer.value)
        )[tab]  # fmt: skip
        before = self._drawn.get(tab)
        if before is not None and all(a is b or (isinstance(a, float | str) and a == b) for a, b in zip(source, before, strict=True)):
            return
        self._drawn[tab] = source
        chart, pane = self._chart(tab), self._panes[tab]
        if not any(line.x for line in chart.lines):
            pane.children = [ipywidgets.HTML(EMPTY)]
        elif not (pane.children and isinstance(pane.children[0], LiveChart) and pane.children[0].draw(chart)):
            pane.children = [LiveChart(chart, WIDTH)]

    def _chart(self, tab: str) -> Chart:
        board, name = self._dashboard, ""
        if tab == "Curves":
            return figures.curves(name, board.rows).description.smoothed(self._smoothing.value).thinned(POINTS)
        if tab == "Scores":
            return figures.scores_of_run(name, board.evaluations).description.thinned(POINTS)
        if tab == "Diagnostics":
            return replace(figures.diagnostics(name, board.rows, board.spectra).description, columns=2).thinned(POINTS)
        if not self._layer.value:
            return Chart("", ())
        network, _, path = self._layer.value.partition("/")
        chart = figures.singular_values(name, board.spectra, network).description
        return replace(chart, title="", panels=tuple(panel for panel in chart.panels if panel.title == path), columns=1, height=320)

    def _update_layers(self) -> None:
        names = records.layer_names(self._dashboard.spectra)
        if names != list(self._layer.options):
            layer = self._layer.value
            self._layer.options = names
            self._layer.value = layer if layer in names else next(iter(names), None)


def _preview(png: bytes) -> bytes:
    """A smaller picture as JPEG."""
    picture, stream = Image.open(io.BytesIO(png)).convert("RGB"), io.BytesIO()
    picture.thumbnail((600, 600))
    picture.save(stream, "JPEG", quality=60)
    return stream.getvalue()
