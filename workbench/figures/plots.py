"""Curves, scores and scatters of one run or of several, interactive and with a static picture."""

from __future__ import annotations

import colorsys
import io
import re
import textwrap
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from PIL import Image

from .. import groups
from ..groups import AXES, Group, Score
from ..metrics.protocols import brief, published
from ..parameters import ParameterError, WorkbenchError, nearest
from ..runs import Run
from .drawing import Plot
from .grids import samples

CURVES = {  # title of a panel, unit of its y axis -> column of the history: name in the legend
    ("hinge losses", "loss"): {"loss_d": "D", "loss_g": "G"},
    ("D's output", "logit"): {"d_real": "real", "d_fake": "fake"},
    ("gamma of the attention layers", "gamma"): "gamma_",
    ("learning rates", "rate"): {"lr_d": "D", "lr_g": "G"},
}
PANELS = {  # the same of several runs: column of the history -> title of its panel
    "loss_d": "hinge loss of D", "loss_g": "hinge loss of G", "d_real": "D's output on real images", "d_fake": "D's output on fakes",
}  # fmt: skip
COUNTERS = ("step", "images", "seconds")
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#c2185b", "#8c564b", "#17a2b8", "#7f7f7f", "#b5a300", "#003f88")
MOST_POINTS = 40_000  # in one figure; more would make notebooks and pages heavy, and show nothing more


def curves(runs: Run | Sequence[Run], axis: str = "steps", keys: str = "", records: dict[str, int] | None = None) -> Plot:
    """What the history of runs tells, over steps, images or hours.

    Of one run: losses, D's outputs, gammas and learning rates, in four panels. Of several: a panel for every number of the history,
    runs that differ in the seed alone in one colour: thin, and above them their mean with a band of one standard deviation (n - 1), which
    ends where the first of them does.

    Parameters
    ----------
    runs
        One run, or a sequence of them.
    axis
        Of several runs: "steps", "images" or "hours" (of training).
    keys
        Of several runs: numbers of the history to draw, or patterns such as `gamma_*`, separated by commas; by default all but
        learning rates that never change.
    records
        How many lines of each history count, by `Run.reference`: what a sidecar keeps, since a run may go on; by default all.

    Raises
    ------
    ParameterError, WorkbenchError
        For another axis, or a key that no history has.
    """
    one = isinstance(runs, Run)
    histories = {run.path: run.history()[: (records or {}).get(run.reference)] for run in ([runs] if one else runs)}
    counted = {run.reference: len(histories[run.path]) for run in ([runs] if one else runs)}
    if one:
        return Plot(_curves_of_one(runs, histories[runs.path]), "curves", dict(runs=runs.reference, records=counted))
    figure = _curves_of_several(groups.group(runs), histories, axis, keys)
    return Plot(figure, "curves", dict(runs=list(counted), axis=axis, keys=keys, records=counted))


def _curves_of_one(run: Run, history: list[dict]):
    figure, add = _panels([title for title, _ in CURVES], columns=2, height=230)
    for (title, unit), columns in CURVES.items():
        if isinstance(columns, str):
            columns = {key: key.removeprefix(columns) for key in (history[-1] if history else {}) if key.startswith(columns)}
        for (key, name), colour in zip(columns.items(), _colours(len(columns)), strict=True):
            rows = [row for row in history if key in row]
            style = dict(name=name, mode="lines", line_color=colour, legendgroup=title, legendgrouptitle_text=title)
            add(title, x=[row["step"] for row in rows], y=[row[key] for row in rows], **style)
        add.axes(title, "G step", unit)
    figure.update_layout(title=run.name)
    return figure


