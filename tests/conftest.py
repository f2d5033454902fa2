"""Every test has outputs and data folders of its own; nothing is written into the checkout."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks of the tests are tiny: threads would wait for each other

import pytest
import torch

from workbench import Config

TINY = dict(
    width=8, z_dim=8, batch_size=8, steps=4, log_every=2, sample_every=4, checkpoint_every=4, evaluate_every=0, mixed_precision="no"
)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("WORKBENCH_DATA", str(tmp_path / "data"))
    torch.manual_seed(0)
    return tmp_path


@pytest.fixture
def tiny():
    """Settings small enough to train for some steps in a second: `tiny(steps=8)`."""

    def make(**overrides):
        return Config.preset("twins32", **{**TINY, **overrides})

    return make


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """A weights file of Inception's shape with random weights, whose features vary from image to image."""
    from workbench.metrics.bench import random_inception

    return random_inception(tmp_path_factory.mktemp("inception") / "random.pth")
