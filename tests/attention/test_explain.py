# ruff: noqa: RUF001
"""Explanations, of maps whose verdict is known, against slow definitions."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from workbench import Discriminator, ParameterError, attention
from workbench.attention import Inspection, Layout, Projections
from workbench.attention.explain import ALPHA, SHUFFLES, VERDICTS, chance, explain, rounding

SIDE, QUERY = 8, 2 * 8 + 1  # row 2, column 1


def layer(weights, *, gamma=0.5, share=0.2, logit=None, name="G/attention.8"):
    """An inspection whose query has these weights on the keys, and others look at random."""
    keys = len(weights)
    query = torch.randn(1, SIDE**2, keys)
    query[0, QUERY] = torch.tensor(weights, dtype=torch.float64).clamp_min(1e-30).log().float()
    strength = torch.full((1, SIDE**2), 0.9)
    strength[0, QUERY] = share
    return Inspection(
        name, torch.zeros(3, 32, 32), Projections(query, torch.eye(keys)[None], torch.ones(1, keys), strength, gamma), logit=logit
    )


def peaked(*keys, rest=0.1, count=64):
    weights = np.full(count, rest / (count - len(keys)))
    weights[list(keys)] = (1 - rest) / len(keys)
    return weights


OWN, MIRROR, FAR = QUERY, 2 * 8 + 6, 6 * 8 + 4  # keys, each a place
EFFECTS = np.random.default_rng(1).uniform(0.01, 0.02, 64)


def effects(**raised):
    values = EFFECTS.copy()
    for name, value in raised.items():
        values[dict(own=OWN, mirror=MIRROR, far=FAR)[name]] = value
    return torch.tensor(values, dtype=torch.float32)


def test_it_attends_to_its_mirror_and_that_matters():
    found = explain(layer(peaked(MIRROR)), QUERY, effects(mirror=0.3))
    assert (found.verdict, found.key, found.place, found.attended, found.rank) == ("matters", MIRROR, "its mirror", 1, 1)
    assert found.times == pytest.approx(0.9 * 64, rel=1e-5) and found.effect == pytest.approx(0.3)
    assert found.sentence.startswith("Query (2, 1) of G 8×8 attends 58× as much as uniform to (2, 6), its mirror (entropy ")
    assert "changes the pixels there by 0.3, " in found.sentence and "rank 1 of 64" in found.sentence


def test_what_is_attended_without_effect_is_found_out():
    """Planted: most of the weight is on keys that change less than all others; and on keys like any."""
    least = effects(own=0.001, mirror=0.002, far=0.0015)
    found = explain(layer(peaked(OWN, MIRROR, FAR)), QUERY, least)
    assert found.verdict == "less than chance" and found.rank > 61 and "attends where it matters least" in found.sentence
    alike = torch.tensor(np.linspace(0.01, 0.02, 64), dtype=torch.float32)
    found = explain(layer(peaked(2, 31, 55)), QUERY, alike)
    assert found.verdict == "no more than chance" and found.p_more > ALPHA and "no more effect than random ones" in found.sentence


def test_a_map_without_a_choice():
    found = explain(layer(np.random.default_rng(0).uniform(0.9, 1.1, 64) / 64), QUERY, effects())
    assert found.verdict == "uniform" and "it hardly chooses (entropy 4.16 of 4.16 nats, at most 1.1× a uniform map)" in found.sentence


def test_layers_that_do_nothing():
    found = explain(layer(peaked(OWN), gamma=0.0003, share=0.0002), QUERY, effects(own=1.0))
    assert found.verdict == "inert" and "Gamma is 0.0003: the layer hardly contributes here (0.02 % of its input)" in found.sentence
    noise = torch.full((64,), 1e-7)
    assert "no key changes the pixels there by more than rounding" in explain(layer(peaked(OWN)), QUERY, noise).sentence.lower()
    found = explain(layer(peaked(OWN), logit=50.0, name="D/attention.8"), QUERY, torch.full((64,), 5e-5))
    assert found.verdict == "inert" and "the logit" in found.sentence  # 16 roundings of 50


def test_a_snapshot_keeps_no_network_and_networks_diverge():
    found = explain(layer(peaked(OWN)), QUERY)
    assert found.verdict == "unknown" and found.effect is found.p_more is None and "a snapshot keeps no network" in found.sentence
    broken = explain(layer(np.full(64, np.nan)), QUERY, effects())
    assert broken.verdict == "diverged" and "diverged" in broken.sentence
    with pytest.raises(ParameterError, match="causal has shape"):
        explain(layer(peaked(OWN)), QUERY, torch.zeros(3))
    with pytest.raises(ParameterError, match="query=64 is not a position"):
        explain(layer(peaked(OWN)), 64)


@pytest.mark.parametrize("key_side", [4, 8])
def test_the_place_of_a_key_is_that_of_its_positions(key_side):
    """By a loop over the positions of each key's cell."""
    pool = SIDE // key_side
    for key in range(key_side**2):
        place = explain(layer(peaked(key, count=key_side**2)), QUERY).place
        cell = [(row, column) for row in range(SIDE) for column in range(SIDE) if row // pool * key_side + column // pool == key]

        def steps_from(query, cell=cell):
            return min(max(abs(row // pool - query[0] // pool), abs(column // pool - query[1] // pool)) for row, column in cell)

        own, mirror = steps_from((2, 1)), steps_from((2, SIDE - 2))
        if own <= 1 or mirror <= 1:
            assert place == (["itself", "beside it"][own] if own <= 1 else ["its mirror", "beside its mirror"][mirror])
            continue
        nearest = min(cell, key=lambda at: abs(at[0] - 2) + abs(at[1] - 1))
        down, right = nearest[0] - 2, nearest[1] - 1
        words = [f"{abs(down)} {'down' if down > 0 else 'up'}"] if down else []
        assert place == ", ".join([*words, *([f"{abs(right)} {'right' if right > 0 else 'left'}"] if right else [])])


@pytest.mark.parametrize("seed", range(4))
def test_numbers_against_loops_and_all_selections(seed):
    rng = np.random.default_rng(seed)
    weights, causal = rng.dirichlet(np.full(16, 0.3)), rng.exponential(size=16)
    causal += 0.5 * seed * weights / weights.max()
    found = explain(layer(weights), QUERY, torch.tensor(causal))
    order = sorted(range(16), key=lambda k: -weights[k])
    count = next(n for n in range(1, 17) if sum(weights[order[:n]]) >= 0.5)
    assert found.attended == count and found.key == order[0] and found.most_entropy == pytest.approx(math.log(16))
    assert found.entropy == pytest.approx(-sum(w * math.log(w) for w in weights), abs=1e-4)
    assert found.rank == sorted(causal, reverse=True).index(causal[order[0]]) + 1
    assert found.median == pytest.approx((sorted(causal)[7] + sorted(causal)[8]) / 2)
    means = [np.mean(causal[list(chosen)]) for chosen in itertools.combinations(range(16), count)]
    observed = np.mean(causal[order[:count]])
    for p, exact in (
        (found.p_more, np.mean(np.array(means) >= observed - 1e-9)),
        (found.p_less, np.mean(np.array(means) <= observed + 1e-9)),
    ):
        assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / SHUFFLES) + 1 / SHUFFLES)


def test_chance_is_fair():
    """Keys chosen without regard to their effects are called better than chance in about one case of twenty."""
    rng = np.random.default_rng(3)
    hits = [chance(rng.exponential(size=32), rng.choice(32, 5, replace=False))[0] <= ALPHA for _ in range(200)]
    assert 2 <= sum(hits) <= 22
    assert chance(np.ones(16), np.arange(3)) == (1, 1)  # ties


def test_every_verdict_has_been_seen_in_one_or_two_sentences():
    cases = [
        (layer(np.full(64, np.nan)), effects()), (layer(peaked(OWN), share=0.0), effects()), (layer(np.full(64, 1 / 64)), effects()),
        (layer(peaked(OWN)), None), (layer(peaked(3, count=16)), torch.arange(16.0)), (layer(peaked(OWN)), effects(own=1.0)),
        (layer(peaked(2, 31, 55)), torch.tensor(np.linspace(0.01, 0.02, 64))),
        (layer(peaked(OWN, MIRROR, FAR)), effects(own=0.001, mirror=0.002, far=0.0015)),
    ]  # fmt: skip
    found = [explain(seen, QUERY, causal) for seen, causal in cases]
    assert [one.verdict for one in found] == list(VERDICTS)
    for one in found:
        assert len(re.findall(r"\.(?= |$)", one.sentence)) <= 2 and "nan" not in one.sentence and "\n" not in one.sentence


def test_of_a_network(tiny):
    """The effect of the top key is what forbidding it changes."""
    d, x = Discriminator(tiny(attention_d="16")).eval(), torch.randn(1, 3, 32, 32).clamp(-1, 1)
    torch.nn.init.constant_(d.get_submodule("attention.16").gamma, 3.0)
    y = torch.tensor([1])
    seen = attention.inspect_layer(d, (x, y), "attention.16")
    found = explain(seen, 77, attention.causal_map(d, (x, y), "attention.16", 77))
    mask = torch.zeros(256, 64, dtype=torch.bool)
    mask[77, found.key] = True
    change = attention.effect(d, (x, y), "attention.16", forbid=mask).difference
    assert found.effect == pytest.approx(change.abs().item(), rel=0.02, abs=1e-5) and "the logit" in found.sentence


def test_tokens_heads_and_maps_that_are_not_square():
    layout = Layout((2, 6), (2, 3), ("class", "register 1"))
    seen = Inspection(
        "network/blocks.1.attn", torch.zeros(3, 16, 48),
        Projections(torch.randn(1, 2, 14, 8), torch.randn(1, 2, 8, 8), torch.ones(1, 2, 8), torch.ones(1, 14), None, layout), logit=3.0, top=4,
    )  # fmt: skip
    causal = torch.rand(8) + 1
    for query in range(14):
        found, weights = explain(seen, query, causal), seen.projections.maps()[0].mean(0)[query]
        who = f"The {layout.tokens[query]} token" if query < 2 else f"Query {divmod(query - 2, 6)}"
        assert found.sentence.startswith(f"{who} of blocks.1.attn 2×6, mean of 2 heads, ") and "the logits" in found.sentence
        assert (
            found.key == int(weights.argmax()) and found.times == pytest.approx(8 * weights.max().item(), rel=1e-5) and found.gamma is None
        )
        is_token = query < 2 or found.key < 2
        assert (found.place in ("", "itself")) == is_token or found.place == "itself"
    one = replace(seen, projections=seen.projections.head(0), layer="G/attention.8", logit=None, top=None)
    raised = one.projections.query.clone()
    raised[0, 5] = 50 * one.projections.key[0, 0]  # row 0, column 3 looks at the class token
    raised[0, 6] = 50 * one.projections.key[0, 5]  # row 0, column 4 at the cell of row 1, columns 0 and 1
    one = replace(one, projections=replace(one.projections, query=raised))
    token, cell = explain(one, 5, causal), explain(one, 6, causal)
    assert token.key == 0 and token.place == "" and " to the class token (entropy" in token.sentence
    assert cell.key == 5 and " to (1, 0)–(1, 1), beside its mirror (entropy" in cell.sentence and "the pixels there" in cell.sentence
    assert rounding(one) == pytest.approx(2.0**-19 * math.sqrt(3 * 16 * 48 / 12))
    share = replace(one.projections, strength=torch.full((1, 14), 1e-5))
    assert (
        "nats). The layer hardly contributes here (0.001 % of its input)." in explain(replace(one, projections=share), 5, causal).sentence
    )
