"""Charts and sheets as matplotlib figures: for PNG, SVG and PDF files, and where no JavaScript runs."""

from __future__ import annotations

import base64
import io
import textwrap
import zlib
from functools import partial

import numpy as np
from matplotlib.figure import FigureBase
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import LogFormatter, MaxNLocator
from PIL import Image

from .charts import EMPTY, MAX_PIXELS, Axis, Chart, Composition, Line, Panel, Row, Sheet
from .interactive import LINE_OF_NOTES
from .labels import GAP, ROOM, beside_legend, ends, is_named, is_of_group, labelled, legible, shortened, spread, with_room
from .literal_text import LiteralFigure, families_of, readable

MARKERS = {"circle": "o", "diamond": "D", "square": "s", "line-ew": "_"}  # plotly's name -> matplotlib's
WIDTH = 980  # of a chart in pixels, at 100 per inch
LABEL = 7  # points of the names at the ends of lines
BESIDE = 28  # pixels that the title of a panel may be wider than the panel
TILTED, LONGEST_TILTED = 42, 18  # pixels that tilted texts below a panel need, and their characters
LABELS = 2.6  # inches of the labels of a sheet
NOTE_COLUMNS = 8  # of a sheet that has notes alone


def picture(description: Chart | Sheet | Composition, background: str = "white") -> LiteralFigure:
    """The `matplotlib.figure.Figure` of a description."""
    if isinstance(description, Composition):
        from .paper import composition

        return composition(description, background)
    width, height = size_of(description, WIDTH / 100)
    figure = LiteralFigure(figsize=(width, height), dpi=100, facecolor=background)
    draw(figure, description, width, height)
    return figure


class PlainLogarithms(LogFormatter):
    """Ticks of a logarithmic axis as numbers: 0.5, 0.98; powers of ten would be mathematics, and 1e+00 is not 0.98."""

    def __call__(self, x, pos=None):
        return f"{x:g}" if super().__call__(x, pos) else ""


def draw(canvas: FigureBase, description: Chart | Sheet, width: float, height: float) -> None:
    """Draw on a figure, or on a part of one, of this size in inches."""
    if isinstance(description, Chart):
        draw_chart(canvas, description, width, height)
    else:
        _draw_sheet(canvas, description, width, height)


def size_of(description: Chart | Sheet, width: float) -> tuple[float, float]:
    """Width and height in inches; a chart has the `width`, a sheet the size of its images."""
    return _chart_size(description, 100 * width) if isinstance(description, Chart) else _sheet_size(description)


def _names(chart: Chart) -> list[str]:
    """The entries of the legend below a chart."""
    names = [
        line.name
        for panel, at_ends in zip(chart.panels, labelled(chart), strict=True)
        for line in panel.lines
        if is_named(line) and not (at_ends and is_of_group(line))
    ]
    names += [bar.name for panel in chart.panels for bar in panel.bars] + [rule.name for panel in chart.panels for rule in panel.rules]
    return list(dict.fromkeys(filter(None, names))) if chart.legend == "below" else []


