"""Every test has outputs and data folders of its own; nothing is written into the checkout."""

import os
import shutil
import signal
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks of the tests are tiny: threads would wait for each other
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # and where some are started with more threads, asleep and not spinning

import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from workbench import Config, Run, train
from workbench.paths import outputs_dir

# Few examples, the same every time and of no time limit on a shared machine; `make faults` tries thousands of others.
hypothesis_settings.register_profile(
    "tests", max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
hypothesis_settings.load_profile("tests")

# A shell that starts the tests in the background has them, and all that they start, ignore interrupts: here these are tested.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Files with many slow tests first, so that no process is left alone with them at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


TINY = dict(
    width=8,
    z_dim=8,
    batch_size=8,
    steps=4,
    log_every=2,
    sample_every=4,
    checkpoint_every=4,
    evaluate_every=0,
    mixed_precision="no",
)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    torch.manual_seed(0)
    return tmp_path


@pytest.fixture
def cards(monkeypatch):
    """Give this machine GPUs, or none: `cards(GPU("H", 24 * GB, 9), ...)`."""
    return lambda *gpus: monkeypatch.setattr("workbench.gpus._gpus", lambda *variables: gpus)


@pytest.fixture
def tiny():
    """Settings small enough to train for some steps in a second: `tiny(steps=8)`."""

    def make(**overrides):
        return Config.preset("twins32", **{**TINY, **overrides})

    return make


@pytest.fixture
def make(folders):
    """The folder of a run with empty checkpoints: `make("cats", 4, 8, width=16)`."""

    def make(name, *steps, **settings):
        folder = outputs_dir() / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(Config.preset("twins32", run=folder.name, **settings).to_json())
        for step in steps:
            (folder / "checkpoints" / str(step)).mkdir(parents=True)
        return folder

    return make


@pytest.fixture(scope="session")
def shelf(tmp_path_factory):
    """A folder, and by settings the runs that `trained_once` keeps there."""
    return tmp_path_factory.mktemp("shelf"), {}


@pytest.fixture
def trained_once(tiny, shelf):
    """A trained run of such settings among this test's outputs, its own to change: `trained_once(width=16)`.

    The first test that asks for it trains it; the others are given a copy.
    """
    folder, kept = shelf

    def make(**overrides):
        settings = tuple(sorted(overrides.items()))
        if settings not in kept:
            run = train(tiny(**overrides))
            kept[settings] = run.name, folder / str(len(kept))
            shutil.copytree(run.path, kept[settings][1])
            return run
        name, original = kept[settings]
        return Run(shutil.copytree(original, outputs_dir() / name))

    return make


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """A weights file of Inception's shape with random weights, whose features vary from image to image."""
    from benchmarks.metrics import random_inception

    return random_inception(tmp_path_factory.mktemp("inception") / "random.pth")
