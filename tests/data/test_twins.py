import colorsys
import hashlib
import math

import numpy as np
import pytest
import torch

from workbench.data import twins
from workbench.data.drawing import SATURATION, VALUE, hsv
from workbench.data.twins import CLASSES, Twins, disagreement, draw_half, glyph_hues


@pytest.mark.slow
@pytest.mark.parametrize("size", [32, 64, 128])
def test_real_images_agree(size):
    x, y = Twins(size).batch(np.arange(200))
    assert x.shape == (200, 3, size, size) and x.dtype == torch.uint8
    values = disagreement(x, y)
    assert values["readable"].min() == 1
    assert max(values[k].max() for k in ("hue", "size", "height", "angle")) < 1e-6
    floats = disagreement(x.float() / 127.5 - 1, y)
    assert all((floats[k] - values[k]).abs().max() < 1e-5 for k in values)


@pytest.mark.slow
def test_a_spoiled_batch_is_caught():
    x, y = Twins(32).batch(np.arange(3000))
    spoiled = x.clone()
    spoiled[..., 16:] = x.roll(1, 0)[..., 16:]  # right halves of other images
    values = disagreement(spoiled, y)
    assert abs(values["hue"].median() - 0.25) < 0.02  # independent hues
    assert values["size"].median() > 0.05 and values["height"].median() > 0.1 and values["angle"].median() > 0.03


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_known_differences_are_measured(label):
    """Two halves drawn with known differences: what is measured is what was drawn."""

    def half(**drawn):
        return torch.from_numpy(draw_half([label], grey=[0.4], size=128, **{name: [value] for name, value in drawn.items()}))

    def measured(**changes):
        base = dict(hue=0.1, radius=0.35, height=0.0, angle=0.1)
        x = torch.cat([half(**base), half(**{**base, **changes}).flip(3)], 3)
        return {k: v.item() for k, v in disagreement(x * 2 - 1, torch.tensor([label])).items()}

    assert abs(measured(hue=0.1 + 1 / 3)["hue"] - 1 / 3) < 1e-3
    assert abs(measured(height=0.25)["height"] - 0.25) < 0.01
    assert abs(measured(radius=0.4)["size"] - 0.05 / 0.375) < 0.01
    n = twins.SYMMETRY[label].item()
    assert abs(measured(angle=0.3)["angle"] - (0.2 * n / (2 * math.pi))) < 0.01


def test_what_cannot_be_read_does_not_count_as_agreement():
    """A collapsed generator paints nothing, or everything in one colour: the worst score, not the best."""
    grey = torch.zeros(2, 3, 32, 32)
    red = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(2, 3, 32, 32)
    for x in (grey, red, torch.rand(2, 3, 32, 32) * 2 - 1):
        values = disagreement(x, torch.zeros(2).long())
        assert values["readable"].max() == 0 and values["hue"].min() == 0.5


def test_image_i_is_a_pure_function():
    a, b = Twins(32), Twins(32)
    x, y = a.batch(np.arange(20))
    assert torch.equal(b.batch(np.array([7, 3]))[0], x[[7, 3]]) and torch.equal(b.batch(np.array([7, 3]))[1], y[[7, 3]])
    assert not torch.equal(Twins(32, seed=1).batch(np.arange(20))[0], x)
    assert len(x.flatten(1).unique(dim=0)) == 20
    assert a.fingerprint == b.fingerprint != Twins(64).fingerprint
    Twins(32).batch(np.array([2**50]))  # no end


def test_the_same_twins_at_every_size():
    small, y_small = Twins(32).batch(np.arange(30))
    large, y_large = Twins(128).batch(np.arange(30))
    assert torch.equal(y_small, y_large)
    shrunk = torch.nn.functional.avg_pool2d(large.float(), 4)
    assert (shrunk - small).abs().mean() < 3  # of 255


@pytest.mark.slow
def test_classes_and_colours_are_uniform():
    _, y = Twins(32).batch(np.arange(6000))
    counts = torch.bincount(y, minlength=6).double()
    assert ((counts - 1000) ** 2 / 1000).sum() < 20.5  # chi-square, 5 degrees of freedom, p = 0.001
    expected = colorsys.hsv_to_rgb(0.3, SATURATION, VALUE)
    assert np.allclose(hsv(np.array([0.3]))[0], expected, atol=1e-12)


@pytest.mark.parametrize(("size", "pairs"), [(32, 2), (64, 2), (64, 4)])
def test_several_pairs_are_images_of_one_pulled_apart_and_stacked(size, pairs):
    small = size // pairs
    x, y = Twins(size, pairs=pairs).batch(np.arange(60))
    first, _ = Twins(size, pairs=pairs).batch(np.arange(60, 120))
    assert x.shape == (60, 3, size, size) and x.dtype == torch.uint8
    quarter, hues = small // 4, []
    for k, band in enumerate(
        x.split(small, 2)
    ):  # the glyphs, centred at a quarter and three quarters of the width, make an image of their own
        left, right = (band[..., centre - quarter : centre + quarter] for centre in (size // 4, 3 * size // 4))
        assert torch.equal(twins.crops(x, pairs)[k::pairs], torch.cat([left, right], 3))
        values = disagreement(torch.cat([left, right], 3), y)
        hues.append(glyph_hues(torch.cat([left, right], 3))[:, 0])
        assert all(value.max() < 1e-9 for name, value in values.items() if name != "readable") and values["readable"].min() == 1
    assert (hues[0] - hues[1]).abs().median() > 0.1  # each pair has its own
    # One pair of several that is wrong counts by its share.
    spoiled = x.clone()
    spoiled[:, :, :small, size // 2 :] = first[:, :, :small, size // 2 :]
    top, all_pairs = disagreement(torch.cat([spoiled[:, :, :small]] * pairs, 2), y, pairs), disagreement(spoiled, y, pairs)
    for name in ("hue", "size", "height", "angle"):
        assert torch.allclose(all_pairs[name], top[name] / pairs)


def test_one_pair_is_the_set_it_always_was():
    x, _ = Twins(32).batch(np.arange(100))
    assert hashlib.sha256(x.numpy().tobytes()).hexdigest()[:12] == "2e6620196faa"
    assert Twins(32).fingerprint != Twins(32, pairs=2).fingerprint
