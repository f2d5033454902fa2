"""Charts of scores: over steps, against parameters, and by the arms of experiments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..messages import counted
from ..metrics.protocols import brief
from ..metrics.reported import published
from ..metrics.scores import higher_is_better
from ..studies.groups import written
from . import records
from .charts import DARK, Axis, Chart, Line, Panel, brief_numbers, colours, rounded
from .figure import Plot
from .histories import ANY, POSITIVE, Curve, lines_of_group, panel_of_groups, time_axis

SHARES = ("precision", "recall", "coverage", "accuracy")
MIXED = ": different protocols, which cannot be compared"


class ScorePoint(NamedTuple):
    """A score of a checkpoint of a run.

    Attributes
    ----------
    group, run
        Names of the run and of its group of seeds.
    x
        The step, or its images or hours: the value on the x axis.
    """

    group: str
    run: str
    step: int
    value: float
    protocol: str
    x: float


class Arm(NamedTuple):
    """An arm of an experiment: its name, the names of its runs, all their scores, {step: hinge loss of D} for each run, and its last step."""

    name: str
    runs: Sequence[str]
    scores: Sequence[ScorePoint]
    losses: Sequence[dict[int, float]]
    step: int


def scores(
    points: Mapping[str, Sequence[ScorePoint]],
    axis: str,
    title: str,
    groups: Sequence[str],
    reported: Mapping[str, Mapping[str, float]] = {},
) -> Plot:
    """Scores over steps, images or hours, a panel for each score; each group and protocol has a colour.

    Parameters
    ----------
    points
        Score -> its values.
    axis
        Of the points: "steps", "images" or "hours".
    groups
        All groups of the comparison, also those without scores: so a group has the same colour in all of its figures.
    reported
        Published numbers that can be compared with these: score -> {source: value}.
    """
    panels, mixed = [], False
    every = _unique(point.protocol for of_score in points.values() for point in of_score)
    notes, palette, short = _protocol_notes(every), iter(colours(len(groups) * len(every))), _short(points)
    colour_of = {
        (group, protocol): next(palette) for protocol in every for group in groups
    }  # of the first protocol, those of other figures
    for name, of_score in points.items():
        protocols, parts = _unique(point.protocol for point in of_score), []
        mixed |= len(protocols) > 1
        for group in groups:
            for protocol in protocols:
                parts_of_label = [group] * (len(groups) > 1) + [f"protocol {every.index(protocol) + 1}"] * (len(every) > 1)
                label = " · ".join(parts_of_label) or group
                curves = _by_run([point for point in of_score if (point.group, point.protocol) == (group, protocol)])
                colour = colour_of[group, protocol]
                parts.append(lines_of_group(label, colour, curves, f"\n{wrapped(protocol)}", "lines+markers", limits=limits_of(name)))
        ends = rounded([min(point.x for point in of_score), max(point.x for point in of_score)])
        published = [
            Line(ends, (value, value), source, "gray", dash=True, width=1.2, source=source)
            for source, value in reported.get(name, {}).items()
        ]
        panels.append(panel_of_groups(short[name], time_axis(axis), _score_axis(name), [*parts, (published, [])]))
    return Plot(Chart(title + MIXED * mixed, tuple(panels), notes, height=240, gap=0.36).thinned())


def scores_of_run(title: str, evaluations: list[dict]) -> Plot:
    """All scores of a run over steps, a panel for each score and protocol, with published numbers that can be compared."""
    rows, panels = records.evaluations(evaluations), []
    notes = tuple(said) if len(said := _unique(row["protocol"] for row in rows)) == 1 else ()
    short = _short(score for row in rows for score in row["scores"])
    for score, protocol in dict.fromkeys((score, row["protocol"]) for row in rows for score in row["scores"]):
        values = {row["step"]: row["scores"][score] for row in rows if row["protocol"] == protocol and score in row["scores"]}
        steps, numbers = zip(*sorted(values.items()), strict=True)  # of the same step, the newest counts
        about, ends = f"\n{wrapped(protocol)}", (float(steps[0]), float(steps[-1]))
        same = [row for row in rows if row["protocol"] == protocol]
        known = {(value, source) for row in same for name, value, source in published(row) if name == score}
        reported = [Line(ends, (value, value), source, "gray", dash=True, width=1.2, source=source) for value, source in sorted(known)]
        line = Line(brief_numbers(steps), brief_numbers(numbers), score, colours(1)[0], "lines+markers", about=about, legend=False)
        panels.append(Panel(short[score], time_axis("steps"), _score_axis(score, "" if notes else protocol), (line, *reported)))
    return Plot(Chart(title, tuple(panels), notes, height=240, gap=0.36, columns=2).thinned())


def against(points: Mapping[tuple[str, str], Sequence[tuple[ScorePoint, object]]], title: str, groups: Sequence[str]) -> Plot:
    """Scores against the parameters in which runs differ: a panel for each pair, a point for each run, with mean and deviation.

    Numbers that span a decade have a logarithmic axis; other values are in natural order, `none` first.

    Parameters
    ----------
    points
        (score, parameter) -> scores, each with its run's value of the parameter.
    groups
        As for `scores`.
    """
    panels, mixed = [], False
    notes, short = _protocol_notes(point.protocol for pairs in points.values() for point, _ in pairs), _short(score for score, _ in points)
    for (score, parameter), pairs in points.items():
        axis, position = _axis_of(parameter, [value for _, value in pairs])
        mixed |= len({point.protocol for point, _ in pairs}) > 1
        lines = []
        for group, colour in zip(groups, colours(len(groups)), strict=True):
            lines += points_of_group(group, colour, [(p, position(value), written(value)) for p, value in pairs if p.group == group])
        panels.append(Panel(short[score], axis, _score_axis(score), tuple(lines)))
    return Plot(Chart(title + MIXED * mixed, tuple(panels), notes, height=240, gap=0.36))


def experiments(arms: Mapping[str, Sequence[Arm]], score: str) -> Plot:
    """A row for each experiment: a score at the last step by arm, a point for each run; the score over steps; and D's loss over steps.

    Runs that diverged or are unfinished have no score; the title counts them.

    Parameters
    ----------
    arms
        Experiment -> its arms, which differ in their names.
    score
        Name of the score.
    """
    names = _unique(arm.name for members in arms.values() for arm in members)
    colour_of = dict(zip(names, colours(len(names)), strict=True))
    short = score.partition("@")[0]
    panels, missing = [], 0
    for experiment, members in arms.items():
        by_arm, over_steps, losses = [], [], []
        for k, arm in enumerate(members):
            colour = colour_of[arm.name]
            last = [(point, float(k), arm.name) for point in arm.scores if point.step == arm.step]
            missing += len(arm.runs) - len(last)
            by_arm += points_of_group(arm.name, colour, last, legend=False)
            over_steps.append(lines_of_group(arm.name, colour, _by_run(arm.scores), mode="lines+markers"))
            curves = [Curve.through([(at, at, loss) for at, loss in of_run.items()]) for of_run in arm.losses]
            losses.append(lines_of_group(arm.name, colour, list(zip(arm.runs, curves, strict=True))))
        ticks = tuple((float(k), "\n".join(textwrap.wrap(arm.name, 9, break_long_words=False))) for k, arm in enumerate(members))
        x = Axis(ticks=ticks, range=(-0.5, len(members) - 0.5))
        panels += [
            Panel(f"{experiment}: {short} at {_last_step(members)}", x, _score_axis(score), tuple(by_arm)),
            panel_of_groups(short, time_axis("steps"), Axis(), over_steps),
            panel_of_groups("hinge loss of D", time_axis("steps"), Axis(), losses),
        ]
    title = f"{', '.join(arms)}: every run, mean ± one standard deviation"
    title += (
        f"; {counted(missing, 'run')} without a score at {_last_step([arm for members in arms.values() for arm in members])}"
        if missing
        else ""
    )
    notes = _protocol_notes(point.protocol for members in arms.values() for arm in members for point in arm.scores)
    return Plot(Chart(title, tuple(panels), notes, height=240, gap=0.2, widths=(0.46, 0.27, 0.27) if panels else ()).thinned())


def _last_step(arms: Sequence[Arm]) -> str:
    steps = {arm.step for arm in arms}
    return f"step {steps.pop():,}" if len(steps) == 1 else "their last step"


def points_of_group(label: str, colour: str, points: Sequence[tuple[ScorePoint, float, str]], legend: bool = True) -> list[Line]:
    """Scores of the runs of one group, each with its x and the text of this x.

    If all have the same step and protocol, also their mean with a bar of one standard deviation.
    """
    if not points:
        return []
    x, y = brief_numbers([x for _, x, _ in points]), brief_numbers([point.value for point, _, _ in points])
    texts = tuple(f"{point.value:.5g} at {name}\n{point.run}, step {point.step:,}\n{wrapped(point.protocol)}" for point, _, name in points)
    lines = [Line(x, y, label, colour, "markers", size=8, opacity=0.75, texts=texts, legend=legend)]
    numbers = [value for value in y if value is not None]
    if 1 < len(numbers) == len(y) and len({(point.protocol, point.step) for point, _, _ in points}) == 1:
        mean, sd = (float(np.mean(numbers)),), (float(np.std(numbers, ddof=1)),)
        name = "mean ± one standard deviation"
        lines.append(Line(x[:1], mean, name, DARK, "markers", size=9, symbol="line-ew", width=2, low=sd, high=sd))
    return lines


def _unique(names) -> list[str]:
    """In order of appearance."""
    return list(dict.fromkeys(names))


def _by_run(points: Sequence[ScorePoint]) -> list[tuple[str, Curve]]:
    runs: dict[str, list] = {}
    for point in points:
        runs.setdefault(point.run, []).append((point.step, point.x, point.value))
    return [(run, Curve.through(of_run)) for run, of_run in runs.items()]


def _axis_of(parameter: str, values: list) -> tuple[Axis, Callable[..., float]]:
    """The axis of a parameter, and the function from a value to its x."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if numbers and len(numbers) == len(values):
        few = sorted(set(numbers)) if len(set(numbers)) <= 6 else []
        ticks = tuple((value, written(value)) for value in few)
        return Axis(parameter, log=min(numbers) > 0 and max(numbers) >= 10 * min(numbers), ticks=ticks), float

    def natural(text: str) -> tuple:  # sorts "8", "16" and "8,16" by their numbers
        return text != "none", [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)], text

    order = sorted({written(value) for value in values}, key=natural)
    ticks = tuple((float(k), text) for k, text in enumerate(order))
    return Axis(parameter, ticks=ticks, range=(-0.5, len(order) - 0.5)), lambda value: float(order.index(written(value)))


