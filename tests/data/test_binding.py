import numpy as np
import pytest
import torch

from workbench import Config, ParameterError, evaluate, open_data, train
from workbench.data.binding import GREY, Binding, agreement, vocabulary


@pytest.mark.parametrize("near", [False, True])
def test_each_pattern_stands_on_two_tiles_of_one_hue(near):
    data = Binding(32, near=near)
    pattern, hue = data.contents(np.arange(300))
    for p, h in zip(pattern, hue, strict=True):
        for k in range(8):
            (a, b) = np.argwhere(p == k)
            assert h[tuple(a)] == h[tuple(b)]
            assert not near or np.abs(a - b).sum() == 1
    assert len(np.unique(hue[0])) == 8


def test_images_show_what_they_contain():
    """Against a slow loop over tiles and cells."""
    data = Binding(64, tiles=4)
    x, y = data.batch(np.arange(5))
    pattern, _ = data.contents(np.arange(5))
    assert x.shape == (5, 3, 64, 64) and x.dtype == torch.uint8 and y.tolist() == [0] * 5
    for n in range(5):
        for row, column in np.ndindex(4, 4):
            tile = x[n, :, 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
            for i, j in np.ndindex(4, 4):
                cell = tile[:, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].flatten(1)
                assert (cell == cell[:, :1]).all()
                grey = cell[:, 0].tolist() == [round(GREY * 255)] * 3
                assert grey != data.vocabulary[pattern[n, row, column], i, j]


def test_images_are_functions_of_index_and_seed():
    data = Binding(32)
    everything = data.batch(np.arange(50))[0]
    assert torch.equal(data.batch(np.array([7, 3]))[0], everything[[7, 3]])
    assert not torch.equal(Binding(32, seed=1).batch(np.arange(50))[0], everything)
    prints = {
        Binding(32, **kind).fingerprint for kind in ({}, dict(seed=1), dict(tiles=2), dict(patterns=9), dict(near=True), dict(mismatched=2),
                                            dict(mismatched=2, own_hues=True))
    }  # fmt: skip
    assert len(prints) == 7


def test_places_and_hues_are_uniform():
    pattern, hue = Binding(32).contents(np.arange(4000))
    counts = np.stack([(pattern == k).sum(0) for k in range(8)])  # of each pattern on each tile
    assert ((counts - 500) ** 2 / 500).sum() < 200  # chi-square, 105 degrees of freedom, p = 1e-7
    assert np.histogram(hue, 10, (0, 1))[0].std() / hue.size * 10 < 0.02


def test_patterns_differ():
    words = vocabulary(32).reshape(32, 16)
    assert (words.sum(1) == 8).all()
    distance = (words[:, None] != words[None]).sum(2) + 16 * np.eye(32, dtype=int)
    assert distance.min() >= 4 and np.array_equal(vocabulary(8), vocabulary(32)[:8])


@pytest.mark.parametrize("mismatched", [1, 2, 4, 8])
@pytest.mark.parametrize("near", [False, True])
def test_in_wrong_images_only_the_binding_differs(near, mismatched):
    """Patterns and hues, each by itself, are those of a right image: no histogram tells."""
    indices = np.arange(200)
    right, wrong = Binding(32, near=near).contents(indices), Binding(32, near=near, mismatched=mismatched).contents(indices)
    assert np.array_equal(right[0], wrong[0])
    for pattern, hue in zip(*(a.reshape(200, 16) for a in wrong), strict=True):
        differing = [len(set(hue[pattern == k])) - 1 for k in range(8)]
        assert sum(differing) == mismatched
    sorted_hues = [np.sort(hue.reshape(200, 16), 1) for _, hue in (right, wrong)]
    assert np.array_equal(*sorted_hues) == (mismatched > 1)  # one alone has none to exchange with
    own = Binding(32, near=near, mismatched=mismatched, own_hues=True).contents(indices)
    assert np.array_equal(right[0], own[0]) and {len(np.unique(hue)) for hue in own[1]} == {8 + mismatched}


@pytest.mark.slow
@pytest.mark.parametrize("near", [False, True])
@pytest.mark.parametrize("size", [32, 64])
def test_agreement_counts_the_pairs_that_agree(near, size):
    for mismatched in (0, 1, 4, 8):
        x = Binding(size, near=near, mismatched=mismatched).batch(np.arange(400))[0]
        values = agreement(x)
        assert values["readable"].min() == values["paired"].min() == 1
        assert values["variety"].mean().item() == pytest.approx(7 / 8, abs=0.02)
        exchanged = mismatched if mismatched > 1 else 0  # as many tiles of different patterns share a hue, of 112 pairs of tiles
        assert values["agreement"].mean().item() == pytest.approx(1 - mismatched / 8 - exchanged / 112, abs=0.02)
        assert (agreement(x.float() / 127.5 - 1)["agreement"] - values["agreement"]).abs().max() < 1e-5


def test_the_agreement_of_an_image_is_that_of_a_loop():
    data = Binding(32, mismatched=3)
    pattern, hue = (a.reshape(20, 16) for a in data.contents(np.arange(20)))
    for n, value in enumerate(agreement(data.batch(np.arange(20))[0])["agreement"]):
        same, other = [], []
        for a in range(16):
            for b in range(a):
                (same if pattern[n, a] == pattern[n, b] else other).append(np.cos(2 * np.pi * (hue[n, a] - hue[n, b])))
        assert value.item() == pytest.approx(np.mean(same) - np.mean(other), abs=0.02)  # hues are read from bytes


def test_what_collapses_does_not_agree():
    real = Binding(32).batch(np.arange(8))[0]
    grey = torch.full((8, 3, 32, 32), 40, dtype=torch.uint8)
    assert agreement(grey)["agreement"].abs().max() == 0 and agreement(grey)["readable"].max() == 0
    luminance = real.float().mean(1, keepdim=True)
    one_hue = (luminance * torch.tensor([1.0, 0.2, 0.2])[None, :, None, None]).byte()  # everything red
    assert agreement(one_hue)["agreement"].abs().max() < 0.01 and agreement(one_hue)["hue_entropy"].max() < 0.01
    assert agreement(real[:1].repeat(8, 1, 1, 1))["variety"].max() == 0  # one layout
    one_tile = real[:, :, :8, :8].repeat(1, 1, 4, 4)  # one pattern everywhere
    assert agreement(one_tile)["agreement"].abs().max() == 0 and agreement(one_tile)["paired"].max() == 0


def test_settings_that_do_not_fit_are_refused():
    data = open_data(Config.preset("twins32", data="binding-near", tiles=2, patterns=5))
    assert (data.tiles, len(data.vocabulary), data.near) == (2, 5, True)
    for wrong, message in (
        (dict(data="binding", tiles=8), "tiles=8 needs image_size=64"),
        (dict(data="binding", patterns=3), "patterns=8 or more; given: 32 and 3"),
        (dict(tiles=2), "tiles=2 and patterns=None are for data='binding'"),
    ):
        with pytest.raises(ParameterError, match=message):
            Config.preset("twins32", **wrong)


@pytest.mark.slow
def test_a_training_measures_the_agreement(tiny):
    run = train(tiny(data="binding", evaluate_every=4))
    (record,) = run.evaluations()
    assert record["scores"].keys() == Binding.TRUTH.keys()
    assert run.config.num_classes == 0
    with pytest.raises(ParameterError, match="extractor='auto': no network knows the images of 'binding'; give one"):
        evaluate(run=run.name)
