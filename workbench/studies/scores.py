"""The scores of groups of runs, from their evaluations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..messages import WorkbenchError, nearest, say_once
from ..metrics.protocols import brief, differences, require_comparable
from ..metrics.scores import higher_is_better
from ..records import is_comparable, is_finite
from ..runs import Run
from .groups import Group


@dataclass(frozen=True)
class CheckpointScore:
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


def scores_by_name(
    groups: Sequence[Group],
    names: str | Sequence[str] = "",
    *,
    protocol: str = "",
    across_protocols: bool = False,
    like: dict | None = None,
) -> dict[str, list[CheckpointScore]]:
    """All scores of groups of runs, by name, in the order of groups, runs and steps.

    Parameters
    ----------
    names
        Names, with or without the hash of the extractor (`fd_twins`), as a list or as text with commas; by default all.
    protocol
        Only scores whose protocol contains this text; `n=500` is not in `n=5000`.
    across_protocols
        Allow scores of different protocols.
    like
        Only scores that can be compared with this record.

    Raises
    ------
    WorkbenchError
        If there is no such score or protocol, or scores cannot be compared.
    """
    scores: dict[tuple, CheckpointScore] = {}
    protocols = []
    for group in groups:
        for run in group.runs:
            for record in run.evaluations():
                if not is_comparable(record):
                    say_once(
                        f"{run.path}/evaluations.jsonl: records without a complete protocol are left out: their scores cannot be compared"
                    )
                    continue
                if like and differences(like, record):
                    continue
                step, of_record = record["step"], record["protocol"]
                protocols.append(of_record)
                for name, value in record["scores"].items() if _contains(of_record, protocol) else ():
                    if is_finite(value):  # of the same step and protocol, the newest counts
                        scores[name, run.path, of_record, step] = CheckpointScore(group, run, name, step, value, record)
                    else:
                        text = f"{name} of step {step} is {str(value)[:20]!r}, not a finite number: left out"
                        say_once(f"{run.path}/evaluations.jsonl: {text}")
    if protocol and protocols and not scores:
        known = "; ".join(dict.fromkeys(map(brief, protocols)))
        raise WorkbenchError(f"protocol={protocol!r} matches no protocol of these scores; there are: {known}")
    by_name: dict[str, list[CheckpointScore]] = {}
    for score in scores.values():
        by_name.setdefault(score.name, []).append(score)
    matches = _matching(names, list(by_name))
    for name in matches if not across_protocols else ():
        require_comparable([score.record for score in by_name[name]])
    order = {run.path: k for k, run in enumerate(run for group in groups for run in group.runs)}
    return {name: sorted(by_name[name], key=lambda score: (order[score.run.path], score.step)) for name in matches}


def _contains(protocol: str, text: str) -> bool:
    """Whether a protocol contains a text that begins with a word and ends with a whole number, if it begins and ends with such."""
    begin, end = r"(?<!\w)" * text[:1].isalnum(), r"(?![.,]?\d)" * text[-1:].isdigit()
    return re.search(begin + re.escape(text) + end, protocol) is not None


def _matching(names: str | Sequence[str], known: list[str]) -> list[str]:
    """The known scores that `names` select; without names, all."""
    result: list[str] = []
    for name in filter(None, [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]):
        matches = [k for k in known if k == name] or [k for k in known if k.partition("@")[0] == name]
        if not matches:
            raise WorkbenchError(f"there is no score {name!r} yet; {nearest(name, known)}there are: {', '.join(known) or 'none'}")
        result += matches
    return list(dict.fromkeys(result)) or known


def last_over_best(scores: Sequence[CheckpointScore]) -> dict[Path, float]:
    """For each run, by its folder, how its last score compares with its best one: 1 if it is the best, 2 if it is twice as bad.

    The last over the best if lower is better, else the best over the last. Runs with one evaluation, or scores that are not positive, are
    left out.

    Parameters
    ----------
    scores
        Of one name, in the order of runs and steps.
    """
    by_run: dict[Path, list[float]] = {}
    for score in scores:
        by_run.setdefault(score.run.path, []).append(score.value)
    higher = bool(scores) and higher_is_better(scores[0].name)
    runs = {path: values for path, values in by_run.items() if len(values) > 1 and min(values) > 0}
    return {path: max(values) / values[-1] if higher else values[-1] / min(values) for path, values in runs.items()}


def at_steps(scores: Sequence[CheckpointScore], steps: str = "last") -> list[CheckpointScore]:
    """Scores of one name at some steps.

    Parameters
    ----------
    steps
        "last": the newest of each run; "common": the newest that all of these runs have; or steps such as "500,1000".
    """
    if steps not in ("last", "common"):
        numbers = {int(step) for step in steps.split(",")}
        return [score for score in scores if score.step in numbers]
    result = []
    for protocol in dict.fromkeys(score.protocol for score in scores):
        by_run: dict[Path, dict[int, CheckpointScore]] = {}
        for score in scores:
            if score.protocol == protocol:
                by_run.setdefault(score.run.path, {})[score.step] = score
        common = set.intersection(*map(set, by_run.values()))
        for by_step in by_run.values():
            if steps == "last" or common:
                result.append(by_step[max(by_step if steps == "last" else common)])
    return result
