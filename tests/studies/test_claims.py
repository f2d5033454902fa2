"""Claims: the difference of differences against a slow loop, and what seeds allow against a simulation of its own."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from workbench import Config, ParameterError
from workbench.studies.claims import differences, impossible, odds, verdicts
from workbench.studies.paper import EXPERIMENTS, LAST, LAST_OVER_BEST
from workbench.studies.power import power_paired, smallest_p_paired
from workbench.studies.significance import ALPHA, CANNOT_TELL, NOT_SUPPORTED, SUPPORTED, larger, sign_flip

BINDING = EXPERIMENTS["binding"](Config.preset("twins32", data="binding", attention_g="8", attention_d="8"))
(CLAIM,) = BINDING.claims


def costs(gain, *, near=0.0, seeds=8, sd=0.02):
    """Agreements as costs: attention improves by `gain` where pairs are far apart, by `near` side by side; seeds have spread `sd`."""
    rng = np.random.default_rng(1)
    means = {
        "none, far": 0.2,
        "attention, far": 0.2 + gain,
        "residual, far": 0.2,
        "none, near": 0.8,
        "attention, near": 0.8 + near,
        "residual, near": 0.8,
    }
    return {arm: {seed: -(mean + sd * rng.standard_normal()) for seed in range(seeds)} for arm, mean in means.items()}  # fmt: skip


def test_the_arms_are_blocks_by_places():
    arms = BINDING.arms
    assert list(arms) == [f"{block}, {place}" for place in ("far", "near") for block in ("none", "attention", "residual")]
    assert {arm["data"] for label, arm in arms.items() if "near" in label} == {"binding-near"}
    assert BINDING.paired and not EXPERIMENTS["ttur"](Config.preset("twins32")).paired
    with pytest.raises(ParameterError, match="experiments=binding needs data=binding, as in preset=binding32; given: data='twins'"):
        EXPERIMENTS["binding"](Config.preset("twins32"))


def test_the_difference_of_differences_is_that_of_a_loop():
    values = costs(0.3, near=0.1)
    expected = []
    for seed in range(8):
        far = -values["attention, far"][seed] + values["residual, far"][seed]
        near = -values["attention, near"][seed] + values["residual, near"][seed]
        expected.append(far - near)
    assert differences(CLAIM, values) == pytest.approx(expected)
    values["residual, near"][3] = math.inf  # diverged
    del values["attention, far"][5]  # still trains
    assert differences(CLAIM, values) == pytest.approx([expected[k] for k in range(8) if k not in (3, 5)])
    assert differences(CLAIM, {arm: {} for arm in BINDING.arms}) == []


@pytest.mark.parametrize(("gain", "near", "verdict"), [
    (0.3, 0.0, SUPPORTED), (0.3, 0.3, NOT_SUPPORTED), (0.0, 0.0, NOT_SUPPORTED), (-0.2, 0.0, NOT_SUPPORTED),
])  # fmt: skip
def test_verdicts_on_planted_differences(gain, near, verdict):
    (row,) = verdicts(BINDING, {LAST: costs(gain, near=near), LAST_OVER_BEST: {}})
    assert row["verdict"] == verdict and row["n"] == "8" and float(row["improvement"].split()[0]) == pytest.approx(gain - near, abs=0.05)
    (row,) = verdicts(BINDING, {LAST: costs(gain, near=near, seeds=4)})
    assert row["verdict"] == CANNOT_TELL  # 4 signs are not enough, however clear
    (row,) = verdicts(BINDING, {LAST: costs(gain, sd=2.0)})
    assert row["verdict"] == CANNOT_TELL  # nor is noise evidence of absence


def test_what_no_arm_learns_where_it_is_easy_tells_nothing():
    floor = {arm: {seed: -0.001 * seed for seed in range(8)} for arm in BINDING.arms}
    (row,) = verdicts(BINDING, {LAST: floor})
    assert row["verdict"] == CANNOT_TELL and row["p_relevant"] < ALPHA  # equal everywhere, because nothing was learned
    (row,) = verdicts(
        BINDING, {LAST: floor | {"attention, near": dict.fromkeys(range(8), -0.4), "residual, near": dict.fromkeys(range(8), -0.4)}}
    )
    assert row["verdict"] == NOT_SUPPORTED


def test_no_runs_are_no_verdict():
    (row,) = verdicts(BINDING, {LAST: {arm: {} for arm in BINDING.arms}})
    assert (row["verdict"], row["improvement"], row["p"], row["n"]) == (CANNOT_TELL, None, 1, "0")


def test_p_values_are_adjusted_over_the_claims():
    rows = larger({"a": ([0.1, 0.2, 0.3, 0.15, 0.25], 0.1), "b": ([0.1, 0.2, -0.3, 0.15, 0.25], 0.1)})
    assert (
        rows[0]["p"] == pytest.approx(2 * sign_flip([0.1, 0.2, 0.3, 0.15, 0.25])) and rows[0]["low"] < rows[0]["effect"] < rows[0]["high"]
    )


def test_seeds_that_cannot_decide_are_named_beforehand():
    assert "no verdict can come out of 4 seeds: the smallest p of its 1 claim, tested together, is 0.062" in impossible(BINDING, 4)
    assert impossible(BINDING, 4).endswith("set seeds to 5 or more") and impossible(BINDING, 5) == ""
    for n in range(2, 9):
        assert smallest_p_paired(n) == pytest.approx(sign_flip(np.arange(n) + 1.0))
    assert smallest_p_paired(1) == 1


def simulated(effect, sd, n, draws=1500):
    """Power by a slow loop over experiments and all sign flips."""
    random = np.random.default_rng(5)
    signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    found = 0
    for _ in range(draws):
        numbers = random.normal(effect, sd, n)
        found += np.mean(signs @ numbers >= numbers.sum() - 1e-12) < ALPHA
    return found / draws


@pytest.mark.parametrize(("effect", "sd", "n"), [(0.1, 0.1, 8), (0.1, 0.2, 8), (0.2, 0.2, 5), (0.0, 0.1, 8)])
def test_the_power_equals_an_independent_simulation(effect, sd, n):
    reference = simulated(effect, sd, n)
    assert abs(power_paired(effect, sd, n) - reference) < 4 * math.sqrt(max(reference * (1 - reference), 0.01) / 1500)


def test_the_power_of_many_differences_is_that_of_the_normal_test():
    expected = stats.norm.sf(stats.norm.isf(ALPHA) - 0.05 / 0.2 * math.sqrt(60))
    assert power_paired(0.05, 0.2, 60) == pytest.approx(expected, abs=0.04)
    assert power_paired(0.3, 0.01, 4) == power_paired(0.3, 0.01, 1) == 0 and power_paired(0.3, 0.01, 5) == 1
    assert power_paired(0.3, 0.01, 5, claims=2) == 0


def test_odds_are_at_the_spread_of_the_runs():
    values = costs(0.0, sd=0.1)
    found = odds(BINDING, 8, values, True)
    sd = np.std(differences(CLAIM, values), ddof=1)
    assert found["spread"] == pytest.approx(sd) and found["smallest_p"] == 1 / 256
    assert found["power"] == {f"{effect:g}": power_paired(effect, sd, 8) for effect in (0.1, 0.2, 0.4)}
    assert odds(BINDING, 8, values, True, LAST_OVER_BEST)["power"] == {}
