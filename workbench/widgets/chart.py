"""A plotly chart in a notebook that is updated while it is shown."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import traitlets
from plotly.basewidget import BaseFigureWidget
from plotly.graph_objects import FigureWidget

from ..figures.charts import Chart
from ..figures.interactive import content
from ..figures.labels import beside_legend
from ..figures.theme import for_any_theme
from .bundle import bundle

DATA = ("x", "y", "text", "error_y")  # entries of a trace that change while it is shown
HEIGHT = 178  # of a chart in pixels
CONFIG = dict(displayModeBar=False, responsive=True)  # the bar would cover the legend
MARGINS = dict(l=54, r=8, t=26, b=38)


class LiveChart(FigureWidget):
    """A chart of one panel, as wide as there is room; lines can be zoomed, hidden and read with the pointer.

    Parameters
    ----------
    chart
        The first chart.
    clicked
        Is called with the x of a point that the user has clicked.
    """

    _esm = bundle("chart.js")

    def __init__(self, chart: Chart, clicked: Callable[[float], None]):
        plotly = _compact(chart)
        super().__init__(data=plotly["data"], layout=plotly["layout"])
        self._drawn = plotly
        self.on_msg(self._receive)
        for trace in self.data:
            trace.on_click(partial(_click, clicked))

    @traitlets.default("_config")
    def _first_config(self) -> dict:
        return CONFIG

    @traitlets.validate("_config")  # plotly empties it again; and a page may draw the chart before it gets a change
    def _whole_config(self, proposal) -> dict:
        return proposal.value | CONFIG

    def draw(self, chart: Chart) -> bool:
        """Show a chart with the same lines but other data, of which only changes are sent; False if it has other lines.

        A range of the y axis that the user has chosen stays.
        """
        before, now = self._drawn, _compact(chart)
        if _without_data(before) != _without_data(now):
            return False
        with self.batch_update():
            for trace, old, new in zip(self.data, before["data"], now["data"], strict=True):
                for name in DATA:
                    if new.get(name) != old.get(name):
                        trace[name] = new.get(name)
            for text in (_title, _below):
                if text(now["layout"])["text"] != text(before["layout"])["text"]:
                    text(self.layout)["text"] = text(now["layout"])["text"]
            old, new = (plotly["layout"]["yaxis"].get("range") for plotly in (before, now))
            if new != old and (old is None or list(self.layout.yaxis.range or ()) == list(old)):
                self.layout.yaxis.range = new
                self.layout.yaxis.autorange = new is None
        self._drawn = now
        return True

    def _receive(self, widget, message: dict, buffers: list) -> None:
        if isinstance(message, dict) and message.get("kind") == "plotly":
            self.send(dict(kind="plotly"), [_plotly()])


def _compact(chart: Chart) -> dict:
    """The `content` of a chart of one panel, for a small place: its title and legend share a line."""
    plotly = content(for_any_theme(replace(chart, panels=tuple(map(beside_legend, chart.panels)))), labels=False)
    layout = {name: value for name, value in plotly["layout"].items() if name not in ("updatemenus", "title", "width")}
    title = _title(layout) | dict(x=0, xanchor="left", xshift=6 - MARGINS["l"], y=1.02)
    legend = dict(orientation="h", x=1, xanchor="right", y=1, yanchor="bottom", font=dict(size=10))
    for axis in ("xaxis", "yaxis"):
        layout[axis] = layout[axis] | dict(title=layout[axis]["title"] | dict(font=dict(size=11)))
    layout["yaxis"]["nticks"] = 3 if layout["yaxis"]["type"] == "log" else 5  # plotly also marks parts of powers of ten
    return plotly | dict(layout=layout | dict(height=HEIGHT, autosize=True, margin=MARGINS, legend=legend, annotations=[title]))


def _title(layout):
    """The title of the only panel of a plotly layout."""
    return layout["annotations"][0]


def _below(layout):
    """The title of its x axis."""
    return layout["xaxis"]["title"]


def _click(clicked: Callable[[float], None], trace, points, state) -> None:
    if points.xs:
        clicked(points.xs[0])


@cache
def _plotly() -> bytes:
    """plotly.js, compressed: a Jupyter server limits messages to about a megabyte a second."""
    return gzip.compress(str(BaseFigureWidget._esm).encode(), 6)


def _without_data(plotly: dict) -> tuple[dict, list[dict]]:
    """Layout and traces of `content`, without what `draw` can change."""
    layout = plotly["layout"]
    y = {name: value for name, value in layout["yaxis"].items() if name != "range"}
    x = layout["xaxis"] | dict(title=None)
    traces = [{name: value for name, value in trace.items() if name not in DATA} for trace in plotly["data"]]
    return layout | dict(annotations=None, xaxis=x, yaxis=y), traces