def _legend_columns(chart: Chart, width: float) -> int:
    return max(1, int((width - 0.12 * WIDTH) // (40 + 6.2 * max(map(len, _names(chart)), default=1))))


def _margins(chart: Chart, width: float) -> dict[str, float]:
    """In pixels, for a width in pixels."""
    names = _names(chart)
    panels = zip(chart.panels, labelled(chart), chart.domains(), strict=True)
    tilted = any(_is_tilted(panel, (width - 120) * (right - left) * (1 - ROOM * at_ends)) for panel, at_ends, (left, right, *_) in panels)
    below = 20 * -(-len(names) // _legend_columns(chart, width)) + (11 * chart.tick_lines if names else 0) + TILTED * tilted
    above = LINE_OF_NOTES * len(chart.lines_of_notes) + (65 if chart.title or chart.notes else 24)
    return dict(left=min(100.0, max(72.0, 0.17 * width)), right=20.0, bottom=45.0 + below, top=float(above))


def _chart_size(chart: Chart, width: float) -> tuple[float, float]:
    """Width and height in inches, for a width in pixels."""
    chart = with_room(chart)
    margins = _margins(chart, width)
    return width / 100, (chart.height * chart.rows + margins["bottom"] + margins["top"] - 10) / 100


def draw_chart(figure: FigureBase, chart: Chart, wide: float, tall: float) -> None:
    """Draw a chart on a figure, or on a part of one, of this size in inches."""
    chart, width, height = with_room(chart), 100 * wide, 100 * tall
    margins, names = _margins(chart, width), _names(chart)
    wide, tall = width - margins["left"] - margins["right"], height - margins["bottom"] - margins["top"]
    handles: dict = {}
    for panel, at_ends, (left, right, bottom, top) in zip(chart.panels, labelled(chart), chart.domains(), strict=True):
        names_of_ends = _end_labels(panel, wide * (right - left)) if at_ends else []
        right -= max((GAP + width_of_name for _, width_of_name in names_of_ends), default=0) / wide
        corner = [(margins["left"] + wide * left) / width, (margins["bottom"] + tall * bottom) / height]
        axes = figure.add_axes((corner[0], corner[1], wide * (right - left) / width, tall * (top - bottom) / height))
        of_panel = _panel(axes, panel, wide * (right - left), tall * (top - bottom))
        if _is_tilted(panel, wide * (right - left)):
            texts = [middle_out(text.replace("\n", " "), LONGEST_TILTED) for _, text in panel.x.ticks]
            axes.set_xticks([at for at, _ in panel.x.ticks], texts, rotation=40, ha="right", va="top", rotation_mode="anchor")
        if at_ends:
            of_ends = {end.name for end in ends(panel)}
            of_panel = {name: artist for name, artist in of_panel.items() if name not in of_ends}
            _draw_end_labels(axes, panel, [text for text, _ in names_of_ends])
        beside = chart.legend == "panels" and bool(of_panel)
        if beside:  # on the line of the title, where it covers nothing
            panel = beside_legend(panel)
            axes.set_xlabel(panel.x.title)
            axes.legend(
                list(of_panel.values()), list(of_panel), ncols=len(of_panel), loc="lower right", bbox_to_anchor=(1.0, 0.985), frameon=False,
                borderaxespad=0.0, fontsize=7.5, handlelength=1.4, columnspacing=0.9, handletextpad=0.4,
            )  # fmt: skip
        handles |= {name: artist for name, artist in of_panel.items() if name not in handles}
        x, y = corner[0] + wide * (right - left) * (0 if beside else 0.5) / width, corner[1] + (tall * (top - bottom) + 3) / height
        size = 9 if beside or width < WIDTH else 10
        title = panel.title if beside else shortened(panel.title, wide * (right - left) + BESIDE, partial(_pixels_of, size=size))
        figure.text(x, y, title, ha="left" if beside else "center", va="bottom", fontsize=size)
    if names and handles:
        handles = {name: handles[name] for name in names if name in handles}
        ncols = min(_legend_columns(chart, width), len(handles))
        labels = [middle_out(name, int((width - 40) / 6.2)) for name in handles]
        figure.legend(list(handles.values()), labels, loc="lower center", ncols=ncols, fontsize=8 if width == WIDTH else 7, frameon=False)
    if chart.title:
        figure.suptitle(chart.title, x=0.02, ha="left", va="top", fontsize=12, y=1 - 8 / height)
    if chart.notes:
        figure.text(0.02, 1 - 32 / height, "\n".join(chart.lines_of_notes), fontsize=7.5, ha="left", va="top")


def _is_tilted(panel: Panel, wide: float) -> bool:
    """Whether the texts below a panel of this width in pixels would overlap."""
    longest = max((len(line) for _, text in panel.x.ticks for line in text.split("\n")), default=0)
    return len(panel.x.ticks) * (longest + 1) * 6.4 > wide


def _end_labels(panel: Panel, wide: float) -> list[tuple[str, float]]:
    """The names at the ends of the lines of a panel, as they fit, and their widths in pixels; `wide` is the panel with its labels."""
    texts = [shortened(readable(end.name), ROOM * wide - GAP, _pixels_of) for end in ends(panel)]
    return [(text, _pixels_of(text)) for text in texts]


def _broken(title: str, room: float) -> str:
    """The title of an axis in lines that fit so many pixels."""
    return "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, max(12, int(room / 6.4))))


def _pixels_of(text: str, size: float = LABEL) -> float:
    """The width of the widest line of a text, in pixels, at a size in points."""
    text = readable(text)
    measure, font = TextToPath().get_text_width_height_descent, FontProperties(family=families_of(text), size=size)
    return max(measure(line, font, False)[0] * 100 / 72 for line in text.split("\n"))


def _draw_end_labels(axes, panel: Panel, texts: list[str]) -> None:
    """Names right of a panel, in the colours of their lines, each with a leader from the end of its line."""
    lines = ends(panel)
    axes.autoscale_view()  # else the places of points are not known yet
    box, scale = axes.get_window_extent(), axes.figure.dpi / 100  # of the pixels of `labels`
    points = axes.transData.transform([(end.x, end.y) for end in lines])
    points[:, 1] = points[:, 1].clip(box.y0, box.y1)
    places = scale * spread(points[:, 1] / scale, box.y0 / scale, box.y1 / scale)
    back, beside = axes.transAxes.inverted(), dict(transform=axes.transAxes, clip_on=False, scalex=False, scaley=False)
    for end, text, (x, y), place in zip(lines, texts, points, places, strict=True):
        (x, y), (edge, at) = back.transform([(min(x, box.x1), y), (box.x1 + (GAP - 2) * scale, place)])
        axes.plot([x, edge], [y, at], color=end.colour, linewidth=0.6, alpha=0.7, **beside)
        axes.text(edge, at, text, color=legible(end.colour), fontsize=LABEL, transform=axes.transAxes, ha="left", va="center_baseline")


def _panel(axes, panel: Panel, wide: float, tall: float) -> dict:
    """Draw a panel of this size in pixels; returns the entries of its legend: name -> artist."""
    axes.set_xlabel(_broken(panel.x.title, wide + BESIDE), labelpad=1)
    axes.set_ylabel(_broken(panel.y.title, tall + BESIDE), **(dict(fontsize=7) if panel.y.small else {}))
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    _axis(axes, "x", panel.x)
    _axis(axes, "y", panel.y)
    handles: dict = {}
    for line in panel.drawn:
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
            getattr(getattr(axes, f"{letter}axis"), set_formatter)(PlainLogarithms())
        axes.tick_params(axis=letter, which="minor", labelsize=7)
    if axis.ticks:
        getattr(axes, f"set_{letter}ticks")([at for at, _ in axis.ticks], [text for _, text in axis.ticks])
        getattr(axes, f"{letter}axis").minorticks_off()
    elif axis.whole:
        getattr(axes, f"{letter}axis").set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
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


def middle_out(text: str, most: int) -> str:
    """A text of at most so many characters: the middle is left out."""
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-(most - most // 2) :]}"


def _sheet_size(sheet: Sheet) -> tuple[float, float]:
    """Width and height in inches."""
    width = (LABELS if sheet.labels else 0.0) + _columns(sheet) * sheet.cell
    top, below = _sheet_margins(sheet, width)
    return width, top + len(sheet.rows) * sheet.cell * (1 + below - _gap(sheet) + (0.04 if sheet.labels else 0))


def _columns(sheet: Sheet) -> int:
    return max(len(row.cells) for row in sheet.rows) or NOTE_COLUMNS


def _gap(sheet: Sheet) -> float:
    return 0.05 if sheet.labels else 0.04


def _title_lines(sheet: Sheet, width: float) -> list[str]:
    return [part for line in sheet.title.splitlines() for part in textwrap.wrap(line, max(20, int(14 * width)))]


def _sheet_margins(sheet: Sheet, width: float) -> tuple[float, float]:
    """The height above the images in inches, and the share of a cell below each."""
    below = 0.12 if any(cell.title for row in sheet.rows[1:] for cell in row.cells) else _gap(sheet)
    top = 0.14 + 0.15 * len(_title_lines(sheet, width)) + (0.12 if any(cell.title for cell in sheet.rows[0].cells) else 0.0)
    return top, below


def _draw_sheet(figure: FigureBase, sheet: Sheet, width: float, height: float) -> None:
    images = [_pixels(image) for image in sheet.images]
    own_width, own_height = _sheet_size(sheet)
    top, below = _sheet_margins(sheet, own_width)
    grid = figure.subplots(len(sheet.rows), _columns(sheet), squeeze=False, gridspec_kw=dict(wspace=_gap(sheet), hspace=below))
    for row, panels in zip(sheet.rows, grid, strict=True):
        _row(row, panels, images, _columns(sheet))
    if sheet.title:
        lines = "\n".join(_title_lines(sheet, own_width))
        figure.suptitle(lines, fontsize=9, x=0.01, ha="left", y=1 - 0.04 / height, va="top")
    left = 2.4 / width if sheet.labels else 0.01
    right = min(0.99, 0.99 * own_width / width)
    figure.subplots_adjust(left=left, right=right, bottom=max(0.01, 1 - own_height / height + 0.01), top=1 - top / height)


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
