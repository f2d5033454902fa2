"""What every figure is: a picture that is saved as raster or vector graphics, with the recipe that it is drawn again from.

`Drawing` is drawn by matplotlib. `Plot` is an interactive plotly figure that carries a `Drawing` of itself, so that an executed notebook
shows a picture where no JavaScript runs (an untrusted notebook, a page of a git host), and a paper gets vector graphics. plotly's own
export would need a Chrome on the user's machine.
"""

from __future__ import annotations

import base64
import io
import json
from os import PathLike
from pathlib import Path

import numpy as np

from ..files import replace_bytes, replace_text, storing
from ..parameters import ParameterError, WorkbenchError
from ..runs import describe_machine, git_state
from .panels import plain
from .records import number

MARKERS = {"circle": "o", "circle-open": "o", "diamond": "D", "square": "s", "x": "x", "line-ew": "_"}  # plotly's name: matplotlib's


class Drawing:
    """A matplotlib figure together with the recipe that it can be drawn from again.

    Attributes
    ----------
    figure
        The `matplotlib.figure.Figure`.
    """

    def __init__(self, figure, name: str, parameters: dict):
        self.figure, self._name, self._parameters = figure, name, parameters

    @property
    def recipe(self) -> dict:
        """What a sidecar keeps: name and parameters of the figure, and commit and versions that drew it."""
        machine = describe_machine()
        made_by = dict(git=git_state(), python=machine["python"], versions=machine["versions"])
        return dict(figure=self._name, parameters=self._parameters, **made_by)

    def png(self, dpi: int = 110) -> bytes:
        """The figure as PNG bytes."""
        return png_bytes(self.figure, dpi)

    def save(self, path: str | PathLike) -> Path:
        """Write the figure as PNG, SVG or PDF, by the ending, with its recipe beside it (`redraw` takes that).

        Raises
        ------
        ParameterError
            For another ending.
        """
        from matplotlib import rc_context

        path = Path(path)
        if path.suffix not in (".png", ".svg", ".pdf"):
            raise ParameterError(f"path={str(path)!r} ends in {path.suffix!r}; a figure can be .png, .svg or .pdf")
        # Letters as letters (publishers refuse Type 3 fonts); neither a date nor random names, so that a figure drawn again is the same file.
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[path.suffix]
        stream = io.BytesIO()
        with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "workbench"}):
            self.figure.savefig(stream, format=path.suffix[1:], dpi=300, metadata=metadata)
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, stream.getvalue())
        replace_text(path.with_name(path.name + ".json"), json.dumps(self.recipe, indent=2))
        return path

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": base64.b64encode(self.png()).decode()}


class Plot:
    """A plotly figure together with its static picture and the recipe that it can be drawn from again.

    Attributes
    ----------
    figure
        The `plotly.graph_objects.Figure`, of lines, points and bands in a grid of panels.
    """

    def __init__(self, figure, name: str = "", parameters: dict | None = None):
        self.figure, self._name, self._parameters = figure, name, parameters or {}

    @property
    def drawing(self) -> Drawing:
        """The same as a drawing of matplotlib."""
        return Drawing(static_picture(self.figure), self._name, self._parameters)

    def png(self, dpi: int = 100) -> bytes:
        """The figure as PNG bytes."""
        return static_png(self.figure, dpi)

    def save(self, path: str | PathLike) -> Path:
        """Write the figure as PNG, SVG or PDF, by the ending, with its recipe beside it; see `Drawing.save`."""
        return self.drawing.save(path)

    def _repr_mimebundle_(self, include=None, exclude=None):
        content = json.loads(self.figure.to_json())  # in which what is not finite is null, as JSON has it
        return {"application/vnd.plotly.v1+json": content, "image/png": base64.b64encode(self.png()).decode()}


class Note:
    """What a notebook shows where a picture cannot be: the reason, in one line. To use it as a picture raises that as a WorkbenchError."""

    def __init__(self, reason: object):
        self._reason = str(reason)

    def __repr__(self) -> str:
        return self._reason

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str):
        raise AttributeError(name) if name.startswith("_") else WorkbenchError(self._reason)


def static_png(figure, dpi: int = 100) -> bytes:
    """A plotly figure of lines, points and bands in panels, drawn by matplotlib: PNG bytes."""
    return png_bytes(static_picture(figure), dpi)


