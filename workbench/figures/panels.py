"""What plots consist of: panels, lines of runs with their mean and a band, and points of runs with their mean and a bar."""

from __future__ import annotations

import colorsys
import html
import math
import textwrap
from collections.abc import Sequence

import numpy as np

from ..metrics.protocols import brief
from ..runs import Run
from ..studies.groups import mean_and_sd
from ..studies.scores import Score
from .records import number

PLOTLY = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "{": "&#123;", "}": "&#125;", "\n": " "}  # what plotly takes for markup
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#c2185b", "#8c564b", "#17a2b8", "#7f7f7f", "#b5a300", "#003f88")
DARK = "#222222"


class Adder:
    """Adds traces to panels by their names; a name stands in the legend once."""

    def __init__(self, figure, names: list[str], columns: int):
        self.figure = figure
        self.at = {name: dict(row=k // columns + 1, col=k % columns + 1) for k, name in enumerate(names)}
        self.named: set[str] = set()

    def __call__(self, panel: str, legend: bool | None = None, **trace) -> None:
        """`legend`: whether its name stands there, the first time it has points; None: as plotly has it."""
        from plotly import graph_objects

        if legend is not None:
            trace["showlegend"] = legend and trace["name"] not in self.named and len(trace["x"]) > 0
            self.named |= {trace["name"]} if trace["showlegend"] else set()
        self.figure.add_trace(graph_objects.Scatter(**trace), **self.at[panel])

    def axes(self, panel: str, x: str, y: str = "", small: bool = False, log_y: bool = False, **style) -> None:
        """Titles of a panel's axes; `style` is that of the x axis."""
        self.figure.update_xaxes(title_text=x, title_standoff=4, **style, **self.at[panel])
        of_y = (dict(title_font_size=7) if small else {}) | (dict(type="log") if log_y else {})
        self.figure.update_yaxes(title_text=y, **of_y, **self.at[panel])


def empty_panels(
    names: list[str], columns: int = 3, height: int = 220, spacing: float = 0.24, titles: list[str] | None = None, widths: tuple = ()
):
    """An empty figure with a panel for every name (which is its title where there are no others), and what adds to it.

    `widths` are those of the columns, as shares.
    """
    from plotly.subplots import make_subplots

    columns = min(columns, len(names)) or 1
    rows = -(-len(names) // columns) or 1
    total = 100 + height * rows
    style = dict(horizontal_spacing=spacing / columns if columns > 1 else 0.1, vertical_spacing=min(75 / (height * rows), 0.9 / rows))
    figure = make_subplots(rows, columns, subplot_titles=titles or names, column_widths=list(widths) or None, **style)
    figure.update_annotations(font_size=13)
    figure.update_layout(height=total, width=980, template="plotly_white", margin=dict(l=60, r=20, t=70, b=50))
    return figure, Adder(figure, names, columns)


def add_lines(
    add: Adder,
    panel: str,
    label: str,
    colour: str,
    lines: dict[Run, dict[int, tuple[float, float]]],
    about: str = "",
    mode: str = "lines",
    log: bool = False,
) -> None:
    """Lines of runs of one group, and where there are several, above them their mean with a band of one standard deviation.

    Parameters
    ----------
    lines
        Run -> {step: (place on the axis, value)}.
    about
        What else a pointer shows.
    log
        Mean and deviation are those of the logarithms, as a logarithmic axis has them; values are positive.
    """
    label = literal(label)
    style = dict(mode=mode, name=label, legendgroup=label)
    alone = len(lines) == 1
    for run, line in lines.items():
        x, y = zip(*line.values(), strict=True) if line else ((), ())
        look = dict(line=dict(color=colour, width=1.6 if alone else 0.8), opacity=1 if alone else 0.45)
        hover = f"%{{y:.5g}} at %{{x:,}}{about}<extra>{literal(run.name)}</extra>"
        add(panel, x=brief_numbers(x), y=brief_numbers(y), legend=alone, hovertemplate=hover, **look, **style)
    if len(lines) > 1:
        scale, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
        steps, mean, sd = mean_and_sd([{step: scale(value) for step, (_, value) in line.items()} for line in lines.values()])
        mean, low, high = back(mean), back(mean - sd), back(mean + sd)
        x = np.mean([[line[step][0] for step in steps.tolist()] for line in lines.values()], 0)
        _add_band(add, panel, x, low, high, colour, label)
        hover = f"{'geometric ' if log else ''}mean %{{y:.5g}} of {len(lines)} at %{{x:,}}{about}<extra>{label}</extra>"
        line = dict(color=colour, width=2)
        add(panel, x=brief_numbers(x), y=brief_numbers(mean), legend=True, line=line, hovertemplate=hover, **style)


def _add_band(add: Adder, panel: str, x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, label: str) -> None:
    """A band, where it has finite borders."""
    there = np.isfinite(low) & np.isfinite(high) & np.isfinite(x)
    if there.sum() < 2:
        return
    x, low, high = x[there], low[there], high[there]
    style = dict(mode="lines", fill="toself", fillcolor=colour, line=dict(color=colour, width=0), opacity=0.18, hoverinfo="skip")
    outline = dict(x=brief_numbers([*x, *x[::-1]]), y=brief_numbers([*high, *low[::-1]]))
    add(panel, legend=False, **outline, name=label, legendgroup=label, **style)


def add_points(add: Adder, panel: str, label: str, colour: str, x: list, scores: Sequence[Score], legend: bool = True) -> None:
    """Scores of runs of one group at places x, and their mean with a bar of one standard deviation where they are of one step and protocol."""
    label = literal(label)
    y = brief_numbers([score.value for score in scores])
    about = [f"{literal(score.run.name)}, step {score.step:,}<br>{wrapped(score.protocol)}" for score in scores]
    style = dict(mode="markers", name=label, legendgroup=label, marker=dict(color=colour, size=8), opacity=0.75)
    add(panel, x=x, y=y, legend=legend, text=about, hovertemplate="%{y:.5g} at %{x}<br>%{text}<extra></extra>", **style)
    if len(y) > 1 and None not in y and len({score.protocol for score in scores}) == 1 and len({score.step for score in scores}) == 1:
        bar = dict(type="data", array=[float(np.std(y, ddof=1))], color=DARK)
        marker = dict(color=DARK, size=9, symbol="line-ew", line=dict(color=DARK, width=2))
        style = dict(mode="markers", marker=marker, error_y=bar, name="mean ± one standard deviation", legendgroup="mean")
        add(panel, x=x[:1], y=[float(np.mean(y))], legend=True, **style)


def colours(count: int) -> list[str]:
    """As many colours: those of the palette, then as many more around the hue circle."""
    more = max(0, count - len(COLOURS))
    around = (colorsys.hsv_to_rgb(k / more, 0.7, 0.75) for k in range(more))
    return [*COLOURS[:count], *("#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in around)]


def brief_numbers(values: Sequence[float]) -> list[float | None]:
    """Numbers to seven digits, which is more than anybody sees: half as much text in a page."""
    drawn = (number(value) for value in np.asarray(values, object).tolist())
    return [None if value is None or math.isnan(value) else float(f"{value:.7g}") for value in drawn]


def protocols(said: Sequence[str]) -> str:
    """Protocols in brief, for an axis."""
    return literal_lines(textwrap.wrap(" | ".join(map(brief, said)), 30))


def wrapped(text: str) -> str:
    """Long text in lines."""
    return literal_lines(textwrap.wrap(text, 70))


def literal(text: str) -> str:
    """A name, or other text that is not ours, as plotly shows it literally: no tags, no links, no mathematics, no fields of a template."""
    return "".join(PLOTLY.get(character, character) for character in text).encode(errors="replace").decode()


def literal_lines(lines: Sequence[str]) -> str:
    """Lines of such text below each other."""
    return "<br>".join(map(literal, lines))


def plain(text: str | None) -> str:
    """What plotly shows for a text, without the markup."""
    return html.unescape((text or "").replace("<br>", "\n"))
