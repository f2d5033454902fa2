"""Sets of runs to be compared: what they differ in, which of them differ in the seed alone, and their scores.

A `Group` are runs of the same settings and different seeds: what has a mean and a spread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ..files import UnreadableError
from ..messages import nearest, say_once
from ..metrics.protocols import brief, differences, require_comparable
from ..parameters import WorkbenchError
from ..runs import Run
from ..runs.records import is_comparable, is_finite

NAMES_OF_A_RUN = ("preset", "run", "note", "tags")  # what a run is called: no setting of it
LONG = 44  # characters of a label
AXES = {"steps": ("step", 1, "G step"), "images": ("images", 1, "images"), "hours": ("seconds", 3600, "hours of training")}

# ------------------------------------------------------------------------------------------------------ settings


def settings(run: Run) -> dict:
    """All parameters of a run that say how it was trained, by name; a fork's parent is one of them.

    Raises
    ------
    UnreadableError
        If its configuration cannot be read; the message names the file.
    """
    return {name: value for name, value in asdict(run.config).items() if name not in NAMES_OF_A_RUN}


def readable(runs: Iterable[Run]) -> list[Run]:
    """The runs whose configuration can be read; each of the others is reported once, and left out."""
    kept = []
    for run in runs:
        try:
            settings(run)
        except UnreadableError as error:
            say_once(f"{error}: left out")
        else:
            kept.append(run)
    return kept


def differing(runs: Sequence[Run]) -> list[str]:
    """The parameters that are not the same in all runs, in the order of their declaration; the seed is not one of them."""
    found = [settings(run) for run in readable(runs)]
    return [name for name in (found[0] if found else ()) if name != "seed" and any(other[name] != found[0][name] for other in found)]


def written(value) -> str:
    """The value of a parameter as text: 0.0004, true, none."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