def static_picture(figure):
    """The same as a `matplotlib.figure.Figure`.

    A panel whose traces have no names in the legend shares that of the whole figure, which then stands below.
    """
    from .pictures import Picture

    layout = figure.layout
    width, height = layout.width or 900, layout.height or 500  # 100 of them to the inch
    names = list(dict.fromkeys(trace.name for trace in figure.data if trace.showlegend is not False and len(_values(trace.x))))
    shared = bool(layout.legend.orientation == "h" and names)
    across_legend = max(1, int((width - 120) // (40 + 6.2 * max((len(plain(name)) for name in names), default=1))))
    legend_height = 20 * -(-len(names) // across_legend) if shared else 0
    height += legend_height
    picture = Picture(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
    margins = dict(left=100, right=20, bottom=45 + legend_height, top=65)
    across, down = width - margins["left"] - margins["right"], height - margins["bottom"] - margins["top"]

    def place(x: float, y: float) -> tuple[float, float]:
        """A place among the panels, from 0 to 1, as a place in the whole picture."""
        return (margins["left"] + across * x) / width, (margins["bottom"] + down * y) / height

    axes, handles = {}, {}
    for trace in figure.data:
        x, y = trace.xaxis or "x", trace.yaxis or "y"
        xaxis, yaxis = layout["xaxis" + x[1:]], layout["yaxis" + y[1:]]
        if y not in axes:
            (left, right), (bottom, top) = xaxis.domain or (0, 1), yaxis.domain or (0, 1)
            (left, bottom), (right, top) = place(left, bottom), place(right, top)
            axes[y] = _panel(picture.add_axes([left, bottom, right - left, top - bottom]), xaxis, yaxis)
        artist = _draw_trace(axes[y], trace, list(xaxis.categoryarray or ()) if xaxis.type == "category" else None)
        if artist is not None and trace.showlegend is not False and trace.name:
            handles.setdefault(trace.name, artist)
            artist.set_label(plain(trace.name))
    if shared and handles:
        picture.legend(
            handles.values(), map(plain, handles), loc="lower center", ncols=min(across_legend, len(handles)), fontsize=8, frameon=False
        )
    for panel in () if shared else axes.values():
        if panel.get_legend_handles_labels()[0]:
            panel.legend(fontsize=8)
    for note in layout.annotations:
        x, y = place(note.x, note.y)
        picture.text(x, y + 3 / height, plain(note.text), ha="center", va="bottom", fontsize=10)
    if layout.title.text:
        picture.suptitle(plain(layout.title.text), x=margins["left"] / width, ha="left", va="top", fontsize=12, y=1 - 8 / height)
    return picture


def _panel(panel, xaxis, yaxis):
    from matplotlib.ticker import LogFormatter

    panel.set_xlabel(plain(xaxis.title.text), labelpad=1)
    panel.set_ylabel(plain(yaxis.title.text), fontsize=yaxis.title.font.size)
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8)
    for letter, axis, set_scale in (("x", xaxis, panel.set_xscale), ("y", yaxis, panel.set_yscale)):
        if axis.type == "log":
            set_scale("log")
            drawn = getattr(panel, f"{letter}axis")
            for set_formatter in (drawn.set_major_formatter, drawn.set_minor_formatter):
                set_formatter(LogFormatter())  # 0.5, and not a power of ten, which would be mathematics
            panel.tick_params(axis=letter, which="minor", labelsize=6)
    if xaxis.tickvals is not None:
        panel.set_xticks(xaxis.tickvals, [plain(text) for text in xaxis.ticktext])
        panel.minorticks_off()
    if xaxis.type == "category":
        panel.set_xticks(range(len(xaxis.categoryarray)), [plain(name) for name in xaxis.categoryarray])
        panel.set_xlim(-0.5, len(xaxis.categoryarray) - 0.5)
    return panel


def _draw_trace(panel, trace, categories: list | None):
    """Draw one trace; what stands for it in a legend, or None where it has no points."""
    x, y = _values(trace.x), _numbers(trace.y)
    x = _numbers(x if categories is None else [categories.index(value) for value in x])
    if trace.fill == "toself":
        return panel.fill(x, y, color=trace.line.color, alpha=trace.opacity, linewidth=0)[0] if len(x) else None
    mode, alpha = trace.mode or "lines", trace.opacity
    colour = trace.line.color or trace.marker.color
    line = (
        dict(linestyle="--" if trace.line.dash else "-", linewidth=trace.line.width or 1.2) if "lines" in mode else dict(linestyle="none")
    )
    points = (
        dict(marker=MARKERS.get(trace.marker.symbol or "circle", "o"), markersize=0.7 * (trace.marker.size or 6))
        if "markers" in mode
        else {}
    )
    if trace.error_y.array is not None:
        style = dict(color=colour, alpha=alpha, capsize=3, elinewidth=1) | line | points
        return panel.errorbar(x, y, np.asarray(trace.error_y.array, float), **style) if len(x) else None
    (artist,) = panel.plot(x, y, color=colour, alpha=alpha, **line, **points)
    return artist if len(x) else None


def _numbers(values) -> np.ndarray:
    """As floats; what cannot be drawn is NaN."""
    drawn = (number(value) for value in np.asarray(_values(values), object).tolist())
    return np.asarray([np.nan if value is None else value for value in drawn], float)


def _values(values) -> list:
    return [] if values is None else list(values)


def png_bytes(picture, dpi: int | None = None) -> bytes:
    """A `matplotlib.figure.Figure` as PNG bytes."""
    stream = io.BytesIO()
    picture.savefig(stream, format="png", dpi=dpi or picture.dpi)
    return stream.getvalue()
