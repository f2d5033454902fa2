import math

import numpy as np
import pytest
import torch

from workbench import Generator, ParameterError, Run, WorkbenchError, attention, figures, train
from workbench.data.twins import Twins, draw_half, glyph_coverage, glyph_hues
from workbench.model import sampling
from workbench.studies.correspondence import (
    follows_shape,
    long_range,
    masses,
    nulls,
    pair_by_hue,
    power_check,
    rank_correlations,
    study,
    transplant,
    turn,
)
from workbench.studies.significance import CANNOT_TELL, NOT_SUPPORTED, SUPPORTED

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


def judge(maps, images, untrained=None):
    return follows_shape(masses(maps, images), nulls(maps, images, untrained))


def untrained(config, count, seed):
    torch.manual_seed(seed)
    generator = Generator(config)
    sampling.settle(generator, batches=2, batch_size=16)
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


def test_hues_of_each_half():
    halves = [draw_half([1], np.array([hue]), [0.4], [0.0], [0.0], [0.3], 32) for hue in (0.0, 1 / 3)]
    image = torch.from_numpy(np.concatenate([halves[0], halves[1][..., ::-1]], 3)) * 2 - 1
    assert turn(glyph_hues(image) - torch.tensor([[0.0, 1 / 3]])).abs().max() < 1e-3


def test_grey_images_hold_no_glyph():
    assert glyph_coverage(torch.zeros(2, 3, 32, 32)).max() == 0


# ------------------------------------------------------------------------------------------------- masses and nulls


@pytest.mark.parametrize("key_side", [8, 16])
def test_masses_and_nulls_equal_slow_loops(real, key_side):
    images = real[0][:4]
    maps = torch.softmax(2 * torch.randn(4, SIDE**2, key_side**2), 2)
    factor = SIDE // key_side
    found = {"attention": masses(maps, images), **nulls(maps, images)}
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
            assert found[name].own[k].item() == pytest.approx(own, abs=1e-5), name
            assert found[name].twin[k].item() == pytest.approx(twin, abs=1e-5), name


def test_projections_give_what_their_maps_give(real, tiny):
    layer = untrained(tiny(attention_g="16"), 4, 0)
    a, b = masses(layer, real[0][:4]), masses(layer.maps(), real[0][:4])
    assert torch.equal(a.twin, b.twin) and torch.equal(
        nulls(layer, real[0][:4])["place"].own, nulls(layer.maps(), real[0][:4])["place"].own
    )


def test_known_masses(real):
    twin = masses(planted(real[0], mirrored, key_side=16), real[0])
    own = masses(planted(real[0], lambda row, column: (row, column), key_side=16), real[0])
    assert twin.twin.min() > 0.7 and twin.own.max() == 0 and own.own.min() > 0.7 and own.twin.max() == 0
    assert torch.equal(twin.twin, own.own) and torch.allclose(twin.background, 1 - twin.twin)  # a glyph's edge is half background


# ---------------------------------------------------------------------------------------------------------- verdicts


def test_a_planted_map_is_supported(real, tiny):
    verdict = judge(planted(real[0], mirrored), real[0], untrained(tiny(attention_g="16"), 48, 1))
    assert verdict.verdict == SUPPORTED and {row["null"] for row in verdict.rows} == {"uniform", "distance", "place", "colour", "untrained"}


def test_an_untrained_generator_is_not_supported(real, tiny):
    config = tiny(attention_g="16")
    verdict = judge(untrained(config, 48, 0), real[0], untrained(config, 48, 1))
    assert verdict.verdict == NOT_SUPPORTED, verdict


def test_a_local_map_is_not_supported(real):
    near = attention.causal._fixed_scores("local", SIDE**2, KEYS**2).softmax(1).expand(48, -1, -1)
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


