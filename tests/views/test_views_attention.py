"""Inspected runs, requests, and the notebook's view."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from workbench import AttentionView, Config, ParameterError, Run, WorkbenchError, attention, train
from workbench.attention.inspect import positions_mask
from workbench.attention.snapshots import load_snapshot
from workbench.data import Images, to_uint8, to_unit
from workbench.data.twins import Twins, disagreement
from workbench.model import sampling
from workbench.model.directions import main_directions
from workbench.studies.effects import summarise
from workbench.tensors import seal
from workbench.views.inspected_run import InspectedRun
from workbench.views.inspection_request import InspectionRequest


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of some steps, with attention in two layers of G and one of D."""
    folder = tmp_path_factory.mktemp("inspected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_OUTPUTS", str(folder))
        small = dict(width=8, z_dim=8, batch_size=8, steps=4, log_every=2, sample_every=2, checkpoint_every=2, evaluate_every=0)
        run = train(Config.preset("twins32", run="looked", attention_g="8,16", mixed_precision="no", **small))
    for step in run.checkpoint_steps():  # gamma has hardly moved in four steps
        raise_gamma(run, step)
    return run


def raise_gamma(run, step):
    from safetensors.torch import load_file, save_file

    for name in ("ema", "generator", "discriminator"):
        path = run.checkpoint_path(step) / f"{name}.safetensors"
        save_file({k: torch.tensor(0.7) if k.endswith("gamma") else v for k, v in load_file(path).items()}, path)
    seal(run.checkpoint_path(step))


@pytest.fixture
def inspected(trained):
    return InspectedRun(trained)


REQUEST = InspectionRequest("G/attention.16", label=2, seed=3, sample=5)


def test_an_inspection_is_what_the_generator_and_capture_give(inspected, trained):
    seen = inspected.inspect(REQUEST)
    generator = trained.generator()
    z = sampling.latents(1, 8, seed=3, start=5)
    with attention.capture(generator) as maps:
        x = sampling.images(generator, z, torch.tensor([2]))
    assert torch.equal(seen.image, x[0])
    torch.testing.assert_close(seen.beta, maps["attention.16"][0])
    assert seen.about == "ring, seed 3, sample 5" and seen.after is None and seen.logit is None


@pytest.mark.parametrize("packed", [False, True])
def test_real_images_of_a_class(inspected, monkeypatch, packed):
    """The first 40 images of the data, or all of it if it has that many, searched one by one."""
    drawn = inspected.data
    images, labels = drawn.batch(np.arange(40))
    if packed:
        monkeypatch.setattr(inspected, "data", Images("twins", drawn.classes, 32, "", images.permute(0, 2, 3, 1).numpy(), labels.numpy()))
    ring = [k for k in range(40) if labels[k] == 2]
    request = InspectionRequest("D/attention.16", source="real", label=2)
    names, shown = inspected.strip(request)
    assert len(ring) >= 3 and names[:3] == [f"ring, image {k}" for k in ring[:3]]
    assert torch.equal(to_uint8(shown[:3]), images[ring[:3]])
    seen = inspected.inspect(replace(request, sample=2))
    assert seen.about == f"ring, real image {ring[2]}" and torch.equal(to_uint8(seen.image), images[ring[2]]) and seen.label == 2
    if packed:  # again from the first
        assert inspected.inspect(replace(request, sample=len(ring))).about == f"ring, real image {ring[0]}"


def test_d_looks_at_samples_and_at_real_images(inspected, trained):
    discriminator, x = trained.discriminator(), Twins(32).batch(np.array([7]))
    real = inspected.inspect(InspectionRequest("D/attention.16", source="real", sample=7))
    assert torch.equal(to_uint8(real.image), x[0][0])
    assert real.logit == pytest.approx(discriminator(to_unit(x[0]), x[1]).item(), abs=1e-5)
    fake = inspected.inspect(InspectionRequest("D/attention.16", label=2, seed=3, sample=5))
    assert torch.equal(fake.image, inspected.inspect(REQUEST).image)
    assert fake.logit == pytest.approx(discriminator(fake.image[None], torch.tensor([2])).item(), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["G/attention.16", "D/attention.16"])
