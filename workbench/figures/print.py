"""Charts and sheets as matplotlib figures: for PNG, SVG and PDF files, and where no JavaScript runs."""

from __future__ import annotations

import base64
import io
import textwrap
import zlib

import numpy as np
from matplotlib.ticker import LogFormatter, MaxNLocator
from PIL import Image

from .charts import EMPTY, MAX_PIXELS, Axis, Chart, Line, Panel, Row, Sheet
from .interactive import LINE_OF_NOTES
from .literal_text import LiteralFigure

MARKERS = {"circle": "o", "diamond": "D", "square": "s", "line-ew": "_"}  # plotly's name -> matplotlib's
WIDTH = 980  # of a chart in pixels, at 100 per inch
NOTE_COLUMNS = 8  # of a sheet that has notes alone


def picture(description: Chart | Sheet) -> LiteralFigure:
    """The `matplotlib.figure.Figure` of a description."""
    return _chart(description) if isinstance(description, Chart) else _sheet(description)


def _chart(chart: Chart) -> LiteralFigure:
    names = [line.name for line in chart.lines if line.legend and len(line.x)]
    names += [bar.name for panel in chart.panels for bar in panel.bars] + [rule.name for panel in chart.panels for rule in panel.rules]
    names = list(dict.fromkeys(filter(None, names))) if chart.legend == "below" else []
    across = max(1, int((WIDTH - 120) // (40 + 6.2 * max(map(len, names), default=1))))
    below = 20 * -(-len(names) // across) + (11 * chart.tick_lines if names else 0)
    above = LINE_OF_NOTES * len(chart.notes)
    height = 100 + chart.height * chart.rows + below + above
    figure = LiteralFigure(figsize=(WIDTH / 100, height / 100), dpi=100, facecolor="white")
    margins = dict(left=100, right=20, bottom=45 + below, top=65 + above)
    wide, tall = WIDTH - margins["left"] - margins["right"], height - margins["bottom"] - margins["top"]
    handles: dict = {}
    for panel, (left, right, bottom, top) in zip(chart.panels, chart.domains(), strict=True):
        corner = [(margins["left"] + wide * left) / WIDTH, (margins["bottom"] + tall * bottom) / height]
        axes = figure.add_axes([*corner, wide * (right - left) / WIDTH, tall * (top - bottom) / height])
        of_panel = _panel(axes, panel)
        beside = chart.legend == "panels" and bool(of_panel)
        if beside:  # on the line of the title, where it covers nothing
            place = dict(loc="lower right", bbox_to_anchor=(1.0, 0.985), borderaxespad=0.0, frameon=False)
            tight = dict(fontsize=7.5, handlelength=1.4, columnspacing=0.9, handletextpad=0.4)
            axes.legend(of_panel.values(), of_panel.keys(), ncols=len(of_panel), **place, **tight)
        handles |= {name: artist for name, artist in of_panel.items() if name not in handles}
        x, y = corner[0] + wide * (right - left) * (0 if beside else 0.5) / WIDTH, corner[1] + (tall * (top - bottom) + 3) / height
        figure.text(x, y, panel.title, ha="left" if beside else "center", va="bottom", fontsize=9 if beside else 10)
    if names and handles:
        handles = {name: handles[name] for name in names if name in handles}
        ncols = min(across, len(handles))
        figure.legend(list(handles.values()), list(handles), loc="lower center", ncols=ncols, fontsize=8, frameon=False)
    if chart.title:
        figure.suptitle(chart.title, x=0.02, ha="left", va="top", fontsize=12, y=1 - 8 / height)
    if chart.notes:
        figure.text(0.02, 1 - 32 / height, "\n".join(chart.notes), fontsize=7.5, ha="left", va="top")
    return figure


def _panel(axes, panel: Panel) -> dict:
    """Draw a panel; returns the entries of its legend: name -> artist."""
    axes.set_xlabel(panel.x.title, labelpad=1)
    axes.set_ylabel(panel.y.title, fontsize=7 if panel.y.small else None)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    _axis(axes, "x", panel.x)
    _axis(axes, "y", panel.y)
    handles: dict = {}
    for line in panel.lines:
        artist = _line(axes, line)
        if line.legend and line.name and len(line.x):
            handles.setdefault(line.name, artist)
    for band in panel.bands:
        axes.fill_between(band.x, band.low, band.high, color=band.colour, alpha=0.18, linewidth=0)
    left = np.zeros(1)
    for bar in panel.bars:
        handles[bar.name] = axes.barh(bar.y, bar.lengths, left=left, color=bar.colour)
        left = left + bar.lengths
    for rule in panel.rules:
        draw = axes.axvline if rule.axis == "x" else axes.axhline
        artist = draw(rule.at, color=rule.colour, linewidth=0.8, linestyle="--" if rule.dash else "-")
        handles |= {rule.name: artist} if rule.name else {}
    return handles


def _axis(axes, letter: str, axis: Axis) -> None:
    if axis.log:
        getattr(axes, f"set_{letter}scale")("log")
        for set_formatter in ("set_major_formatter", "set_minor_formatter"):
            getattr(getattr(axes, f"{letter}axis"), set_formatter)(LogFormatter())  # shows 0.5; a power of ten would be mathematics
        axes.tick_params(axis=letter, which="minor", labelsize=6)
    if axis.ticks:
        getattr(axes, f"set_{letter}ticks")([at for at, _ in axis.ticks], [text for _, text in axis.ticks])
        getattr(axes, f"{letter}axis").minorticks_off()
    elif axis.whole:
        getattr(axes, f"{letter}axis").set_major_locator(MaxNLocator("auto", integer=True))
    if axis.range:
        low, high = (10**end if axis.log else end for end in axis.range)  # as plotly has them
        getattr(axes, f"set_{letter}lim")(low, high)


def _line(axes, line: Line):
    x, y = (np.array([np.nan if value is None else value for value in values], float) for values in (line.x, line.y))
    style = dict(color=line.colour, alpha=line.opacity)
    style |= dict(linestyle="--" if line.dash else "-", linewidth=line.width) if "lines" in line.mode else dict(linestyle="none")
    style |= dict(marker=MARKERS.get(line.symbol, "o"), markersize=0.7 * line.size) if "markers" in line.mode else {}
    if line.high and len(x):
        return axes.errorbar(x, y, capsize=3, elinewidth=1, **{f"{line.bars}err": np.array([line.low, line.high], float)}, **style)
    return axes.plot(x, y, **style)[0]


def _sheet(sheet: Sheet) -> LiteralFigure:
    images = [_pixels(image) for image in sheet.images]
    columns = max(len(row.cells) for row in sheet.rows) or NOTE_COLUMNS
    labels, gap = (2.6, 0.05) if sheet.labels else (0.0, 0.04)
    below = 0.12 if any(cell.title for row in sheet.rows[1:] for cell in row.cells) else gap
    width = labels + columns * sheet.cell
    lines = [part for line in sheet.title.splitlines() for part in textwrap.wrap(line, max(20, int(14 * width)))]
    top = 0.14 + 0.15 * len(lines) + (0.12 if any(cell.title for cell in sheet.rows[0].cells) else 0.0)
    height = top + len(sheet.rows) * sheet.cell * (1.04 if sheet.labels else 1 + below - gap)
    figure = LiteralFigure(figsize=(width, height), facecolor="white")
    grid = figure.subplots(len(sheet.rows), columns, squeeze=False, gridspec_kw=dict(wspace=gap, hspace=below))
    for row, panels in zip(sheet.rows, grid, strict=True):
        _row(row, panels, images, columns)
    figure.suptitle("\n".join(lines), fontsize=9, x=0.01, ha="left", y=1 - 0.04 / height, va="top")
    figure.subplots_adjust(left=2.4 / width if sheet.labels else 0.01, right=0.99, bottom=0.01, top=1 - top / height)
    return figure


def _row(row: Row, panels, images: list[np.ndarray], columns: int) -> None:
    for panel in panels:
        panel.axis("off")
    if row.note:
        panels[0].text(0, 0.5, textwrap.fill(row.note, 16 * columns), transform=panels[0].transAxes, va="center", fontsize=7)
    if row.label:
        panels[0].text(-0.1, 0.5, row.label, transform=panels[0].transAxes, ha="right", va="center", fontsize=9)
    for cell, panel in zip(row.cells, panels, strict=False):
        if cell.image == EMPTY:
            continue
        image = images[cell.image]
        if cell.heat:
            heat, (height, width) = unpacked(cell.heat, cell.side), image.shape[:2]
            panel.imshow(image.mean(2) / 1.6, interpolation="nearest", vmin=0, vmax=255, cmap="gray")
            alpha = 0.45 + 0.5 * heat / max(heat.max(), 1e-12)  # the image stays visible where attention is low
            extent = (-0.5, width - 0.5, height - 0.5, -0.5)
            panel.imshow(heat, cmap="inferno", alpha=alpha.clip(0, 1), extent=extent, interpolation="nearest")
        else:
            panel.imshow(image, interpolation="nearest")
        for x, y, colour in cell.dots:
            panel.plot(x, y, "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=1)
        if cell.title:
            panel.set_title(cell.title, fontsize=7, pad=2)


def _pixels(image: str) -> np.ndarray:
    """(H, W, 3) uint8 from PNG in base64."""
    with Image.open(io.BytesIO(base64.b64decode(image)), formats=["PNG"]) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"an image has {opened.width}x{opened.height} pixels")
        return np.asarray(opened.convert("RGB"))


def unpacked(heat: str, side: int) -> np.ndarray:
    """The inverse of `images.packed`: a map (side, side)."""
    if not 1 <= side <= 1024:
        raise ValueError(f"a map has side {side}")
    content = zlib.decompressobj().decompress(base64.b64decode(heat), 4 * side * side + 1)
    return np.frombuffer(content, "<f4").reshape(side, side).astype(float)
