"""Groups of runs to compare: runs of a group differ in the seed alone, so a group has a mean and a standard deviation."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce

import numpy as np

from ..files import UnreadableError
from ..messages import say_once
from ..parameters import written
from ..records import is_finite
from ..runs import Run

NAMES_OF_A_RUN = ("preset", "run", "note", "tags")  # parameters without effect on the training
LONG = 44  # characters of a label
AXES = {"steps": ("step", 1, "G step"), "images": ("images", 1, "images"), "hours": ("seconds", 3600, "hours of training")}


def settings(run: Run) -> dict:
    """The parameters that decide a run's training; raises an UnreadableError for a damaged configuration."""
    return {name: value for name, value in asdict(run.config).items() if name not in NAMES_OF_A_RUN}


def readable(runs: Iterable[Run]) -> list[Run]:
    """The runs whose configuration can be read; the others are reported once."""
    result = []
    for run in runs:
        try:
            settings(run)
        except UnreadableError as error:
            say_once(f"{error}: left out")
        else:
            result.append(run)
    return result


def differing(runs: Sequence[Run]) -> list[str]:
    """The parameters that differ between runs, except the seed, in the order of their declaration."""
    first, *others = [settings(run) for run in readable(runs)] or [{}]
    return [name for name in first if name != "seed" and any(other[name] != first[name] for other in others)]


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    Attributes
    ----------
    label
        The parameters that differ between groups, or the common part of the runs' names; with the number of seeds.
    runs
        Sorted by seed.
    values
        The values of the parameters that differ between groups.
    """

    label: str
    runs: tuple[Run, ...]
    values: dict = field(hash=False)

    @property
    def seeds(self) -> list[int]:
        return [run.config.seed for run in self.runs]


def group(runs: Sequence[Run]) -> list[Group]:
    """Group runs by their settings without the seed, in order of appearance; unreadable runs are left out."""
    runs = readable(runs)
    names = differing(runs)
    members: dict[tuple, list[Run]] = {}
    for run in runs:
        members.setdefault(tuple(settings(run)[name] for name in names), []).append(run)
    replicated = any(len(same) > 1 for same in members.values())
    short, long = [], []
    for values, same in members.items():
        differences = ", ".join(f"{name}={written(value)}" for name, value in zip(names, values, strict=True))
        label = differences if replicated and 0 < len(names) <= 3 else _name(same)
        seeds = len({run.config.seed for run in same})
        count = f" × {len(same)} {'seeds' if seeds == len(same) else 'runs'}" if len(same) > 1 else ""  # noqa: RUF001
        long.append(label + count)
        short.append((label if len(label) <= LONG else f"{label[: LONG - 13]}…{label[-12:]}") + count)
    labels = short if len(set(short)) == len(short) else long
    labels = labels if len(set(labels)) == len(labels) else [f"{label} ({k})" for k, label in enumerate(labels, 1)]
    return [
        Group(label, tuple(sorted(same, key=lambda run: run.config.seed)), dict(zip(names, values, strict=True)))
        for label, (values, same) in zip(labels, members.items(), strict=True)
    ]


def _name(runs: Sequence[Run]) -> str:
    """The common beginning of the runs' names, or their preset."""
    common = os.path.commonprefix([run.name for run in runs]).rstrip("-_.= ").removesuffix("-seed")  # noqa: RUF071 (names, not paths)
    return common or runs[0].config.preset


def along(history: Sequence[dict], axis: str, steps: Sequence[int] | np.ndarray) -> np.ndarray:
    """Steps in the units of an axis: "steps", "images" or "hours" of training.

    Interpolated between logged steps, with step 0 at 0; NaN without a history.
    """
    key, unit, _ = AXES[axis]
    if key == "step":
        return np.asarray(steps, float)
    rows = [row for row in history if is_finite(row.get("step")) and is_finite(row.get(key))]
    if not rows:
        return np.full(len(steps), np.nan)
    return np.interp(steps, [0, *(row["step"] for row in rows)], [0, *(row[key] / unit for row in rows)])


def mean_and_sd(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps (T,) that all curves (steps, values) have, and the mean and standard deviation (n - 1) of their values there.

    If a curve has a step twice, the last value counts.
    """
    curves = [curve if (np.diff(curve[0]) > 0).all() else _last_of_each_step(*curve) for curve in curves]
    common = (
        reduce(lambda a, b: a if np.array_equal(a, b) else np.intersect1d(a, b), (steps for steps, _ in curves))
        if curves
        else np.zeros(0, int)
    )
    y = np.array([values[np.searchsorted(steps, common)] for steps, values in curves]).reshape(len(curves), len(common))
    with np.errstate(invalid="ignore"):
        mean = y.mean(0) if len(curves) else np.zeros(0)
        sd = y.std(0, ddof=1) if len(curves) > 1 else np.zeros(len(common))
    return common, mean, sd


def _last_of_each_step(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    unique, last = np.unique(steps[::-1], return_index=True)
    return unique, values[::-1][last]
