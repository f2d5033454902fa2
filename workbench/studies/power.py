"""What a sweep can find, before it runs: the smallest p that its seeds allow, and the power of its tests.

The tests are those of `significance`: `lower`, rank sums of two arms, and `larger`, sign flips of paired differences; both one-sided, and
adjusted over the claims that are tested together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import scipy  # `scipy.stats`, which takes a second to import, is imported at its first use

from .significance import ALPHA, RESAMPLES, Numbers

EFFECTS = (0.2, 0.3, 0.5)  # as shares of the control; the paper reports 0.2 (Table 1: FID 22.96 without attention, 18.28 with)
DRAWS, DRAWS_PAIRED = 10_000, 2_000  # simulated experiments
# Spread of the Fréchet distance over seeds, see `pooled_spread`: that of all arms in docs/results/two-cores.json.
COMMITTED_SPREAD = 0.22
FREEDOM = 4  # degrees of freedom below which a spread is too uncertain


def smallest_p(n: int, n_control: int, claims: int = 1) -> float:
    """The smallest p that groups of these sizes can reach, Holm-adjusted over as many claims: all numbers of one are below the other's."""
    if min(n, n_control) < 2:
        return 1.0
    return min(1.0, claims / min(math.comb(n + n_control, n), RESAMPLES + 1))


def smallest_p_paired(n: int, claims: int = 1) -> float:
    """The smallest p that n paired differences can reach, Holm-adjusted over as many claims: all have one sign."""
    return 1.0 if n < 2 else min(1.0, claims / min(2**n, RESAMPLES + 1))


def fewest_seeds(claims: int, paired: bool = False) -> int:
    """The smallest number of seeds at which every one of the claims can be supported, or not supported."""
    return next(n for n in itertools.count(2) if claims / (2**n if paired else math.comb(2 * n, n)) < ALPHA)


def power(effect: float, spread: float, n: int, n_control: int, claims: int = 1) -> float:
    """The probability that a claim is supported, simulated with a fixed seed.

    Numbers are log-normal, with the same spread in both groups. Of the claims that are tested together, this one alone is true: so p has to
    be below the level divided by their number, the first step of Holm (1979).

    Parameters
    ----------
    effect
        How much lower the group is, as a share of its control, in [0, 1).
    spread
        Standard deviation of the logarithms in a group.
    n, n_control
        Sizes of both groups.
    """
    if min(n, n_control) < 2:
        return 0.0
    rng = np.random.default_rng(0)
    group = math.log1p(-effect) + spread * rng.standard_normal((DRAWS, n))
    control = spread * rng.standard_normal((DRAWS, n_control))
    method = "exact" if n * n_control <= 2_500 else "asymptotic"
    p = scipy.stats.mannwhitneyu(group, control, alternative="less", axis=1, method=method).pvalue
    return float(np.mean(p * claims < ALPHA))


def power_paired(effect: float, sd: float, n: int, claims: int = 1) -> float:
    """As `power`, of a mean of n paired differences that are normal with this mean and standard deviation."""
    if n < 2:
        return 0.0
    rng = np.random.default_rng(0)
    flips = 2**n if 2**n <= RESAMPLES + 1 else RESAMPLES
    signs = 1 - 2 * (np.arange(flips)[:, None] >> np.arange(n) & 1) if flips == 2**n else rng.choice([-1, 1], (flips, n))
    signs[0] = 1  # the unflipped one is among them
    differences = effect + sd * rng.standard_normal((DRAWS_PAIRED, n))
    found = 0
    for part in np.array_split(differences, 20):  # bounds memory
        means = part @ signs.T
        found += int((np.mean(means >= means[:, :1] - 1e-12, axis=1) * claims < ALPHA).sum())
    return found / DRAWS_PAIRED


def pooled_spread(groups: Iterable[Numbers]) -> float | None:
    """Standard deviation of the logarithms of absolute values within groups, pooled; None with fewer than FREEDOM degrees of freedom.

    Zeros and numbers that are not finite are left out.
    """
    squares, freedom = 0.0, 0
    for numbers in groups:
        values = np.abs(np.asarray(numbers, np.float64))
        logs = np.log(values[np.isfinite(values) & (values > 0)])
        if len(logs) > 1:
            squares, freedom = squares + float(((logs - logs.mean()) ** 2).sum()), freedom + len(logs) - 1
    return math.sqrt(squares / freedom) if freedom >= FREEDOM else None
