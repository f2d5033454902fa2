"""A chart as a plotly figure: zoom, hover, logarithmic scale, hidden lines. All text is shown literally."""

from __future__ import annotations

import math
from dataclasses import replace

from .charts import Band, Bar, Chart, Line, Panel, Rule
from .labels import GAP, ROOM, ends, is_of_group, labelled, legible, shortened, spread, with_room, y_range

MARKUP = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "{": "&#123;", "}": "&#125;", "\n": "<br>"}  # plotly's markup
MARGINS = dict(l=70, r=20, t=70, b=50)
LINE_OF_NOTES = 15  # height in pixels
LINE_OF_TICKS = 13
FEW_STEPS = 8  # up to here, every step has a tick
WIDTH = 980
LABEL, LETTER = 10, 5.7  # size of the labels of lines, and the width of a letter in them, in pixels


def literal(text: str) -> str:
    """Text that plotly shows literally: no tags, links, mathematics or fields of a template."""
    return "".join(MARKUP.get(character, character) for character in text).encode(errors="replace").decode()


def content(chart: Chart, labels: bool = True) -> dict:
    """`data` and `layout` of the plotly figure; the first traces are `chart.lines`, in order.

    Many lines have their names at their ends, unless `labels` is false, else in a legend.
    """
    chart = with_room(chart) if labels else chart
    named_at_ends = [labels and at_ends for at_ends in labelled(chart)]
    named: set[tuple[str, str]] = set()
    of_panels = [(axes_of(k), panel) for k, panel in enumerate(chart.panels)]
    lines = [
        _line(replace(line, legend=False) if at_ends and is_of_group(line) else line, axes, group, named)
        for (axes, panel), at_ends in zip(of_panels, named_at_ends, strict=True)
        for group in [panel.title if chart.legend == "panels" else ""]
        for line in panel.drawn
    ]
    bands = [_band(band) | axes for axes, panel in of_panels for band in panel.bands]
    bars = [_bars(panel, k) | axes for axes, panel in of_panels for k in range(len(panel.bars))]
    return dict(data=[*lines, *bands, *bars], layout=_layout(chart, named_at_ends))


def axes_of(number: int) -> dict[str, str]:
    """The names of the axes of a panel."""
    return dict(xaxis=f"x{number + 1 if number else ''}", yaxis=f"y{number + 1 if number else ''}")


def _line(line: Line, axes: dict[str, str], group: str, named: set[tuple[str, str]]) -> dict:
    name = literal(line.name)
    key = (group, name)
    legend = line.legend and key not in named and len(line.x) > 0
    named |= {key} if legend else set()
    style = dict(color=line.colour, width=line.width) | (dict(dash="dash") if line.dash else {})
    trace = dict(
        type="scatter", x=list(line.x), y=list(line.y), name=name, mode=line.mode, line=style, opacity=line.opacity, showlegend=legend
    )
    trace |= dict(legendgroup=literal(group), legendgrouptitle=dict(text=literal(group))) if group else dict(legendgroup=name)
    if "markers" in line.mode:
        trace["marker"] = dict(color=line.colour, size=line.size, symbol=line.symbol)
        trace["marker"] |= dict(line=dict(color=line.colour, width=line.width)) if line.symbol.startswith("line") else {}
    if line.high:
        lengths = dict(type="data", array=list(line.high), arrayminus=list(line.low), color=line.colour, thickness=1)
        trace[f"error_{line.bars}"] = lengths
    if line.texts:
        trace |= dict(text=[literal(text) for text in line.texts], hovertemplate="%{text}<extra></extra>")
    else:
        trace["hovertemplate"] = f"%{{y:.5g}} at %{{x:,}}{literal(line.about)}<extra>{literal(line.source or line.name)}</extra>"
    return trace | axes


def _band(band: Band) -> dict:
    outline = dict(x=[*band.x, *reversed(band.x)], y=[*band.high, *reversed(band.low)], fill="toself", fillcolor=band.colour)
    look = dict(mode="lines", line=dict(color=band.colour, width=0), opacity=0.18, hoverinfo="skip", showlegend=False)
    return dict(type="scatter", name=literal(band.name), legendgroup=literal(band.name)) | outline | look


def _bars(panel: Panel, number: int) -> dict:
    bar: Bar = panel.bars[number]
    left = [sum(before) for before in zip(*(other.lengths for other in panel.bars[:number]), strict=True)] or [0] * len(bar.y)
    look = dict(marker=dict(color=bar.colour), hovertemplate=f"%{{customdata:.3g}}<extra>{literal(bar.name)}</extra>", showlegend=True)
    lengths = dict(x=list(bar.lengths), y=list(bar.y), base=left, customdata=list(bar.lengths), width=0.8)
    return dict(type="bar", orientation="h", name=literal(bar.name)) | lengths | look