@pytest.mark.parametrize("temperature", [0.05, 0.3])
def test_a_map_of_colours_is_not_supported(real, temperature):
    x = real[0].double() / 127.5 - 1
    pooled = [torch.nn.functional.avg_pool2d(x, 32 // side).flatten(2).transpose(1, 2) for side in (SIDE, KEYS)]
    verdict = judge(torch.softmax(-torch.cdist(*pooled) / temperature, 2).float(), real[0])
    assert verdict.verdict == NOT_SUPPORTED and "colour" in verdict.reason
    effects = {row["null"]: row["effect"] for row in verdict.rows}
    # The null finds the same temperature again, and colour alone goes far beyond places.
    assert abs(effects["colour"]) < 1e-4 and effects["uniform"] > 0.1 and effects["distance"] > 0.1


def test_what_does_not_fit_is_refused(real):
    maps = torch.full((3, 256, 64), 1 / 64)
    with pytest.raises(ParameterError, match=r"3 images.*holds 2"):
        masses(maps, real[0][:2])
    with pytest.raises(ParameterError, match="at least two"):
        nulls(maps[:1], real[0][:1])


# --------------------------------------------------------------------------------------------------------------- runs


def test_the_study_of_a_run_and_its_figure(tmp_path):
    found = study(Run("demo"), "G/attention.16", n=24)
    assert found.locality.verdict == SUPPORTED  # the demo's attention goes far beyond places
    rows = found.rows()
    assert [row["map"] for row in rows] == ["attention", "uniform", "distance", "place", "colour", "untrained"]
    assert all(row["own"] + row["twin"] + row["background"] == pytest.approx(1) for row in rows)
    for row in rows[1:]:
        assert row["effect"] == pytest.approx(rows[0]["twin"] - row["twin"]) and row["ratio"] == pytest.approx(
            rows[0]["twin"] / row["twin"]
        )
    same = study(Run("demo"), "G/attention.16", n=24)
    assert torch.equal(same.learned.twin, found.learned.twin) and torch.equal(same.nulls["untrained"].twin, found.nulls["untrained"].twin)
    _drawn_again(figures.correspondence(found), tmp_path / "study.svg")


def _drawn_again(drawing, path):
    drawing.save(path)
    assert figures.redraw(path.with_name(path.name + ".json")).png() == drawing.png()


def test_the_study_of_the_discriminator():
    assert "D/attention.16" in study(Run("demo"), "D/attention.16", n=8).about


def test_errors_of_a_study(tiny):
    run = Run("demo")
    for layer, error, said in (("H/x", ParameterError, "not a network"), ("G/attention.8", WorkbenchError, "no attention layer")):
        with pytest.raises(error, match=said):
            study(run, layer, n=6)
    with pytest.raises(WorkbenchError, match="can be read in 0"):
        study(train(tiny(attention_g="16")), "G/attention.16", n=6)
    with pytest.raises(ParameterError, match="layer of G"):
        transplant(run, "D/attention.16")
    for doses in ((0.5, 1), (0, 1, 0.5), (0, 2), (0,)):
        with pytest.raises(ParameterError, match="doses"):
            transplant(run, "G/attention.16", doses=doses)
    with pytest.raises(WorkbenchError, match="raise pool"):
        transplant(run, "G/attention.16", pool=6)


def test_pairs_are_of_one_class_of_these_hues_and_independent(real):
    images, y = Twins(32).batch(np.arange(600))
    pairs = pair_by_hue(images, y, 0.0, 1 / 3)
    donors, recipients = (list(side) for side in zip(*pairs, strict=True))
    assert len(pairs) > 30 and len(set(donors)) == len(donors) and len(set(recipients)) == len(recipients)
    assert (y[donors] == y[recipients]).all()
    hues = glyph_hues(images)
    assert turn(hues[donors]).abs().max() < 1 / 12 and turn(hues[recipients] - 1 / 3).abs().max() < 1 / 12


def test_values_turn_the_other_glyph_only_through_attention(tmp_path):
    found = transplant(Run("demo"), "G/attention.16", n=10, pool=256, doses=(0.0, 0.5, 1.0))
    response = found.right["glyph"].mean(0)
    assert response[0] == 0 and 0 < response[1] < response[2] and response[2] > 0.15
    assert found.right["gamma = 0"].abs().max() < 1e-6 and found.left["gamma = 0"].abs().max() < 1e-6  # nothing else carries values
    assert found.right["background"].abs().mean() < 0.02
    assert found.mass[:, 0].eq(0).all() and (found.mass.diff(dim=1) >= 0).all()
    # The images say the same, read again.
    hues = glyph_hues(found.images.flatten(0, 1)).unflatten(0, found.images.shape[:2])[..., 1]
    again = turn(hues[:, -1] - hues[:, 1]) / turn(hues[:, 0] - hues[:, 1])
    assert torch.allclose(again, found.right["glyph"][:, -1], atol=1e-4)
    assert len(found.rows()) == 2 * 3 * 3 and found.rows()[0]["n"] == 10
    _drawn_again(figures.transplant(found), tmp_path / "dose.pdf")


def test_a_run_beside_its_scores(tiny):
    row = long_range(Run("demo"), n=6)
    record = Run("demo").evaluations()[-1]
    assert row["twins_hue"] == record["scores"]["twins_hue"] and row["protocol"] == record["protocol"] and row["step"] == record["step"]
    assert [name for name in row if name.startswith("fd_twins")] and row["block"] == "attention" and 8 < row["distance"] < 20
    assert row["distance"] == pytest.approx((row["distance attention.16"] + row["distance attention.32"]) / 2)
    without = train(tiny(run="without", attention_g="none", pairs=2))
    with pytest.raises(WorkbenchError, match="pairs=2: which glyph is whose twin"):
        study(without, "G/attention.16")
    with pytest.raises(WorkbenchError, match="no evaluation with the disagreement of twins"):
        long_range(without)
    without.append("evaluations.jsonl", record | dict(step=4))
    assert long_range(without)["distance"] is None


def test_the_power_check_on_planted_disagreements():
    def verdict(*hues):
        return power_check([dict(twins_hue=hue) for hue in hues], 32).verdict

    assert verdict(0.2, 0.21, 0.24, 0.18, 0.25) == SUPPORTED  # independent hues: networks fail
    assert verdict(0.001, 0.002, 0.001, 0.0015, 0.003) == NOT_SUPPORTED  # they agree as real twins do
    assert verdict(0.2, 0.21) == verdict(0.001, 0.03, 0.002, 0.05, 0.01) == CANNOT_TELL


def test_rank_correlations_leave_out_runs_without_the_number():
    rows = [dict(distance=k if k != 3 else None, hue=-k, size=k**2, arm=f"arm {k // 2}") for k in range(8)]
    found = rank_correlations(rows, [("distance", "hue"), ("distance", "size")])
    assert [(row["y"], row["n"], round(row["rho"], 6)) for row in found] == [("hue", 7, -1), ("size", 7, 1)]
    (by_arm,) = rank_correlations(rows, [("distance", "hue")], "arm")
    assert (by_arm["of"], by_arm["n"], round(by_arm["rho"], 6)) == ("means by arm", 4, -1) and by_arm["p"] == pytest.approx(2 / 24)
    (few,) = rank_correlations(rows[:4], [("distance", "hue")])
    assert (few["n"], few["rho"]) == (3, None)
