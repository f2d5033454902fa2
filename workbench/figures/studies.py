"""What the studies of `shape`, `patching` and `long_range` found. Their sidecars hold the numbers themselves: drawing again takes no network."""

from __future__ import annotations

import textwrap

import torch

from ..studies.patching import PatchingStudy
from ..studies.shape import ShapeStudy
from .drawing import Drawing, Plot
from .panels import colours, empty_panels, literal


def correspondence(study: ShapeStudy) -> Drawing:
    """Where attention on a glyph falls, beside the nulls; and by how much more of it falls on the twin, image by image, with the verdict."""
    said = dict(verdict=str(study.verdict), locality=str(study.locality), test=study.verdict.test, smallest=study.verdict.smallest)
    return correspondence_again(study.about, study.rows(), study.differences(), **said)


def correspondence_again(
    about: str, rows: list[dict], differences: dict[str, list[float]], verdict: str, locality: str, test: str, smallest: float
) -> Drawing:
    """The figure of a recipe of `correspondence`."""
    from .pictures import Picture

    recipe = dict(about=about, rows=rows, differences=differences, verdict=verdict, locality=locality, test=test, smallest=smallest)
    picture = Picture(figsize=(9.6, 4.6), facecolor="white")
    shares, effects = picture.subplots(1, 2, gridspec_kw=dict(width_ratios=(1, 1.1)))
    names, left = [row["map"] for row in rows], torch.zeros(len(rows))
    for part, colour in (("own", "#0a84ff"), ("twin", "#ff3b30"), ("background", "#d8d8d8")):
        width = torch.tensor([row[part] for row in rows])
        shares.barh(names, width, left=left, color=colour, label=f"{part} glyph" if part != "background" else part)
        left = left + width
    shares.set(xlim=(0, 1), xlabel="share of the attention of a glyph's positions")
    shares.invert_yaxis()
    shares.legend(fontsize=7, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    for place, row in enumerate(rows[1:], 1):
        numbers = differences[row["map"]]
        # Spread by the order of the images, so that the figure comes out the same again.
        effects.plot(numbers, place + 0.5 * (torch.linspace(0, 1, len(numbers)) - 0.5), ".", color="#999999", markersize=2.5)
        effects.errorbar(
            row["effect"], place, xerr=[[row["effect"] - row["low"]], [row["high"] - row["effect"]]], fmt="o", color="black", capsize=3
        )
    effects.axvline(0, color="black", linewidth=0.8)
    effects.axvline(smallest, color="#ff3b30", linewidth=0.8, linestyle="--", label=f"smallest effect of interest, {smallest:g}")
    effects.set(ylim=(len(rows) - 0.5, 0.5), yticks=range(1, len(rows)), yticklabels=names[1:])
    effects.set_xlabel("more on the twin than under the null (images, mean, 95 %)")
    effects.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    _say(picture, [about, f"follows shape: {verdict}", f"goes beyond places (colour apart): {locality}", test])
    return Drawing(picture, "correspondence", recipe)


def transplant(study: PatchingStudy) -> Drawing:
    """How far the hue of both glyphs shifts towards the source's, by the fraction of values replaced: means, and every pair thin."""
    verdict = dict(verdict=str(study.verdict), test=study.verdict.test, smallest=study.verdict.smallest)
    return transplant_again(study.about, list(study.fractions), study.right, study.left, **verdict)


def transplant_again(about: str, doses: list[float], right: dict, left: dict, verdict: str, test: str, smallest: float) -> Drawing:
    """The figure of a recipe of `transplant`."""
    from .pictures import Picture

    recipe = dict(about=about, doses=doses, right=right, left=left, verdict=verdict, test=test, smallest=smallest)
    picture = Picture(figsize=(9.6, 4.6), facecolor="white")
    panels = picture.subplots(1, 2, sharey=True)
    for panel, half, title in zip(panels, (right, left), ("right glyph: nothing was replaced there", "left glyph"), strict=True):
        panel.plot(doses, torch.tensor(half["glyph"]).T, color="#ff3b30", linewidth=0.4, alpha=0.35)
        for (arm, turns), colour, mark in zip(half.items(), ("#ff3b30", "#0a84ff", "#999999"), "os^", strict=True):
            turns = torch.tensor(turns)
            label = f"{dict(glyph='left glyph replaced', background='background replaced').get(arm, arm)}, {len(turns)} pairs: mean, sd"
            panel.errorbar(doses, turns.mean(0), yerr=turns.std(0), fmt=f"{mark}-", color=colour, label=label, capsize=3, markersize=4)
        panel.axhline(smallest, color="black", linewidth=0.8, linestyle="--", label=f"smallest effect of interest, {smallest:g}")
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("fraction of the values replaced")
    panels[0].set_ylabel("shift of the hue (1: to the source's)")
    panels[0].legend(fontsize=7)
    _say(picture, [about, f"colour travels to the other glyph: {verdict}", test])
    return Drawing(picture, "transplant", recipe)


def long_range(rows: list[dict], ys: list[str], by: str, said: list[str]) -> Plot:
    """Columns of `long_range.measure` against the distance that attention reaches, a point for each run.

    Parameters
    ----------
    rows
        As from there, with a column more.
    ys
        Columns; a panel for each.
    by
        The column by which points are coloured.
    said
        What is to be said of each panel.
    """
    figure, add = empty_panels(
        ys,
        height=280,
        spacing=0.3,
        titles=[f"{literal(y.partition('@')[0])}<br>{literal(words)}" for y, words in zip(ys, said, strict=True)],
    )
    values = list(dict.fromkeys(row[by] for row in rows))
    for y in ys:
        for value, colour in zip(values, colours(len(values)), strict=True):
            own = [row for row in rows if row[by] == value and row.get(y) is not None and row["distance"] is not None]
            style = dict(mode="markers", marker=dict(color=colour, size=8), opacity=0.75, legendgroup=literal(str(value)), legend=True)
            add(
                y,
                x=[row["distance"] for row in own],
                y=[row[y] for row in own],
                name=literal(str(value)),
                text=[literal(row["run"]) for row in own],
                **style,
            )
        add.axes(y, "mean distance of attention, pixels")
    figure.update_layout(legend=dict(orientation="h", y=-60 / figure.layout.height, yanchor="top"))
    return Plot(figure, "long_range", dict(rows=rows, ys=ys, by=by, said=said))


def _say(picture, lines: list[str]) -> None:
    """Lines above the panels of a figure, wrapped."""
    wrapped = [part for line in lines for part in textwrap.wrap(line, 150)]
    height = picture.get_figheight()
    picture.text(0.01, 1 - 0.06 / height, "\n".join(wrapped), fontsize=7.5, ha="left", va="top")
    picture.tight_layout(rect=(0, 0, 1, 1 - (0.1 + 0.135 * len(wrapped)) / height))
