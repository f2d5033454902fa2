"""What seeds allow: the smallest p and the power, against enumeration and a simulation of their own."""

import itertools
import json
import math
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from workbench import Ablation
from workbench.studies.paper import ALL
from workbench.studies.power import COMMITTED_SPREAD, EFFECTS, fewest_seeds, pooled_spread, power, smallest_p
from workbench.studies.significance import ALPHA, CANNOT_TELL, SUPPORTED, lower
from workbench.training import memory

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("n", "n_control"), [(2, 2), (3, 3), (4, 3), (5, 5), (8, 8)])
@pytest.mark.parametrize("claims", [1, 5])
def test_the_smallest_p_is_that_of_groups_that_do_not_overlap(n, n_control, claims):
    group, control = np.arange(n) + 1.0, np.arange(n_control) + 1000.0
    rows = lower({str(k): (group, control) for k in range(claims)})
    assert [row["p"] for row in rows] == [pytest.approx(smallest_p(n, n_control, claims))] * claims
    assert smallest_p(1, 9) == smallest_p(0, 0) == 1


@pytest.mark.parametrize("claims", range(1, 8))
def test_fewer_seeds_than_the_fewest_cannot_tell_whatever_comes_out(claims):
    seeds = fewest_seeds(claims)
    verdicts = {
        n: {row["verdict"] for row in lower({str(k): (np.ones(n) + np.arange(n), np.arange(n) + 1000.0) for k in range(claims)})}
        for n in (seeds - 1, seeds)
    }
    assert verdicts == {seeds - 1: {CANNOT_TELL}, seeds: {SUPPORTED}}
    assert smallest_p(seeds, seeds, claims) < ALPHA <= smallest_p(seeds - 1, seeds - 1, claims)


def simulated(effect, spread, n, claims, draws):
    """Power by slow loops: exact p values by counting divisions, Holm by hand, the other claims without an effect."""
    random = np.random.default_rng(7)
    divisions = np.array(list(itertools.combinations(range(2 * n), n)))

    def p_value(group, control):
        ranks = stats.rankdata([*group, *control])
        return np.mean(ranks[divisions].sum(1) <= ranks[:n].sum())

    supported = 0
    for _ in range(draws):
        p = []
        for k in range(claims):
            group = (1 - effect * (k == 0)) * np.exp(random.normal(0, spread, n))
            p.append(p_value(group, np.exp(random.normal(0, spread, n))))
        order = np.argsort(p, kind="stable")
        adjusted = np.maximum.accumulate([min(1, p[i] * (claims - rank)) for rank, i in enumerate(order)])
        supported += adjusted[list(order).index(0)] < ALPHA
    return supported / draws


@pytest.mark.slow
@pytest.mark.parametrize(("effect", "spread", "n", "claims"), [(0.2, 0.35, 5, 1), (0.3, 0.2, 5, 4), (0.5, 0.35, 5, 5), (0.0, 0.35, 5, 1)])
def test_the_power_equals_an_independent_simulation(effect, spread, n, claims):
    draws = 800
    reference = simulated(effect, spread, n, claims, draws)
    error = math.sqrt(max(reference * (1 - reference), 0.01) / draws)
    assert abs(power(effect, spread, n, n, claims) - reference) < 4 * error


def test_power_grows_with_effect_and_seeds_and_is_none_where_no_verdict_can_come_out():
    powers = [power(effect, 0.35, 8, 8, 4) for effect in EFFECTS]
    assert powers == sorted(powers) and powers[-1] > 0.8
    assert power(0.3, 0.35, 5, 5, 4) < power(0.3, 0.35, 8, 8, 4) < power(0.3, 0.35, 60, 60, 4)
    assert power(0.5, 0.01, 3, 3) == power(0.5, 0.01, 4, 4, 5) == power(0.5, 0.01, 1, 9) == 0
    assert power(0.0, 0.35, 5, 5) < ALPHA


def test_the_spread_is_pooled_within_groups():
    random = np.random.default_rng(0)
    groups = [mean * np.exp(random.normal(0, 0.3, 400)) for mean in (1, 50)]
    assert pooled_spread(groups) == pytest.approx(0.3, rel=0.06)
    assert pooled_spread([-groups[0], groups[1]]) == pytest.approx(pooled_spread(groups))  # turned scores
    assert pooled_spread([[1.0, math.e, math.inf, 0.0]] * 4) == pytest.approx(math.sqrt(0.5))
    assert pooled_spread([]) is pooled_spread([[1.0], [2.0]]) is pooled_spread([[1.0, 2.0]]) is None


def test_the_committed_spread_is_that_of_the_committed_results():
    tables = json.loads((ROOT / "docs" / "results" / "two-cores.json").read_text())["tables"]
    arms = {
        (row["fd_twins"]["mean"], row["fd_twins"]["sd"]) for name in ALL if name in tables for row in tables[name]["rows"]
    }  # shared runs once
    spread = math.sqrt(np.mean([math.log1p((sd / mean) ** 2) for mean, sd in arms]))  # of log-normal numbers
    assert pytest.approx(spread, abs=0.01) == COMMITTED_SPREAD, "set COMMITTED_SPREAD, and the powers in docs/experiments.md"


@pytest.mark.parametrize("preset", ["twins32", "cifar10", "imagenet128"])
def test_all_verdicts_can_come_out_of_the_default_seeds(preset, monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 2**40)  # which a machine without bf16 needs more of
    assert Ablation(preset=preset).impossible() == []


def test_all_verdicts_can_come_out_of_the_examples():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "notebooks" / "ablation.ipynb"]
    text = "\n".join(page.read_text() for page in pages).replace("\\\n", " ").replace('\\"', '"')
    seeds = []
    for words in map(shlex.split, re.findall(r"workbench ablation[^#`\n]*?(?=\\n|[#`\n])", text)):
        values = dict(zip(words[3::3], words[4::3], strict=True))
        assert Ablation(**values).impossible() == [], words
        seeds.append(values.get("seeds"))
    assert len(seeds) > 6
    in_python = re.findall(r"wb\.Ablation\((.*?)\)", text)
    assert in_python and not any("seeds" in arguments for arguments in in_python)