def test_interventions_show_the_network_after_them(inspected, layer):
    before = inspected.inspect(replace(REQUEST, layer=layer))
    off = inspected.inspect(replace(REQUEST, layer=layer, gamma0=True))
    forbidden = inspected.inspect(replace(REQUEST, layer=layer, forbid=tuple(range(10)), queries=(0, 5)))
    without = InspectedRun(inspected.run, gamma0=True).inspect(replace(REQUEST, layer=layer))
    for seen in (off, forbidden):
        assert torch.equal(seen.image, before.image) and seen.logit == before.logit
    if layer[0] == "G":
        assert not torch.allclose(off.after, before.image) and not torch.allclose(forbidden.after, before.image)
        torch.testing.assert_close(without.image, off.after)
        assert not torch.allclose(off.after, forbidden.after)
    else:
        assert off.after is None and abs(off.logit_after - before.logit) > 1e-4
        assert without.logit == pytest.approx(off.logit_after, abs=1e-5)
    unchanged = inspected.inspect(replace(REQUEST, layer=layer, replace="local", forbid=()))
    assert unchanged.after is not None or unchanged.logit_after is not None


def test_queries_limit_what_is_forbidden(inspected):
    """Forbidding keys to one query changes the feature map there alone; to all, elsewhere too."""
    one = inspected.inspect(replace(REQUEST, forbid=(0, 1, 2), queries=(0,)))
    everyone = inspected.inspect(replace(REQUEST, forbid=(0, 1, 2)))
    changes = [(seen.after - seen.image).abs().sum(0) for seen in (one, everyone)]
    assert changes[0][-8:, -8:].max() < 1e-6 < 1e-4 < changes[1][-8:, -8:].max()


def test_the_way_between_two_latents(inspected):
    ends = [inspected.inspect(replace(REQUEST, towards=(9, 1), mix=t)).image for t in (0.0, 1.0)]
    assert torch.allclose(ends[0], inspected.inspect(REQUEST).image, atol=1e-5)
    assert torch.allclose(ends[1], inspected.inspect(replace(REQUEST, seed=9, sample=1)).image, atol=1e-5)
    middle = inspected.inspect(replace(REQUEST, towards=(9, 1), mix=0.5))
    assert "50% towards seed 9, sample 1" in middle.about
    assert not torch.allclose(middle.image, ends[0], atol=1e-3)


@pytest.mark.parametrize("layer", ["G/attention.16", "D/attention.16"])
def test_a_latent_moves_along_the_main_directions(inspected, trained, layer):
    seen = inspected.inspect(replace(REQUEST, layer=layer, directions=(1.5, 0, -0.25)))
    generator = trained.generator()
    directions = main_directions(generator)
    z = sampling.latents(1, 8, seed=3, start=5) + 1.5 * directions[0] - 0.25 * directions[2]
    torch.testing.assert_close(seen.image, sampling.images(generator, z, torch.tensor([2]))[0], atol=1e-5, rtol=0)
    assert seen.about == "ring, seed 3, sample 5, direction 1 +1.5 sd, direction 3 -0.25 sd"
    earlier = inspected.inspect(replace(REQUEST, layer=layer, step=2, directions=(1.5,)))
    directions = main_directions(trained.generator(2))  # of that checkpoint
    z = sampling.latents(1, 8, seed=3, start=5) + 1.5 * directions[0]
    torch.testing.assert_close(earlier.image, sampling.images(trained.generator(2), z, torch.tensor([2]))[0], atol=1e-5, rtol=0)
    strip = inspected.strip(replace(REQUEST, directions=(3.0,)))[1]  # of the samples themselves
    assert torch.equal(strip, inspected.strip(REQUEST)[1])


