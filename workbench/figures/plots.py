"""Curves, scores and scatters of one run or of several, interactive and with a static picture."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from PIL import Image

from ..messages import nearest
from ..metrics.protocols import brief
from ..metrics.reported import published
from ..parameters import ParameterError, WorkbenchError
from ..runs import Run
from ..studies import groups
from ..studies.groups import AXES, Group
from ..studies.scores import Score, at_steps, scores_by_name
from ..training.diagnostics import with_margin
from . import records as records_of
from .drawing import Plot
from .grids import samples
from .panels import add_lines, add_points, colours, empty_panels, literal, plain, protocols, wrapped

CURVES = {  # title of a panel, unit of its y axis -> column of the history: name in the legend
    ("hinge losses", "loss"): {"loss_d": "D", "loss_g": "G"},
    ("D's output", "logit"): {"d_real": "real", "d_fake": "fake"},
    ("gamma of the attention layers", "gamma"): "gamma_",
    ("learning rates", "rate"): {"lr_d": "D", "lr_g": "G"},
}
PANELS = {  # the same of several runs: column of the history -> title of its panel
    "loss_d": "hinge loss of D", "loss_g": "hinge loss of G", "d_real": "D's output on real images", "d_fake": "D's output on fakes",
    "margin_d": "margin of D: real less fake", "saturated_real": "saturation of D, real images", "saturated_fake": "saturation of D, fakes",
    "grad_norm_d": "gradient norm of D", "grad_norm_d_max": "gradient norm of D, largest", "grad_norm_g": "gradient norm of G",
    "grad_norm_g_max": "gradient norm of G, largest",
}  # fmt: skip
COUNTERS = ("step", "images", "seconds")
MOST_POINTS = 40_000  # in one figure; more would make notebooks and pages heavy, and show nothing more


def curves(runs: Run | Sequence[Run], axis: str = "steps", keys: str = "", records: dict[str, int] | None = None) -> Plot:
    """What the history of runs tells, over steps, images or hours.

    Of one run: losses, D's outputs, gammas and learning rates, in four panels. Of several: a panel for every number of the history
    and for D's margin, runs that differ in the seed alone in one colour: thin, and above them their mean with a band of one standard
    deviation (n - 1), which ends where the first of them does.

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
    histories = {run.path: _history(run, (records or {}).get(run.reference)) for run in ([runs] if one else runs)}
    counted = {run.reference: len(run.history()[: (records or {}).get(run.reference)]) for run in ([runs] if one else runs)}
    if one:
        return Plot(_curves_of_one(runs, histories[runs.path]), "curves", dict(runs=runs.reference, records=counted))
    figure = _curves_of_several(groups.group(runs), histories, axis, keys)
    return Plot(figure, "curves", dict(runs=list(counted), axis=axis, keys=keys, records=counted))


def _curves_of_one(run: Run, history: list[dict]):
    figure, add = empty_panels([title for title, _ in CURVES], columns=2, height=230)
    for (title, unit), columns in CURVES.items():
        if isinstance(columns, str):
            columns = {key: literal(key.removeprefix(columns)) for key in (history[-1] if history else {}) if key.startswith(columns)}
        for (key, name), colour in zip(columns.items(), colours(len(columns)), strict=True):
            rows = [row for row in history if key in row]
            style = dict(name=name, mode="lines", line_color=colour, legendgroup=title, legendgrouptitle_text=title)
            add(title, x=[row["step"] for row in rows], y=[row[key] for row in rows], **style)
        add.axes(title, "G step", unit)
    figure.update_layout(title=literal(run.name))
    return figure


def _history(run: Run, count: int | None = None) -> list[dict]:
    """The first rows of a run's history, with D's margin."""
    return with_margin(records_of.history(run.history()[:count]))


