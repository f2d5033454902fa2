"""Experiments side by side: scores by arm, and how they came about."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from ..runs import Run
from ..studies.groups import Group
from ..studies.scores import scores_by_name
from . import records as records_of
from .drawing import Plot
from .panels import add_lines, add_points, colours, empty_panels, literal, literal_lines, protocols
from .plots import score_lines


def experiments(arms: Mapping[str, Sequence[Group]], score: str, step: int, records: dict[str, list[int]] | None = None) -> Plot:
    """A row for each experiment: a score at the last step by arm, a point for each training; the score over steps; and D's loss over steps.

    Runs that diverged, or are not finished, have no score; the title tells how many.

    Parameters
    ----------
    arms
        Experiment -> its arms, whose labels tell them apart.
    score, step
        What is drawn, and the step that counts.
    records
        How many evaluations and lines of history of each run count, by `Run.reference`; by default all.

    Raises
    ------
    WorkbenchError
        If scores do not compare.
    """
    runs = {run.reference: run for members in arms.values() for group in members for run in group.runs}
    counted = {name: [len(run.evaluations()), len(run.history())] for name, run in runs.items()} if records is None else records
    evaluated = {name: evaluations for name, (evaluations, _) in counted.items()}
    histories = {run.path: records_of.history(run.history()[: counted[name][1]]) for name, run in runs.items()}
    labels = list(dict.fromkeys(group.label for members in arms.values() for group in members))
    colour_of = dict(zip(labels, colours(len(labels)), strict=True))
    kinds = (f"{score.partition('@')[0]} at step {step:,}", score.partition("@")[0], "hinge loss of D")
    panels = [f"{name}: {kind}" for name in arms for kind in kinds]
    titles = [literal(panel) for panel in panels]
    figure, add = empty_panels(panels, height=240, spacing=0.2, widths=(0.46, 0.27, 0.27), titles=titles)
    missing = 0
    for k, members in enumerate(arms.values()):
        by_arm, over_steps, losses = panels[3 * k : 3 * k + 3]
        values = scores_by_name(members, records=evaluated).get(score, [])
        place = {group.label: literal_lines(textwrap.wrap(group.label, 9, break_long_words=False)) for group in members}
        for group in members:
            own = [one for one in values if one.group is group]
            last = [one for one in own if one.step == step]
            add_points(add, by_arm, group.label, colour_of[group.label], [place[group.label]] * len(last), last, legend=False)
            missing += len(group.runs) - len(last)
            lines = score_lines(group, own, histories, "steps")
            add_lines(add, over_steps, group.label, colour_of[group.label], lines, mode="lines+markers")
            losses_of = {
                run: {row["step"]: (row["step"], row["loss_d"]) for row in histories[run.path] if "loss_d" in row} for run in group.runs
            }
            add_lines(add, losses, group.label, colour_of[group.label], losses_of)
        said = list(dict.fromkeys(one.protocol for one in values))
        add.axes(by_arm, "", protocols(said), small=True, type="category", categoryorder="array", categoryarray=list(place.values()))
        add.axes(over_steps, "G step")
        add.axes(losses, "G step")
    title = f"{literal(', '.join(arms))}: every training, mean ± one standard deviation"
    title += f"; {missing} runs have no score at step {step:,}" if missing else ""
    figure.update_layout(title=title, legend=dict(orientation="h", y=-60 / figure.layout.height, yanchor="top"))
    stored = {name: {group.label: [run.reference for run in group.runs] for group in members} for name, members in arms.items()}
    return Plot(figure, "experiments", dict(arms=stored, score=score, step=step, records=counted))


def experiments_again(arms: dict[str, dict[str, list[str]]], **how) -> Plot:
    """The figure of a recipe of `experiments`."""
    opened = {
        name: [Group(label, tuple(Run(run) for run in runs), {}) for label, runs in members.items()] for name, members in arms.items()
    }
    return experiments(opened, **how)