@pytest.mark.parametrize("layer", ["G/attention.16", "D/attention.16"])
def test_painted_keys_take_the_values_of_another_sample(inspected, trained, layer):
    """As `effect` on a batch of both: the source's own latent, also where the image's is moved."""
    network = trained.generator() if layer[0] == "G" else trained.discriminator()
    y = torch.tensor([2, 2])
    z = torch.cat([sampling.latents(1, 8, 3, 6), sampling.latents(1, 8, 3, 5) + 2 * main_directions(trained.generator())[:1]])
    x = z if layer[0] == "G" else sampling.images(trained.generator(), z, y)
    keys = torch.full((2, 64), -1)
    keys[1, 20], keys[1, 21] = 20, 21
    request = replace(REQUEST, layer=layer, directions=(2.0,), paint=(20, 21))
    expected = attention.effect(network, (x, y), "attention.16", patch=(0, keys)).after[1]
    seen = inspected.inspect(replace(request, paint_from=6))
    after = seen.after if layer[0] == "G" else torch.tensor(seen.logit_after)
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=0)
    keys[1, 20], keys[1, 21] = 17, 18  # and from other places of the same image
    expected = attention.effect(network, (x[1:], y[1:]), "attention.16", patch=(0, keys[1])).after[0]
    seen = inspected.inspect(replace(request, paint_shift=(0, -3)))
    after = seen.after if layer[0] == "G" else torch.tensor(seen.logit_after)
    torch.testing.assert_close(after, expected, atol=1e-4, rtol=0)
    assert (after - (seen.image if layer[0] == "G" else torch.tensor(seen.logit))).abs().max() > 1e-5


