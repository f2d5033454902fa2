"""Figures that fit a page of any theme, light or dark: without a background, their ink grey, and no colour too dark for a dark page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from matplotlib import rc_context

from .charts import DARK, GREY, Composition, Sheet
from .labels import legible

DARKEST = 0.09  # luminance of lines: brighter, pairs of colours would look alike to colour-blind readers
BLACK = "#000000"
INK = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")  # of matplotlib
CLEAR = ("axes.facecolor", "figure.facecolor", "legend.facecolor")


def for_any_theme(description):
    """A description with colours that can be seen on white and on black."""
    if isinstance(description, Composition):
        return replace(description, parts=tuple(map(for_any_theme, description.parts)))
    if isinstance(description, Sheet):
        return description
    kinds = ("lines", "bands", "bars", "rules")
    panels = (
        replace(panel, **{kind: tuple(replace(part, colour=_lighter(part.colour)) for part in getattr(panel, kind)) for kind in kinds})
        for panel in description.panels
    )
    return replace(description, panels=tuple(panels))


def inked(colour: str):
    """A context in which matplotlib draws text and axes in this colour, and no background."""
    style: Any = dict.fromkeys(INK, colour) | dict.fromkeys(CLEAR, "none") | {"grid.color": GREY}
    return rc_context(style)


def clear(layout: dict) -> dict:
    """A layout of plotly without a background, with grey text and lines; its template is changed."""
    base, line = layout["template"]["layout"], "rgba(128, 128, 128, 0.25)"
    base |= dict.fromkeys(("paper_bgcolor", "plot_bgcolor"), "rgba(0, 0, 0, 0)") | dict(font=base.get("font", {}) | dict(color=GREY))
    for axis in ("xaxis", "yaxis"):
        base[axis] = base.get(axis, {}) | dict(gridcolor=line, linecolor=line, zerolinecolor=line)
    return layout


def _lighter(colour: str) -> str:
    return GREY if colour in (DARK, BLACK) else legible(colour, DARKEST, 1.0)
