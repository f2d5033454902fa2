# ruff: noqa: RUF001
"""The charts of a dashboard, in tabs; those of the open tab are drawn."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from dataclasses import replace

import ipywidgets
import numpy as np

from ... import figures
from ...figures import records
from ...figures.charts import Axis, Chart, colours
from ...runs import Run, list_runs
from ...studies.groups import AXES, along
from ..chart import LiveChart

POINTS = 8_000  # of all lines of a tab
TABS = ("Curves", "Scores", "Diagnostics", "Layers")
EMPTY = "no values yet"
NARROWEST = 270  # width of a chart in pixels
LOOK_FOR_RUNS = 10.0  # seconds
MOST_OTHERS = 6


class Charts:
    """The charts of a dashboard.

    Parameters
    ----------
    dashboard : Dashboard
        Whose records are drawn.
    changed
        Is called when the user has changed a control.
    clicked
        Is called with the step of a point that the user has clicked.
    """

    def __init__(self, dashboard, changed: Callable[[], None], clicked: Callable[[float], None]) -> None:
        self._dashboard, self._changed, self._clicked = dashboard, changed, clicked
        self._drawn: dict[str, tuple] = {}  # tab -> what its charts were drawn from
        self._others: dict[str, Run] = {}  # the overlaid runs, by name
        self._histories: dict[str, tuple[float, list[dict]]] = {}  # time of the file and content of the histories of the overlaid runs
        self._looked = -LOOK_FOR_RUNS
        wrap = dict(flex_flow="row wrap")
        columns = dict(grid_template_columns=f"repeat(auto-fit, minmax({NARROWEST}px, 1fr))")
        self._panes = {name: ipywidgets.GridBox(layout=columns) for name in TABS}
        self._smoothing = ipywidgets.FloatSlider(
            description="smooth", min=0, max=0.99, step=0.01, continuous_update=False, readout_format=".2f", layout=dict(width="170px")
        )
        self._axis = ipywidgets.Dropdown(options=list(AXES), tooltip="axis", layout=dict(width="84px"))
        self._log = ipywidgets.Checkbox(description="log", indent=False, layout=dict(width="52px"))
        self._all = ipywidgets.Checkbox(description="outliers", indent=False, layout=dict(width="80px"))
        self._overlay = ipywidgets.Dropdown(options=["overlay a run"], layout=dict(width="150px"))
        self._chips = ipywidgets.HBox(layout=wrap)
        self._layer = ipywidgets.Dropdown(description="layer", layout=dict(width="360px", max_width="98%"))
        self._smoothing.style.description_width = self._layer.style.description_width = "initial"
        bar = ipywidgets.HBox([self._smoothing, self._axis, self._log, self._all, self._overlay], layout=wrap | dict(align_items="center"))
        pages = [ipywidgets.VBox([bar, self._chips, self._panes["Curves"]]), self._panes["Scores"], self._panes["Diagnostics"]]
        self._tab = ipywidgets.Tab([*pages, ipywidgets.VBox([self._layer, self._panes["Layers"]])], titles=TABS)
        self.root = ipywidgets.Box([self._tab], layout=dict(flex="3 1 320px", min_width="0"))
        self._tab.layout.flex = "1 1 auto"
        self._tab.layout.min_width = "0"
        self.controls = (self._tab, self._smoothing, self._axis, self._log, self._all, self._layer)
        for control in self.controls:
            control.observe(lambda _: changed(), "selected_index" if control is self._tab else "value")
        self._overlay.observe(lambda change: self._add(change["new"]), "value")

    def update(self) -> None:
        """Draw the open tab, if what it shows has changed."""
        tab, board = TABS[self._tab.selected_index or 0], self._dashboard
        if tab == "Curves":
            self._offer_runs()
            self._read_others()
        if tab == "Layers":
            self._update_layers()
        controls = (self._smoothing.value, self._axis.value, self._log.value, self._all.value)
        source = dict(
            Curves=(board.rows, *controls, *self._histories.values()), Scores=(board.evaluations,),
            Diagnostics=(board.rows, board.spectra), Layers=(board.spectra, self._layer.value),
        )[tab]  # fmt: skip
        before = self._drawn.get(tab, ())
        if len(before) == len(source) and all(a is b or (not isinstance(a, list) and a == b) for a, b in zip(source, before, strict=True)):
            return
        self._drawn[tab] = source
        self._draw(self._panes[tab], self._chart(tab))

    def _draw(self, pane: ipywidgets.GridBox, chart: Chart) -> None:
        """A widget for each panel: so they wrap where a page is narrow."""
        parts = [replace(chart, panels=(panel,), title="", notes=(), columns=1, widths=(), legend="below") for panel in chart.panels]
        parts = [part for part in parts if any(line.x for line in part.lines)]
        before = list(pane.children)
        same = before if len(before) == len(parts) else [None] * len(parts)
        frames = [self._frame(frame, part) for frame, part in zip(same, parts, strict=True)] or [ipywidgets.HTML(EMPTY)]
        if frames == before:
            return
        pane.children = frames
        for frame in before:  # else the notebook would save it too
            if frame not in frames:
                for widget in (*getattr(frame, "children", ()), frame):
                    widget.close()

    def _frame(self, frame: ipywidgets.Box | None, chart: Chart) -> ipywidgets.Box:
        """The frame itself if its chart could be changed, else a new one."""
        if isinstance(frame, ipywidgets.Box) and frame.children[0].draw(chart):
            return frame
        live = LiveChart(chart, self._click)
        frame = ipywidgets.Box([live], layout=dict(min_width="0"))
        frame.add_class("wb-chart")
        return frame

    def _click(self, x: float) -> None:
        """Show the samples of the clicked point of a curve."""
        tab, rows = TABS[self._tab.selected_index or 0], self._dashboard.rows
        if tab == "Curves" and self._axis.value != "steps" and rows:
            steps = [row["step"] for row in rows]
            x = steps[int(np.abs(along(rows, self._axis.value, steps) - x).argmin())]
        self._clicked(x)

    def _chart(self, tab: str) -> Chart:
        board = self._dashboard
        if tab == "Curves":
            others = {name: rows for name, (_, rows) in self._histories.items()}
            chart = figures.curves(board.head["name"], board.rows, self._axis.value, others).description.smoothed(self._smoothing.value)
            chart = chart.with_lines(lambda line: replace(line, legend=False)) if others else chart  # the chips name the colours
            chart = chart.logarithmic() if self._log.value else chart
            return (chart if self._all.value else chart.focused()).thinned(POINTS)
        if tab == "Scores":
            return figures.scores_of_run("", board.evaluations).description.thinned(POINTS)
        if tab == "Diagnostics":
            return figures.diagnostics("", board.rows, board.spectra).description.focused().thinned(POINTS)
        if not self._layer.value:
            return Chart("", ())
        network, _, path = self._layer.value.partition("/")
        chart = figures.singular_values("", board.spectra, network).description
        panels = (panel for panel in chart.panels if panel.title == path)
        return replace(
            chart, panels=tuple(replace(panel, x=figures.histories.time_axis("steps"), y=Axis("singular value")) for panel in panels)
        )

    def _update_layers(self) -> None:
        names = records.layer_names(self._dashboard.spectra)
        if names != list(self._layer.options):
            layer = self._layer.value
            self._layer.options = names
            self._layer.value = layer if layer in names else next(iter(names), None)

    # ------------------------------------------------------------------------------------------------- overlaid runs

    def _offer_runs(self) -> None:
        if time.monotonic() - self._looked < LOOK_FOR_RUNS:
            return
        self._looked = time.monotonic()
        names = [run.name for run in list_runs() if run.path != self._dashboard.run.path and run.name not in self._others]
        if [self._overlay.options[0], *names] != list(self._overlay.options):
            self._overlay.options = [self._overlay.options[0], *names]

    def _add(self, name: str) -> None:
        if name == self._overlay.options[0]:  # the invitation
            return
        if run := next((run for run in list_runs() if run.name == name), None):
            self._set_others(self._others | {name: run})

    def _set_others(self, others: dict[str, Run]) -> None:
        self._others, self._looked = others, -LOOK_FOR_RUNS
        names = [self._dashboard.head["name"], *others] if others else []
        self._chips.children = [self._chip(name, colour) for name, colour in zip(names, colours(len(names)), strict=True)]
        self._offer_runs()
        self._overlay.index = 0
        self._overlay.disabled = len(others) == MOST_OTHERS
        self._changed()

    def _chip(self, name: str, colour: str) -> ipywidgets.Widget:
        label = ipywidgets.HTML(f"<b style='color: {colour}; padding-right: 8px'>{html.escape(name)}</b>")
        if name not in self._others:
            return label
        close = ipywidgets.Button(description="×", tooltip=f"Remove {name}", layout=dict(width="28px", padding="0"))
        close.on_click(lambda _: self._set_others({other: run for other, run in self._others.items() if other != name}))
        return ipywidgets.HBox([label, close])

    def _read_others(self) -> None:
        """Read the histories of the overlaid runs that have changed."""
        histories = {}
        for name, run in self._others.items():
            file = run.path / "history.jsonl"
            stamp, before = (file.stat().st_mtime if file.exists() else 0.0), self._histories.get(name)
            histories[name] = before if before and before[0] == stamp else (stamp, records.history(run.history()))
        self._histories = histories
