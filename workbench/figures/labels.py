"""Names at the ends of lines, in place of a long legend: which charts have them, where they stand, and the room that they need; and titles
that share their line with a legend.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import ImageColor

from .charts import DARK, GREY, Chart, Line, Panel

FEW, MOST = 6, 40  # names in a legend, and names beside a panel; of more, a legend is the smaller evil
LINE = 12.5  # height of a label in pixels
BETWEEN = 75  # pixels between rows of panels, see `Chart.domains`
GAP = 12  # pixels between a panel and its labels, where the leaders are
ROOM = 0.42  # of a panel and its labels: the share of the labels, at most
DARKEST, LIGHTEST = 0.12, 0.3  # luminance of text: contrasts of 3 with black and with white
PADDING = 0.05  # of a y axis beyond the data


@dataclass(frozen=True)
class End:
    """Where a line ends: its name, its colour, and its last point."""

    name: str
    colour: str
    x: float
    y: float


def ends(panel: Panel) -> list[End]:
    """The ends of the lines of groups, the lowest first; those of the same name have one, the rightmost."""
    found: dict[str, End] = {}
    for line in filter(is_of_group, panel.lines):
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if x is not None and y is not None and (y > 0 or not panel.y.log)]
        if points:
            end = End(line.name, line.colour, *max(points))
            found[line.name] = max(found.get(line.name, end), end, key=lambda known: known.x)
    return sorted(found.values(), key=lambda end: end.y)


def is_named(line: Line) -> bool:
    """Whether a legend names a line, if there is one."""
    return bool(line.legend and line.name and line.x)


def is_of_group(line: Line) -> bool:
    """Whether a line has its name at its end where others have. Dark ones are of no group, such as marks of means: they stay in a legend."""
    return is_named(line) and line.colour not in (DARK, GREY)


def labelled(chart: Chart) -> list[bool]:
    """For each panel, whether its lines are named at their ends: if a legend would name more than `FEW`; points alone have no ends."""
    if not any("lines" in line.mode for line in filter(is_of_group, chart.lines)):
        return [False] * len(chart.panels)
    names = [{line.name for line in panel.lines if is_of_group(line)} for panel in chart.panels]
    of_all = len(set().union(*names))
    return [FEW < (of_all if chart.legend == "below" else len(own)) <= MOST and bool(own) for own in names]


def with_room(chart: Chart) -> Chart:
    """A chart whose panels are tall and wide enough for their labels; itself, if it has none."""
    most = max((len(ends(panel)) for panel, at_ends in zip(chart.panels, labelled(chart), strict=True) if at_ends), default=0)
    if not most:
        return chart
    columns = chart.columns if chart.widths else min(chart.columns, 2)
    return replace(chart, columns=columns, gap=min(chart.gap, 0.2), height=max(chart.height, min(2000, round(most * LINE) + BETWEEN)))


def beside_legend(panel: Panel) -> Panel:
    """A panel whose title leaves room for a legend on its line: what it ends with in brackets goes below, to the title of the x axis."""
    title, brackets = re.fullmatch(r"(.*?)((?: \([^()]*\))*)", panel.title, re.DOTALL).groups()  # always matches
    below = [panel.x.title, *re.findall(r"\(([^()]*)\)", brackets)]
    return replace(panel, title=title, x=replace(panel.x, title=" · ".join(filter(None, below))))


def spread(wanted: Sequence[float], low: float, high: float, step: float = LINE) -> np.ndarray:
    """The middles of labels of height `step` within [low, high] that do not overlap, as near to ascending positions as possible (least squares).

    Where they do not all fit, they are lower. Less their offsets, the middles are an isotonic regression, whose clipping keeps to the limits.
    """
    from scipy.optimize import isotonic_regression

    count = len(wanted)
    step = min(step, (high - low) / count)
    offsets = step * np.arange(count)
    return isotonic_regression(np.asarray(wanted, float) - offsets).x.clip(low + step / 2, high - step * (count - 0.5)) + offsets


def shortened(text: str, room: float, measure: Callable[[str], float]) -> str:
    """A text that is at most as wide as there is room: its middle is left out."""
    short, most = text, len(text)
    while measure(short) > room and most > 3:
        most -= 1
        short = f"{text[: most // 2]}…{text[len(text) - (most - 1 - most // 2) :]}"
    return short


def legible(colour: str, darkest: float = DARKEST, lightest: float = LIGHTEST) -> str:
    """A colour between two luminances, by default as text that can be read on white and on black: dark ones lighter, light ones darker."""
    rgb = np.array(ImageColor.getrgb(colour)[:3]) / 255
    while (brightness := (rgb**2.2) @ (0.2126, 0.7152, 0.0722)) > lightest:
        rgb = 0.97 * rgb
    while brightness < darkest:
        rgb = 0.97 * rgb + 0.03
        brightness = (rgb**2.2) @ (0.2126, 0.7152, 0.0722)
    return "#" + "".join(f"{round(255 * part):02x}" for part in rgb)


def y_range(panel: Panel) -> tuple[float, float]:
    """The ends of the y axis of a panel, on a logarithmic one as exponents; those of the data, if the panel has none, with some space."""
    if panel.y.range:
        low, high = panel.y.range
        return min(low, high), max(low, high)
    values = [y for line in panel.lines for y in line.y if y is not None]
    for line in panel.lines:
        if line.high and line.bars == "y":
            known = [(y, low, high) for y, low, high in zip(line.y, line.low, line.high, strict=True) if y is not None]
            values += [end for y, low, high in known for end in (y - low, y + high)]
    values += [end for band in panel.bands for end in (*band.low, *band.high)]
    values += [rule.at for rule in panel.rules if rule.axis == "y"]
    scaled = np.log10([value for value in values if value > 0]) if panel.y.log else np.array(values, float)
    low, high = (float(scaled.min()), float(scaled.max())) if len(scaled) else (0.0, 1.0)
    space = PADDING * (high - low) or 0.5
    return low - space, high + space
