"""Charts of scores: over steps, against parameters, and by the arms of experiments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..metrics.protocols import brief
from ..studies.groups import written
from . import records
from .charts import DARK, Axis, Band, Chart, Line, Panel, brief_numbers, colours
from .figure import Plot
from .histories import lines_of_group

OF_SCORES = "#6a51a3"


class ScorePoint(NamedTuple):
    """A score of a checkpoint of a run.

    Attributes
    ----------
    group, run
        Names of the run and of its group of seeds.
    x
        Its place on the axis: the step, images or hours of it.
    """

    group: str
    run: str
    step: int
    value: float
    protocol: str
    x: float


class Arm(NamedTuple):
    """An arm of an experiment: its name, the names of its runs, all their scores, and {step: hinge loss of D} for each run."""

    name: str
    runs: Sequence[str]
    scores: Sequence[ScorePoint]
    losses: Sequence[dict[int, float]]


def scores(
    points: Mapping[str, Sequence[ScorePoint]], axis_title: str, title: str, reported: Mapping[str, Mapping[str, float]] = {}
) -> Plot:
    """Scores over steps, images or hours, a panel for each, in the colours of groups; each protocol has lines and colours of its own.

    Parameters
    ----------
    points
        By name of the score.
    reported
        Published numbers that compare with these: score -> {source: value}.
    """
    panels, mixed = [], False
    groups = list(dict.fromkeys(point.group for of_score in points.values() for point in of_score))
    for name, of_score in points.items():
        protocols = list(dict.fromkeys(point.protocol for point in of_score))
        mixed |= len(protocols) > 1
        colour = iter(colours(len(groups) * len(protocols)))
        lines, bands = [], []
        for group in groups:
            for protocol in protocols:
                label = " · ".join([group] * (len(groups) > 1) + [brief(protocol)] * (len(protocols) > 1)) or group
                own = [point for point in of_score if (point.group, point.protocol) == (group, protocol)]
                of_group = lines_of_group(label, next(colour), _by_run(own), f"\n{wrapped(protocol)}", "lines+markers")
                lines, bands = lines + of_group[0], bands + of_group[1]
        ends = brief_numbers([min(point.x for point in of_score), max(point.x for point in of_score)])
        for source, value in reported.get(name, {}).items():
            lines.append(Line(ends, (value, value), source, "gray", dash=True, width=1.2, source=source))
        panels.append(Panel(name, Axis(axis_title), Axis(_protocols(protocols), small=True), tuple(lines), tuple(bands)))
    title += ": different protocols, which do not compare" if mixed else ""
    return Plot(Chart(title, tuple(panels), height=240, gap=0.36).thinned())


def scores_of_run(name: str, evaluations: list[dict]) -> Plot:
    """All scores of a run over steps, a panel for each score and protocol: scores of different protocols do not compare."""
    rows, panels = records.evaluations(evaluations), []
    for score, protocol in dict.fromkeys((score, row["protocol"]) for row in rows for score in row["scores"]):
        values = {row["step"]: row["scores"][score] for row in rows if row["protocol"] == protocol and score in row["scores"]}
        steps, numbers = zip(*sorted(values.items()), strict=True)  # of one step, the newest counts
        line = Line(
            brief_numbers(steps), brief_numbers(numbers), score, OF_SCORES, "lines+markers", about=f"\n{wrapped(protocol)}", legend=False
        )
        panels.append(Panel(score, Axis("G step"), Axis(_protocols([protocol]), small=True), (line,)))
    return Plot(Chart(name, tuple(panels), height=240, gap=0.36, columns=2).thinned())


def against(points: Mapping[tuple[str, str], Sequence[tuple[ScorePoint, object]]], title: str) -> Plot:
    """Scores of runs against parameters in which they differ: a panel for each pair, a point for each run, with mean and deviation.

    Numbers that span a decade are on a logarithmic axis; what is no number is in a natural order, `none` first.

    Parameters
    ----------
    points
        (score, parameter) -> scores, each with the value of the parameter of its run.
    """
    groups = list(dict.fromkeys(point.group for pairs in points.values() for point, _ in pairs))
    colour_of = dict(zip(groups, colours(len(groups)), strict=True))
    panels, mixed = [], False
    for (score, parameter), pairs in points.items():
        axis, places = _axis_of(parameter, [value for _, value in pairs])
        protocols = list(dict.fromkeys(point.protocol for point, _ in pairs))
        mixed |= len(protocols) > 1
        lines = []
        for group in groups:
            own = [(point, places(value), written(value)) for point, value in pairs if point.group == group]
            lines += points_of_group(group, colour_of[group], own)
        panels.append(Panel(score, axis, Axis(_protocols(protocols), small=True), tuple(lines)))
    title += ": different protocols, which do not compare" if mixed else ""
    return Plot(Chart(title, tuple(panels), height=240, gap=0.36))


def experiments(arms: Mapping[str, Sequence[Arm]], score: str, step: int) -> Plot:
    """A row for each experiment: a score at the last step by arm, a point for each run; the score over steps; and D's loss over steps.

    Runs that diverged, or are not finished, have no score; the title tells how many.

    Parameters
    ----------
    arms
        Experiment -> its arms, whose names tell them apart.
    score, step
        What is drawn, and the step that counts.
    """
    names = list(dict.fromkeys(arm.name for members in arms.values() for arm in members))
    colour_of = dict(zip(names, colours(len(names)), strict=True))
    short = score.partition("@")[0]
    panels, missing = [], 0
    for experiment, members in arms.items():
        by_arm, over_steps, losses = ([], []), ([], []), ([], [])
        for place, arm in enumerate(members):
            last = [(point, float(place), arm.name) for point in arm.scores if point.step == step]
            by_arm[0].extend(points_of_group(arm.name, colour_of[arm.name], last, legend=False))
            missing += len(arm.runs) - len(last)
            _extend(over_steps, lines_of_group(arm.name, colour_of[arm.name], _by_run(arm.scores), mode="lines+markers"))
            values = [(run, {at: (at, loss) for at, loss in of_run.items()}) for run, of_run in zip(arm.runs, arm.losses, strict=True)]
            _extend(losses, lines_of_group(arm.name, colour_of[arm.name], values))
        protocols = list(dict.fromkeys(point.protocol for arm in members for point in arm.scores))
        ticks = tuple((float(k), "\n".join(textwrap.wrap(arm.name, 9, break_long_words=False))) for k, arm in enumerate(members))
        x = Axis(ticks=ticks, range=(-0.5, len(members) - 0.5))
        panels.append(Panel(f"{experiment}: {short} at step {step:,}", x, Axis(_protocols(protocols), small=True), tuple(by_arm[0])))
        for title, (lines, bands) in ((short, over_steps), ("hinge loss of D", losses)):
            panels.append(Panel(f"{experiment}: {title}", Axis("G step"), lines=tuple(lines), bands=tuple(bands)))
    title = f"{', '.join(arms)}: every run, mean ± one standard deviation"
    title += f"; {missing} runs have no score at step {step:,}" if missing else ""
    return Plot(Chart(title, tuple(panels), height=240, gap=0.2, widths=(0.46, 0.27, 0.27) if panels else ()).thinned())


# ------------------------------------------------------------------------------------------------------------ their parts


def points_of_group(label: str, colour: str, points: Sequence[tuple[ScorePoint, float, str]], legend: bool = True) -> list[Line]:
    """Scores of runs of one group, each at a place with a name, and their mean with a bar of one standard deviation where they are of one
    step and protocol."""
    if not points:
        return []
    x, y = [place for _, place, _ in points], brief_numbers([point.value for point, _, _ in points])
    texts = tuple(f"{point.value:.5g} at {name}\n{point.run}, step {point.step:,}\n{wrapped(point.protocol)}" for point, _, name in points)
    lines = [Line(brief_numbers(x), y, label, colour, "markers", size=8, opacity=0.75, texts=texts, legend=legend)]
    same = len({(point.protocol, point.step) for point, _, _ in points}) == 1
    if len(y) > 1 and None not in y and same:
        sd = (float(np.std(y, ddof=1)),)
        look = dict(colour=DARK, mode="markers", size=9, symbol="line-ew", width=2)
        lines.append(Line(brief_numbers(x[:1]), (float(np.mean(y)),), "mean ± one standard deviation", low=sd, high=sd, **look))
    return lines


def _by_run(points: Sequence[ScorePoint]) -> list[tuple[str, dict[int, tuple[float, float]]]]:
    """Of each run: {step: (place on the axis, value)}."""
    runs: dict[str, dict] = {}
    for point in points:
        runs.setdefault(point.run, {})[point.step] = (point.x, point.value)
    return list(runs.items())


def _extend(panel: tuple[list[Line], list[Band]], more: tuple[list[Line], list[Band]]) -> None:
    panel[0].extend(more[0])
    panel[1].extend(more[1])


def _axis_of(parameter: str, values: list):
    """The axis of a parameter, and what gives the place of a value on it."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if numbers and len(numbers) == len(values):
        few = sorted(set(numbers)) if len(set(numbers)) <= 6 else []
        ticks = tuple((value, written(value)) for value in few)
        return Axis(parameter, log=min(numbers) > 0 and max(numbers) >= 10 * min(numbers), ticks=ticks), float
    order = sorted({written(value) for value in values}, key=lambda text: (text != "none", _numbers_in(text), text))
    ticks = tuple((float(k), text) for k, text in enumerate(order))
    return Axis(parameter, ticks=ticks, range=(-0.5, len(order) - 0.5)), lambda value: float(order.index(written(value)))


def _numbers_in(text: str) -> list[float]:
    """The numbers in a text, by which "8", "16" and "8,16" are in a natural order."""
    return [float(match) for match in re.findall(r"\d+(?:\.\d+)?", text)]


def _protocols(lines: Sequence[str]) -> str:
    """Protocols in brief, for an axis."""
    return "\n".join(textwrap.wrap(" | ".join(map(brief, lines)), 30))


def wrapped(text: str) -> str:
    """Long text in lines."""
    return "\n".join(textwrap.wrap(text, 70))
