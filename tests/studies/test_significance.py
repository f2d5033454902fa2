import itertools

import numpy as np
import pytest
from scipy import stats

from workbench import ParameterError
from workbench.studies.significance import (
    CANNOT_TELL,
    NOT_SUPPORTED,
    SUPPORTED,
    against_nulls,
    bootstrap,
    holm,
    lower,
    rank_correlation,
    rank_sum,
    sign_flip,
)


def drawn(mean, n=64, sd=0.1, seed=0):
    """Numbers of exactly this mean and standard deviation."""
    x = np.random.default_rng(seed).normal(size=n)
    return mean + sd * (x - x.mean()) / x.std(ddof=1)


def test_sign_flips_equal_full_enumeration():
    numbers = np.random.default_rng(3).normal(0.4, 1, 10)
    sums = [np.dot(signs, numbers) for signs in itertools.product((-1, 1), repeat=10)]
    exact = np.mean(np.array(sums) >= numbers.sum() - 1e-12)
    assert sign_flip(numbers) == pytest.approx(exact)
    assert sign_flip(np.zeros(8)) == 1
    assert sign_flip(np.full(6, 0.1)) == pytest.approx(2**-6)  # few units: no small p, however clear
    many = drawn(0.02, n=40)  # more flips than can be gone through
    assert abs(sign_flip(many) - stats.ttest_1samp(many, 0, alternative="greater").pvalue) < 0.015


@pytest.mark.slow
def test_p_values_are_uniform_where_there_is_no_effect():
    p = [sign_flip(np.random.default_rng(k).normal(size=20)) for k in range(300)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_holm_by_hand():
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.9}) == {"a": 1.0, "b": 1.0} and holm({}) == {}


def test_rank_correlation_is_spearmans():
    generator = np.random.default_rng(1)
    x = generator.integers(0, 6, 30).astype(float)  # with ties
    y = x + generator.normal(0, 2, 30)
    found = rank_correlation(x, y)
    assert found["rho"] == pytest.approx(stats.spearmanr(x, y).statistic) and found["low"] < found["rho"] < found["high"]
    assert found["p"] == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.01)
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 40])["p"] == pytest.approx(2 / 24)  # of 24 orders, this one and its reverse
    assert rank_correlation([1, 2, 3, 4], [1, 2, 3, 40])["rho"] == pytest.approx(1)
    assert np.isnan(rank_correlation([1, 1, 1, 1], [1, 2, 3, 4])["rho"])
    with pytest.raises(ParameterError, match="at least four"):
        rank_correlation([1, 2, 3], [1, 2, 3])


def test_bootstrap_covers_as_a_normal_interval_does():
    low, high = bootstrap(drawn(1.0, n=100, sd=2))
    assert low == pytest.approx(1 - 1.96 * 0.2, abs=0.05) and high == pytest.approx(1 + 1.96 * 0.2, abs=0.05)


@pytest.mark.slow
def test_the_three_verdicts():
    clear, none = drawn(0.2), drawn(0.0)
    assert against_nulls(dict(a=clear, b=clear + 0.1), 0.05).verdict == SUPPORTED
    one = against_nulls(dict(a=clear, b=none), 0.05)  # one null is enough
    assert one.verdict == NOT_SUPPORTED and "b (" in one.reason and "a (" not in one.reason
    few = against_nulls(dict(a=clear, b=drawn(0.06, n=6)), 0.05)
    assert few.verdict == CANNOT_TELL and "b" in few.reason
    # A significant effect that is smaller than what matters supports nothing.
    assert against_nulls(dict(a=drawn(0.02, n=400)), 0.05).verdict == NOT_SUPPORTED
    assert against_nulls(dict(a=drawn(0.02, n=400)), 0.0).verdict == SUPPORTED


@pytest.mark.slow
def test_the_stated_power_is_kept():
    detectable = against_nulls(dict(a=drawn(0.0, n=40)), 0.05).rows[0]["detectable"]
    found = [against_nulls(dict(a=np.random.default_rng(k).normal(detectable, 0.1, 40)), 0.05).verdict == SUPPORTED for k in range(60)]
    assert 0.62 < np.mean(found) < 0.95


@pytest.mark.slow
def test_the_level_is_kept():
    """An effect of exactly the smallest of interest is called supported, or not supported, in about 5 % of all cases each at most."""
    found = [against_nulls(dict(a=np.random.default_rng(k).normal(0.05, 0.1, 30)), 0.05).verdict for k in range(100)]
    assert found.count(SUPPORTED) <= 12 and found.count(NOT_SUPPORTED) <= 12


