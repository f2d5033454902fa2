import os

import pytest

from workbench import Config, ParameterError
from workbench.config import read_config
from workbench.files import UnreadableError
from workbench.runs import require_startable


def refused(parameters, error=ParameterError) -> str:
    """The message that refuses to start a run with these parameters."""
    with pytest.raises(error) as refusal:
        require_startable(Config.from_parameters(parameters))
    text = str(refusal.value)
    assert "\n" not in text and text.isprintable() and len(text) < 700, text
    return text


def startable(parameters) -> Config:
    require_startable(config := Config.from_parameters(parameters))
    return config


@pytest.mark.parametrize(
    ("parent", "changes", "message"),
    [
        ({}, dict(num_classes=10), "num_classes=10 differs from the 6"),
        ({}, dict(data="cifar10"), "num_classes=10 (of data='cifar10') differs from the 6"),
        ({}, dict(image_size=64), "image_size=64 differs from the 32"),
        ({}, dict(width=32), "width=32 differs from the 16"),
        ({}, dict(width_d=32), "width_d=32 differs from the 16"),
        ({}, dict(z_dim=64), "z_dim=64 differs from the 32"),
        ({}, dict(max_multiplier=2), "max_multiplier=2 differs from the 8"),
        ({}, dict(d_downsamples=2), "d_downsamples=2 differs from the 3"),
        ({}, dict(d_flat_blocks=0), "d_flat_blocks=0 differs from the 1"),
        ({}, dict(attention_g="none"), "attention_g='none' differs from the '16'"),
        ({}, dict(attention_d="8"), "attention_d='8' differs from the '16'"),
        ({}, dict(attention_variant="paper"), "attention_variant='paper' differs from the 'official'"),
        ({}, dict(attention_block="residual"), "attention_block='residual' differs from the 'attention'"),
        ({}, dict(sn_g=False), "sn_g=False differs from the True"),
        ({}, dict(steps=4), "steps=4 is not above 4"),
        ({}, dict(steps=3), "set steps above 4"),
        (dict(steps=4), {}, "steps=4 is not above 4"),
    ],
)
def test_a_fork_whose_parent_does_not_fit_or_without_steps_is_refused(make, parent, changes, message):
    make("cats", 4, **parent)
    assert message in refused(dict(resume="cats@4", **changes))


@pytest.mark.parametrize(
    "changes",
    [
        dict(width_d=16),
        dict(max_multiplier=99),
        dict(d_downsamples=3),
        dict(lr_d=1e-3),
        dict(data="/some/where"),
        dict(dtype="float64"),
        dict(steps=5),
    ],
)
def test_a_fork_may_change_parameters_that_change_no_shape(make, changes):
    make("cats", 4)
    assert startable(dict(resume="cats@4") | changes).resume == "cats@4"


def test_a_resumed_run_cannot_have_fewer_steps_than_its_newest_checkpoint(make):
    make("cats", 4, 80, steps=100)
    assert "steps=79 is below 80, the newest checkpoint" in refused(dict(resume="cats", steps=79))
    assert startable(dict(resume="cats", steps=80)).steps == 80
    assert "fork the run: resume='cats@80'" in refused(dict(resume="cats", lr_d=1e-3))


def test_a_resumed_fork_keeps_its_own_settings(make):
    make("cats", 4)
    kittens = make("kittens", 8, resume="cats@4", lr_d=1e-3)
    config = startable(dict(resume="kittens", steps=3000))
    assert config.lr_d == 1e-3 and read_config(kittens).resume == "cats@4"
    assert config.changes(read_config(kittens)) == dict(steps=3000)


def test_the_demo_cannot_be_created_resumed_or_forked():
    for parameters in (dict(run="demo"), dict(resume="demo"), dict(resume="demo@500")):
        assert "ships" in refused(parameters)


def test_what_is_wrong_with_the_run_to_resume_is_named(make):
    folder = make("cats", 4, 8)
    assert "there is no run 'cat' in" in refused(dict(resume="cat")) and "did you mean 'cats'" in refused(dict(resume="cat"))
    assert "'x' is not a step; there are: 8, 4" in refused(dict(resume="cats@x"))
    assert "'' is not a step" in refused(dict(resume="cats@"))
    assert "'²' is not a step" in refused(dict(resume="cats@²"))
    assert "has no checkpoint at step 5; there are: 8, 4" in refused(dict(resume="cats@5"))
    for damage in ("", "{", "[]", '{"widht": 3}', '{"width": "x"}', "\0" * 9, '{"width": 8, "width": 9}', "[" * 100_000):
        (folder / "config.json").write_text(damage)
        assert refused(dict(resume="cats"), UnreadableError).startswith(f"{folder}/config.json cannot be read: "), damage
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")  # opening it would block forever
    assert "not a regular file" in refused(dict(resume="cats"), UnreadableError)


def test_values_are_compared_after_parsing(make, folders, monkeypatch):
    (folders / "data" / "my cats").mkdir(parents=True)
    (folders / "link").symlink_to(folders / "data")
    monkeypatch.chdir(folders / "data")
    monkeypatch.setenv("HOME", str(folders))
    make("cats", 4, data="my cats", num_classes=3)
    for data in ("my cats", "./my cats", "my cats/", "../data/my cats", "~/data/my cats", folders / "link" / "my cats"):
        assert startable(dict(resume="cats", data=data)).data == str(folders / "data" / "my cats")
    assert startable(dict(resume="cats", width="16", lr_d="8e-4", preset=" twins32 ")).run == "cats"
    assert "preset='cifar10' does not go with" in refused(dict(resume="cats", preset="cifar10"))
    assert "lr_d=0.001 differs from the 0.0008" in refused(dict(resume="cats", data="my cats", lr_d=1e-3))


def test_a_resumed_run_keeps_note_and_tags(make):
    make("cats", 4, note="first", tags="a")
    for given_too in (dict(note="x"), dict(tags="b")):
        assert "of run 'cats', which is resumed; to change it, fork the run: resume='cats@4'" in refused(dict(resume="cats") | given_too)
    assert startable(dict(resume="cats", note="first", tags="a")).note == "first"
