"""Charts of the results of `studies.shape`, `studies.patching` and `studies.long_range`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..messages import counted
from ..studies.patching import PatchingStudy
from ..studies.shape import ShapeStudy
from .charts import Axis, Bar, Chart, Line, Panel, Rule, brief_numbers, colours, rounded
from .figure import Plot

BLUE, RED, GREY = "#0a84ff", "#ff3b30", "#999999"


def shape_study(study: ShapeStudy) -> Plot:
    """Where the attention of a glyph falls, beside the nulls; and how much more falls on the twin, for each image, with the verdict."""
    rows = study.rows()
    heights = tuple(float(k) for k in range(len(rows)))
    parts = (("own", "own glyph", BLUE), ("twin", "twin glyph", RED), ("background", "background", "#d8d8d8"))
    bars = tuple(Bar(heights, rounded([row[key] for row in rows]), name, colour) for key, name, colour in parts)
    ticks = tuple((float(k), row["map"]) for k, row in enumerate(rows))
    x = Axis("share of the attention of a glyph's positions", range=(0.0, 1.0))
    shares = Panel("", x, Axis(ticks=ticks, range=(len(rows) - 0.5, -0.5)), bars=bars)
    lines = []
    for k, row in enumerate(rows[1:], 1):
        null, differences = row["map"], study.differences()[row["map"]]
        # Spread by the order of the images, not at random: the figure is reproducible.
        spread = brief_numbers(k + 0.5 * (np.linspace(0, 1, len(differences)) - 0.5))
        lines.append(
            Line(brief_numbers(differences), spread, "images", GREY, "markers", size=3.5, opacity=0.5, source=f"an image, beside {null}")
        )
        low, high = (abs(row["effect"] - row[end]) for end in ("low", "high"))
        mean = Line((row["effect"],), (float(k),), "mean, 95 % interval", "#000000", "markers", size=9, source=null)
        lines.append(replace(mean, bars="x", low=(low,), high=(high,)))
    smallest = study.verdict.smallest
    rules = (Rule(0.0, "x"), Rule(smallest, "x", f"smallest effect of interest, {smallest:g}", RED, dash=True))
    x, y = Axis("more on the twin than under the null"), Axis(ticks=ticks[1:], range=(len(rows) - 0.5, 0.5))
    effects = Panel("", x, y, tuple(lines), rules=rules)
    verdicts = (f"follows shape, beyond locality: {study.verdict}", f"beyond colour too: {study.beyond_colour}", study.verdict.test)
    return Plot(Chart(study.about, (shares, effects), verdicts, columns=2, height=330, gap=0.3))


def patching_study(study: PatchingStudy) -> Plot:
    """How far the hue of both glyphs shifts to the source's, over the fraction of patched values: means, and each pair as a thin line."""
    fractions, smallest = brief_numbers(study.fractions), study.verdict.smallest
    panels: list[Panel] = []
    names = dict(glyph="left glyph replaced", background="background replaced")
    for half, title in ((study.right, "right glyph: nothing was replaced there"), (study.left, "left glyph")):
        lines = [
            Line(fractions, brief_numbers(shifts), "pairs", RED, width=0.4, opacity=0.35, legend=False, source=f"pair {k}")
            for k, shifts in enumerate(half["glyph"])
        ]
        for (arm, pairs), colour, symbol in zip(half.items(), (RED, BLUE, GREY), ("circle", "square", "diamond"), strict=True):
            shifts = np.array(pairs)  # (pairs, fractions)
            name = f"{names.get(arm, arm)}, {counted(len(shifts), 'pair')}: mean, sd"
            mean, sd = brief_numbers(shifts.mean(0)), tuple(shifts.std(0, ddof=1).tolist())
            lines.append(Line(fractions, mean, name, colour, "lines+markers", symbol=symbol, low=sd, high=sd, source=arm))
        rule = Rule(smallest, "y", f"smallest effect of interest, {smallest:g}", "#000000", dash=True)
        y = Axis("" if panels else "shift of the hue (1: to the source's)")
        panels.append(Panel(title, Axis("fraction of the values replaced"), y, tuple(lines), rules=(rule,)))
    notes = (f"colour travels to the other glyph: {study.verdict}", study.verdict.test)
    return Plot(Chart(study.about, tuple(panels), notes, columns=2, height=330))


def long_range(rows: Sequence[dict], columns: Mapping[str, str], by: str) -> Plot:
    """Columns of `long_range.measure` against the attention distance, a point for each run.

    Parameters
    ----------
    rows
        From `long_range.measure`, with the column `by`.
    columns
        Column -> what the notes say of its panel.
    by
        The column that decides the colour of the points.
    """
    values = list(dict.fromkeys(row[by] for row in rows))
    panels, notes = [], []
    for column, text in columns.items():
        lines = []
        for value, colour in zip(values, colours(len(values)), strict=True):
            runs = [row for row in rows if row[by] == value and row.get(column) is not None and row["distance"] is not None]
            x, y = brief_numbers([row["distance"] for row in runs]), brief_numbers([row[column] for row in runs])
            texts = tuple(row["run"] for row in runs)
            lines.append(Line(x, y, str(value), colour, "markers", size=8, opacity=0.75, texts=texts))
        name = column.partition("@")[0]
        panels.append(Panel("", Axis("mean distance of attention, pixels"), Axis(name), tuple(lines)))
        notes.append(f"{name}: {text}")
    return Plot(Chart("", tuple(panels), tuple(notes), height=280, gap=0.3))
