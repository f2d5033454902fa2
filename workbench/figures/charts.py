"""What a figure shows, as plain data: a `Chart` of panels with lines, bands, bars and rules, or a `Sheet` of images.

`interactive` (plotly) and `print` (matplotlib) draw the same description. A figure's sidecar is this description as JSON, so that the figure
can be drawn again without its runs. Images are PNG and attention maps float32, both in base64.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import numpy as np

from ..parameters import WorkbenchError
from ..records import is_number
from .records import LARGEST, number

COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#c2185b", "#8c564b", "#17a2b8", "#7f7f7f", "#b5a300", "#003f88")
DARK = "#222222"
MOST_POINTS = 40_000  # of all lines of a chart; more make notebooks and pages large, and show nothing more
MOST_PANELS = 2_000
EMPTY = -1  # `Cell.image` of a cell without an image
MAX_PIXELS = 50_000_000  # of an image; a usual sample grid has a twentieth of it
Number = float | None


@dataclass(frozen=True)
class Line:
    """Points of a panel, joined by a line or not.

    Attributes
    ----------
    x, y
        Coordinates; None: no value.
    name, legend
        Text in the legend, and whether it is shown there. Lines of one name are switched on and off together.
    mode
        "lines", "markers" or "lines+markers".
    low, high
        Lengths of error bars below and above each point, along `bars`: "x" or "y".
    source, about, texts
        Shown at the pointer: name of the line, what its values depend on, and a text for each point.
    """

    x: tuple[Number, ...]
    y: tuple[Number, ...]
    name: str = ""
    colour: str = DARK
    mode: str = "lines"
    width: float = 1.6
    dash: bool = False
    opacity: float = 1.0
    symbol: str = "circle"
    size: float = 6
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    bars: str = "y"
    source: str = ""
    about: str = ""
    texts: tuple[str, ...] = ()
    legend: bool = True


@dataclass(frozen=True)
class Band:
    """The area between `low` and `high` over x; it is switched with the lines of its name."""

    x: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    name: str
    colour: str


@dataclass(frozen=True)
class Bar:
    """Horizontal bars of these lengths at heights y; further bars of a panel are stacked to the right."""

    y: tuple[float, ...]
    lengths: tuple[float, ...]
    name: str
    colour: str


@dataclass(frozen=True)
class Rule:
    """A line across the whole panel, at a place of the axis "x" or "y"."""

    at: float
    axis: str
    name: str = ""
    colour: str = DARK
    dash: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis; `ticks`: places and texts; `range`: its ends, in either order (default: those of the data); `small`: the size of the title."""

    title: str = ""
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()
    range: tuple[float, float] | None = None
    small: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    x: Axis = Axis()
    y: Axis = Axis()
    lines: tuple[Line, ...] = ()
    bands: tuple[Band, ...] = ()
    bars: tuple[Bar, ...] = ()
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Chart:
    """Panels in rows.

    Attributes
    ----------
    title, notes
        Text above the panels, a line for each note.
    columns, height, gap, widths
        Panels in a row; height of a row in pixels; share of the width between panels; widths of the columns as shares.
    legend
        "below": one for the whole figure; "panels": one for each panel.
    """

    title: str
    panels: tuple[Panel, ...]
    notes: tuple[str, ...] = ()
    columns: int = 3
    height: int = 220
    gap: float = 0.24
    widths: tuple[float, ...] = ()
    legend: str = "below"

    def __post_init__(self):
        if not (1 <= self.columns <= 20 and 50 <= self.height <= 2000 and len(self.panels) <= MOST_PANELS and 0 <= self.gap <= 0.9):
            raise ValueError(f"{len(self.panels)} panels in {self.columns} columns of height {self.height} cannot be drawn")
        if len(self.widths) not in (0, self.across) or not all(share > 0 for share in self.widths):
            raise ValueError(f"widths={self.widths} do not fit {self.across} columns")

    @property
    def across(self) -> int:
        """Columns in use."""
        return min(self.columns, len(self.panels)) or 1

    @property
    def rows(self) -> int:
        return -(-len(self.panels) // self.across) or 1

    @property
    def lines(self) -> list[Line]:
        return [line for panel in self.panels for line in panel.lines]

    def places(self) -> list[tuple[float, float, float, float]]:
        """Left, right, bottom and top of every panel, as shares of the area of all panels."""
        gap = self.gap / self.across if self.across > 1 else 0.0
        between = min(75 / (self.height * self.rows), 0.9 / self.rows)
        shares = np.array(self.widths or [1] * self.across, float)
        widths = shares / shares.sum() * (1 - gap * (self.across - 1))
        lefts = np.cumsum([0, *(widths[:-1] + gap)])
        tall = (1 - between * (self.rows - 1)) / self.rows
        bottoms = [1 - tall - row * (tall + between) for row in range(self.rows)]
        cells = [divmod(k, self.across) for k in range(len(self.panels))]
        return [(lefts[c], min(lefts[c] + widths[c], 1.0), max(bottoms[r], 0.0), bottoms[r] + tall) for r, c in cells]

    def thinned(self, most: int = MOST_POINTS) -> Chart:
        """This chart with at most about `most` points in all lines; see `thin`."""
        total = sum(len(line.x) for line in self.lines)
        if total <= most:
            return self
        each = max(16, most // max(1, len(self.lines)))
        return self._with_lines(lambda line: _thinned(line, each))

    def smoothed(self, weight: float) -> Chart:
        """This chart with exponential moving averages as lines; `weight`, from 0 to below 1, is that of the past."""
        return self._with_lines(lambda line: replace(line, y=_average(line.y, weight))) if weight else self

    def _with_lines(self, change) -> Chart:
        panels = (
            replace(panel, lines=tuple(change(line) if "lines" in line.mode else line for line in panel.lines)) for panel in self.panels
        )
        return replace(self, panels=tuple(panels))


@dataclass(frozen=True)
class Cell:
    """An image of a sheet.

    Attributes
    ----------
    image
        Index of the image in `Sheet.images`, or `EMPTY`.
    heat, side
        A map drawn over it, (side, side), float32 encoded by `images.packed`; "": none.
    dots
        (x, y, colour) in pixels of the image.
    """

    image: int
    heat: str = ""
    side: int = 0
    dots: tuple[tuple[float, float, str], ...] = ()
    title: str = ""


@dataclass(frozen=True)
class Row:
    """Images side by side, with a label, or a note in place of the images."""

    cells: tuple[Cell, ...] = ()
    label: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """Rows of images.

    Attributes
    ----------
    images
        PNG in base64, of any size.
    cell
        Size of an image in the figure, in inches.
    labels
        Whether rows have room for labels.
    """

    title: str
    rows: tuple[Row, ...]
    images: tuple[str, ...]
    cell: float = 1.5
    labels: bool = False

    def __post_init__(self):
        if not 0.1 <= self.cell <= 10 or not self.rows or max(len(self.rows), *(len(row.cells) for row in self.rows)) > 500:
            raise ValueError("this many rows, or cells of this size, cannot be drawn")


# ------------------------------------------------------------------------------------------------------------ JSON


def to_plain(value):
    """A description as values of JSON; defaults are left out."""
    if is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: to_plain(entry) for field, entry in pairs if field.default is MISSING or entry != field.default}
    return [to_plain(entry) for entry in value] if isinstance(value, tuple) else value


def from_plain(value) -> Chart | Sheet:
    """The inverse of `to_plain`.

    Raises
    ------
    WorkbenchError
        If the value is no description; the message names the entry.
    """
    kind = Chart if isinstance(value, dict) and "panels" in value else Sheet
    return _read(kind, value, "figure")


def _read(kind, value, where: str):
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        if not isinstance(value, dict) or set(value) - set(hints):
            raise WorkbenchError(f"{where} is no {kind.__name__.lower()}")
        try:
            return kind(**{name: _read(hints[name], entry, f"{where}.{name}") for name, entry in value.items()})
        except (TypeError, ValueError) as error:
            raise WorkbenchError(f"{where} is no {kind.__name__.lower()}: {error}") from None
    if get_origin(kind) is UnionType:
        kind = next(member for member in get_args(kind) if member is not type(None))
        return None if value is None else _read(kind, value, where)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if isinstance(value, list) and kinds[-1] is Ellipsis:
            return tuple(_read(kinds[0], entry, where) for entry in value)
        if isinstance(value, list) and len(value) == len(kinds):
            return tuple(_read(member, entry, where) for member, entry in zip(kinds, value, strict=True))
    elif kind is float:
        if is_number(value) and abs(value) < LARGEST:
            return value
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise WorkbenchError(f"{where} has an entry of another type: {' '.join(repr(value).split())[:60]}")


# ---------------------------------------------------------------------------------------------------------- helpers


def colours(count: int) -> list[str]:
    """`count` colours: first the palette, then further ones around the hue circle."""
    more = max(0, count - len(COLOURS))
    around = (colorsys.hsv_to_rgb(k / more, 0.7, 0.75) for k in range(more))
    return [*COLOURS[:count], *("#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in around)]


def rounded(values: Sequence | np.ndarray) -> tuple[float, ...]:
    """Finite numbers to seven digits, more than a figure shows; whole numbers stay exact."""
    numbers = values.tolist() if isinstance(values, np.ndarray) else values
    return tuple(v if isinstance(v, int) and abs(v) < 2**53 else float(f"{v:.7g}") for v in numbers)


def brief_numbers(values: Sequence | np.ndarray) -> tuple[Number, ...]:
    """The same for any values; None for what cannot be drawn."""
    numbers = map(number, values.tolist() if isinstance(values, np.ndarray) else values)
    return tuple(None if v is None or math.isnan(v) else rounded([v])[0] for v in numbers)


def thin(y: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` points of a curve: its ends, and the extremes of each stretch.

    Stretches are a power of two long and start at its multiples, so that a growing curve does not flicker.
    """
    n = len(y)
    if n <= most:
        return np.arange(n)
    length = 2 ** math.ceil(math.log2(2 * n / (most - 4)))
    keep = {0, n - 1}
    for start in range(0, n, length):
        stretch = y[start : start + length]
        if np.isfinite(stretch).any():
            keep |= {start + int(np.nanargmin(stretch)), start + int(np.nanargmax(stretch))}
    return np.array(sorted(keep))


def _thinned(line: Line, most: int) -> Line:
    keep = thin(np.array(line.y, float), most).tolist()
    x, y, low, high, texts = (
        tuple(values[k] for k in keep) if values else () for values in (line.x, line.y, line.low, line.high, line.texts)
    )
    return replace(line, x=x, y=y, low=low, high=high, texts=texts)


def _average(values: tuple[Number, ...], weight: float) -> tuple[Number, ...]:
    """Exponential moving average with Adam's correction of the bias at the start; None stays None and is skipped."""
    means: list[Number] = []
    mean, mass = 0.0, 0.0
    for value in values:
        if value is not None:
            mean, mass = weight * mean + (1 - weight) * value, weight * mass + (1 - weight)
        means.append(None if value is None else float(f"{mean / mass:.7g}"))
    return tuple(means)