def _score_axis(name: str, protocol: str = "") -> Axis:
    """A y axis whose title says which values are better, and the protocol in brief."""
    better = {True: ["higher is better"], False: ["lower is better"], None: []}[higher_is_better(name)]
    return Axis("\n".join([*better, *textwrap.wrap(brief(protocol), 30)]), small=True)


def limits_of(score: str) -> tuple[float, float]:
    """What a score can be; an unbiased estimate, as KID, can be below 0."""
    if score.startswith(SHARES):
        return 0.0, 1.0
    return ANY if score.startswith("kid") or higher_is_better(score) is None else POSITIVE


def _protocol_notes(protocols: Iterable[str]) -> tuple[str, ...]:
    """The protocol of all scores, or in brief each of several, numbered."""
    different = _unique(protocols)
    return tuple(different) if len(different) == 1 else tuple(f"protocol {k}: {brief(each)}" for k, each in enumerate(different, 1))


def _short(names: Iterable[str]) -> dict[str, str]:
    """Names of scores -> without the hash of the extractor, which the protocol has too, unless they differ in it alone."""
    names = _unique(names)
    stems = [name.partition("@")[0] for name in names]
    return {name: stem if stems.count(stem) == 1 else name for name, stem in zip(names, stems, strict=True)}


def wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 70))
