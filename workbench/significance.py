"""Verdicts from stated tests: is an effect larger than the smallest that matters, over every null; and rank correlations over runs.

The test is of paired differences by random sign flips: under the hypothesis that a difference is symmetric around a value, each of its
signs is as likely as the other. Nothing else is assumed of its distribution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from .parameters import ParameterError

SUPPORTED, NOT_SUPPORTED, CANNOT_TELL = "supported", "not supported", "cannot tell at this size"
FLIPS, RESAMPLES = 9_999, 5_000
POWER = 0.8


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


def against_nulls(differences: Mapping[str, Sequence[float]], smallest: float, alpha: float = 0.05, seed: int = 0) -> Verdict:
    """Whether a quantity is larger than under every null, by more than the smallest effect of interest.

    Supported where the mean difference to every null is significantly larger than `smallest`; not supported where that to some null is
    significantly smaller; else it cannot be told. Paired, one-sided sign-flip tests; p values adjusted over the nulls (Holm, 1979), once for
    "larger" and once for "smaller". So absence of evidence never counts as evidence of absence.

    Parameters
    ----------
    differences
        Null -> the quantity minus what it is under that null, one number for each unit (image, pair, run), finite.
    smallest
        Smallest effect of interest, in the unit of the differences; >= 0.
    alpha
        Level of the tests.
    seed
        Of the flips and the bootstrap.

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
    larger = holm({null: sign_flip(numbers - smallest, seed) for null, numbers in values.items()})
    smaller = holm({null: sign_flip(smallest - numbers, seed) for null, numbers in values.items()})
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - alpha / len(values)) + normal.inv_cdf(POWER)
    rows = []
    for null, numbers in values.items():
        low, high = bootstrap(numbers, seed=seed)
        error = numbers.std(ddof=1) / len(numbers) ** 0.5
        rows.append(
            dict(null=null, n=len(numbers), effect=float(numbers.mean()), low=low, high=high, p_larger=larger[null], p_smaller=smaller[null],
                 detectable=float(smallest + quantiles * error))
        )  # fmt: skip
    test = (
        f"paired one-sided sign-flip tests ({FLIPS:,} flips) of the mean difference against {smallest:g}, Holm-adjusted over "
        f"{len(rows)} null{'s' * (len(rows) > 1)}, level {alpha:g}"
    )
    return Verdict(*_judge(rows, smallest, alpha), test, smallest, rows)


def _judge(rows: list[dict], smallest: float, alpha: float) -> tuple[str, str]:
    weakest = min(rows, key=lambda row: row["effect"])
    n = weakest["n"]
    if all(row["p_larger"] < alpha for row in rows):
        p = max(row["p_larger"] for row in rows)
        return (
            SUPPORTED,
            f"more than {smallest:g} above every null, least above {weakest['null']} ({weakest['effect']:+.3f}; p <= {p:.2g}, n={n})",
        )
    below = [row for row in rows if row["p_smaller"] < alpha]
    if below:
        said = ", ".join(f"{row['null']} ({row['effect']:+.3f}, p={row['p_smaller']:.2g})" for row in below)
        return NOT_SUPPORTED, f"not {smallest:g} above {said}; n={n}"
    open_ = max((row for row in rows if row["p_larger"] >= alpha), key=lambda row: row["detectable"])
    return CANNOT_TELL, (
        f"{open_['effect']:+.3f} above {open_['null']} is not significantly more or less than {smallest:g}; with n={open_['n']} an effect of "
        f"{open_['detectable']:.3f} would be found with a probability of {POWER:g}"
    )


def sign_flip(numbers: np.ndarray, seed: int = 0) -> float:
    """One-sided p of "the mean is at most 0": the share of random sign flips, the unflipped one among them, whose mean is as large."""
    numbers = np.asarray(numbers, dtype=np.float64)
    signs = np.random.default_rng(seed).integers(0, 2, (FLIPS, len(numbers)), dtype=np.int8) * 2 - 1
    # Flips that change nothing must count as ties, whatever the order in which their sums are rounded.
    slack = 1e-9 * np.abs(numbers).sum()
    return float((1 + (signs @ numbers >= numbers.sum() - slack).sum()) / (1 + FLIPS))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p values adjusted for being several (Holm, 1979), by name."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=p.get)):
        largest = max(largest, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}


def bootstrap(numbers: np.ndarray, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean."""
    numbers = np.asarray(numbers, dtype=np.float64)
    means = numbers[np.random.default_rng(seed).integers(0, len(numbers), (RESAMPLES, len(numbers)))].mean(1)
    return tuple(np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist())


def rank_correlation(x: Sequence[float], y: Sequence[float], level: float = 0.95, seed: int = 0) -> dict:
    """Spearman's rank correlation of two columns of finite numbers, with a percentile bootstrap interval.

    Returns
    -------
    dict
        n, rho, low, high; rho is NaN where a column is constant. Resamples in which one is are left out.

    Raises
    ------
    ParameterError
        If there are fewer than four pairs, or not as many x as y.
    """
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 4:
        raise ParameterError(f"a rank correlation of {x.shape} and {y.shape} numbers says nothing; give two columns of at least four")
    drawn = np.random.default_rng(seed).integers(0, len(x), (RESAMPLES, len(x)))
    found = np.array([_spearman(x[k], y[k]) for k in drawn])
    found = found[np.isfinite(found)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist() if len(found) else (float("nan"),) * 2
    return dict(n=len(x), rho=_spearman(x, y), low=low, high=high)


def _spearman(x: np.ndarray, y: np.ndarray) -> float:
    a, b = (_ranks(v) - (len(v) + 1) / 2 for v in (x, y))
    size = float((a @ a * (b @ b)) ** 0.5)
    return float(a @ b) / size if size else float("nan")


def _ranks(numbers: np.ndarray) -> np.ndarray:
    """Ranks from 1, equal numbers sharing the mean of theirs."""
    return (numbers[:, None] > numbers).sum(1) + ((numbers[:, None] == numbers).sum(1) + 1) / 2
