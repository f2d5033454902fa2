"""Verdicts from stated tests, for pairs and for groups; and rank correlations over runs.

Paired differences (of images, of pairs of samples) are tested by sign flips: under the hypothesis that a difference is symmetric around a
value, each of its signs is as likely as the other. Groups (of runs) are tested by ranks: were there no difference, every division of all
numbers into the groups would be as likely. Nothing else is assumed of a distribution. p values are exact where all flips or divisions can
be gone through, else of random ones of a fixed seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import scipy  # and no `scipy.stats`: it takes a second to import, and SciPy does so when it is first used

from ..parameters import ParameterError

SUPPORTED, NOT_SUPPORTED, CANNOT_TELL = "supported", "not supported", "cannot tell at this size"
ALPHA = 0.05  # level of a verdict, over all tests that it rests on or that stand beside it
RESAMPLES = 9_999
POWER = 0.8


def judge(for_it: float, against_it: float, alpha: float = ALPHA) -> str:
    """The verdict from two p values: of the claimed effect being absent, and of an effect that matters being there.

    So absence of evidence never counts as evidence of absence.
    """
    return SUPPORTED if for_it < alpha else NOT_SUPPORTED if against_it < alpha else CANNOT_TELL


# -------------------------------------------------------------------------------------------------- paired differences


@dataclass(frozen=True)
class Verdict:
    """What a test says about a claim.

    Attributes
    ----------
    verdict
        "supported", "not supported" or "cannot tell at this size".
    reason
        Why, in a sentence, with the numbers.
    test
        How it came about.
    smallest
        The smallest effect of interest.
    rows
        One for each null: null, n, effect (mean difference), low and high (95 % bootstrap interval), p_larger and p_smaller (Holm-adjusted;
        of the effect not being larger, not being smaller, than the smallest of interest), detectable (the true effect that this n would find
        with a probability of 0.8).
    """

    verdict: str
    reason: str
    test: str
    smallest: float
    rows: list[dict]

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}"


def against_nulls(differences: Mapping[str, Sequence[float]], smallest: float, alpha: float = ALPHA) -> Verdict:
    """Whether a quantity is larger than under every null, by more than the smallest effect of interest.

    Supported where the mean difference to every null is significantly larger than `smallest`; not supported where that to some null is
    significantly smaller; else it cannot be told. Paired, one-sided sign-flip tests; p values adjusted over the nulls (Holm, 1979), once for
    "larger" and once for "smaller".

    Parameters
    ----------
    differences
        Null -> the quantity minus what it is under that null, one number for each unit (image, pair, run), finite.
    smallest
        Smallest effect of interest, in the unit of the differences; >= 0.
    alpha
        Level of the tests.

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
    quantiles = normal.inv_cdf(1 - alpha / len(values)) + normal.inv_cdf(POWER)
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
        f"null{'s' * (len(rows) > 1)}, level {alpha:g}"
    )
    verdict = judge(max(larger.values()), min(smaller.values()), alpha)
    return Verdict(verdict, _reason(verdict, rows, smallest, alpha), test, smallest, rows)


def _reason(verdict: str, rows: list[dict], smallest: float, alpha: float) -> str:
    if verdict == SUPPORTED:
        weakest, p = min(rows, key=lambda row: row["effect"]), max(row["p_larger"] for row in rows)
        least = f"least above {weakest['null']} ({weakest['effect']:+.3f}; p <= {p:.2g}, n={weakest['n']})"
        return f"more than {smallest:g} above every null, {least}"
    if verdict == NOT_SUPPORTED:
        below = [row for row in rows if row["p_smaller"] < alpha]
        nulls = ", ".join(f"{row['null']} ({row['effect']:+.3f}, p={row['p_smaller']:.2g})" for row in below)
        return f"not {smallest:g} above {nulls}; n={below[0]['n']}"
    open_ = max((row for row in rows if row["p_larger"] >= alpha), key=lambda row: row["detectable"])
    return (
        f"{open_['effect']:+.3f} above {open_['null']} is not significantly more or less than {smallest:g}; with n={open_['n']} an effect of "
        f"{open_['detectable']:.3f} would be found with a probability of {POWER:g}"
    )


def sign_flip(numbers: Sequence[float]) -> float:
    """One-sided p of "the mean is at most 0": the share of sign flips, the unflipped one among them, whose mean is as large."""
    numbers = np.asarray(numbers, dtype=np.float64)
    how = dict(permutation_type="samples", alternative="greater", n_resamples=RESAMPLES, vectorized=True, rng=0)
    return float(scipy.stats.permutation_test((numbers,), np.mean, **how).pvalue)


