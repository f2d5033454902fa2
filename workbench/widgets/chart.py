"""A plotly chart in a notebook that is updated while it is shown."""

from __future__ import annotations

import gzip
from functools import cache

from plotly.basewidget import BaseFigureWidget
from plotly.graph_objects import FigureWidget

from ..figures.charts import Chart
from ..figures.interactive import content
from .bundle import bundle

DATA = ("x", "y", "text", "error_y")  # entries of a trace that change while it is shown


class LiveChart(FigureWidget):
    """A chart; lines can be zoomed, hidden, read with the pointer and put on a logarithmic scale.

    Parameters
    ----------
    chart
        The first chart.
    width
        In pixels.
    """

    _esm = bundle("chart.js")

    def __init__(self, chart: Chart, width: int):
        plotly = content(chart)
        height = plotly["layout"]["height"] + 90
        below = dict(orientation="h", y=-50 / height, yanchor="top", font=dict(size=11))
        super().__init__(data=plotly["data"], layout=plotly["layout"] | dict(width=width, height=height, legend=below))
        self._drawn = plotly
        self.on_msg(self._receive)

    def draw(self, chart: Chart) -> bool:
        """Show a chart with the same lines but other data, of which only changes are sent; False if it has other lines."""
        before, now = self._drawn, content(chart)
        if _without_data(before) != _without_data(now):
            return False
        with self.batch_update():
            for trace, old, new in zip(self.data, before["data"], now["data"], strict=True):
                for name in DATA:
                    if new.get(name) != old.get(name):
                        trace[name] = new.get(name)
        self._drawn = now
        return True

    def keep_in_notebook(self) -> None:
        """Save the state of the widgets in the notebook, to be shown without a kernel."""
        self.send(dict(kind="keep"))

    def _receive(self, widget, message: dict, buffers: list) -> None:
        if isinstance(message, dict) and message.get("kind") == "plotly":
            self.send(dict(kind="plotly"), [_plotly()])


@cache
def _plotly() -> bytes:
    """plotly.js, compressed: a Jupyter server limits messages to about a megabyte a second."""
    return gzip.compress(str(BaseFigureWidget._esm).encode(), 6)


def _without_data(plotly: dict) -> tuple[dict, list[dict]]:
    """Layout and traces of `content`, without the entries that `draw` can change."""
    return plotly["layout"], [{name: value for name, value in trace.items() if name not in DATA} for trace in plotly["data"]]
