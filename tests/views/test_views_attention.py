"""Looking at runs: scenes, subjects and the notebook's view."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from workbench import AttentionView, Config, ParameterError, Run, WorkbenchError, attention, train
from workbench.attention.snapshots import load_snapshot
from workbench.data import to_uint8, to_unit
from workbench.data.twins import Twins
from workbench.model import sampling
from workbench.tensors import seal
from workbench.views.attention import STATISTICS, Scene, Subject, salient, statistics


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
def subject(trained):
    return Subject(trained)


SCENE = Scene("G/attention.16", label=2, seed=3, sample=5)


def test_a_look_is_what_the_generator_and_capture_give(subject, trained):
    look = subject.look(SCENE)
    generator = trained.generator()
    z = sampling.latents(1, 8, seed=3, start=5)
    with attention.capture(generator) as maps:
        x = sampling.images(generator, z, torch.tensor([2]))
    assert torch.equal(look.image, x[0])
    torch.testing.assert_close(look.beta, maps["attention.16"][0])
    assert look.about == "ring, seed 3, sample 5" and look.after is None and look.logit is None


def test_d_looks_at_samples_and_at_real_images(subject, trained):
    discriminator, x = trained.discriminator(), Twins(32).batch(np.array([7]))
    real = subject.look(Scene("D/attention.16", source="real", sample=7))
    assert torch.equal(to_uint8(real.image), x[0][0])
    assert real.logit == pytest.approx(discriminator(to_unit(x[0]), x[1]).item(), abs=1e-5)
    fake = subject.look(Scene("D/attention.16", label=2, seed=3, sample=5))
    assert torch.equal(fake.image, subject.look(SCENE).image)
    assert fake.logit == pytest.approx(discriminator(fake.image[None], torch.tensor([2])).item(), abs=1e-5)


def test_the_message_holds_what_every_map_follows_from(subject):
    look = subject.look(SCENE)
    header, buffers = look.message()
    side, keys = header["side"], header["key_side"]
    image, *floats = buffers
    query, key, value_norm, lse, stats = (np.frombuffer(part, np.float32) for part in floats)
    scores = query.reshape(side**2, -1).astype(np.float64) @ key.reshape(keys**2, -1).astype(np.float64).T
    beta = np.exp(scores - lse[:, None])
    np.testing.assert_allclose(beta, look.beta, atol=1e-5)
    np.testing.assert_allclose(beta.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(stats.reshape(len(STATISTICS), -1)[0], -(beta * np.log(beta)).sum(1), atol=1e-4)
    assert len(value_norm) == keys**2
    pixels = np.frombuffer(image, np.uint8).reshape(32, 32, 3)
    assert np.array_equal(pixels, to_uint8(look.image).permute(1, 2, 0).numpy())


@pytest.mark.parametrize("layer", ["G/attention.16", "D/attention.16"])
def test_interventions_show_the_network_after_them(subject, layer):
    before = subject.look(SCENE.changed(layer=layer))
    off = subject.look(SCENE.changed(layer=layer, gamma0=True))
    forbidden = subject.look(SCENE.changed(layer=layer, forbid=tuple(range(10)), queries=(0, 5)))
    without = Subject(subject.run, gamma0=True).look(SCENE.changed(layer=layer))
    for look in (off, forbidden):
        assert torch.equal(look.image, before.image) and look.logit == before.logit
    if layer[0] == "G":
        assert not torch.allclose(off.after, before.image) and not torch.allclose(forbidden.after, before.image)
        torch.testing.assert_close(without.image, off.after)
        assert not torch.allclose(off.after, forbidden.after)
    else:
        assert off.after is None and abs(off.logit_after - before.logit) > 1e-4
        assert without.logit == pytest.approx(off.logit_after, abs=1e-5)
    unchanged = subject.look(SCENE.changed(layer=layer, replace="local", forbid=()))
    assert unchanged.after is not None or unchanged.logit_after is not None


def test_queries_limit_what_is_forbidden(subject):
    """Forbidding keys to one query changes the feature map there alone; to all, elsewhere too."""
    one = subject.look(SCENE.changed(forbid=(0, 1, 2), queries=(0,)))
    everyone = subject.look(SCENE.changed(forbid=(0, 1, 2)))
    moved = [(look.after - look.image).abs().sum(0) for look in (one, everyone)]
    assert moved[0][-8:, -8:].max() < 1e-6 < 1e-4 < moved[1][-8:, -8:].max()


def test_the_way_between_two_latents(subject):
    ends = [subject.look(SCENE.changed(towards=(9, 1), mix=t)).image for t in (0.0, 1.0)]
    assert torch.allclose(ends[0], subject.look(SCENE).image, atol=1e-5)
    assert torch.allclose(ends[1], subject.look(SCENE.changed(seed=9, sample=1)).image, atol=1e-5)
    middle = subject.look(SCENE.changed(towards=(9, 1), mix=0.5))
    assert "50% towards seed 9, sample 1" in middle.about
    assert not torch.allclose(middle.image, ends[0], atol=1e-3)


def test_what_the_training_wrote_down_is_seen_again(subject, trained):
    assert subject.catalog()["recorded"] == [0, 2, 4]
    look = subject.look(Scene("D/attention.16", step=2, source="recorded", sample=3))
    snapshot = load_snapshot(trained.attention_path(2))
    assert torch.equal(to_uint8(look.image), snapshot.images[3])
    torch.testing.assert_close(look.beta, snapshot.layers["D/attention.16"].maps()[3])
    assert look.about.endswith("recorded latent 3, step 2")
    names, images = subject.strip(Scene("G/attention.16", step=2, source="recorded"))
    assert len(names) == len(images) == 4


def test_a_dropped_image_is_seen_as_d_would(subject):
    pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8).numpy()
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    scene = Scene("D/attention.16", source="dropped", label=1, sample=subject.drop("mine.png", stream.getvalue()))
    look = subject.look(scene)
    assert np.array_equal(to_uint8(look.image).permute(1, 2, 0).numpy(), pixels) and look.about == "square, mine.png"
    again = subject.drop("again", base64.b64decode(subject.dropped_png(0)))
    assert torch.equal(subject.look(scene.changed(sample=again)).image, look.image)
    with pytest.raises(WorkbenchError, match=r"'text\.png' cannot be read as an image"):
        subject.drop("text.png", b"this is text")


def test_the_strip_shows_what_is_looked_at(subject):
    names, images = subject.strip(SCENE)
    assert names[5] == "ring, sample 5"
    torch.testing.assert_close(images[5], subject.look(SCENE).image, atol=1e-5, rtol=0)
    names, images = subject.strip(Scene("D/attention.16", source="real"), start=3)
    assert torch.equal(to_uint8(images), Twins(32).batch(np.arange(3, 11))[0])


@pytest.mark.parametrize(("make", "says"), [
    (lambda s: s.look(Scene("G/attention.32")), r"has no attention layer 'G/attention.32'.*there are: G/attention.8, G/attention.16, D/attention.16"),
    (lambda s: s.look(SCENE.changed(step=3)), "has no checkpoint at step 3; there are: 2, 4"),
    (lambda s: s.look(SCENE.changed(label=6)), "label=6 is no class"),
    (lambda s: s.look(SCENE.changed(forbid=(64,))), "forbid=64 is no place of G/attention.16, which has 64"),
    (lambda s: SCENE.changed(source="real"), "source='real' goes with a layer of D"),
    (lambda s: SCENE.changed(source="recorded", gamma0=True), "recorded image cannot be changed"),
    (lambda s: SCENE.changed(weights="best"), "weights='best' is not one of ema, raw"),
    (lambda s: Scene("attention.16"), "layer='attention.16' is not a network and a layer"),
    (lambda s: s.look(Scene("D/attention.16", source="dropped")), "image 0 was not dropped here"),
    (lambda s: s.look(Scene("G/attention.8", step=1, source="recorded")), "no attention snapshot at step 1; there are: 0, 2, 4"),
    (lambda s: Subject.of("looked@x"), "'x' is not a step"),
    (lambda s: Subject.of("looked@²"), "'²' is not a step"),
    (lambda s: Subject.of("looked@" + "9" * 400), "is not a step"),
    (lambda s: SCENE.changed(step="4"), "step='4' is not the step of a checkpoint"),
    (lambda s: SCENE.changed(seed=-1), "seed=-1 is not a whole number from 0 on"),
    (lambda s: SCENE.changed(seed=None), "seed=None is not a whole number"),
    (lambda s: SCENE.changed(sample=10**400), "sample=1000.* is not a whole number"),
    (lambda s: SCENE.changed(sample=1.5), "sample=1.5 is not a whole number"),
    (lambda s: SCENE.changed(truncation=float("nan")), "truncation=nan is not a number from 0"),
    (lambda s: SCENE.changed(truncation=-1), "truncation=-1 is not a number from 0"),
    (lambda s: SCENE.changed(mix="x"), "mix='x' is not a number from 0 to 1"),
    (lambda s: SCENE.changed(towards=(1,)), r"towards=\(1,\) is not a seed and a sample"),
    (lambda s: SCENE.changed(gamma0="yes"), "gamma0='yes' is not true or false"),
    (lambda s: SCENE.changed(forbid=("a",)), r"forbid=\('a',\) is not places of the layer"),
    (lambda s: SCENE.changed(forbid=5), "forbid=5 is not places of the layer"),
    (lambda s: s.look(SCENE.changed(forbid=(0,) * 1_000_000)), "forbid=.* is not a choice of the 64 places"),
    (lambda s: Scene(3), "layer=3 is not a network and a layer"),
    (lambda s: SCENE.changed(source=[]), r"source=\[\] is not one of"),
    (lambda s: s.causal(SCENE, None), "query=None is not a place"),
    (lambda s: s.causal(SCENE, 256), "query=256 is no position"),
    (lambda s: s.causal(SCENE.changed(source="recorded", step=2), 0), "has no network to ask"),
    (lambda s: s.strip(SCENE, -1), "start=-1 is not the number of an image"),
    (lambda s: s.drop("big", bytes(100_000_001)), "'big' has 100 MB; an image can have 100 MB"),
    (lambda s: s.drop(None, b""), "needs the name of its file"),
])  # fmt: skip
def test_what_is_not_there_is_told_in_one_line(subject, make, says):
    with pytest.raises(WorkbenchError, match=says) as caught:
        make(subject)
    assert "\n" not in str(caught.value)


def test_subjects_by_name(trained, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(trained.path.parent))
    one = Subject.of("looked@2")
    assert one.start == 2 and Subject.of("@4", one).start == 4 and Subject.of("@4", one).run.name == "looked"
    assert Subject.of("gamma=0", one).gamma0 and Subject.of("gamma=0", one).label == "looked, γ = 0"  # noqa: RUF001
    first, second = AttentionView(run="looked", compare="gamma=0").subjects()
    assert first.run.name == second.run.name == "looked"
    assert AttentionView().subjects()[0].run.name == "looked"  # the newest


def test_without_a_run_there_is_the_demo():
    demo = AttentionView().subjects()[0]
    assert demo.run.name == "demo" and demo.weights == ["ema"]
    look = demo.look(AttentionView().scenes(demo)[0])
    assert look.projections.gamma != 0
    size = sum(path.stat().st_size for path in demo.run.path.rglob("*") if path.is_file())
    assert size < 5_000_000


def test_the_view_of_the_notebook(trained):
    subject = Subject(trained)
    scenes = AttentionView().scenes(subject)
    assert [scene.label for scene in scenes] == [0, 1, 2, 3, 4, 5] and {scene.layer for scene in scenes} == {"G/attention.16"}
    assert [scene.sample for scene in scenes] == [0, 1, 2, 3, 4, 5]  # another latent for each class
    view = AttentionView(layer=8, classes="cross, 5", seeds=[1, "2:7"], step=2, queries="1,2; 7,0")
    scenes = view.scenes(subject)
    assert [(scene.label, scene.seed, scene.sample, scene.step) for scene in scenes] == [
        (3, 1, 0, 2),
        (3, 2, 7, 2),
        (5, 1, 0, 2),
        (5, 2, 7, 2),
    ]
    assert view.chosen_queries(subject.look(scenes[0])) == [10, 56]
    assert AttentionView(network="D", source="real").scenes(subject)[2].sample == 2


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
    (dict(queries="; ;"), "are 0 places; give 1 to 8"),
    (dict(queries="1,1;" * 9), "are 9 places; give 1 to 8"),
    (dict(seeds="²"), "'²' is not a seed such as 3"),
    (dict(seeds="1:²"), "'1:²' is not a seed"),
    (dict(seeds="-3"), "'-3' is not a seed"),
    (dict(seeds="9" * 400), "is not a seed"),
    (dict(classes="²"), "'²' is no class"),
    (dict(classes=", ,"), "names no class"),
    (dict(classes="-1"), "'-1' is no class"),
    (dict(seeds=",".join(map(str, range(20)))), "give 120 images; a view shows at most 60"),
    (dict(source="real"), "source='real' goes with a layer of D"),
])  # fmt: skip
def test_a_view_that_does_not_fit(trained, values, says):
    subject, view = Subject(trained), AttentionView(**values)
    with pytest.raises(ParameterError, match=says):
        view.chosen_queries(subject.look(view.scenes(subject)[0]))


@pytest.mark.parametrize("changes", [
    dict(attention_g="none", attention_d="none"), dict(num_classes=0), dict(attention_variant="paper"), dict(ema_decay=0),
    dict(attention_block="residual"), dict(attention_g="32,8"), dict(attention_d="none"),
])  # fmt: skip
def test_every_kind_of_run_can_be_looked_at(tiny, changes):
    run = train(tiny(steps=2, sample_every=2, checkpoint_every=2, **changes))
    subject, view = Subject(run), AttentionView(n=2)
    for info in subject.layers:
        for source in ("samples", "recorded"):
            look = subject.look(Scene(info["id"], step=2, source=source))
            assert look.beta.shape == (info["side"] ** 2, info["key_side"] ** 2)
            torch.testing.assert_close(look.beta.sum(1), torch.ones(info["side"] ** 2))
    rows = statistics(view)
    assert len(rows) == len(subject.layers) and bool(rows) == bool(view.scenes(subject))
    assert subject.catalog()["classes"] == ([] if run.config.num_classes == 0 else Twins.classes)


def test_statistics_are_the_means_over_samples_and_queries(trained, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(trained.path.parent))
    rows = statistics(AttentionView(n=5))
    assert [(row["step"], row["layer"]) for row in rows[:3]] == [(2, "G/attention.8"), (2, "G/attention.16"), (2, "D/attention.16")]
    generator, z, y = trained.generator(2), sampling.latents(5, 8, 0), torch.arange(5)
    with attention.capture(generator) as maps:
        sampling.images(generator, z, y)
    beta = maps["attention.16"].double()
    assert rows[1]["entropy"] == pytest.approx(-(beta * beta.log()).sum(2).mean().item(), rel=1e-4)
    assert rows[1]["gamma"] == pytest.approx(0.7)


def test_a_subject_without_gamma_is_so_in_every_answer(trained, monkeypatch):
    """Maps are those of the layer; what it adds, and what follows from that, is nothing."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(trained.path.parent))
    on, off = Subject(trained), Subject(trained, gamma0=True)
    for layer in ("G/attention.8", "G/attention.16", "D/attention.16"):
        scene = SCENE.changed(layer=layer)
        assert on.causal(scene, 9).max() > 0 == off.causal(scene, 9).max() == on.causal(scene.changed(gamma0=True), 9).max()
        look, plain = off.look(scene), on.look(scene)
        torch.testing.assert_close(look.beta, plain.beta)
        assert look.projections.gamma == 0 and not look.statistics["strength"].any() and plain.statistics["strength"].all()
        assert look.message()[0]["gamma"] == 0
        torch.testing.assert_close(off.offsets(scene, 2), on.offsets(scene, 2))
        assert off.projections(scene, 2).gamma == 0
        if layer[0] == "G":
            torch.testing.assert_close(off.strip(scene)[1][5], look.image, atol=1e-5, rtol=0)
    rows = statistics(AttentionView(run="looked", compare="gamma0", n=2))
    assert {(row["gamma"], row["strength"]) for row in rows if row["run"] != "looked"} == {(0.0, 0.0)}
    assert all(row["gamma"] > 0.6 and row["strength"] > 0 for row in rows if row["run"] == "looked")
    assert off.catalog()["recorded"] == []
    for ask in (off.look, off.strip):
        with pytest.raises(ParameterError, match="is one with attention on"):
            ask(Scene("G/attention.8", step=2, source="recorded"))