def bootstrap(numbers: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean."""
    numbers = np.asarray(numbers, dtype=np.float64)
    if np.ptp(numbers) == 0:
        return float(numbers[0]), float(numbers[0])
    result = scipy.stats.bootstrap((numbers,), np.mean, confidence_level=level, n_resamples=RESAMPLES, method="percentile", rng=0)
    return tuple(map(float, result.confidence_interval))


# -------------------------------------------------------------------------------------------------------------- groups

RELEVANT = 0.1  # the smallest improvement of interest, as a share of the control's median


def lower(claims: Mapping[str, tuple[Sequence[float], Sequence[float]]], relevant: float = RELEVANT, alpha: float = ALPHA) -> list[dict]:
    """Whether the numbers of one group are lower than those of its control, for claims that are made together.

    *supported*: a one-sided rank-sum test finds them lower. *not supported*: the same test rules out that they are lower by `relevant` times
    the control's median. Otherwise *cannot tell at this size*. p values are adjusted over the claims (Holm, 1979), once each.

    Parameters
    ----------
    claims
        Claim -> numbers of the group and of the control, one for each run; infinite for one that failed. Positive, where they are finite.

    Returns
    -------
    list of dict
        For each claim: claim, improvement (Hodges-Lehmann estimate of how much lower, as a share of the control's median; None where that says
        nothing), n, n_control, verdict, p, p_relevant.
    """
    p_lower, p_relevant, rows = {}, {}, []
    for claim, (group, control) in claims.items():
        group, control = np.asarray(group, dtype=np.float64), np.asarray(control, dtype=np.float64)
        middle = float(np.median(control)) if len(control) else math.nan
        p_lower[claim], p_relevant[claim] = rank_sum(group, control), rank_sum(control, group + relevant * middle)
        with np.errstate(invalid="ignore"):
            differences = (control[:, None] - group).ravel()  # of two infinite numbers: NaN
        usable = len(differences) > 0 and math.isfinite(middle) and not np.isnan(differences).any()
        improvement = float(np.median(differences)) / middle if usable else None
        rows.append(dict(claim=claim, improvement=improvement, n=len(group), n_control=len(control)))
    p_lower, p_relevant = holm(p_lower), holm(p_relevant)
    for row in rows:
        p, p_not = p_lower[row["claim"]], p_relevant[row["claim"]]
        row |= dict(verdict=judge(p, p_not, alpha), p=p, p_relevant=p_not)
    return rows


def rank_sum(low: Sequence[float], high: Sequence[float]) -> float:
    """One-sided p of "`low` is not lower than `high`": the rank-sum test of Wilcoxon (1945), also with ties; 1 where a group has fewer than two."""
    if min(len(low), len(high)) < 2 or np.isnan([*low, *high]).any():
        return 1.0
    size = len(low)

    def statistic(ranks: np.ndarray, others: np.ndarray, axis: int) -> np.ndarray:
        return ranks.sum(axis)

    ranks = scipy.stats.rankdata([*low, *high])  # infinite numbers are the highest
    how = dict(alternative="less", n_resamples=RESAMPLES, vectorized=True, rng=0)
    return float(scipy.stats.permutation_test((ranks[:size], ranks[size:]), statistic, **how).pvalue)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted for being several (Holm, 1979), by name."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.get)):
        largest = max(largest, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


# -------------------------------------------------------------------------------------------------------- correlations


def rank_correlation(x: Sequence[float], y: Sequence[float], level: float = 0.95) -> dict:
    """Spearman's rank correlation of two columns of finite numbers, with a percentile bootstrap interval and a two-sided p by permutation.

    Returns
    -------
    dict
        n, rho, low, high, p; rho is NaN and p is 1 where a column is constant. Resamples in which one is are left out.

    Raises
    ------
    ParameterError
        If there are fewer than four pairs, or not as many x as y.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 4:
        raise ParameterError(f"a rank correlation of {x.shape} and {y.shape} numbers says nothing; give two columns of at least four")
    if not (np.ptp(x) and np.ptp(y)):
        return dict(n=len(x), rho=math.nan, low=math.nan, high=math.nan, p=1.0)
    drawn = np.random.default_rng(0).integers(0, len(x), (RESAMPLES, len(x)))
    drawn = drawn[(np.ptp(x[drawn], axis=1) > 0) & (np.ptp(y[drawn], axis=1) > 0)]
    low, high = np.quantile(_spearman(x[drawn], y[drawn]), [(1 - level) / 2, (1 + level) / 2]).tolist()
    how = dict(permutation_type="pairings", n_resamples=RESAMPLES, vectorized=True, rng=0)
    p = scipy.stats.permutation_test((x,), lambda shuffled, axis: _spearman(shuffled, y), **how).pvalue
    return dict(n=len(x), rho=float(_spearman(x, y)), low=low, high=high, p=float(p))


def _spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of many pairs of columns (..., n) at once; SciPy's own takes one at a time."""
    a, b = (scipy.stats.rankdata(v, axis=-1) - (v.shape[-1] + 1) / 2 for v in (x, y))
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