# -------------------------------------------------------------------------------------------------------- groups


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone.

    Attributes
    ----------
    label
        What tells this group from the others: the parameters that differ and the number of seeds, or its name.
    runs
        In the order of their seeds.
    values
        The parameters that differ among the groups, by name.
    """

    label: str
    runs: tuple[Run, ...]
    values: dict = field(hash=False)

    @property
    def seeds(self) -> list[int]:
        return [run.config.seed for run in self.runs]


def group(runs: Sequence[Run]) -> list[Group]:
    """Runs in groups of the same settings but for the seed, in the order in which they are met; unreadable ones are left out."""
    runs = readable(runs)
    names, members = differing(runs), {}
    for run in runs:
        members.setdefault(tuple(settings(run)[name] for name in names), []).append(run)
    replicated = any(len(same) > 1 for same in members.values())
    short, long = [], []
    for values, same in members.items():
        words = ", ".join(f"{name}={written(value)}" for name, value in zip(names, values, strict=True))
        own = words if replicated and 0 < len(names) <= 3 else _name(same)
        seeds = len({run.config.seed for run in same})
        many = f" × {len(same)} {'seeds' if seeds == len(same) else 'runs'}" if len(same) > 1 else ""  # noqa: RUF001
        long.append(own + many)
        short.append((own if len(own) <= LONG else f"{own[: LONG - 13]}…{own[-12:]}") + many)
    labels = short if len(set(short)) == len(short) else long
    labels = labels if len(set(labels)) == len(labels) else [f"{label} ({k})" for k, label in enumerate(labels, 1)]
    return [
        Group(label, tuple(sorted(same, key=lambda run: run.config.seed)), dict(zip(names, values, strict=True)))
        for label, (values, same) in zip(labels, members.items(), strict=True)
    ]


def _name(runs: Sequence[Run]) -> str:
    """What runs are called together."""
    common = os.path.commonprefix([run.name for run in runs]).rstrip("-_.= ").removesuffix("-seed")  # noqa: RUF071 (names, not paths)
    return common or runs[0].config.preset


# --------------------------------------------------------------------------------------------------- along an axis


def along(history: Sequence[dict], axis: str, steps: Sequence[int]) -> np.ndarray:
    """Where steps are on an axis: "steps", "images" or "hours" (of training, by this run's own clock); NaN where nothing tells.

    Between logged steps it is interpolated, and from the start on: step 0 is at 0.
    """
    key, unit, _ = AXES[axis]
    steps = np.asarray(steps, float)
    rows = [row for row in history if is_finite(row.get("step")) and is_finite(row.get(key))]
    if key == "step":
        return steps
    if not rows:
        return np.full(len(steps), np.nan)
    return np.interp(steps, [0, *(row["step"] for row in rows)], [0, *(row[key] / unit for row in rows)])


def mean_and_sd(lines: Sequence[dict[int, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and standard deviation (n - 1) of lines {step: value} at the steps (T,) that all of them have.

    They end where the first of them does: a mean of those that went on would be another thing.
    """
    steps = sorted(set.intersection(*(set(line) for line in lines))) if lines else []
    values = np.array([[line[step] for step in steps] for line in lines], float).reshape(len(lines), len(steps))
    with np.errstate(invalid="ignore"):
        mean = values.mean(0) if len(lines) else np.zeros(0)
        sd = values.std(0, ddof=1) if len(lines) > 1 else np.zeros(len(steps))
    return np.array(steps, int), mean, sd


# -------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Score:
    """One score of one checkpoint of one run."""

    group: Group = field(repr=False)
    run: Run
    name: str
    step: int
    value: float
    record: dict = field(repr=False, hash=False)

    @property
    def protocol(self) -> str:
        return self.record["protocol"]


def scores(
    groups: Sequence[Group],
    names: str | Sequence[str] = "",
    *,
    protocol: str = "",
    across_protocols: bool = False,
    like: dict | None = None,
    records: dict[str, int] | None = None,
) -> dict[str, list[Score]]:
    """All scores of groups of runs, by name, in the order of groups, runs and steps.

    Parameters
    ----------
    names
        Scores, also as text with commas, with or without the hash of their extractor (`fd_twins`); by default all there are.
    protocol
        Leave out those whose protocol does not contain this text.
    across_protocols
        Give scores of different protocols together. Otherwise they are refused.
    like
        A record: leave out those that do not compare with it.
    records
        How many evaluations count, by `Run.reference`: what a sidecar keeps, since a run may be evaluated further; by default all.

    Raises
    ------
    WorkbenchError
        If there is no such score or protocol, or scores do not compare.
    """
    found: dict[tuple, Score] = {}
    protocols = []
    for group in groups:
        for run in group.runs:
            for record in run.evaluations()[: (records or {}).get(run.reference)]:
                if not is_comparable(record):
                    say_once(
                        f"{run.path}/evaluations.jsonl: records without a complete protocol are left out: their scores compare with nothing"
                    )
                    continue
                if like and differences(like, record):
                    continue
                protocols.append(record["protocol"])
                if protocol in record["protocol"]:
                    for name, value in _finite_scores(run, record):  # of the same step and protocol, the newest counts
                        found[name, run.path, record["protocol"], record["step"]] = Score(group, run, name, record["step"], value, record)
    if protocol and protocols and not found:
        there = "; ".join(dict.fromkeys(map(brief, protocols)))
        raise WorkbenchError(f"protocol={protocol!r} is part of no protocol of these scores; there are: {there}")
    by_name: dict[str, list[Score]] = {}
    for score in found.values():
        by_name.setdefault(score.name, []).append(score)
    chosen = _named(names, by_name)
    for name in chosen if not across_protocols else ():
        require_comparable([score.record for score in by_name[name]])
    order = {run.path: k for k, run in enumerate(run for group in groups for run in group.runs)}
    return {name: sorted(by_name[name], key=lambda score: (order[score.run.path], score.step)) for name in chosen}


def _finite_scores(run: Run, record: dict) -> list[tuple[str, float]]:
    """Names and values of an evaluation's scores; what is no finite number is reported once, and left out."""
    for name, value in record["scores"].items():
        if not is_finite(value):
            say_once(f"{run.path}/evaluations.jsonl: {name} of step {record['step']} is {str(value)[:20]!r}, not a finite number: left out")
    return [(name, value) for name, value in record["scores"].items() if is_finite(value)]


def _named(names: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """The known scores that are meant."""
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    chosen = []
    for name in filter(None, wanted):
        matches = [k for k in known if k == name] or [k for k in known if k.partition("@")[0] == name]
        if not matches:
            raise WorkbenchError(f"there is no score {name!r} yet; {nearest(name, known)}there are: {', '.join(known) or 'none'}")
        chosen += matches
    return list(dict.fromkeys(chosen)) or list(known)


def at_steps(scores: Sequence[Score], steps: str = "last") -> list[Score]:
    """Scores of one name at some steps.

    Parameters
    ----------
    steps
        "last": the newest of each run; "common": the newest step that all of these runs have; or steps as "500,1000".
    """
    if steps not in ("last", "common"):
        wanted = {int(step) for step in steps.split(",")}
        return [score for score in scores if score.step in wanted]
    chosen = []
    for protocol in dict.fromkeys(score.protocol for score in scores):
        same = [score for score in scores if score.protocol == protocol]
        by_run: dict = {}
        for score in same:
            by_run.setdefault(score.run.path, {})[score.step] = score
        if steps == "last":
            chosen += [found[max(found)] for found in by_run.values()]
        else:
            common = set.intersection(*(set(found) for found in by_run.values()))
            chosen += [found[max(common)] for found in by_run.values() if common]
    return chosen
