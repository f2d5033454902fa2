import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from workbench import Generator, ParameterError, Run, WorkbenchError, attention, figures, train
from workbench.attention import Layout
from workbench.attention.interventions import _fixed_scores
from workbench.data.twins import Twins, draw_half, glyph_coverage
from workbench.model import sampling
from workbench.studies.shape import beyond_colour, follows_shape, mass, null_masses, study
from workbench.studies.significance import NOT_SUPPORTED, SUPPORTED

SIDE, KEYS = 16, 8


@pytest.fixture(scope="module")
def real():
    return Twins(32, seed=5).batch(np.arange(48))


def on_glyph(image, side):
    """Positions on a glyph, and how much of each is covered."""
    covered = torch.nn.functional.avg_pool2d(glyph_coverage(image[None])[None], 32 // side)[0, 0]
    return covered, [tuple(at) for at in (covered >= covered.max() / 2).nonzero().tolist()]


def planted(images, look, side=SIDE, key_side=KEYS):
    """Maps in which a position on a glyph gives everything to the key that holds `look(row, column)`; all others look everywhere."""
    maps = torch.full((len(images), side**2, key_side**2), 1 / key_side**2)
    factor = side // key_side
    for beta, image in zip(maps, images, strict=True):
        for row, column in on_glyph(image, side)[1]:
            there = look(row, column)
            beta[row * side + column] = 0
            beta[row * side + column, there[0] // factor * key_side + there[1] // factor] = 1
    return maps


def mirrored(row, column):
    return row, SIDE - 1 - column


def judge(maps, images, untrained=None, claim=follows_shape):
    return claim(mass(maps, images), null_masses(maps, images, untrained))


def untrained(config, count, seed):
    torch.manual_seed(seed)
    generator = Generator(config)
    sampling.recalibrate(generator, batches=2, batch_size=16)
    with attention.capture_projections(generator) as found:
        sampling.images(generator, sampling.latents(count, config.z_dim, 1), sampling.labels(count, 6))
    return found["attention.16"]


# --------------------------------------------------------------------------------------------------- glyphs in images


@pytest.mark.parametrize("size", [32, 64])
def test_coverage_is_what_was_drawn(size):
    rng = np.random.default_rng(0)
    drawn = [
        rng.integers(0, 6, 60),
        rng.random(60),
        rng.uniform(0.33, 0.43, 60),
        rng.uniform(-0.35, 0.35, 60),
        rng.uniform(-0.26, 0.26, 60),
    ]
    # On black and on white, a pixel differs by what of it is not covered.
    black, white = (draw_half(*drawn, np.full(60, grey), size)[:, 0] for grey in (0.0, 1.0))
    truth = 1 - (white - black)
    left = draw_half(*drawn, rng.uniform(0.25, 0.5, 60), size)
    images = torch.from_numpy(np.concatenate([left, left[..., ::-1]], 3)) * 2 - 1
    found = glyph_coverage(images)
    assert np.abs(found.numpy() - np.concatenate([truth, truth[..., ::-1]], 2)).max() < 1e-5
    eight_bit = glyph_coverage(((images + 1) * 127.5).round().byte())
    assert (found - eight_bit).abs().max() < 0.02


def test_grey_images_hold_no_glyph():
    assert glyph_coverage(torch.zeros(2, 3, 32, 32)).max() == 0


# ------------------------------------------------------------------------------------------------- masses and nulls


@pytest.mark.slow
@pytest.mark.parametrize("key_side", [8, 16])
def test_masses_and_nulls_equal_slow_loops(real, key_side):
    images = real[0][:4]
    maps = torch.softmax(2 * torch.randn(4, SIDE**2, key_side**2), 2)
    factor = SIDE // key_side
    masses = {"attention": mass(maps, images), **null_masses(maps, images)}
    for k, image in enumerate(images):
        covered, queries = on_glyph(image, SIDE)
        expected = {name: np.zeros(2) for name in ("attention", "uniform", "distance", "place")}
        for row, column in queries:
            q = row * SIDE + column
            others = torch.stack([maps[j, q] for j in range(4) if j != k]).mean(0)
            weights = {name: torch.zeros(SIDE, SIDE).double() for name in expected}
            given, there = {}, {}
            for r in range(SIDE):
                for c in range(SIDE):
                    key = r // factor * key_side + c // factor
                    weights["attention"][r, c] = maps[k, q, key] / factor**2
                    weights["uniform"][r, c] = 1 / SIDE**2
                    weights["place"][r, c] = others[key] / factor**2
                    d = round(math.hypot(r - row, c - column))
                    given[d] = given.get(d, 0) + maps[k, q, key].item() / factor**2
                    there[d] = there.get(d, 0) + 1
            for r in range(SIDE):
                for c in range(SIDE):
                    d = round(math.hypot(r - row, c - column))
                    weights["distance"][r, c] = given[d] / there[d]
            for name, weight in weights.items():
                fall = weight * covered
                halves = [fall[:, : SIDE // 2].sum().item(), fall[:, SIDE // 2 :].sum().item()]
                expected[name] += np.array(halves if column < SIDE // 2 else halves[::-1]) / len(queries)
        for name, (own, twin) in expected.items():
            assert masses[name].own[k] == pytest.approx(own, abs=1e-5), name
            assert masses[name].twin[k] == pytest.approx(twin, abs=1e-5), name


def test_projections_give_what_their_maps_give(real, tiny):
    layer = untrained(tiny(attention_g="16"), 4, 0)
    maps, images = layer.maps(), real[0][:4]
    assert mass(layer, images) == mass(maps, images) and null_masses(layer, images)["place"] == null_masses(maps, images)["place"]


def test_known_masses(real):
    twin = mass(planted(real[0], mirrored, key_side=16), real[0])
    own = mass(planted(real[0], lambda row, column: (row, column), key_side=16), real[0])
    assert min(twin.twin) > 0.7 and max(twin.own) == 0 and min(own.own) > 0.7 and max(own.twin) == 0
    assert twin.twin == own.own and twin.background == pytest.approx(
        [1 - share for share in twin.twin]
    )  # a glyph's edge is half background


# ---------------------------------------------------------------------------------------------------------- verdicts


@pytest.mark.slow
def test_a_planted_map_is_supported(real, tiny):
    other, locality = untrained(tiny(attention_g="16"), 48, 1), {"uniform", "distance", "place", "untrained"}
    for claim, nulls in ((follows_shape, locality), (beyond_colour, locality | {"colour"})):
        verdict = judge(planted(real[0], mirrored), real[0], other, claim)
        assert verdict.verdict == SUPPORTED and {row["null"] for row in verdict.rows} == nulls


@pytest.mark.slow
def test_an_untrained_generator_is_not_supported(real, tiny):
    config = tiny(attention_g="16")
    verdict = judge(untrained(config, 48, 0), real[0], untrained(config, 48, 1))
    assert verdict.verdict == NOT_SUPPORTED, verdict


def test_a_local_map_is_not_supported(real):
    near = _fixed_scores("local", SIDE**2, KEYS**2, Layout.square(SIDE**2, KEYS**2)).softmax(1).expand(48, -1, -1)
    verdict = judge(near, real[0])
    assert verdict.verdict == NOT_SUPPORTED and "distance" in verdict.reason


def test_a_map_of_places_is_not_supported(real):
    """Every position looks at its mirror image, whatever the image shows: that is no shape."""
    beta = torch.zeros(SIDE**2, KEYS**2)
    for q in range(SIDE**2):
        row, column = mirrored(*divmod(q, SIDE))
        beta[q, row // 2 * KEYS + column // 2] = 1
    verdict = judge(beta.expand(48, -1, -1), real[0])
    assert verdict.verdict == NOT_SUPPORTED and "place" in verdict.reason and "uniform" not in verdict.reason


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.05, 0.3])
def test_a_map_of_colours_is_beyond_locality_and_not_beyond_colour(real, temperature):
    """Attention by colour and not by adjacency is what the paper claims."""
    x = real[0].double() / 127.5 - 1
    pooled = [torch.nn.functional.avg_pool2d(x, 32 // side).flatten(2).transpose(1, 2) for side in (SIDE, KEYS)]
    maps = torch.softmax(-torch.cdist(*pooled) / temperature, 2).float()
    verdict = judge(maps, real[0], claim=beyond_colour)
    assert judge(maps, real[0]).verdict == SUPPORTED and verdict.verdict == NOT_SUPPORTED and "colour" in verdict.reason
    effects = {row["null"]: row["effect"] for row in verdict.rows}
    # The null finds the same temperature again, and colour alone goes far beyond places.
    assert abs(effects["colour"]) < 1e-4 and effects["uniform"] > 0.1 and effects["distance"] > 0.1


def test_what_does_not_fit_is_refused(real):
    maps = torch.full((3, 256, 64), 1 / 64)
    with pytest.raises(ParameterError, match=r"3 images.*holds 2"):
        mass(maps, real[0][:2])
    with pytest.raises(ParameterError, match="at least two"):
        null_masses(maps[:1], real[0][:1])


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.mark.slow
def test_the_study_of_a_run_and_its_figure(tmp_path):
    result = study(Run("demo"), "G/attention.16", n=24)
    assert result.verdict.verdict == SUPPORTED  # the demo's attention goes far beyond places
    rows = result.rows()
    assert [row["map"] for row in rows] == ["attention", "uniform", "distance", "place", "colour", "untrained"]
    assert all(row["own"] + row["twin"] + row["background"] == pytest.approx(1) for row in rows)
    for row in rows[1:]:
        assert row["effect"] == pytest.approx(rows[0]["twin"] - row["twin"]) and row["ratio"] == pytest.approx(
            rows[0]["twin"] / row["twin"]
        )
    assert study(Run("demo"), "G/attention.16", n=24) == result
    assert json.loads(json.dumps(asdict(result)))["nulls"]["untrained"]["twin"] == list(result.nulls["untrained"].twin)  # plain data
    drawing = figures.shape_study(result)
    drawing.save(tmp_path / "study.svg")
    assert figures.redraw(tmp_path / "study.svg.json").png() == drawing.png()


def test_the_study_of_the_discriminator():
    assert "D/attention.16" in study(Run("demo"), "D/attention.16", n=8).about


@pytest.mark.slow
def test_errors_of_a_study(tiny):
    run = Run("demo")
    for layer, error, said in (("H/x", ParameterError, "not a network"), ("G/attention.8", WorkbenchError, "no attention layer")):
        with pytest.raises(error, match=said):
            study(run, layer, n=6)
    with pytest.raises(WorkbenchError, match="can be read in 0"):
        study(train(tiny(attention_g="16")), "G/attention.16", n=6)
