"""The paper's experiments: their arms, their claims, and that every arm is a training that fits."""

import itertools

import pytest

from workbench import Config
from workbench.metrics.reported import TABLE_1, TABLE_2
from workbench.studies.paper import ALL, EXPERIMENTS, LAST, LAST_OVER_BEST, sweep


def test_arms_are_what_the_paper_compares():
    base = Config.preset("imagenet128", num_classes=1000)
    arms = EXPERIMENTS["attention_site"](base).arms
    assert list(arms) == ["no attention"] + [f"feat{s}{kind}" for s in (8, 16, 32, 64) for kind in ("", ", residual")]
    assert arms["feat64"] == dict(attention_g="64", attention_d="64", attention_block="attention")
    ttur = EXPERIMENTS["ttur"](base).arms
    assert (ttur["TTUR, 1:1"]["lr_g"], ttur["TTUR, 1:1"]["lr_d"]) == (1e-4, 4e-4)  # the paper's, of geometric mean 2e-4
    assert {name: ttur["equal rates, 5:1"][name] for name in ("lr_g", "lr_d", "d_steps")} == dict(lr_g=2e-4, lr_d=2e-4, d_steps=5)
    sngan = base.replace(**EXPERIMENTS["baseline"](base).arms["SNGAN-projection"])
    # The networks are those of the preset; what the arms share is the base's.
    shared = {"batch_size", "batch_norm_group", "batch_norm_momentum", "batch_norm_eps", "beta2", "steps", "ema_decay", "ema_start"}
    assert sngan.changes(Config.preset("sngan-projection")).keys() == shared


@pytest.mark.parametrize("steps", [1, 4, 500, 2000, 100_000])
@pytest.mark.parametrize("preset", ["twins32", "imagenet128", "cifar10"])
def test_time_scales_are_compared_in_equal_computing_time(preset, steps):
    """A step of D and a step of G cost about the same: 2 for a G step at 1:1, 6 at 5:1."""
    arms = EXPERIMENTS["ttur"](Config.preset(preset, steps=steps)).arms
    assert {arm["d_steps"] for arm in arms.values()} == {1, 5}
    assert len({arm["steps"] * (1 + arm["d_steps"]) for arm in arms.values()}) == 1
    assert abs(arms["TTUR, 1:1"]["steps"] - steps) <= 2


@pytest.mark.parametrize("preset", ["twins32", "imagenet128", "cifar10"])
def test_spectral_normalization_is_compared_at_equal_rates_without_two_time_scales(preset):
    experiment = EXPERIMENTS["spectral_norm"](Config.preset(preset))
    g_and_d, d = experiment.arms["SN on G and D"], experiment.arms["SN on D"]
    assert (g_and_d["sn_g"], d["sn_g"]) == (True, False) and g_and_d | dict(sn_g=False) == d
    assert d["lr_g"] == d["lr_d"] and d["d_steps"] == 1 and d["sn_d"]
    assert {claim.measure for claim in experiment.claims} == {LAST, LAST_OVER_BEST}  # the claim is stability


@pytest.mark.parametrize(("preset", "settings", "sites"), [
    ("twins32", {}, (8, 16)), ("cifar10", {}, (8, 16)), ("twins32", dict(image_size=64), (8, 16, 32)), ("imagenet128", {}, (8, 16, 32, 64)),
    ("imagenet128", dict(image_size=256), (8, 16, 32, 64)), ("twins32", dict(d_downsamples=1), (16,)),
])  # fmt: skip
def test_attention_sites_are_feature_maps_of_both_networks_below_the_image_size(preset, settings, sites):
    experiment = EXPERIMENTS["attention_site"](Config.preset(preset, **settings))
    assert list(experiment.arms) == ["no attention"] + [f"feat{s}{kind}" for s in sites for kind in ("", ", residual")]
    assert all(arm["attention_g"] == arm["attention_d"] for arm in experiment.arms.values())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("preset", ["twins32", "imagenet128", "cifar10"])
def test_every_arm_is_a_training_that_fits(name, preset):
    base = Config.preset(preset)
    experiment = EXPERIMENTS[name](base)
    configs = [base.replace(**changes) for changes in experiment.arms.values()]
    assert len({config.to_json() for config in configs}) == len(configs)
    assert all({claim.better, claim.worse} <= experiment.arms.keys() for claim in experiment.claims)


def test_reported_numbers_are_of_the_arms():
    base = Config.preset("imagenet128")
    for name, table in (("attention_site", TABLE_1), ("baseline", TABLE_2)):
        assert EXPERIMENTS[name](base).reported == table and table.keys() == EXPERIMENTS[name](base).arms.keys()
    # As in the paper: feat32 has the lowest distance, feat64 the highest score.
    assert min(TABLE_1, key=lambda arm: TABLE_1[arm]["fid"]) == "feat32" and max(TABLE_1, key=lambda arm: TABLE_1[arm]["is"]) == "feat64"
    assert TABLE_2["SAGAN"]["is"] == TABLE_1["feat64"]["is"]


def test_a_sweep_is_every_combination():
    arms = sweep(dict(lr_d=["1e-4", "4e-4"], width=["16", "24"])).arms
    assert list(arms) == [f"lr_d={lr}, width={width}" for lr, width in itertools.product(("1e-4", "4e-4"), (16, 24))]
    assert arms["lr_d=4e-4, width=16"] == dict(lr_d="4e-4", width="16")