def _layout(chart: Chart, named_at_ends: list[bool]) -> dict:
    top = MARGINS["t"] + LINE_OF_NOTES * len(chart.lines_of_notes)
    height = chart.height * chart.rows + 100 + top - MARGINS["t"]
    title: dict = dict(text=literal(chart.title), font=dict(size=16), x=0.02, y=1, yanchor="top", pad=dict(t=12))
    if chart.notes:
        title["subtitle"] = dict(text=literal("\n".join(chart.lines_of_notes)), font=dict(size=11))
    layout = dict(width=WIDTH, height=height, template="plotly_white", margin=MARGINS | dict(t=top), barmode="overlay", title=title)
    if chart.legend == "below":
        layout["legend"] = dict(orientation="h", y=-(60 + LINE_OF_TICKS * chart.tick_lines) / height, yanchor="top")
    shapes: list[dict] = []
    annotations: list[dict] = []
    rule_names: set[str] = set()
    for k, (panel, (left, right, bottom, upper)) in enumerate(zip(chart.panels, chart.domains(), strict=True)):
        names = axes_of(k)
        x, y = names["xaxis"], names["yaxis"]
        y_ends = panel.y.range
        if named_at_ends[k]:
            tall, wide = (upper - bottom) * (height - top - MARGINS["b"]), (right - left) * (WIDTH - MARGINS["l"] - MARGINS["r"])
            of_panel, room = _labels(panel, x, y, tall, wide)
            annotations += of_panel
            y_ends, right = y_range(panel), right - room / (WIDTH - MARGINS["l"] - MARGINS["r"])
        for letter, axis, name, anchor, domain in (("x", panel.x, x, y, (left, right)), ("y", panel.y, y, x, (bottom, upper))):
            heading = dict(text=literal(axis.title), standoff=4) | (dict(font=dict(size=7)) if axis.small else {})
            settings: dict = dict(title=heading, type="log" if axis.log else "linear", domain=list(domain), anchor=anchor)
            if axis.log:
                settings["tickformat"] = "~g"  # 20: by itself plotly writes 2 between 10 and 100
            if axis.ticks:
                settings["tickvals"] = [at for at, _ in axis.ticks]
                settings["ticktext"] = [literal(text) for _, text in axis.ticks]
            if limits := axis.range if letter == "x" else y_ends:
                settings["range"] = list(limits)
            if axis.whole and letter == "x" and _extent(panel) <= FEW_STEPS:
                settings["dtick"] = 1
            layout[f"{letter}axis{name[1:]}"] = settings
        middle = dict(x=(left + right) / 2, y=upper, xref="paper", yref="paper", xanchor="center", yanchor="bottom", showarrow=False)
        annotations.append(dict(text=literal(panel.title), font=dict(size=13)) | middle)
        shapes += [_rule(rule, x, y, rule_names) for rule in panel.rules]
    linear = [
        f"yaxis{axes_of(k)['yaxis'][1:]}.type" for k, panel in enumerate(chart.panels) if not (panel.bars or panel.y.ticks or panel.y.log)
    ]
    layout |= dict(annotations=annotations, shapes=shapes, updatemenus=[_scales(linear)] if linear else [])
    return layout


def _labels(panel: Panel, x: str, y: str, tall: float, wide: float) -> tuple[list[dict], float]:
    """The names of the lines of a panel, right of it at their ends, as annotations that follow them; and the room that they take, in pixels.

    `tall` and `wide` are the pixels of the panel with its labels.
    """
    lines, (low, high) = ends(panel), y_range(panel)
    values = [min(max(math.log10(end.y) if panel.y.log else end.y, low), high) for end in lines]
    wanted = [tall * (value - low) / (high - low) for value in values]
    room = min(ROOM * wide, LETTER * max(len(end.name) for end in lines) + GAP)
    annotations = []
    for end, value, at, place in zip(lines, values, wanted, spread(wanted, 0, tall), strict=True):
        short = shortened(end.name, room - GAP, lambda text: LETTER * len(text))
        where = dict(x=1, xref=f"{x} domain", xanchor="left", y=value, yref=y, yanchor="middle", ax=GAP - 2, ay=at - place)
        look = dict(font=dict(size=LABEL, color=legible(end.colour)), arrowcolor=end.colour, arrowwidth=0.8, arrowhead=0, borderpad=0)
        hover = dict(hovertext=literal(end.name)) if short != end.name else {}
        annotations.append(dict(text=literal(short), showarrow=True, standoff=0) | where | look | hover)
    return annotations, room


def _extent(panel: Panel) -> float:
    """The length of the x axis."""
    values = [x for line in panel.lines for x in line.x if x is not None]
    return max(values) - min(values) if values else 0.0


def _rule(rule: Rule, x: str, y: str, named: set[str]) -> dict:
    along: dict = dict(x0=rule.at, x1=rule.at, xref=x, y0=0, y1=1, yref=f"{y} domain")
    if rule.axis == "y":
        along = dict(y0=rule.at, y1=rule.at, yref=y, x0=0, x1=1, xref=f"{x} domain")
    style = dict(type="line", line=dict(color=rule.colour, width=1, dash="dash" if rule.dash else "solid"))
    if not rule.name:
        return along | style
    first = rule.name not in named
    named.add(rule.name)
    return along | style | dict(name=literal(rule.name), showlegend=first, legendgroup=literal(rule.name))


def _scales(axes: list[str]) -> dict:
    """Buttons that make these y axes linear or logarithmic."""
    buttons = [dict(label=kind, method="relayout", args=[dict.fromkeys(axes, kind)]) for kind in ("linear", "log")]
    corner = dict(x=1, xanchor="right", y=1, yanchor="bottom", pad=dict(b=28), font=dict(size=11), showactive=True)
    return dict(type="buttons", direction="right", buttons=buttons) | corner