def test_an_intervention_is_measured_over_the_first_samples(inspected, trained):
    request = replace(REQUEST, label=-1, forbid=(20, 21), queries=(100, 101), directions=(3.0,), paint=(1,), paint_from=2)
    (whole, *halves) = (inspected.measure(request, samples) for samples in (range(6), range(3), range(3, 6)))
    z, y = sampling.latents(6, 8, 3), torch.arange(6)
    changes = attention.effect(
        trained.generator(), (z, y), "attention.16", forbid=positions_mask((100, 101), (20, 21), (256, 64))
    ).difference
    expected = changes.double().square().mean((1, 2, 3)).sqrt()
    torch.testing.assert_close(whole["image"][1], expected, rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(torch.cat([half["image"][1] for half in halves]), expected, rtol=1e-3, atol=1e-8)
    hues = disagreement(sampling.images(trained.generator(), z, y), y)["hue"]  # such images of twins have readings
    assert torch.allclose(whole["hue"][0], hues, atol=1e-4) and whole.keys() == {"image", "pins", "hue"}
    real = replace(REQUEST, layer="D/attention.16", source="real", label=-1, gamma0=True)
    x, y = Twins(32).batch(np.arange(4))
    logits = attention.effect(trained.discriminator(), (to_unit(x), y), "attention.16", gamma=0.0)
    before, after = inspected.measure(real, range(4))["logit"]
    assert torch.allclose(before.float(), logits.before, atol=1e-5) and torch.allclose(after.float(), logits.after, atol=1e-5)


@pytest.mark.parametrize(
    ("entries", "title", "request_"),
    [
        ("forbid=0,0-1+3,3", "3 keys knocked out", dict(forbid=(0, 1, 27))),
        ("forbid=0,0+2,2 scope=pins pins=5,5", "2 keys knocked out for 1 pin", dict(forbid=(0, 18), queries=(85,))),
        ("gamma=0.5 replace=local", "gamma = 0.5, local map", dict(gamma=0.5, replace="local")),
        ("gamma0=true forbid=0,0", "gamma = 0", dict(gamma0=True)),
        ("replace=uniform", "uniform map", dict(replace="uniform")),
        ("forbid=0,0 scope=pins", "", {}),  # without pins it forbids nothing
    ],
)
def test_effects_of_a_line_are_of_its_images_and_intervention(trained, monkeypatch, entries, title, request_):
    """As "Measure" in the inspector has them, which the same entries are passed to."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(trained.path.parent))
    for network, images in (("G", dict(label=1, seed=3)), ("D", dict(source="real", label=2))):
        source = f"source={images['source']} " if "source" in images else f"seed={images['seed']} "
        rows = AttentionView(line=f"looked {network}/attention.16 {source}class={images['label']} {entries} paint=2,2").effects(n=4)
        names = list(dict.fromkeys(row["intervention"] for row in rows))
        assert names == list(dict.fromkeys(["gamma = 0", "uniform map", "local map", *filter(None, [title])]))
        request = InspectionRequest(f"{network}/attention.16", trained.checkpoint_steps()[-1], **images, **(request_ or dict(gamma0=True)))
        expected = summarise([InspectedRun(trained).measure(request, range(4))])
        found = [row for row in rows if row["intervention"] == (title or "gamma = 0")]
        assert [{name: row[name] for name in expected[0]} for row in found] == expected


def test_a_line_without_images_to_measure_over_says_so(trained, monkeypatch, capsys):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(trained.path.parent))
    assert AttentionView(line="looked G/attention.16 source=recorded").effects(n=2) == []
    assert (
        capsys.readouterr().err.count("no effects: the line shows source=recorded, and they are measured over samples or real images") == 1
    )
    with pytest.raises(ParameterError, match="line: forbid='9,9'"):
        AttentionView(line="looked G/attention.16 forbid=9,9").effects(n=2)


def test_the_table_of_effects(trained, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(trained.path.parent))
    view = AttentionView(run="looked", compare="gamma=0", knock_out="0,0; 1,1; 4,4")
    rows = view.effects(n=5)
    assert [row["intervention"] for row in rows[::2]] == ["gamma = 0", "uniform map", "local map", "2 keys knocked out"] * 2
    assert all(row["n"] == 5 and row["layer"] == "G/attention.16" for row in rows)
    assert [row["null"] is None for row in rows[:8:2]] == [True, True, True, False]
    images = [row["change"] for row in rows[::2]]
    assert min(images[:4]) > 0 and images[4:] == [0.0] * 4  # nothing depends on a layer that is off
    change = attention.effect(trained.generator(), (sampling.latents(5, 8, 0), torch.arange(5)), "attention.16", gamma=0.0).difference
    assert images[0] == pytest.approx(change.double().square().mean((1, 2, 3)).sqrt().mean().item(), rel=1e-3)
    with pytest.raises(ParameterError, match=r'knock_out=.* is not "row,column"'):
        AttentionView(run="looked", knock_out="0,16").effects(n=2)


def test_directions_of_the_notebook(trained):
    inspected = InspectedRun(trained)
    assert {request.directions for request in AttentionView(directions="1,-0.5").requests(inspected)} == {(1.0, -0.5)}
    with pytest.raises(ParameterError, match="directions='1,x': 'x' is not a number from -100 to 100"):
        AttentionView(directions="1,x").requests(inspected)


def test_snapshots_are_inspected(inspected, trained):
    assert inspected.recorded_steps == [0, 2, 4]
    seen = inspected.inspect(InspectionRequest("D/attention.16", step=2, source="recorded", sample=3))
    snapshot = load_snapshot(trained.attention_path(2))
    assert torch.equal(to_uint8(seen.image), snapshot.images[3])
    torch.testing.assert_close(seen.beta, snapshot.layers["D/attention.16"].maps()[3])
    assert seen.about.endswith("recorded latent 3, step 2")
    names, images = inspected.strip(InspectionRequest("G/attention.16", step=2, source="recorded"))
    assert len(names) == len(images) == 4


def test_a_dropped_image_is_seen_as_d_would(inspected):
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    request = InspectionRequest("D/attention.16", source="dropped", label=1, sample=inspected.drop("mine.png", stream.getvalue()))
    seen = inspected.inspect(request)
    assert np.array_equal(to_uint8(seen.image).permute(1, 2, 0).numpy(), pixels) and seen.about == "square, mine.png"
    again = inspected.drop("again", stream.getvalue())
    assert torch.equal(inspected.inspect(replace(request, sample=again)).image, seen.image)
    with pytest.raises(WorkbenchError, match=r"'text\.png' cannot be read as an image"):
        inspected.drop("text.png", b"this is text")


def test_the_strip_shows_what_is_looked_at(inspected):
    names, images = inspected.strip(replace(REQUEST, sample=0))
    assert names[5] == "ring, sample 5"
    torch.testing.assert_close(images[5], inspected.inspect(REQUEST).image, atol=1e-5, rtol=0)
    names, images = inspected.strip(InspectionRequest("D/attention.16", source="real", sample=3))
    assert torch.equal(to_uint8(images), Twins(32).batch(np.arange(3, 11))[0])


@pytest.mark.parametrize(("make", "says"), [
    (lambda s: s.inspect(InspectionRequest("G/attention.32")), r"has no attention layer 'G/attention.32'.*there are: G/attention.8, G/attention.16, D/attention.16"),
    (lambda s: s.inspect(replace(REQUEST, step=3)), "has no checkpoint at step 3; there are: 2, 4"),
    (lambda s: s.inspect(replace(REQUEST, label=6)), "label=6 is no class"),
    (lambda s: s.inspect(replace(REQUEST, forbid=(64,))), "forbid=64 is no position of G/attention.16, which has 64"),
    (lambda s: replace(REQUEST, source="real"), "source='real' needs a layer of D"),
    (lambda s: replace(REQUEST, source="recorded", gamma0=True), "a recorded image cannot be changed"),
    (lambda s: replace(REQUEST, weights="best"), "weights='best' is not one of ema, raw"),
    (lambda s: InspectionRequest("attention.16"), "layer='attention.16' is not a network and a layer"),
    (lambda s: s.inspect(InspectionRequest("D/attention.16", source="dropped")), "sample=0: no such image was dropped here"),
    (lambda s: s.inspect(InspectionRequest("G/attention.8", step=1, source="recorded")), "no attention snapshot at step 1; there are: 0, 2, 4"),
    (lambda s: InspectedRun.of("looked@x"), "'x' is not a step"),
    (lambda s: InspectedRun.of("looked@²"), "'²' is not a step"),
    (lambda s: InspectedRun.of("looked@" + "9" * 400), "is not a step"),
    (lambda s: replace(REQUEST, step="4"), "step='4' is not the step of a checkpoint"),
    (lambda s: replace(REQUEST, seed=-1), "seed=-1 is not a whole number from 0 on"),
    (lambda s: replace(REQUEST, seed=None), "seed=None is not a whole number"),
    (lambda s: replace(REQUEST, sample=10**400), "sample=1000.* is not a whole number"),
    (lambda s: replace(REQUEST, sample=1.5), "sample=1.5 is not a whole number"),
    (lambda s: replace(REQUEST, truncation=float("nan")), "truncation=nan is not a number from 0"),
    (lambda s: replace(REQUEST, truncation=-1), "truncation=-1 is not a number from 0"),
    (lambda s: replace(REQUEST, mix="x"), "mix='x' is not a number from 0 to 1"),
    (lambda s: replace(REQUEST, towards=(1,)), r"towards=\(1,\) is not a seed and a sample"),
    (lambda s: replace(REQUEST, gamma0="yes"), "gamma0='yes' is not true or false"),
    (lambda s: replace(REQUEST, forbid=("a",)), r"forbid=\('a',\) is not positions of the layer"),
    (lambda s: replace(REQUEST, forbid=5), "forbid=5 is not positions of the layer"),
    (lambda s: s.inspect(replace(REQUEST, forbid=(0,) * 1_000_000)), "forbid=.* is not a selection of the 64 positions"),
    (lambda s: InspectionRequest(3), "layer=3 is not a network and a layer"),
    (lambda s: replace(REQUEST, source=[]), r"source=\[\] is not one of"),
    (lambda s: s.causal_map(REQUEST, None), "query=None is not a position"),
    (lambda s: s.causal_map(REQUEST, 256), "query=256 is not a position"),
    (lambda s: s.causal_map(replace(REQUEST, source="recorded", step=2), 0), "snapshots keep no network"),
    (lambda s: s.strip(replace(REQUEST, sample=-1)), "sample=-1 is not a whole number"),
    (lambda s: s.drop("big", bytes(100_000_001)), "'big' has 100 MB; the limit is 100 MB"),
    (lambda s: s.drop(None, b""), "is not the name of a dropped image file"),
])  # fmt: skip
def test_what_is_not_there_is_reported_in_one_line(inspected, make, says):
    with pytest.raises(WorkbenchError, match=says) as caught:
        make(inspected)
    assert "\n" not in str(caught.value)


def test_runs_by_name(trained, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(trained.path.parent))
    one = InspectedRun.of("looked@2")
    assert one.start == 2 and InspectedRun.of("@4", one).start == 4 and InspectedRun.of("@4", one).run.name == "looked"
    assert InspectedRun.of("gamma=0", one).gamma0 and InspectedRun.of("gamma=0", one).label == "looked, γ = 0"  # noqa: RUF001
    first, second = AttentionView(run="looked", compare="gamma=0").runs()
    assert first.run.name == second.run.name == "looked"
    assert AttentionView().runs()[0].run.name == "looked"  # the newest


def test_without_a_run_there_is_the_demo():
    demo = AttentionView().runs()[0]
    assert demo.run.name == "demo" and demo.weights == ["ema"]
    seen = demo.inspect(AttentionView().requests(demo)[0])
    assert seen.projections.gamma != 0
    size = sum(path.stat().st_size for path in demo.run.path.rglob("*") if path.is_file())
    assert size < 5_000_000


def test_the_view_of_the_notebook(trained):
    inspected = InspectedRun(trained)
    requests = AttentionView().requests(inspected)
    assert [request.label for request in requests] == [0, 1, 2, 3, 4, 5] and {request.layer for request in requests} == {"G/attention.16"}
    assert [request.sample for request in requests] == [0, 1, 2, 3, 4, 5]  # another latent for each class
    view = AttentionView(layer=8, classes="cross, 5", seeds=[1, "2:7"], step=2, queries="1,2; 7,0")
    requests = view.requests(inspected)
    assert [(request.label, request.seed, request.sample, request.step) for request in requests] == [
        (3, 1, 0, 2),
        (3, 2, 7, 2),
        (5, 1, 0, 2),
        (5, 2, 7, 2),
    ]
    assert view.queries_of(inspected.inspect(requests[0])) == [10, 56]
    assert AttentionView(network="D", source="real").requests(inspected)[2].sample == 2


@pytest.mark.parametrize(("values", "says"), [
    (dict(layer=32), "layer=32: G of run 'looked' has attention at: 8, 16"),
    (dict(classes="crss"), "'crss' is no class; did you mean 'cross'"),
    (dict(classes="9"), "'9' is no class"),
    (dict(seeds="a"), "'a' is not a seed such as 3"),
    (dict(queries="1,16"), r'\'1,16\' is not "row,column", each from 0 to 15'),
    (dict(queries="5"), "is not"),
    (dict(queries="²,1"), "'²,1' is not"),
    (dict(queries="-1,1"), "'-1,1' is not"),
    (dict(queries="1," + "9" * 400), "is not \"row,column\""),
    (dict(queries="; ;"), "are 0 positions; give 1 to 8"),
    (dict(queries="1,1;" * 9), "are 9 positions; give 1 to 8"),
    (dict(seeds="²"), "'²' is not a seed such as 3"),
    (dict(seeds="1:²"), "'1:²' is not a seed"),
    (dict(seeds="-3"), "'-3' is not a seed"),
    (dict(seeds="9" * 400), "is not a seed"),
    (dict(classes="²"), "'²' is no class"),
    (dict(classes=", ,"), "names no class"),
    (dict(classes="-1"), "'-1' is no class"),
    (dict(seeds=",".join(map(str, range(20)))), "give 120 images; a view shows at most 60"),
    (dict(source="real"), "source='real' needs a layer of D"),
])  # fmt: skip
def test_a_view_that_does_not_fit(trained, values, says):
    inspected, view = InspectedRun(trained), AttentionView(**values)
    with pytest.raises(ParameterError, match=says):
        view.queries_of(inspected.inspect(view.requests(inspected)[0]))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    dict(attention_g="none", attention_d="none"), dict(num_classes=0), dict(attention_variant="paper"), dict(ema_decay=0),
    dict(attention_block="residual"), dict(attention_g="32,8"), dict(attention_d="none"),
])  # fmt: skip
def test_every_kind_of_run_can_be_looked_at(tiny, changes):
    run = train(tiny(steps=2, sample_every=2, checkpoint_every=2, **changes))
    inspected, view = InspectedRun(run), AttentionView(n=2)
    for info in inspected.layers:
        for source in ("samples", "recorded"):
            seen = inspected.inspect(InspectionRequest(info["id"], step=2, source=source))
            assert seen.beta.shape == (info["side"] ** 2, info["key_side"] ** 2)
            torch.testing.assert_close(seen.beta.sum(1), torch.ones(info["side"] ** 2))
    assert bool(view.effects(n=2)) == bool(view.requests(inspected))
    rows = view.statistics()
    assert len(rows) == len(inspected.layers) and bool(rows) == bool(view.requests(inspected))
    assert inspected.class_names == ([] if run.config.num_classes == 0 else Twins.classes)


def test_statistics_are_the_means_over_samples_and_queries(trained, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(trained.path.parent))
    rows = AttentionView(n=5).statistics()
    assert [(row["step"], row["layer"]) for row in rows[:3]] == [(2, "G/attention.8"), (2, "G/attention.16"), (2, "D/attention.16")]
    generator, z, y = trained.generator(2), sampling.latents(5, 8, 0), torch.arange(5)
    with attention.capture(generator) as maps:
        sampling.images(generator, z, y)
    beta = maps["attention.16"].double()
    assert rows[1]["entropy"] == pytest.approx(-(beta * beta.log()).sum(2).mean().item(), rel=1e-4)
    assert rows[1]["gamma"] == pytest.approx(0.7)


def test_a_run_without_gamma_is_so_in_every_answer(trained, monkeypatch):
    """Maps are those of the layer; what it adds, and what follows from that, is nothing."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(trained.path.parent))
    on, off = InspectedRun(trained), InspectedRun(trained, gamma0=True)
    for layer in ("G/attention.8", "G/attention.16", "D/attention.16"):
        request = replace(REQUEST, layer=layer)
        nothing = max(off.causal_map(request, 9).max(), on.causal_map(replace(request, gamma0=True), 9).max())  # but for rounding
        assert on.causal_map(request, 9).max() > 1e-5 and nothing < 1e-6
        seen, plain = off.inspect(request), on.inspect(request)
        torch.testing.assert_close(seen.beta, plain.beta)
        assert seen.projections.gamma == 0 and not seen.statistics["strength"].any() and plain.statistics["strength"].all()
        torch.testing.assert_close(off.offsets(request, 2), on.offsets(request, 2))
        assert off.projections(request, 2).gamma == 0
        if layer[0] == "G":
            torch.testing.assert_close(off.strip(request)[1][0], seen.image, atol=1e-5, rtol=0)
    rows = AttentionView(run="looked", compare="gamma0", n=2).statistics()
    assert {(row["gamma"], row["strength"]) for row in rows if row["run"] != "looked"} == {(0.0, 0.0)}
    assert all(row["gamma"] > 0.6 and row["strength"] > 0 for row in rows if row["run"] == "looked")
    assert off.recorded_steps == []
    for ask in (off.inspect, off.strip):
        with pytest.raises(ParameterError, match="snapshots keep no network"):
            ask(InspectionRequest("G/attention.8", step=2, source="recorded"))


def test_the_causal_map_takes_gamma(inspected):
    inputs, generator = (sampling.latents(1, 8), torch.tensor([0])), inspected.run.generator()
    own = attention.causal_map(generator, inputs, "attention.16", 20)
    torch.testing.assert_close(attention.causal_map(generator, inputs, "attention.16", 20, gamma=0.7), own)
    half = attention.causal_map(generator, inputs, "attention.16", 20, gamma=0.35)
    key = int(own.argmax())
    forbid = torch.zeros(256, 64, dtype=torch.bool)
    forbid[20, key] = True
    with torch.no_grad(), attention.intervene(generator, "attention.16", gamma=0.35):
        before = generator(*inputs)
    with torch.no_grad(), attention.intervene(generator, "attention.16", gamma=0.35, forbid=forbid):
        change = (generator(*inputs) - before)[0, :, 2:4, 8:10]
    assert half[key].item() == pytest.approx(change.norm().item(), rel=1e-3)


def test_odd_class_names(trained, monkeypatch):
    for record in ({}, dict(data=[]), dict(data=dict(classes="abcdef")), dict(data=dict(classes=[1] * 6)), dict(data=dict(classes=["a"]))):
        monkeypatch.setattr(Run, "provenance", record)
        assert InspectedRun(trained).class_names == list("012345")
    monkeypatch.setattr(Run, "provenance", dict(data=dict(classes=["a/b", "$x$", "<b>", "猫", "\udc80", ""])))
    inspected = InspectedRun(trained)
    assert inspected.class_names == ["a/b", "$x$", "<b>", "猫", "?", ""]
    assert inspected.inspect(replace(REQUEST, label=0)).about.startswith("a/b, seed")


def test_weights_that_a_run_lacks(inspected, monkeypatch):
    monkeypatch.setattr(InspectedRun, "weights", ["ema"])
    with pytest.raises(ParameterError, match="weights='raw': run 'looked' has no such weights; use 'ema'"):
        AttentionView(weights="raw").requests(inspected)
    with pytest.raises(ParameterError, match="no such weights; use 'ema'"):
        AttentionView(weights="raw").weights_of(inspected)
    monkeypatch.setattr(InspectedRun, "weights", [])
    with pytest.raises(WorkbenchError, match=r"cannot be read: it holds no weights of G"):
        inspected.inspect(REQUEST)


def test_snapshots_that_do_not_fit_the_run(trained, inspected, monkeypatch, tiny):
    from workbench.attention.snapshots import Snapshot

    good = load_snapshot(trained.attention_path(2))
    small = Snapshot(good.images[..., :16, :16], good.z, good.y, good.layers)
    few = Snapshot(good.images, good.z, good.y, {})
    wrong = Snapshot(good.images, good.z, good.y, {"G/attention.8": good.layers["G/attention.16"]})
    for snapshot, says in ((small, "not those of this run"), (few, "holds nothing of G/attention.8"), (wrong, "not those of this run")):
        monkeypatch.setattr("workbench.views.inspected_run.load_snapshot", lambda path, snapshot=snapshot: snapshot)
        with pytest.raises(WorkbenchError, match=says):
            inspected.inspect(InspectionRequest("G/attention.8", step=2, source="recorded"))


def test_no_comment_hides_a_parameter_from_papermill():
    """papermill takes a comment with "=" for another parameter."""
    assert not [line for line in AttentionView.cell().splitlines() if "=" in line.partition("#")[2]]


def test_networks_are_opened_once_and_not_too_many_are_kept(inspected, monkeypatch):
    opened = []
    monkeypatch.setattr(
        Run, "generator", lambda run, step, weights, load=Run.generator: opened.append((step, weights)) or load(run, step, weights)
    )
    for step, weights in ((2, "ema"), (4, "ema"), (2, "ema"), (2, "raw"), (4, "raw"), (2, "ema")):
        inspected.inspect(replace(REQUEST, step=step, weights=weights))
    assert opened == [(2, "ema"), (4, "ema"), (2, "raw"), (4, "raw")]
    inspected.inspect(InspectionRequest("D/attention.16", step=4))  # with G's samples: one network more
    assert inspected._open.cache_info().currsize == 4