def _curves_of_several(members: list[Group], histories: dict, axis: str, keys: str):
    if axis not in AXES:
        raise ParameterError(f"axis={axis!r} is not one of {', '.join(AXES)}")
    chosen = _chosen_keys([history for history in histories.values() if history], keys)
    figure, add = empty_panels([PANELS.get(key, _title(key)) for key in chosen], titles=[PANELS.get(k, literal(_title(k))) for k in chosen])
    total = sum(key in row for history in histories.values() for row in history for key in chosen)
    every = -(-total // MOST_POINTS) or 1
    for key in chosen:
        panel = PANELS.get(key, _title(key))
        for group, colour in zip(members, colours(len(members)), strict=True):
            lines = {}
            for run in group.runs:
                rows = [row for row in histories[run.path] if isinstance(row.get(key), int | float)][::every]
                steps = [row["step"] for row in rows]
                places = groups.along(histories[run.path], axis, steps).tolist()
                lines[run] = {step: (x, float(row[key])) for step, x, row in zip(steps, places, rows, strict=True)}
            add_lines(add, panel, group.label, colour, lines)
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
    found = scores_by_name(members, names, protocol=protocol, across_protocols=across_protocols, like=like, records=counted)
    histories = {run.path: _history(run) for run in runs}
    figure, add = empty_panels(list(found), height=240, spacing=0.36, titles=[literal(name) for name in found])
    several = False
    for name, values in found.items():
        kinds = list(dict.fromkeys(score.protocol for score in values))
        several |= len(kinds) > 1
        colour = iter(colours(len(members) * len(kinds)))
        for group in members:
            for said in kinds:
                label = " · ".join([group.label] * (len(members) > 1) + [brief(said)] * (len(kinds) > 1)) or group.label
                lines = score_lines(group, [score for score in values if score.protocol == said], histories, axis)
                add_lines(add, name, label, next(colour), lines, f"<br>{wrapped(said)}", mode="lines+markers")
        ends = [x for group in members for line in score_lines(group, values, histories, axis).values() for x, _ in line.values()]
        for score, value, source in dict.fromkeys(line for one in values for line in _published(one.record)):
            if score == name:
                add(name, x=[min(ends), max(ends)], y=[value] * 2, mode="lines", name=source, line=dict(dash="dash", color="gray"))
        add.axes(name, AXES[axis][2], protocols(kinds), small=True)
    title = _title_of(members) + (": different protocols, which do not compare" if several else "")
    figure.update_layout(title=title, legend=dict(orientation="h", y=-60 / figure.layout.height, yanchor="top"))
    how = dict(names=names, like=like, across_protocols=across_protocols, axis=axis, protocol=protocol, records=counted)
    return Plot(figure, "scores", dict(runs=list(counted)) | how)


def _published(record: dict) -> list[tuple[str, float, str]]:
    """As `published`; nothing for a record that lacks what that compares."""
    try:
        return published(record)
    except (KeyError, TypeError):
        return []


def score_lines(group: Group, values: list[Score], histories: dict, axis: str) -> dict[Run, dict[int, tuple[float, float]]]:
    """Of each run of a group that has such scores: {step: (place on the axis, value)}."""
    found = {}
    for run in group.runs:
        own = [score for score in values if score.run is run]
        if own:
            places = groups.along(histories[run.path], axis, [score.step for score in own]).tolist()
            found[run] = {score.step: (x, score.value) for score, x in zip(own, places, strict=True)}
    return found


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
    found = scores_by_name(members, names, protocol=protocol, across_protocols=across_protocols, records=counted)
    values = {run.path: groups.settings(run) for run in runs}
    parameters = _parameters(against, groups.differing(runs), next(iter(values.values()), {}))
    pairs = {f"{name} against {parameter}": (name, parameter) for parameter in parameters for name in found}
    figure, add = empty_panels(list(pairs), height=240, spacing=0.36, titles=[literal(name) for name, _ in pairs.values()])
    colour_of = dict(zip([group.label for group in members], colours(len(members)), strict=True))
    for panel, (name, parameter) in pairs.items():
        points = at_steps(found[name], steps)
        place = _Axis([values[score.run.path][parameter] for score in points])
        for group in members:
            own = [score for score in points if score.group is group]
            if not own:
                continue
            x = [place.put(values[score.run.path][parameter]) for score in own]
            add_points(add, panel, group.label, colour_of[group.label], x, own)
        said = list(dict.fromkeys(score.protocol for score in points))
        add.axes(panel, parameter, protocols(said), small=True, **place.style)
    title = "scores against parameters, at " + ("the newest step of each run" if steps == "last" else f"steps {literal(steps)}")
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
            self.put = lambda value: literal(groups.written(value))
            order = sorted({self.put(value) for value in values}, key=lambda text: (text != "none", _numbers_in(plain(text)), text))
            self.style = dict(type="category", categoryorder="array", categoryarray=order)


def _numbers_in(text: str) -> list[float]:
    """The numbers in a text, by which "8", "16" and "8,16" are in a natural order."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def summary_png(run: Run) -> bytes:
    """The newest sample grid above the curves: the static picture of a run."""
    parts = [grid] if (grid := samples(run, width=980)) else []  # not where there are none, or they cannot be read
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


def _title_of(members: list[Group]) -> str:
    if sum(len(group.runs) for group in members) == 1:
        return literal(members[0].runs[0].name)
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
