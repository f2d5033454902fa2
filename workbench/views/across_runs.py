"""Figures of several runs, from their records; runs that differ in the seed alone are one group, in one colour."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import torch

from .. import figures
from ..figures import Arm, Drawing, Plot, RunRecords, ScorePoint
from ..figures.histories import require_axis
from ..figures.records import history
from ..messages import ParameterError, WorkbenchError, counted, nearest
from ..metrics.reported import published
from ..model import sampling
from ..readers import words
from ..runs import Run
from ..studies import groups
from ..studies.groups import Group
from ..studies.scores import CheckpointScore, at_steps, scores_by_name

MAX_COLUMNS = 100  # of a row of samples


def curves(runs: Sequence[Run], axis: str = "steps", keys: str = "") -> Plot:
    """The columns of the histories over steps, images or hours; see `figures.curves_by_group`."""
    return figures.curves_by_group(_records(groups.group(runs)), axis, keys)


def growth(runs: Sequence[Run], axis: str = "steps") -> Plot:
    """The largest singular values of both networks through training; see `figures.growth`."""
    return figures.growth(_records(groups.group(runs), histories=axis != "steps"), axis)


def scores(
    runs: Run | Sequence[Run],
    names: str | Sequence[str] = "",
    like: dict | None = None,
    across_protocols: bool = False,
    *,
    axis: str = "steps",
    protocol: str = "",
) -> Plot:
    """Scores over steps, images or hours, a panel for each, with published numbers of the same data set, size and protocol.

    Parameters
    ----------
    runs
        One run, or several to compare.
    names
        Scores to show, also as text with commas, with or without the hash of the extractor; by default all.
    like
        A record of an evaluation: leave out scores that do not compare with it.
    across_protocols
        Show scores of different protocols side by side. Otherwise they are refused.
    axis
        "steps", "images" or "hours" (of training).
    protocol
        Leave out scores whose protocol does not contain this text.

    Raises
    ------
    ParameterError, WorkbenchError
        For another axis; if there is no such score, or scores do not compare.
    """
    require_axis(axis)
    members = groups.group([runs] if isinstance(runs, Run) else runs)
    by_name = scores_by_name(members, names, protocol=protocol, across_protocols=across_protocols, like=like)
    readable = [run for group in members for run in group.runs]
    # Steps are their own axis, and histories are long.
    histories = {run.path: history(run.history()) for run in readable} if axis != "steps" else {}
    points = {name: [_point(score, axis, histories) for score in values] for name, values in by_name.items()}
    reported = {name: _published(values) for name, values in by_name.items()}
    title = readable[0].name if len(readable) == 1 else counted(len(readable), "run")
    return figures.scores(points, axis, title, [group.label for group in members], reported)


def scatter(
    runs: Sequence[Run],
    names: str | Sequence[str] = "",
    against: str = "",
    *,
    steps: str = "last",
    protocol: str = "",
    across_protocols: bool = False,
) -> Plot:
    """Scores of runs against the parameters in which they differ: a panel for each pair, a point for each run; see `figures.against`.

    Parameters
    ----------
    names, protocol, across_protocols
        As for `scores`.
    against
        Parameters, separated by commas; by default all in which the runs differ.
    steps
        As for `studies.scores.at_steps`.

    Raises
    ------
    WorkbenchError
        If there is no such score or parameter, or scores do not compare.
    """
    members = groups.group(runs)
    by_name = scores_by_name(members, names, protocol=protocol, across_protocols=across_protocols)
    settings = {run.path: groups.settings(run) for group in members for run in group.runs}
    parameters, known = groups.differing(runs), next(iter(settings.values()), {})
    for name in words(against):
        if name not in known:
            differing = ", ".join(parameters) or "none"
            raise WorkbenchError(
                f"against={against!r}: there is no parameter {name!r}; {nearest(name, known)}these runs differ in: {differing}"
            )
    parameters = words(against) or parameters
    points = {
        (name, parameter): [(_point(score), settings[score.run.path][parameter]) for score in at_steps(values, steps)]
        for parameter in parameters for name, values in by_name.items()
    }  # fmt: skip
    return figures.against(points, f"scores against parameters, at {steps_in_words(steps)}", [group.label for group in members])


def experiments(arms: Mapping[str, Sequence[Group]], score: str, step: int) -> Plot:
    """A row for each experiment: a score at the last step by arm, the score over steps, and D's loss over steps; see `figures.experiments`.

    Parameters
    ----------
    arms
        Experiment -> its arms, which differ in their labels.
    step
        The last step, of arms that set no `steps` themselves.

    Raises
    ------
    WorkbenchError
        If scores do not compare.
    """
    data = {}
    for name, members in arms.items():
        points = [_point(value) for value in scores_by_name(members).get(score, [])]
        data[name] = [
            Arm(
                group.label, [run.reference for run in group.runs], [point for point in points if point.group == group.label],
                [{row["step"]: row["loss_d"] for row in history(run.history()) if "loss_d" in row} for run in group.runs],
                group.values.get("steps", step),
            )
            for group in members
        ]  # fmt: skip
    return figures.experiments(data, score)


def sample_rows(rows: Sequence[tuple[str, Run, int]], seed: int = 0, columns: int = 8, weights: str = "auto") -> Drawing | None:
    """The same latents through several generators: a row for each, classes in turn.

    Parameters
    ----------
    rows
        Label, run, and step of its checkpoint, for each row.
    seed, columns
        Seed and number of the latents.
    weights
        "ema", "raw", or "auto": EMA if available.

    Returns
    -------
    Drawing or None
        None without rows. If a generator cannot be opened, its row shows the reason: no checkpoint, a damaged one, or no EMA.

    Raises
    ------
    ParameterError
        For other weights, or a number of columns out of range.
    """
    if not 1 <= columns <= MAX_COLUMNS:
        raise ParameterError(f"columns={columns!r} is out of range; at least 1 and at most {MAX_COLUMNS}")
    if weights not in ("ema", "raw", "auto"):
        raise ParameterError(f"weights={weights!r} is not one of ema, raw, auto")
    contents = [_samples(run, step, seed, columns, weights) for _, run, step in rows]
    labels = ["\n".join(textwrap.fill(line, 34) for line in label.splitlines()) for label, _, _ in rows]
    title = f"latents 0 to {columns - 1} of seed {seed}, the same in every row, classes in turn"
    configs = [run.config for (_, run, _), content in zip(rows, contents, strict=True) if not isinstance(content, str)]
    for name, noun in (("z_dim", "latents"), ("num_classes", "classes")):
        if len({getattr(config, name) for config in configs}) > 1:
            title += f"; not the same {noun} where {name} differs"
    return figures.strips(list(zip(labels, contents, strict=True)), title)


def _samples(run: Run, step: int, seed: int, columns: int, weights: str) -> torch.Tensor | str:
    """Images of a generator, or the reason why it cannot be opened."""
    try:
        config, generator = run.config, run.generator(step, weights)
    except WorkbenchError as error:
        return str(error)
    z, y = sampling.latents(columns, config.z_dim, seed), sampling.labels(columns, config.num_classes or 0)
    return sampling.images(generator, z, y)


def steps_in_words(steps: str) -> str:
    """The value of the parameter `steps` as a phrase."""
    return {"last": "the newest step of each run", "common": "the newest step that all runs have"}.get(steps, f"steps {steps}")


def _records(members: Sequence[Group], histories: bool = True) -> list[RunRecords]:
    return [
        RunRecords(group.label, run.reference, run.history() if histories else [], run.spectra()) for group in members for run in group.runs
    ]


def _point(score: CheckpointScore, axis: str = "steps", histories: Mapping = {}) -> ScorePoint:
    x = groups.along(histories.get(score.run.path, ()), axis, [score.step]).item()
    return ScorePoint(score.group.label, score.run.reference, score.step, score.value, score.protocol, x)


def _published(scores: Sequence[CheckpointScore]) -> dict[str, float]:
    """Source -> value of the published numbers that scores of one name compare with."""
    return {source: value for score in scores for name, value, source in published(score.record) if name == score.name}
