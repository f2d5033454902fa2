import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from workbench import ParameterError, Run, WorkbenchError, figures
from workbench.data.twins import Twins, draw_half, glyph_coverage, glyph_hues
from workbench.model import sampling
from workbench.studies.patching import hue_difference, pair_by_hue, patch_pair, study
from workbench.studies.significance import SUPPORTED


def test_hues_of_each_half():
    halves = [draw_half([1], np.array([hue]), [0.4], [0.0], [0.0], [0.3], 32) for hue in (0.0, 1 / 3)]
    image = torch.from_numpy(np.concatenate([halves[0], halves[1][..., ::-1]], 3)) * 2 - 1
    assert hue_difference(glyph_hues(image), torch.tensor([[0.0, 1 / 3]])).abs().max() < 1e-3


def test_pairs_are_of_one_class_of_these_hues_and_independent():
    images, y = Twins(32).batch(np.arange(600))
    pairs = pair_by_hue(images, y)
    sources, targets = (list(side) for side in zip(*pairs, strict=True))
    assert len(pairs) > 30 and len(set(sources)) == len(sources) and len(set(targets)) == len(targets)
    assert (y[sources] == y[targets]).all()
    hues = glyph_hues(images)
    assert hue_difference(hues[sources], 0.0).abs().max() < 1 / 12 and hue_difference(hues[targets], 1 / 3).abs().max() < 1 / 12


@pytest.mark.slow
def test_patched_values_turn_the_other_glyph_only_through_attention(tmp_path):
    result = study(Run("demo"), "G/attention.16", n=10, pool=256, fractions=(0.0, 0.5, 1.0))
    right, left = ({condition: np.array(shifts) for condition, shifts in half.items()} for half in (result.right, result.left))
    shift = right["glyph"].mean(0)
    assert shift[0] == 0 and 0 < shift[1] < shift[2] and shift[2] > 0.15
    assert np.abs(right["gamma = 0"]).max() < 1e-6 and np.abs(left["gamma = 0"]).max() < 1e-6  # nothing else carries values
    assert np.abs(right["background"]).mean() < 0.02
    assert not np.array(result.mass)[:, 0].any() and (np.diff(result.mass) >= 0).all()
    assert result.verdict.verdict == SUPPORTED
    assert len(result.rows()) == 2 * 3 * 3 and result.rows()[0]["n"] == 10
    assert json.loads(json.dumps(asdict(result)))["right"] == result.right  # plain data
    drawing = figures.patching_study(result)
    drawing.save(tmp_path / "fraction.pdf")
    assert figures.redraw(tmp_path / "fraction.pdf.json").png() == drawing.png()


@pytest.mark.slow
def test_the_images_of_a_pair_say_the_same_read_again():
    generator = Run("demo").generator()
    z, y = sampling.latents(256, generator.z_dim, 1), sampling.labels(256, generator.num_classes)
    x = sampling.images(generator, z, y)
    pair = list(pair_by_hue(x, y)[0])
    fractions = (0.0, 0.5, 1.0)
    before, after, _ = patch_pair(generator, "attention.16", z[pair], y[pair], glyph_coverage(x[pair]), fractions, sampling.rng(1, 9, 0))
    assert torch.allclose(before, x[pair], atol=1e-5) and torch.allclose(after[:2, 0], before[1], atol=1e-5)
    source, target, shifted = glyph_hues(torch.stack([before[0], after[0, 0], after[0, -1]]))[:, 1]
    again = hue_difference(shifted, target) / hue_difference(source, target)
    result = study(Run("demo"), "G/attention.16", n=2, pool=256, fractions=fractions)
    assert again.item() == pytest.approx(result.right["glyph"][0][-1], abs=1e-4)


def test_errors_of_patching():
    run = Run("demo")
    with pytest.raises(ParameterError, match="layer of G"):
        study(run, "D/attention.16")
    for fractions in ((0.5, 1), (0, 1, 0.5), (0, 2), (0,)):
        with pytest.raises(ParameterError, match="fractions"):
            study(run, "G/attention.16", fractions=fractions)
    with pytest.raises(WorkbenchError, match="raise pool"):
        study(run, "G/attention.16", pool=6)
