"""What a figure shows, as plain data: a `Chart` of panels with lines, bands, bars and rules, or a `Sheet` of images.

The same description is drawn by `interactive` (plotly) and by `print` (matplotlib), and is what the sidecar of a figure keeps: JSON, in which
text is plain text, and a figure is drawn again from it when its runs are gone. Images are PNG, maps of attention float32, both in base64.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from types import UnionType
from typing import get_args, get_origin, get_type_hints

import numpy as np

from ..parameters import WorkbenchError
from .records import number

COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#c2185b", "#8c564b", "#17a2b8", "#7f7f7f", "#b5a300", "#003f88")
DARK = "#222222"
MOST_POINTS = 40_000  # of all lines of a chart; more make notebooks and pages heavy, and show nothing more
MOST_PANELS = 2_000
EMPTY = -1  # in place of the number of an image
Number = float | None


@dataclass(frozen=True)
class Line:
    """Points of a panel, joined by a line or not.

    Attributes
    ----------
    x, y
        Coordinates; None where there is no value.
    name, legend
        In the legend, where lines of one name are switched on and off together; `legend`: whether the name stands there.
    mode
        "lines", "markers" or "lines+markers".
    low, high
        Lengths of error bars below and above each point, along `bars`: "x" or "y".
    source, about, texts
        What a pointer shows beside the numbers: whose line it is, what it depends on, and a text for each point.
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
    """What lies between two borders over x; it is switched with the lines of its name."""

    x: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    name: str
    colour: str


@dataclass(frozen=True)
class Bar:
    """Horizontal bars of these lengths at heights y; further ones of a panel are stacked to the right."""

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
    """An axis; `ticks`: places with their texts; `range`: its ends, in either order, by default those of what is drawn."""

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
        Above the panels: a title, and what must be said with the figure, a line each.
    columns, height, gap, widths
        Panels in a row; pixels of a row; share of the width that is left between panels; widths of the columns as shares.
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
            raise ValueError(f"{len(self.panels)} panels in {self.columns} columns of height {self.height} are no figure")
        if len(self.widths) not in (0, self.across) or not all(share > 0 for share in self.widths):
            raise ValueError(f"widths={self.widths} do not fit {self.across} columns")

    @property
    def across(self) -> int:
        """Columns that are used."""
        return min(self.columns, len(self.panels)) or 1

    @property
    def rows(self) -> int:
        return -(-len(self.panels) // self.across) or 1

    @property
    def lines(self) -> list[Line]:
        return [line for panel in self.panels for line in panel.lines]

    def places(self) -> list[tuple[float, float, float, float]]:
        """Left, right, bottom and top of every panel, as shares of the area that all of them have."""
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
        """The same with at most about `most` points in all lines; see `thin`."""
        total = sum(len(line.x) for line in self.lines)
        if total <= most:
            return self
        each = max(16, most // max(1, len(self.lines)))
        return self._with_lines(lambda line: _thinned(line, each))

    def smoothed(self, weight: float) -> Chart:
        """The same with lines as exponential moving averages: `weight`, from 0 to below 1, is that of the past at each point."""
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
        Its number among the images of the sheet, or `EMPTY`.
    heat, side
        A map to lay over it, (side, side), float32 as `images.packed` makes it; "" for none.
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
    """Images side by side, with a label, or a note in their place."""

    cells: tuple[Cell, ...] = ()
    label: str = ""
    note: str = ""


@dataclass(frozen=True)
class Sheet:
    """Rows of images.

    Attributes
    ----------
    images
        PNG in base64, each in the size that it has.
    cell
        Inches of an image in the figure.
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
            raise ValueError("rows or cells are no figure")


# ------------------------------------------------------------------------------------------------------------ JSON


def to_plain(value):
    """A description as JSON has it; what is as by default is left out."""
    if is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {field.name: to_plain(entry) for field, entry in pairs if field.default is MISSING or entry != field.default}
    return [to_plain(entry) for entry in value] if isinstance(value, tuple) else value


def from_plain(value) -> Chart | Sheet:
    """The description that `to_plain` has made this of.

    Raises
    ------
    WorkbenchError
        If it is none; the message names the entry.
    """
    kind = Chart if isinstance(value, dict) and "panels" in value else Sheet
    return _read(kind, value, "figure")


def _read(kind, value, where: str):
    if is_dataclass(kind):
        hints = _hints(kind)
        if not isinstance(value, dict) or set(value) - set(hints):
            raise WorkbenchError(f"{where} is no {kind.__name__.lower()}")
        try:
            return kind(**{name: _read(hints[name], entry, f"{where}.{name}") for name, entry in value.items()})
        except (TypeError, ValueError) as error:
            raise WorkbenchError(f"{where} is no {kind.__name__.lower()}: {error}") from None
    if get_origin(kind) is UnionType:
        kind = next(one for one in get_args(kind) if one is not type(None))
        return None if value is None else _read(kind, value, where)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if isinstance(value, list) and kinds[-1] is Ellipsis:
            return tuple(_read(kinds[0], entry, where) for entry in value)
        if isinstance(value, list) and len(value) == len(kinds):
            return tuple(_read(one, entry, where) for one, entry in zip(kinds, value, strict=True))
    elif kind is float:
        if number(value) is not None and math.isfinite(number(value)):
            return value
    elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise WorkbenchError(f"{where} has an entry of another type: {' '.join(repr(value).split())[:60]}")


@cache
def _hints(kind) -> dict:
    return get_type_hints(kind)


# ---------------------------------------------------------------------------------------------------------- helpers


def colours(count: int) -> list[str]:
    """As many colours: those of the palette, then as many more around the hue circle."""
    more = max(0, count - len(COLOURS))
    around = (colorsys.hsv_to_rgb(k / more, 0.7, 0.75) for k in range(more))
    return [*COLOURS[:count], *("#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in around)]


def brief_numbers(values: Sequence) -> tuple[Number, ...]:
    """Numbers to seven digits, which is more than anybody sees; None for what cannot be drawn."""
    drawn = (number(value) for value in (values.tolist() if isinstance(values, np.ndarray) else values))
    return tuple(None if v is None or math.isnan(v) else v if isinstance(v, int) and abs(v) < 2**53 else float(f"{v:.7g}") for v in drawn)


def thin(x: np.ndarray, y: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` points of a curve: its ends, and the extremes of each stretch.

    Stretches are a power of two long and start at its multiples: a growing curve does not flicker.
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
    keep = thin(np.array(line.x, float), np.array(line.y, float), most)
    rest = {name: tuple(getattr(line, name)[k] for k in keep) for name in ("x", "y", "low", "high", "texts") if getattr(line, name)}
    return replace(line, **rest)


def _average(values: tuple[Number, ...], weight: float) -> tuple[Number, ...]:
    """Exponential moving average without the bias of its start (Adam's correction); None stays None and counts for nothing."""
    mean, mass, means = 0.0, 0.0, []
    for value in values:
        if value is not None:
            mean, mass = weight * mean + (1 - weight) * value, weight * mass + (1 - weight)
        means.append(None if value is None else float(f"{mean / mass:.7g}"))
    return tuple(means)
