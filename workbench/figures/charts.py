"""What a figure shows, as plain data: a `Chart` of panels with lines, bands, bars and rules, or a `Sheet` of images.

`interactive` (plotly) and `print` (matplotlib) draw the same description. As JSON (`plain`), it is the sidecar of a figure, which can be
drawn again without its runs. Images are PNG and attention maps float32, both in base64.
"""

from __future__ import annotations

import colorsys
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..messages import counted
from .records import number

OF_D, OF_G, OF_REAL, OF_FAKE = "#1f77b4", "#d95f02", "#2ca02c", "#9467bd"  # nothing else has these
COLOURS = (  # of runs, groups and arms; farthest apart first, also as protanopes and deuteranopes see them
    "#c30f5a", "#c3a500", "#0f3c87", "#00a5c3", "#692d00", "#f078f0", "#1e00f0",
    "#5a69ff", "#78005a", "#b40fb4", "#ff1e96", "#f08787", "#00694b", "#877800",
)  # fmt: skip
DARK, GREY = "#222222", "#767c85"  # ink on white, and on any background
MOST_POINTS = 40_000  # of all lines of a chart; more would enlarge notebooks and show nothing more
MOST_PANELS = 2_000
EMPTY = -1  # `Cell.image` of a cell without an image
FEW = 20  # values of a panel that are all shown, however far apart
COLUMN, PAGE = 3.4, 6.9  # inches: widths of a figure in a two-column paper
NOTES = 150  # characters of a line of notes above a chart
MAX_PIXELS = 50_000_000  # of an image; a usual sample grid has a twentieth of it
LETTERS = "abcdefghijklmnopqrstuvwxyz"  # of the parts of a composition
Number = float | None


@dataclass(frozen=True)
class Line:
    """Points of a panel, as a line or as markers. The legend shows and hides lines of one name together."""

    x: tuple[Number, ...]  # None: no value
    y: tuple[Number, ...]
    name: str = ""  # in the legend
    colour: str = DARK
    mode: str = "lines"  # or "markers" or "lines+markers"
    width: float = 1.6
    dash: bool = False
    opacity: float = 1.0
    symbol: str = "circle"
    size: float = 6
    low: tuple[float, ...] = ()  # lengths of the error bars below and above each point
    high: tuple[float, ...] = ()
    bars: str = "y"  # direction of the error bars, or "x"
    source: str = ""  # at the pointer: name of the line,
    about: str = ""  # what its values depend on,
    texts: tuple[str, ...] = ()  # and a text for each point
    legend: bool = True


@dataclass(frozen=True)
class Band:
    """The area between `low` and `high` over x; shown and hidden with the lines of its name."""

    x: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    name: str
    colour: str


@dataclass(frozen=True)
class Bar:
    """Horizontal bars at heights y; those of further `Bar`s of the panel are stacked to their right."""

    y: tuple[float, ...]
    lengths: tuple[float, ...]
    name: str
    colour: str


@dataclass(frozen=True)
class Rule:
    """A line across the panel, at a value of the axis "x" or "y"."""

    at: float
    axis: str
    name: str = ""
    colour: str = DARK
    dash: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis of a panel."""

    title: str = ""
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()  # values and their texts
    range: tuple[float, float] | None = None  # ends, in either order; None: those of the data
    small: bool = False  # a small title
    whole: bool = False  # no ticks between whole numbers


@dataclass(frozen=True)
class Panel:
    title: str
    x: Axis = Axis()
    y: Axis = Axis()
    lines: tuple[Line, ...] = ()
    bands: tuple[Band, ...] = ()
    bars: tuple[Bar, ...] = ()
    rules: tuple[Rule, ...] = ()

    @property
    def drawn(self) -> tuple[Line, ...]:
        """The lines, with gaps where a logarithmic axis has no place for a value: drawn, they would fall to its bottom."""
        if not self.y.log:
            return self.lines
        return tuple(replace(line, y=tuple(y if y is not None and y > 0 else None for y in line.y)) for line in self.lines)


@dataclass(frozen=True)
class Chart:
    """Panels in rows.

    Attributes
    ----------
    title, notes
        Text above the panels: sentences, such as the protocol of scores.
    columns, height, gap, widths
        Panels per row; height of a row in pixels; share of the width between panels; shares of the widths of the columns.
    legend
        "below": one legend for the figure; "panels": one for each panel.
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
            raise ValueError(
                f"{counted(len(self.panels), 'panel')} in {counted(self.columns, 'column')} of height {self.height} cannot be drawn"
            )
        if len(self.widths) not in (0, self.across) or not all(share > 0 for share in self.widths):
            raise ValueError(f"widths={self.widths} do not fit {counted(self.across, 'column')}")

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

    @property
    def lines_of_notes(self) -> list[str]:
        """The notes as they fit a screen."""
        return [line for note in self.notes for line in textwrap.wrap(note, NOTES)]

    @property
    def tick_lines(self) -> int:
        """Lines of the tallest text below an x axis, beyond the first."""
        return max((text.count("\n") for panel in self.panels for _, text in panel.x.ticks), default=0)

    def domains(self) -> list[tuple[float, float, float, float]]:
        """Left, right, bottom and top of each panel, as shares of the area of all panels."""
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
        return self.with_lines(lambda line: _thinned(line, each))

    def smoothed(self, weight: float) -> Chart:
        """This chart with lines replaced by exponential moving averages; `weight` in [0, 1) is that of the past."""
        return self.with_lines(lambda line: replace(line, y=_average(line.y, weight))) if weight else self

    def focused(self) -> Chart:
        """This chart with y axes that few far values do not flatten; the title of a panel counts what is outside."""
        return replace(self, panels=tuple(map(_focused, self.panels)))

    def logarithmic(self) -> Chart:
        """This chart with logarithmic y axes where most values are positive; titles say what cannot be drawn on them."""
        return replace(self, panels=tuple(map(_logarithmic, self.panels)))

    def with_lines(self, change: Callable[[Line], Line]) -> Chart:
        """This chart with its lines, not its markers, changed by a function."""
        panels = (
            replace(panel, lines=tuple(change(line) if "lines" in line.mode else line for line in panel.lines)) for panel in self.panels
        )
        return replace(self, panels=tuple(panels))