def _curves_of_several(members: list[Group], histories: dict, axis: str, keys: str):
    if axis not in AXES:
        raise ParameterError(f"axis={axis!r} is not one of {', '.join(AXES)}")
    chosen = _chosen_keys([history for history in histories.values() if history], keys)
    figure, add = _panels([PANELS.get(key, _title(key)) for key in chosen])
    total = sum(key in row for history in histories.values() for row in history for key in chosen)
    every = -(-total // MOST_POINTS) or 1
    for place, key in enumerate(chosen):
        panel = PANELS.get(key, _title(key))
        for group, colour in zip(members, _colours(len(members)), strict=True):
            style = dict(name=group.label, legendgroup=group.label)
            lines, places = [], []
            for run in group.runs:
                rows = [row for row in histories[run.path] if isinstance(row.get(key), int | float)][::every]
                steps = [row["step"] for row in rows]
                lines.append({row["step"]: float(row[key]) for row in rows})
                places.append(dict(zip(steps, groups.along(histories[run.path], axis, steps), strict=True)))
            alone = len(lines) == 1
            for run, line, place_of in zip(group.runs, lines, places, strict=True):
                look = dict(line=dict(color=colour, width=1.6 if alone else 0.8), opacity=1 if alone else 0.45)
                hover = f"%{{y:.5g}} at %{{x:,}}<extra>{run.name}</extra>"
                x, y = list(place_of.values()), list(line.values())
                add(panel, x=_brief(x), y=_brief(y), mode="lines", hovertemplate=hover, showlegend=alone and place == 0, **look, **style)
            if not alone:
                steps, mean, sd = groups.mean_and_sd(lines)
                x = np.mean([[place_of[step] for step in steps.tolist()] for place_of in places], 0)
                _add_band(add, panel, x, mean, sd, colour, group.label)
                hover = f"mean %{{y:.5g}} at %{{x:,}}<extra>{group.label}</extra>"
                line = dict(color=colour, width=2)
                add(panel, x=_brief(x), y=_brief(mean), mode="lines", line=line, hovertemplate=hover, showlegend=place == 0, **style)
        add.axes(panel, AXES[axis][2])
    title = _title_of(members) + (": mean ± one standard deviation, and every seed" if any(len(g.runs) > 1 for g in members) else "")
    title += f"; every {every}th logged step is drawn" if every > 1 else ""
    figure.update_layout(title=title, legend=dict(orientation="h", y=-60 / figure.layout.height, yanchor="top"))
    return figure


def _chosen_keys(histories: list[list[dict]], wanted: str) -> list[str]:
    """Numbers of the history, the best known first."""
    every = [row for history in histories for row in history]
    known = list(dict.fromkeys(k for row in every for k, value in row.items() if isinstance(value, int | float) and k not in COUNTERS))
    order = [k for k in PANELS if k in known] + [k for k in known if k.startswith("gamma_")]
    known = order + [k for k in known if k not in order]
    if not wanted.strip(" ,"):
        changing = (k for k in known if not k.startswith("lr_") or any(len({row[k] for row in h if k in row}) > 1 for h in histories))
        return list(changing)
    chosen = []
    for word in filter(None, (part.strip() for part in wanted.split(","))):
        matches = [k for k in known if fnmatchcase(k, word)]
        if not matches:
            raise WorkbenchError(f"no history has {word!r}; {nearest(word, known)}there are: {', '.join(known) or 'none'}")
        chosen += matches
    return list(dict.fromkeys(chosen))


def _title(key: str) -> str:
    site = re.fullmatch(r"gamma_([gd])(\d+)", key)
    return f"gamma, {site[1].upper()} at {site[2]}x{site[2]}" if site else key


def scores(
    runs: Run | Sequence[Run],
    names: str | Sequence[str] = "",
    like: dict | None = None,
    across_protocols: bool = False,
    *,
    axis: str = "steps",
    protocol: str = "",
    records: dict[str, int] | None = None,
) -> Plot:
    """Scores over steps, images or hours, a panel for each, with published numbers where data set, size and protocol are theirs.

    Runs that differ in the seed alone are in one colour, with mean and standard deviation as in `curves`.

    Parameters
    ----------
    runs
        One run, or several to compare.
    names
        Scores to show, also as text with commas, with or without the hash of the extractor; by default all there are.
    like
        A record: leave out those that do not compare with it.
    across_protocols
        Show records of different protocols side by side, each curve with its own. Otherwise they are refused.
    axis
        "steps", "images" or "hours" (of training).
    protocol
        Leave out scores whose protocol does not contain this text.
    records
        How many evaluations of each run count, by `Run.reference`; by default all.

    Raises
    ------
    ParameterError, WorkbenchError
        For another axis; if there is no such score, or records do not compare.
    """
    runs = [runs] if isinstance(runs, Run) else list(runs)
    if axis not in AXES:
        raise ParameterError(f"axis={axis!r} is not one of {', '.join(AXES)}")
    counted = {run.reference: len(run.evaluations()[: (records or {}).get(run.reference)]) for run in runs}
    members = groups.group(runs)
    found = groups.scores(members, names, protocol=protocol, across_protocols=across_protocols, like=like, records=counted)
    histories = {run.path: run.history() for run in runs}
    figure, add = _panels(list(found), height=240, spacing=0.36)
    several = False
    shown: set[str] = set()
    for name, values in found.items():
        protocols = list(dict.fromkeys(score.protocol for score in values))
        several |= len(protocols) > 1
        colours = iter(_colours(len(members) * len(protocols)))
        for group in members:
            for said in protocols:
                colour = next(colours)
                label = " · ".join([group.label] * (len(members) > 1) + [brief(said)] * (len(protocols) > 1)) or group.label
                lines = _lines(group, [score for score in values if score.protocol == said], histories, axis)
                about = "<br>".join(textwrap.wrap(said, 70))
                _add_scores(add, name, label, colour, lines, about, label not in shown)
                shown |= {label} if lines else set()
        ends = [x for group in members for line in _lines(group, values, histories, axis).values() for x, _ in line.values()]
        for score, value, source in dict.fromkeys(line for one in values for line in published(one.record)):
            if score == name:
                add(name, x=[min(ends), max(ends)], y=[value] * 2, mode="lines", name=source, line=dict(dash="dash", color="gray"))
        add.axes(name, AXES[axis][2], _protocols(protocols), small=True)
    title = _title_of(members) + (": different protocols, which do not compare" if several else "")
    figure.update_layout(title=title, legend=dict(orientation="h", y=-60 / figure.layout.height, yanchor="top"))
    how = dict(names=names, like=like, across_protocols=across_protocols, axis=axis, protocol=protocol, records=counted)
    return Plot(figure, "scores", dict(runs=list(counted)) | how)


def _lines(group: Group, values: list[Score], histories: dict, axis: str) -> dict[Run, dict[int, tuple[float, float]]]:
    """Of each run of a group that has such scores: {step: (place on the axis, value)}."""
    found = {}
    for run in group.runs:
        own = [score for score in values if score.run is run]
        if own:
            places = groups.along(histories[run.path], axis, [score.step for score in own]).tolist()
            found[run] = {score.step: (x, score.value) for score, x in zip(own, places, strict=True)}
    return found


def _add_scores(add, panel: str, label: str, colour: str, lines: dict, about: str, legend: bool) -> None:
    alone = len(lines) == 1
    for run, line in lines.items():
        x, y = zip(*line.values(), strict=True)
        hover = f"%{{y:.5g}} at %{{x:,}}<br>{about}<extra>{label if alone else run.name}</extra>"
        look = dict(line=dict(color=colour, width=1.6 if alone else 0.8), opacity=1 if alone else 0.45)
        style = dict(mode="lines+markers", name=label, legendgroup=label, showlegend=alone and legend, hovertemplate=hover)
        add(panel, x=list(x), y=list(y), **look, **style)
    if len(lines) > 1:
        steps, mean, sd = groups.mean_and_sd([{step: value for step, (_, value) in line.items()} for line in lines.values()])
        x = np.mean([[line[step][0] for step in steps.tolist()] for line in lines.values()], 0)
        _add_band(add, panel, x, mean, sd, colour, label)
        hover = f"mean %{{y:.5g}} of {len(lines)} at %{{x:,}}<br>{about}<extra>{label}</extra>"
        line = dict(color=colour, width=2)
        style = dict(mode="lines+markers", name=label, legendgroup=label, showlegend=legend, hovertemplate=hover)
        add(panel, x=list(x), y=list(mean), line=line, **style)


def scatter(
    runs: Sequence[Run],
    names: str | Sequence[str] = "",
    against: str = "",
    *,
    steps: str = "last",
    protocol: str = "",
    across_protocols: bool = False,
    records: dict[str, int] | None = None,
) -> Plot:
    """Scores of runs against the parameters in which they differ: a panel for each pair, a point for each run, with mean and deviation.

    Parameters
    ----------
    names, protocol, across_protocols, records
        As for `scores`.
    against
        Parameters, separated by commas; by default all in which the runs differ. Numbers that span a decade are on a logarithmic axis.
    steps
        Which scores: the newest of each run ("last"), the newest step that all have ("common"), or those of steps ("500,1000").

    Raises
    ------
    WorkbenchError
        If there is no such score or parameter, or scores do not compare.
    """
    counted = {run.reference: len(run.evaluations()[: (records or {}).get(run.reference)]) for run in runs}
    members = groups.group(runs)
    found = groups.scores(members, names, protocol=protocol, across_protocols=across_protocols, records=counted)
    values = {run.path: groups.settings(run) for run in runs}
    parameters = _parameters(against, groups.differing(runs), next(iter(values.values()), {}))
    pairs = {f"{name} against {parameter}": (name, parameter) for parameter in parameters for name in found}
    figure, add = _panels(list(pairs), height=240, spacing=0.36, titles=[name for name, _ in pairs.values()])
    colours = dict(zip([group.label for group in members], _colours(len(members)), strict=True))
    named, averaged = set(), False
    for panel, (name, parameter) in pairs.items():
        points = groups.at_steps(found[name], steps)
        place = _Axis([values[score.run.path][parameter] for score in points])
        for group in members:
            own = [score for score in points if score.group is group]
            if not own:
                continue
            x = [place.put(values[score.run.path][parameter]) for score in own]
            about = [f"{score.run.name}, step {score.step:,}<br>{'<br>'.join(textwrap.wrap(score.protocol, 70))}" for score in own]
            style = dict(name=group.label, legendgroup=group.label, showlegend=group.label not in named, text=about)
            marker = dict(color=colours[group.label], size=8)
            hover = "%{y:.5g} at %{x}<br>%{text}<extra></extra>"
            y = [score.value for score in own]
            add(panel, x=x, y=y, mode="markers", marker=marker, opacity=0.75, hovertemplate=hover, **style)
            named.add(group.label)
            if len(own) > 1 and len({score.protocol for score in own}) == 1 and len({score.step for score in own}) == 1:
                bar = dict(type="data", array=[float(np.std(y, ddof=1))], color="#222222")
                marker = dict(color="#222222", size=9, symbol="line-ew", line=dict(color="#222222", width=2))
                style = dict(mode="markers", marker=marker, error_y=bar, name="mean ± one standard deviation", legendgroup="mean")
                add(panel, x=x[:1], y=[float(np.mean(y))], showlegend=not averaged, **style)
                averaged = True
        said = list(dict.fromkeys(score.protocol for score in points))
        add.axes(panel, parameter, _protocols(said), small=True, **place.style)
    title = "scores against parameters, at " + ("the newest step of each run" if steps == "last" else f"steps {steps}")
    title = title.replace("steps common", "the newest step that all have")
    if any(len({score.protocol for score in found[name]}) > 1 for name in found):
        title += ": different protocols, which do not compare"
    figure.update_layout(title=title, legend=dict(orientation="h", y=-60 / figure.layout.height, yanchor="top"))
    how = dict(names=names, against=against, steps=steps, protocol=protocol, across_protocols=across_protocols, records=counted)
    return Plot(figure, "scatter", dict(runs=list(counted)) | how)


def _parameters(against: str, differing: list[str], known: dict) -> list[str]:
    chosen = [word.strip() for word in against.split(",") if word.strip()]
    for name in chosen:
        if name not in known:
            raise WorkbenchError(f"against={against!r}: there is no parameter {name!r}; {nearest(name, known)}these runs differ in: "
                                 f"{', '.join(differing) or 'none'}")  # fmt: skip
    return chosen or differing


class _Axis:
    """How the values of a parameter are laid out: numbers as numbers, logarithmic where they span a decade; else as categories."""

    def __init__(self, values: list):
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if numbers and len(numbers) == len(values):
            low, high = min(numbers), max(numbers)
            self.put = float
            self.style = dict(type="log" if low > 0 and high >= 10 * low else "linear")
            if len(set(numbers)) <= 6:
                self.style |= dict(tickvals=sorted(set(numbers)), ticktext=[groups.written(value) for value in sorted(set(numbers))])
        else:
            self.put = groups.written
            order = sorted({groups.written(value) for value in values}, key=lambda text: (text != "none", _numbers_in(text), text))
            self.style = dict(type="category", categoryorder="array", categoryarray=order)


def _numbers_in(text: str) -> list[float]:
    """The numbers in a text, by which "8", "16" and "8,16" are in a natural order."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def summary_png(run: Run) -> bytes:
    """The newest sample grid above the curves: the static picture of a run."""
    parts = [samples(run, width=980)] if run.sample_steps() else []
    parts.append(Image.open(io.BytesIO(curves(run).png())).convert("RGB"))
    width = max(part.width for part in parts)
    sheet = Image.new("RGB", (width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        sheet.paste(part.convert("RGB"), ((width - part.width) // 2, top))
        top += part.height
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


# -------------------------------------------------------------------------------------------------------- panels


class _Adder:
    """Adds traces to panels by their names."""

    def __init__(self, figure, names: list[str], columns: int):
        self.figure = figure
        self.at = {name: dict(row=k // columns + 1, col=k % columns + 1) for k, name in enumerate(names)}

    def __call__(self, panel: str, **trace) -> None:
        from plotly import graph_objects

        self.figure.add_trace(graph_objects.Scatter(**trace), **self.at[panel])

    def axes(self, panel: str, x: str, y: str = "", small: bool = False, **style) -> None:
        self.figure.update_xaxes(title_text=x, title_standoff=4, **style, **self.at[panel])
        self.figure.update_yaxes(title_text=y, **(dict(title_font_size=7) if small else {}), **self.at[panel])


def _panels(names: list[str], columns: int = 3, height: int = 220, spacing: float = 0.24, titles: list[str] | None = None):
    """An empty figure with a panel for every name (which is its title where there are no others), and what adds to it."""
    from plotly.subplots import make_subplots

    columns = min(columns, len(names)) or 1
    rows = -(-len(names) // columns) or 1
    total = 100 + height * rows
    style = dict(horizontal_spacing=spacing / columns if columns > 1 else 0.1, vertical_spacing=min(75 / (height * rows), 0.9 / rows))
    figure = make_subplots(rows, columns, subplot_titles=titles or names, **style)
    figure.update_annotations(font_size=13)
    figure.update_layout(height=total, width=980, template="plotly_white", margin=dict(l=60, r=20, t=70, b=50))
    return figure, _Adder(figure, names, columns)


def _add_band(add, panel: str, x: np.ndarray, mean: np.ndarray, sd: np.ndarray, colour: str, label: str) -> None:
    """A band of one standard deviation on either side, where there is one."""
    there = np.isfinite(mean) & np.isfinite(sd) & np.isfinite(x)
    if there.sum() < 2:
        return
    x, low, high = x[there], (mean - sd)[there], (mean + sd)[there]
    style = dict(mode="lines", fill="toself", fillcolor=colour, line=dict(color=colour, width=0), opacity=0.18, hoverinfo="skip")
    outline = dict(x=_brief([*x, *x[::-1]]), y=_brief([*high, *low[::-1]]))
    add(panel, **outline, name=label, legendgroup=label, showlegend=False, **style)


def _colours(count: int) -> list[str]:
    """As many colours: those of the palette, then as many more around the hue circle."""
    more = max(0, count - len(COLOURS))
    around = (colorsys.hsv_to_rgb(k / more, 0.7, 0.75) for k in range(more))
    return [*COLOURS[:count], *("#" + "".join(f"{round(255 * part):02x}" for part in colour) for colour in around)]


def _brief(values) -> list[float]:
    """Numbers to seven digits, which is more than anybody sees: half as much text in a page."""
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in values]


def _protocols(said: list[str]) -> str:
    return "<br>".join(textwrap.wrap(" | ".join(map(brief, said)), 30))


def _title_of(members: list[Group]) -> str:
    if sum(len(group.runs) for group in members) == 1:
        return members[0].runs[0].name
    return f"{sum(len(group.runs) for group in members)} runs"


def curves_again(runs: str | list[str], **how) -> Plot:
    """The figure of a recipe of `curves`."""
    return curves(Run(runs) if isinstance(runs, str) else [Run(name) for name in runs], **how)


def scores_again(runs: list[str], **how) -> Plot:
    """The figure of a recipe of `scores`."""
    return scores([Run(name) for name in runs], **how)


def scatter_again(runs: list[str], **how) -> Plot:
    """The figure of a recipe of `scatter`."""
    return scatter([Run(name) for name in runs], **how)
