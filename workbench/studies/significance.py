"""Tests and verdicts for paired differences and for groups; rank correlations over runs.

Paired differences (of images, of pairs of samples) are tested by sign flips: if a difference is symmetric around a value, both signs are
equally likely. Groups (of runs) are tested by ranks: without a difference, every division of the numbers into groups is equally likely.
Nothing else is assumed. p values are exact if all flips or divisions can be enumerated, else from random ones with a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import scipy  # `scipy.stats`, which takes a second to import, is imported at its first use

from ..messages import ParameterError

Numbers = Sequence[float] | np.ndarray

SUPPORTED, NOT_SUPPORTED, CANNOT_TELL = "supported", "not supported", "cannot tell at this size"
ALPHA = 0.05  # level of a verdict, over all tests and all claims that are tested together
RESAMPLES = 9_999
POWER = 0.8


def judge(p_absent: float, p_relevant: float) -> str:
    """The verdict from two p values: of "the claimed effect is absent", and of "a relevant effect is present".

    Absence of evidence never counts as evidence of absence.
    """
    return SUPPORTED if p_absent < ALPHA else NOT_SUPPORTED if p_relevant < ALPHA else CANNOT_TELL


@dataclass(frozen=True)
class Verdict:
    """The result of a test of a claim.

    Attributes
    ----------
    verdict
        "supported", "not supported" or "cannot tell at this size".
    reason
        Why, in a sentence, with the numbers.
    test
        The test in words.
    smallest
        The smallest effect of interest.
    rows
        One for each null: null, n, effect (mean difference), low and high (95 % bootstrap interval), p_larger and p_smaller (Holm-adjusted,
        of the effect not being larger, or not smaller, than `smallest`), detectable (the effect that this n finds with power 0.8).
    """

    verdict: str
    reason: str
    test: str
    smallest: float
    rows: list[dict]

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


def against_nulls(differences: Mapping[str, Numbers], smallest: float) -> Verdict:
    """Whether a quantity is larger than under every null, by more than the smallest effect of interest.

    Supported if the mean difference to every null is significantly larger than `smallest`; not supported if that to some null is
    significantly smaller; else "cannot tell". Paired, one-sided sign-flip tests; p values adjusted over the nulls (Holm, 1979), once for
    "larger" and once for "smaller".

    Parameters
    ----------
    differences
        Null -> the quantity minus its value under that null: a finite number for each image, pair or run.
    smallest
        Smallest effect of interest, at least 0, in the unit of the differences.

    Raises
    ------
    ParameterError
        If there are no nulls, fewer than two units, or numbers that are not finite.
    """
    values = {null: np.asarray(numbers, dtype=np.float64) for null, numbers in differences.items()}
    if not values:
        raise ParameterError("differences is empty; give those to at least one null")
    if smallest < 0:
        raise ParameterError(f"smallest={smallest} is negative; give the smallest effect of interest, at least 0")
    for null, numbers in values.items():
        if numbers.ndim != 1 or len(numbers) < 2 or not np.isfinite(numbers).all():
            raise ParameterError(f"differences to {null!r} have shape {numbers.shape}; give at least two finite numbers")
    larger = holm({null: sign_flip(numbers - smallest) for null, numbers in values.items()})
    smaller = holm({null: sign_flip(smallest - numbers) for null, numbers in values.items()})
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - ALPHA / len(values)) + normal.inv_cdf(POWER)
    rows = []
    for null, numbers in values.items():
        low, high = bootstrap(numbers)
        error = numbers.std(ddof=1) / len(numbers) ** 0.5
        rows.append(
            dict(null=null, n=len(numbers), effect=float(numbers.mean()), low=low, high=high, p_larger=larger[null], p_smaller=smaller[null],
                 detectable=float(smallest + quantiles * error))
        )  # fmt: skip
    test = (
        f"paired one-sided sign-flip tests of the mean difference against {smallest:g}, Holm-adjusted over {len(rows)} "
        f"null{'s' * (len(rows) > 1)}, level {ALPHA:g}"
    )
    verdict = judge(max(larger.values()), min(smaller.values()))
    return Verdict(verdict, _reason(verdict, rows, smallest), test, smallest, rows)


def _reason(verdict: str, rows: list[dict], smallest: float) -> str:
    if verdict == SUPPORTED:
        weakest, p = min(rows, key=lambda row: row["effect"]), max(row["p_larger"] for row in rows)
        least = f"least above {weakest['null']} ({weakest['effect']:+.3f}; p <= {p:.2g}, n={weakest['n']})"
        return f"more than {smallest:g} above every null, {least}"
    if verdict == NOT_SUPPORTED:
        below = [row for row in rows if row["p_smaller"] < ALPHA]
        nulls = ", ".join(f"{row['null']} ({row['effect']:+.3f}, p={row['p_smaller']:.2g})" for row in below)
        return f"not {smallest:g} above {nulls}; n={below[0]['n']}"
    open_ = max((row for row in rows if row["p_larger"] >= ALPHA), key=lambda row: row["detectable"])
    return (
        f"{open_['effect']:+.3f} above {open_['null']} is not significantly more or less than {smallest:g}; with n={open_['n']} an effect of "
        f"{open_['detectable']:.3f} would be found with a probability of {POWER:g}"
    )


def sign_flip(numbers: Numbers) -> float:
    """One-sided p of "the mean is at most 0": the share of sign flips, the unflipped one among them, whose mean is as large."""
    options = dict(permutation_type="samples", alternative="greater", n_resamples=RESAMPLES, vectorized=True, rng=0)
    return float(scipy.stats.permutation_test((np.asarray(numbers, np.float64),), np.mean, **options).pvalue)


def bootstrap(numbers: Numbers) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a mean."""
    values = np.asarray(numbers, np.float64)
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    result = scipy.stats.bootstrap((values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=0)
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


RELEVANT = 0.1  # the smallest improvement of interest, as a share of the control's median


def lower(claims: Mapping[str, tuple[Numbers, Numbers]]) -> list[dict]:
    """Whether the numbers of one group are lower than those of its control, for claims that are tested together.

    *supported*: a one-sided rank-sum test finds them lower. *not supported*: the test rules out that they are lower by RELEVANT times the
    absolute value of the control's median. Otherwise *cannot tell at this size*. Both p values are adjusted over the claims (Holm, 1979).

    Parameters
    ----------
    claims
        Claim -> numbers of the group and of the control, one for each run: all positive, or all negative (scores whose higher values are
        better, turned), and infinite for a run that diverged.

    Returns
    -------
    list of dict
        For each claim: claim, improvement (Hodges-Lehmann estimate of the difference, as a share of the control's median; None if undefined),
        n, n_control, verdict, p, p_relevant.
    """
    p_lower, p_relevant, effects = {}, {}, {}
    for claim, numbers in claims.items():
        group, control = (np.asarray(values, np.float64) for values in numbers)
        median = abs(float(np.median(control))) if len(control) else math.nan
        p_lower[claim], p_relevant[claim] = rank_sum(group, control), rank_sum(control, group + RELEVANT * median)
        with np.errstate(invalid="ignore"):
            differences = (control[:, None] - group).ravel()  # NaN for two infinite numbers
        defined = len(differences) > 0 and math.isfinite(median) and not np.isnan(differences).any()
        improvement = float(np.median(differences)) / median if defined else None
        effects[claim] = dict(claim=claim, improvement=improvement, n=len(group), n_control=len(control))
    p_lower, p_relevant = holm(p_lower), holm(p_relevant)
    verdicts = {claim: judge(p_lower[claim], p_relevant[claim]) for claim in claims}
    return [effects[claim] | dict(verdict=verdicts[claim], p=p_lower[claim], p_relevant=p_relevant[claim]) for claim in claims]


def larger(claims: Mapping[str, tuple[Numbers, float]]) -> list[dict]:
    """Whether paired differences are larger than 0, for claims that are tested together.

    *supported*: a one-sided sign-flip test finds their mean above 0. *not supported*: the test rules out a mean as large as the smallest
    effect of interest. Otherwise *cannot tell at this size*. Both p values are adjusted over the claims (Holm, 1979).

    Parameters
    ----------
    claims
        Claim -> finite differences, one for each seed, and the smallest effect of interest in their unit.

    Returns
    -------
    list of dict
        For each claim: claim, effect (the mean difference; None without any), low and high (95 % bootstrap interval; None with fewer than
        two differences), n, verdict, p, p_relevant.
    """
    p_larger, p_relevant, effects = {}, {}, {}
    for claim, (differences, relevant) in claims.items():
        values = np.asarray(differences, np.float64)
        enough = len(values) > 1
        p_larger[claim], p_relevant[claim] = (sign_flip(values), sign_flip(relevant - values)) if enough else (1.0, 1.0)
        low, high = bootstrap(values) if enough else (None, None)
        effects[claim] = dict(claim=claim, effect=float(values.mean()) if len(values) else None, low=low, high=high, n=len(values))
    p_larger, p_relevant = holm(p_larger), holm(p_relevant)
    verdicts = {claim: judge(p_larger[claim], p_relevant[claim]) for claim in claims}
    return [effects[claim] | dict(verdict=verdicts[claim], p=p_larger[claim], p_relevant=p_relevant[claim]) for claim in claims]


def rank_sum(low: Numbers, high: Numbers) -> float:
    """One-sided p of "`low` is not lower than `high`": the rank-sum test of Wilcoxon (1945), also with ties; 1 if a group has fewer than two."""
    if min(len(low), len(high)) < 2 or np.isnan([*low, *high]).any():
        return 1.0
    size = len(low)

    def statistic(ranks: np.ndarray, others: np.ndarray, axis: int) -> np.ndarray:
        return ranks.sum(axis)

    ranks = scipy.stats.rankdata([*low, *high])  # infinite numbers are the highest
    options = dict(alternative="less", n_resamples=RESAMPLES, vectorized=True, rng=0)
    return float(scipy.stats.permutation_test((ranks[:size], ranks[size:]), statistic, **options).pvalue)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values by name, adjusted for multiple tests (Holm, 1979)."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def rank_correlation(x: Numbers, y: Numbers) -> dict:
    """Spearman's rank correlation of two columns of finite numbers, with a 95 % percentile bootstrap interval and a two-sided permutation p.

    Returns
    -------
    dict
        n, rho, low, high, p; rho is NaN and p is 1 if a column is constant. Resamples with a constant column are left out.

    Raises
    ------
    ParameterError
        If there are fewer than four pairs, or not as many x as y.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if a.shape != b.shape or a.ndim != 1 or len(a) < 4:
        raise ParameterError(f"x and y of shapes {a.shape} and {b.shape} have no rank correlation; give two columns of at least four")
    if not (np.ptp(a) and np.ptp(b)):
        return dict(n=len(a), rho=math.nan, low=math.nan, high=math.nan, p=1.0)
    resamples = np.random.default_rng(0).integers(0, len(a), (RESAMPLES, len(a)))
    resamples = resamples[(np.ptp(a[resamples], axis=1) > 0) & (np.ptp(b[resamples], axis=1) > 0)]
    low, high = np.quantile(_spearman(a[resamples], b[resamples]), [0.025, 0.975]).tolist()
    options = dict(permutation_type="pairings", n_resamples=RESAMPLES, vectorized=True, rng=0)
    p = scipy.stats.permutation_test((a,), lambda shuffled, axis: _spearman(shuffled, b), **options).pvalue
    return dict(n=len(a), rho=float(_spearman(a, b)), low=low, high=high, p=float(p))


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rank correlations of pairs of columns (..., n); SciPy's function takes one pair at a time."""
    a, b = (scipy.stats.rankdata(v, axis=-1) - (v.shape[-1] + 1) / 2 for v in (x, y))
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