def test_what_does_not_fit_is_refused():
    for differences, smallest, said in (
        ({}, 0, "empty"),
        (dict(a=[1.0]), 0, "two"),
        (dict(a=[1, float("nan")]), 0, "finite"),
        (dict(a=[1, 2]), -1, "negative"),
    ):
        with pytest.raises(ParameterError, match=said):
            against_nulls(differences, smallest)


# -------------------------------------------------------------------------------------------------------------- groups


def test_the_rank_test_is_that_of_scipy():
    random = np.random.default_rng(0)
    for sizes in ((5, 5), (3, 6), (8, 4)):
        for shift in (0.0, 1.0, 3.0):
            a, b = random.normal(size=sizes[0]), random.normal(size=sizes[1]) + shift
            assert rank_sum(a, b) == pytest.approx(stats.mannwhitneyu(a, b, alternative="less", method="exact").pvalue)
    a, b = random.normal(size=20), random.normal(size=20) + 0.5  # by random divisions
    assert rank_sum(a, b) == pytest.approx(stats.mannwhitneyu(a, b, alternative="less", method="exact").pvalue, abs=0.01)
    assert rank_sum([1.0, 2.0], [np.inf, np.inf]) == pytest.approx(1 / 6)
    assert rank_sum(np.ones(4), np.ones(4)) == 1 and rank_sum([], [1.0, 2.0]) == rank_sum([0.0], [1.0, 2.0]) == 1


@pytest.mark.parametrize(("good", "bad", "verdict"), [
    ([1, 2, 3, 4, 5], [10, 11, 12, 13, 14], SUPPORTED),
    ([10, 11, 12, 13, 14], [1, 2, 3, 4, 5], NOT_SUPPORTED),
    ([10.0, 10.1, 10.2, 9.9, 9.8], [10.05, 10.15, 9.95, 9.85, 10.0], NOT_SUPPORTED),  # equal: ten per cent are ruled out
    ([5, 12, 9, 20, 2], [6, 11, 10, 19, 3], CANNOT_TELL),
    ([1, 2, 3, 4, 5], [np.inf] * 5, SUPPORTED),  # the control diverges
    ([np.inf] * 5, [1, 2, 3, 4, 5], NOT_SUPPORTED),
    ([np.inf] * 5, [np.inf] * 5, CANNOT_TELL),
    ([1, 2], [10, 11], CANNOT_TELL),  # two seeds cannot tell anything: the smallest p is 1/6
    ([1, 2, 3, 4, 5], [], CANNOT_TELL),
    ([-10, -11, -12, -13, -14], [-1, -2, -3, -4, -5], SUPPORTED),  # scores whose higher values are better, turned
    ([-10.0, -10.1, -10.2, -9.9, -9.8], [-10.05, -10.15, -9.95, -9.85, -10.0], NOT_SUPPORTED),
])  # fmt: skip
def test_verdicts_on_planted_groups(good, bad, verdict):
    (row,) = lower({"it helps": (good, bad)})
    assert row["verdict"] == verdict and (row["n"], row["n_control"]) == (len(good), len(bad))


def test_the_improvement_is_a_share_of_the_control():
    assert lower({"": ([8, 8, 8], [10, 10, 10])})[0]["improvement"] == pytest.approx(0.2)
    assert lower({"": ([-12, -12, -12], [-10, -10, -10])})[0]["improvement"] == pytest.approx(0.2)
    assert lower({"": ([8, 8, 8], [10, np.inf, np.inf])})[0]["improvement"] is None


def test_several_claims_are_adjusted_for():
    first = ([1, 2, 3, 4], [2.5, 5, 6, 7])
    both = lower({"first": first, "second": ([1, 2, 3, 4], [1.5, 5, 6, 8])})
    assert lower({"first": first})[0]["p"] < both[0]["p"]


@pytest.mark.slow
def test_chance_is_seldom_taken_for_a_difference_of_groups():
    random = np.random.default_rng(1)
    wrong = 0
    for _ in range(200):
        rows = lower({f"claim {k}": (random.normal(10, 1, 5), random.normal(10, 1, 5)) for k in range(3)})
        wrong += any(row["verdict"] == SUPPORTED for row in rows)
    assert wrong / 200 < 0.09  # 5 % and its own chance
