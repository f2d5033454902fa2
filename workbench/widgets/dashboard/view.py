"""The widgets of a dashboard: the head with progress and buttons, the samples, and the charts. All text from runs is escaped."""

from __future__ import annotations

import base64
import html
import threading
import uuid
from functools import partial
from pathlib import Path

import ipywidgets
from IPython import get_ipython

from ...messages import WorkbenchError, say_once
from ...runs import Run
from ..outputs import page, still
from .charts import Charts
from .fork import Fork
from .samples import Samples, preview

STYLE = (Path(__file__).parent / "dashboard.css").read_text(encoding="utf-8")
TONES = {"running": "success", "finished": "success", "starting": "warning", "stopping": "warning", "failed": "danger", "lost": "danger"}


class DashboardView:
    """The widgets of a dashboard.

    Parameters
    ----------
    dashboard : Dashboard
        Its attributes are read at every `update`.

    Attributes
    ----------
    samples, charts, fork
        The parts below the head.
    """

    def __init__(self, dashboard) -> None:
        self._dashboard = dashboard
        self._lock = threading.RLock()  # messages of the front end may arrive in another thread (a subshell)
        self._id = f"wb-{uuid.uuid4().hex}"
        self._forks: list = []
        self._make_head()
        self.samples, self.charts = Samples(dashboard, self.update), Charts(dashboard, self.update, self._show_samples_at)
        self.fork = Fork(dashboard, self._show_fork)
        left = ipywidgets.VBox([self.samples.root, self.fork.root], layout=dict(flex="1 1 240px", max_width="560px", margin="0 12px 0 0"))
        body = ipywidgets.Box([left, self.charts.root], layout=dict(flex_flow="row wrap", align_items="flex-start"))
        self._below = ipywidgets.VBox()
        head = [self._style, self._bar_row, self._progress, self._facts, self._notes]
        self.root = ipywidgets.VBox([*head, body, self._below])
        self.root.add_class("wb-dashboard")
        self.root.add_class(self._id)
        for control in (*self.samples.controls, *self.charts.controls):
            control.comm.on_msg(partial(self._receive, control))
        self.update()

    def bundle(self) -> dict:
        """The MIME bundle for a notebook."""
        return dict(self.root._repr_mimebundle_()) | {"text/plain": repr(self._dashboard)}

    def still(self, picture: bytes):
        """The facts of the head and a picture, where these widgets are not; see `outputs.still`."""
        head = self._dashboard.head
        facts = ", ".join(f"{value} {unit}" for unit, value in head["facts"].items())
        lines = [f"<b>{html.escape(head['name'])}</b> {html.escape(head['about'])}: {html.escape(head['badge'])}; {html.escape(facts)}"]
        lines += [html.escape(alarm) for alarm in head["alarms"]]
        lines.append(f"To watch it: <code>{html.escape(self._dashboard.command())}</code>")
        image = ""
        if picture:
            small = preview(picture, 980)
            kind = "png" if small == picture else "webp"
            image = f'<img alt="samples" style="max-width: 100%" src="data:image/{kind};base64,{base64.b64encode(small).decode()}">'
        return still(self._id, f"<p>{'<br>'.join(lines)}</p>{image}")

    def update(self) -> None:
        """Show the state of the dashboard; only changes go to the front end."""
        with self._lock:
            self._update_head()
            self.samples.update()
            self.charts.update()
            self.fork.update(self.samples.step)

    def keep_in_notebook(self) -> None:
        """Save this view in the notebook, to be shown without a kernel."""
        with self._lock:
            self.samples.shrink()
        page().keep_in_notebook()

    def _receive(self, control: ipywidgets.Widget, message: dict) -> None:
        """Apply a change of a control, and report that the kernel is idle again.

        While a cell awaits, ipykernel 7 does not report this, and a widget of ipywidgets waits for it before it sends its next change.
        """
        control._handle_msg(message)
        kernel = getattr(get_ipython(), "kernel", None)
        if kernel and self._dashboard.waiting:
            for state in ("idle", "busy"):
                kernel.session.send(kernel.iopub_socket, "status", dict(execution_state=state), parent=message)

    def _show_samples_at(self, step: float) -> None:
        with self._lock:
            self.samples.show(step)

    def _show_fork(self, run: Run) -> None:
        """Show the dashboard of a fork below this one."""

        def show() -> None:
            board = type(self._dashboard)(run, widgets=True)
            self._forks.append(board)
            self._below.children = (*self._below.children, board.view.root)

        self._dashboard.call_at_home(show)

    # ------------------------------------------------------------------------------------------------- the head

    def _make_head(self) -> None:
        self._style = ipywidgets.HTML(f"<style>{STYLE}</style>", layout=dict(display="none"))
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
        self._progress.add_class("wb-progress")
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
        text = {name: html.escape(str(head[name])) for name in ("name", "about", "badge", "state", "message", "log", "rates")}
        classes = f"badge {text['state']} {'collapsed' if head['collapsed'] else ''}".strip()
        badge = text["badge"] + (", collapsed" if head["collapsed"] else "")
        self._name.value = (
            f"<b style='font-size: 17px'>{text['name']}</b> {text['about']} <span class='{classes}' role='status'>{badge}</span>"
        )
        self._progress.max = max(1, head["steps"])
        self._progress.value = min(head["step"], self._progress.max)
        tone = TONES.get(head["state"], "")
        self._progress.bar_style = "warning" if head["collapsed"] and tone == "success" else tone
        facts = [f"<b>{html.escape(value)}</b> {unit}" for unit, value in head["facts"].items()] + (
            [text["rates"]] if text["rates"] else []
        )
        self._facts.value = "<div class='facts'>" + "".join(f"<span>{fact}</span>" for fact in facts) + "</div>"
        self._stop.disabled = not head["active"] or head["state"] == "stopping"
        self._free.layout.display = None if self._dashboard.waiting and head["active"] else "none"
        alarms = html.escape("\n".join(head["alarms"]))
        notes = [f"<div class='note alarm' role='alert'>{alarms}</div>" if alarms else ""]
        notes += [f"<div class='note message' role='status'>{text['message']}</div>" if text["message"] else ""]
        notes += [f"<details><summary>last lines of the log</summary><pre>{text['log']}</pre></details>" if text["log"] else ""]
        goes_on = "; the training goes on without it" if head["active"] else ""
        notes += [
            f"<div class='note farewell'>The kernel of this view is gone{goes_on}. To watch it again: {html.escape(self._dashboard.command())}</div>"
        ]
        self._notes.value = "".join(notes)
