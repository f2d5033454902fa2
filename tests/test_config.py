import dataclasses
import math

import pytest

from workbench import Config, ParameterError
from workbench.config import BUILT_IN_DATA, PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_and_round_trip(name):
    config = Config.preset(name)
    assert config.preset == name
    assert Config.from_json(config.to_json()) == config
    assert dataclasses.replace(config, seed=3).seed == 3


def test_built_in_classes_are_those_of_the_data():
    from workbench import twins

    assert BUILT_IN_DATA["twins"]["num_classes"] == len(twins.CLASSES)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("lr_d", "4e-4", 4e-4),
        ("steps", 1e3, 1000),
        ("steps", "20", 20),
        ("beta1", 0, 0.0),
        ("sn_g", "false", False),
        ("sn_g", 1, True),
        ("attention_g", 16, "16"),
        ("attention_g", "[16, 8]", "8,16"),
        ("attention_g", [32], "32"),
        ("attention_d", "none", "none"),
        ("num_classes", 0, 0),
        ("seed", 2**53 + 1, 2**53 + 1),
        ("note", 5, "5"),
        ("tags", ["a", "b"], "a,b"),
    ],
)
def test_values_are_coerced_by_declared_type(name, given, value):
    result = getattr(Config.from_parameters({name: given}), name)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (dict(lrd=4e-4), "did you mean 'lr_d'"),
        (dict(lr_d="fast"), "lr_d='fast' is not a number; allowed: above 0 and at most 1"),
        (dict(lr_d=math.nan), "lr_d=nan is not a number"),
        (dict(lr_d=-1), "lr_d=-1 is not in range"),
        (dict(steps=1.5), "steps=1.5 is not a whole number"),
        (dict(steps=True), "steps=True is not a whole number"),
        (dict(sn_g="perhaps"), "sn_g='perhaps' is not true or false"),
        (dict(image_size=48), "one of 32, 64, 128, 256"),
        (dict(pairs=2, data="cifar10"), "pairs=2 is for data='twins'"),
        (dict(pairs=4, image_size=32), "16 pixels or more for each"),
        (dict(augment="crop"), "one of none, flip, diffaug"),
        (dict(attention_g=64), "G has no feature map of size 64 at image_size=32; allowed: none, or a list from 8, 16, 32"),
        (dict(attention_d=32), "allowed: none, or a list from 4, 8, 16"),
        (dict(attention_g="big"), "attention_g='big'"),
        (dict(preset="twin32"), "did you mean 'twins32'"),
        (dict(batch_size=6, num_processes=4, batch_norm_group=0), "use a multiple of 4"),
        (dict(gradient_accumulation=2), "set batch_norm_group, a divisor of"),
        (dict(run="a/b"), "cannot name a folder"),
        (dict(resume="nothing"), "there is no run 'nothing'"),
        (dict(mixed_precision="fp16", device="cpu"), "needs a GPU"),
        (dict(note={"a": 1}), "is not text"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(parameters, says):
    with pytest.raises(ParameterError) as error:
        Config.from_parameters(parameters)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_none_means_the_value_of_the_preset():
    config = Config.from_parameters(dict(preset="imagenet128", lr_d=None, seed=5))
    assert config == Config.preset("imagenet128", seed=5)


def test_names_say_what_differs():
    assert Config.preset("twins32").derived_name == "twins32"
    assert Config.preset("twins32", lr_d=4e-4).derived_name == "twins32-lr_d=0.0004"
    assert Config.preset("twins32", data="/some/where/my cats", note="x").derived_name == "twins32-data=my_cats"


def test_what_follows_from_the_data_is_no_difference():
    config = Config.preset("twins32", data="/some/where")
    assert (config.num_classes, config.evaluate_every, config.lr_d) == (None, 0, 8e-4)
    assert Config.preset("twins32").lr_d == 2.5e-3 and Config.preset("cifar10").lr_d == 2e-4
    assert config.derived_name == "twins32-data=where"
    assert Config.preset("twins32").evaluate_every == 250


def test_channels_of_the_released_code():
    config = Config.preset("imagenet128")
    assert [config.channels_g(r) for r in (4, *config.maps_g)] == [1024, 1024, 512, 256, 128, 64]
    assert [config.channels_d(r) for r in config.maps_d] == [64, 128, 256, 512, 1024]
    cifar = Config.preset("cifar10")
    assert {cifar.channels_g(r) for r in cifar.maps_g} == {256}
    assert (cifar.maps_d, {cifar.channels_d(r) for r in cifar.maps_d}) == ((16, 8), {128})


def test_parameters_cell_explains_everything():
    cell = Config.cell()
    for field in dataclasses.fields(Config):
        assert f"{field.name}: {field.type.split(' ')[0]} = None  # {Config.explain(field.name)}" in cell
