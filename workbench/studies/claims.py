"""The claims of an experiment: what its seeds allow before it runs, and the verdicts of its runs.

Costs are what a claim compares, lower is better: arm -> seed -> a number, infinite for a run that diverged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..messages import counted
from .paper import LAST, Claim, Experiment
from .power import (
    COMMITTED_SPREAD,
    EFFECTS,
    FREEDOM,
    fewest_seeds,
    pooled_spread,
    power,
    power_paired,
    smallest_p,
    smallest_p_paired,
)
from .significance import ALPHA, CANNOT_TELL, larger, lower

Costs = Mapping[str, Mapping[int, float]]


def verdicts(experiment: Experiment, costs: Mapping[str, Costs]) -> list[dict]:
    """The verdict of the runs on each claim.

    Parameters
    ----------
    costs
        For each measure of the claims (LAST, LAST_OVER_BEST).

    Returns
    -------
    list of dict
        For each claim: claim, measure, improvement (text; None if undefined), n (text), verdict, p, p_relevant. See `significance.lower`, and
        `significance.larger` for claims with a control.
    """
    if experiment.paired:
        tests = {claim.text: (differences(claim, costs[claim.measure]), claim.relevant) for claim in experiment.claims}
        rows = larger(tests)
        for row, claim in zip(rows, experiment.claims, strict=True):
            if not learned(claim, costs[claim.measure]):
                row["verdict"] = CANNOT_TELL
            interval = f" [{row['low']:+.3f}, {row['high']:+.3f}]" if row["low"] is not None else ""
            row |= dict(improvement=None if row["effect"] is None else f"{row['effect']:+.3f}{interval}", n=str(row["n"]))
    else:
        groups = {}
        for claim in experiment.claims:
            better, worse = (list(costs[claim.measure][arm].values()) for arm in (claim.better, claim.worse))
            groups[claim.text] = (better, worse)
        rows = lower(groups)
        for row in rows:
            share = row["improvement"]
            row |= dict(improvement=None if share is None else f"{share:+.0%}", n=f"{row['n']} and {row['n_control']}")
    columns = ("claim", "improvement", "n", "verdict", "p", "p_relevant")
    return [{name: row[name] for name in columns} | dict(measure=claim.measure) for row, claim in zip(rows, experiment.claims, strict=True)]


def differences(claim: Claim, costs: Costs) -> list[float]:
    """By how much `better` improves on `worse`, minus the same for the control's arms, for each seed with four finite costs."""
    arms = [costs[arm] for arm in (claim.better, claim.worse, *(claim.control or ()))]
    complete = [seed for seed in sorted(arms[0]) if all(math.isfinite(arm.get(seed, math.inf)) for arm in arms)]
    better, worse, control, control_worse = ([arm[seed] for seed in complete] for arm in arms)
    return ((np.array(worse) - better) - (np.array(control_worse) - control)).tolist()


def learned(claim: Claim, costs: Costs) -> bool:
    """Whether runs of an arm of the control reach `Claim.learned` on average: the positive control."""
    values = [[-cost for cost in costs[arm].values() if math.isfinite(cost)] for arm in claim.control or ()]
    return any(numbers and math.fsum(numbers) / len(numbers) >= claim.learned for numbers in values)


def impossible(experiment: Experiment, seeds: int) -> str:
    """Why no verdict can come out of this many seeds, whatever the runs come to; "" if one can."""
    claims = len(experiment.claims)
    if not claims or (p := _smallest_p(experiment, seeds)) < ALPHA:
        return ""
    return (
        f"no verdict can come out of {counted(seeds, 'seed')}: the smallest p of its {counted(claims, 'claim')}, tested together, is {p:.2g}, not below {ALPHA:g}; "
        f"set seeds to {fewest_seeds(claims, experiment.paired)} or more"
    )


def odds(experiment: Experiment, seeds: int, costs: Costs, higher: bool | None, measure: str = LAST) -> dict:
    """What this many seeds allow: the smallest p that a claim can reach, and the power of its test for the score at the end.

    Parameters
    ----------
    costs
        Of the runs that exist. Their spread counts; where they are too few, that of the committed results, which have no claims with a control.
    higher
        Whether higher scores are better.

    Returns
    -------
    dict
        smallest_p; spread (None unless `measure` is LAST, or if unknown); power: improvement, as text -> probability of "supported".
    """
    claims, spread = len(experiment.claims), None
    powers: dict[str, float] = {}
    if measure == LAST and experiment.paired:
        spread = _sd(differences(experiment.claims[0], costs))
        effects = [factor * experiment.claims[0].relevant for factor in (1, 2, 4)]
        powers = {f"{effect:g}": power_paired(effect, spread, seeds, claims) for effect in effects} if spread else {}
    elif measure == LAST:
        spread = pooled_spread([list(arm.values()) for arm in costs.values()]) or COMMITTED_SPREAD
        for effect in EFFECTS:  # a score 1 + e times as high is as far away
            powers[f"{effect:.0%}"] = power(effect / (1 + effect) if higher else effect, spread, seeds, seeds, claims)
    return dict(smallest_p=_smallest_p(experiment, seeds), spread=spread, power=powers)


def _smallest_p(experiment: Experiment, seeds: int) -> float:
    claims = len(experiment.claims)
    return smallest_p_paired(seeds, claims) if experiment.paired else smallest_p(seeds, seeds, claims)


def _sd(numbers: Sequence[float]) -> float | None:
    """Standard deviation (n - 1); None with fewer than FREEDOM degrees of freedom."""
    return float(np.std(numbers, ddof=1)) if len(numbers) > FREEDOM else None