@dataclass(frozen=True)
class Cell:
    """An image of a sheet, perhaps with a map drawn over it."""

    image: int  # index in `Sheet.images`, or `EMPTY`
    heat: str = ""  # map (side, side), float32, encoded by `images.packed`
    side: int = 0
    dots: tuple[tuple[float, float, str], ...] = ()  # x and y in pixels of the image, colour
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


@dataclass(frozen=True)
class Composition:
    """Figures as parts of one figure, each above its caption.

    Attributes
    ----------
    captions
        One for each part; with several, the letter, (a), (b), ..., is put before it.
    columns
        Parts side by side.
    width
        In inches: `COLUMN` or `PAGE` in a two-column paper.
    """

    parts: tuple[Chart | Sheet, ...]
    captions: tuple[str, ...]
    columns: int = 2
    width: float = PAGE

    def __post_init__(self):
        if len(self.captions) != len(self.parts) or not self.parts:
            raise ValueError(f"{counted(len(self.parts), 'part')} with {counted(len(self.captions), 'caption')}; each needs one")
        if len(self.parts) > len(LETTERS) or not 1 <= self.columns <= 6 or not 2 <= self.width <= 40:
            raise ValueError(
                f"{counted(len(self.parts), 'part')} in {counted(self.columns, 'column')}, {self.width:g} inches wide, cannot be drawn"
            )


def colours(count: int) -> list[str]:
    """Colours of `count` runs, groups or arms: the palette, then more around the hue circle. None is that of D, G, real or fake."""
    more = max(0, count - len(COLOURS))
    around = (colorsys.hsv_to_rgb(k / more, 0.7, 0.75) for k in range(more))
    return [*COLOURS[:count], *("#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in around)]


def rounded(values: Sequence | np.ndarray) -> tuple[float, ...]:
    """Finite numbers to seven digits, more than a figure shows; whole numbers stay exact."""
    numbers = values.tolist() if isinstance(values, np.ndarray) else values
    return tuple(v if isinstance(v, int) and abs(v) < 2**53 else float(f"{v:.7g}") for v in numbers)


def brief_numbers(values: Sequence | np.ndarray) -> tuple[Number, ...]:
    """As `rounded`, for any values; None for those that cannot be drawn."""
    numbers = map(number, values.tolist() if isinstance(values, np.ndarray) else values)
    return tuple(None if v is None or math.isnan(v) else rounded([v])[0] for v in numbers)


def thin(y: np.ndarray, most: int) -> np.ndarray:
    """Indices of at most `most` points of a curve: its ends, and the extremes of each stretch.

    The length of a stretch is a power of two, and it starts at a multiple of its length, so a growing curve does not flicker.
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


def _values(panel: Panel) -> np.ndarray:
    """All values of the lines of a panel that its y axis can show."""
    y = np.array([value for line in panel.lines for value in line.y if value is not None], float)
    return y[np.isfinite(y) & ((y > 0) | (not panel.y.log))]


def _logarithmic(panel: Panel) -> Panel:
    values = _values(panel)
    if panel.y.log or not len(values):
        return panel
    out = int((values <= 0).sum())
    if 2 * out >= len(values):
        return replace(panel, title=f"{panel.title} (not logarithmic: most values are 0 or less)")
    words = f" ({out} value{'s' * (out > 1)} of 0 or less {'are' if out > 1 else 'is'} not drawn)" if out else ""
    return replace(panel, title=panel.title + words, y=replace(panel.y, log=True))


def _focused(panel: Panel) -> Panel:
    """With a range around the 5th to the 95th percentile, as much again at each end, if values are outside of that."""
    values = _values(panel)
    if len(values) < FEW or panel.y.range:
        return panel
    scaled = np.log10(values) if panel.y.log else values
    low, high = np.percentile(scaled, [5, 95])
    bottom, top = 2 * low - high, 2 * high - low
    outside = int(((scaled < bottom) | (scaled > top)).sum())
    if not outside or low == high:
        return panel
    inside = scaled[(scaled >= bottom) & (scaled <= top)]
    margin = (inside.max() - inside.min()) / 20
    bottom, top = rounded([inside.min() - margin, inside.max() + margin])
    words = f"{outside} value{'s' * (outside > 1)} outside"
    return replace(panel, title=f"{panel.title} ({words})", y=replace(panel.y, range=(bottom, top)))


def _average(values: tuple[Number, ...], weight: float) -> tuple[Number, ...]:
    """Exponential moving average with Adam's bias correction; None stays None."""
    means: list[Number] = []
    mean, mass = 0.0, 0.0
    for value in values:
        if value is not None:
            mean, mass = weight * mean + (1 - weight) * value, weight * mass + (1 - weight)
        means.append(None if value is None else float(f"{mean / mass:.7g}"))
    return tuple(means)