def test_the_causal_map_takes_gamma(subject):
    inputs, generator = (sampling.latents(1, 8), torch.tensor([0])), subject.run.generator()
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
        assert Subject(trained).catalog()["classes"] == list("012345")
    monkeypatch.setattr(Run, "provenance", dict(data=dict(classes=["a/b", "$x$", "<b>", "猫", "\udc80", ""])))
    subject = Subject(trained)
    assert subject.catalog()["classes"] == ["a/b", "$x$", "<b>", "猫", "?", ""]
    assert subject.look(SCENE.changed(label=0)).about.startswith("a/b, seed")


def test_weights_that_a_run_lacks(subject, monkeypatch):
    monkeypatch.setattr(Subject, "weights", ["ema"])
    with pytest.raises(ParameterError, match="weights='raw': run 'looked' keeps no such weights; use 'ema'"):
        AttentionView(weights="raw").scenes(subject)
    with pytest.raises(ParameterError, match="no such weights; use 'ema'"):
        AttentionView(weights="raw").chosen_weights(subject)
    monkeypatch.setattr(Subject, "weights", [])
    with pytest.raises(WorkbenchError, match=r"unreadable: .* \(it holds no weights of G"):
        subject.look(SCENE)


def test_snapshots_that_do_not_fit_the_run(trained, subject, monkeypatch, tiny):
    from workbench.attention.snapshots import Snapshot

    good = load_snapshot(trained.attention_path(2))
    small = Snapshot(good.images[..., :16, :16], good.z, good.y, good.layers)
    few = Snapshot(good.images, good.z, good.y, {})
    wrong = Snapshot(good.images, good.z, good.y, {"G/attention.8": good.layers["G/attention.16"]})
    for snapshot, says in ((small, "not those of this run"), (few, "holds nothing of G/attention.8"), (wrong, "not those of this run")):
        monkeypatch.setattr("workbench.views.attention.load_snapshot", lambda path, snapshot=snapshot: snapshot)
        with pytest.raises(WorkbenchError, match=says):
            subject.look(Scene("G/attention.8", step=2, source="recorded"))


def test_no_comment_hides_a_parameter_from_papermill():
    """papermill takes a comment with "=" for another parameter."""
    assert not [line for line in AttentionView.cell().splitlines() if "=" in line.partition("#")[2]]


def test_networks_are_opened_once_and_not_too_many_are_kept(subject, monkeypatch):
    opened = []
    monkeypatch.setattr(
        Run, "generator", lambda run, step, weights, load=Run.generator: opened.append((step, weights)) or load(run, step, weights)
    )
    for step, weights in ((2, "ema"), (4, "ema"), (2, "ema"), (2, "raw"), (4, "raw"), (2, "ema")):
        subject.look(SCENE.changed(step=step, weights=weights))
    assert opened == [(2, "ema"), (4, "ema"), (2, "raw"), (4, "raw")]
    subject.look(Scene("D/attention.16", step=4))  # with G's samples: one network more
    assert len(subject._networks) == 4


def test_salient_places():
    image = torch.zeros(3, 32, 32)
    image[0, 4:8, 8:12], image[1, 20:24, 28:32] = 1.0, 0.9
    left, right, dull = salient(image, 8)
    assert (left, right) == (1 * 8 + 2, 5 * 8 + 7) and dull not in (left, right)
