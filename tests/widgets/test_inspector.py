# ruff: noqa: RUF001
"""The attention inspector without a browser: what it offers, answers, and writes."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.models import VisionTransformer

from workbench import AttentionView, Config, ParameterError, Run, WorkbenchError, attention, figures, train
from workbench.data import to_uint8
from workbench.figures import QUERY_COLOURS
from workbench.figures.painting import READINGS, scale_of
from workbench.model import sampling
from workbench.tensors import seal
from workbench.views.inspected_run import InspectedRun
from workbench.views.inspection_request import InspectionRequest
from workbench.widgets import AttentionInspector
from workbench.widgets.bundle import SOURCES, bundle
from workbench.widgets.inspector.answers import pack


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_OUTPUTS", str(tmp_path_factory.mktemp("outputs")))
        small = dict(width=8, z_dim=8, batch_size=8, steps=4, log_every=2, sample_every=2, checkpoint_every=2, evaluate_every=0)
        run = train(Config.preset("twins32", run="seen", attention_g="8,16", mixed_precision="no", **small))
    for file in run.path.glob("checkpoints/*/*.safetensors"):  # after four steps, gamma is too small to show in bytes
        tensors = load_file(file)
        save_file({name: torch.ones_like(t) if name.endswith("gamma") else t for name, t in tensors.items()}, file)
        seal(file.parent)
    return run


@pytest.fixture(autouse=True)
def there(run, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(run.path.parent))
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")


def sent(inspector, request, buffers=()):
    """What the kernel sends for a message of the front end: content and binary parts."""
    answers = []
    inspector.send = lambda content, parts=None: answers.append((content, parts))
    inspector._receive(inspector, dict(id="7", request=request), list(buffers))
    (answer,) = answers
    return answer


@pytest.mark.slow
def test_it_opens_on_what_was_asked_for():
    view = AttentionView(run="seen", step=2, layer=8, classes="cross", seeds="5:3", queries="1,2;3,4", reading="value_weighted")
    inspector = AttentionInspector(view=view)
    (info,) = inspector.catalog
    assert info["steps"] == [2, 4] and info["recorded"] == [0, 2, 4] and info["weights"] == ["ema", "raw"]
    assert [layer["id"] for layer in info["layers"]] == ["G/attention.8", "G/attention.16", "D/attention.16"]
    assert (info["classes"][3], info["image_size"]) == ("cross", 32) and info["real"] > 0
    expected = dict(layer="G/attention.8", steps=[2], seed=5, sample=3, pins=[10, 28], active=0, reading="value_weighted", weights="ema")
    assert {key: inspector.view[key] for key in expected} == expected and inspector.view["class"] == 3
    assert [answer["kind"] for answer in inspector.answers] == ["strip", "inspection"]


def test_it_answers_with_what_capture_sees(run):
    inspector = AttentionInspector(run)
    (request,) = inspector.messages(layer="G/attention.16", steps=[2], weights="raw", seed=1, sample=4, **{"class": 5})
    content, parts = sent(inspector, request)
    side, keys, d = (content["reply"][name] for name in ("side", "key_side", "d"))
    query, key, _, lse = (torch.frombuffer(bytearray(part), dtype=torch.float32) for part in parts[1:5])
    beta = torch.exp(query.view(side**2, d) @ key.view(keys**2, d).T - lse[:, None])
    generator = run.generator(2, weights="raw")
    with attention.capture(generator) as maps:
        sampling.images(generator, sampling.latents(1, 8, 1, 4), torch.tensor([5]))
    torch.testing.assert_close(beta, maps["attention.16"][0], atol=1e-5, rtol=0)


def test_an_answer_holds_what_every_map_follows_from(run):
    seen = InspectedRun(run).inspect(InspectionRequest("G/attention.16", label=2, seed=3, sample=5))
    header, buffers = pack(seen)
    side, keys = header["side"], header["key_side"]
    image, *floats = buffers
    query, key, value_norm, lse, stats = (np.frombuffer(part, np.float32) for part in floats)
    scores = query.reshape(side**2, -1).astype(np.float64) @ key.reshape(keys**2, -1).astype(np.float64).T
    beta = np.exp(scores - lse[:, None])
    np.testing.assert_allclose(beta, seen.beta, atol=1e-5)
    np.testing.assert_allclose(beta.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(stats.reshape(len(attention.STATISTICS), -1)[0], -(beta * np.log(beta)).sum(1), atol=1e-4)
    assert len(value_norm) == keys**2
    pixels = np.frombuffer(image, np.uint8).reshape(32, 32, 3)
    assert np.array_equal(pixels, to_uint8(seen.image).permute(1, 2, 0).numpy())
    assert pack(InspectedRun(run, gamma0=True).inspect(InspectionRequest("G/attention.16")))[0]["gamma"] == 0


def test_every_kind_of_message(run):
    inspector = AttentionInspector(run)
    (strip,) = inspector.messages("strip")
    content, (pixels,) = sent(inspector, strip)
    assert content["id"] == "7" and len(pixels) == content["reply"]["count"] * 32 * 32 * 3
    (causal,) = inspector.messages("causal", layer="G/attention.8", query=9)
    assert len(sent(inspector, causal)[1][0]) == 16 * 4
    (offsets,) = inspector.messages("offsets", layer="D/attention.16")
    heat = np.frombuffer(sent(inspector, offsets)[1][0], np.float32)
    assert len(heat) == 31**2 and heat.min() >= 0
    (changed,) = inspector.messages(gamma0=True)
    content, parts = sent(inspector, changed)
    assert content["reply"]["after"] and len(parts) == 7
    stream = io.BytesIO()
    Image.new("RGB", (50, 40), "red").save(stream, "PNG")
    content, _ = sent(inspector, dict(kind="drop", name="a.png"), [memoryview(stream.getvalue())])
    for source in ("real", "dropped", "recorded"):
        (strip,) = inspector.messages("strip", source=source, layer=None, sample=0)
        assert sent(inspector, strip)[0]["reply"]["count"] == dict(real=8, dropped=1, recorded=4)[source]
    (dropped,) = inspector.messages(layer="D/attention.16", source="dropped", sample=content["reply"]["sample"])
    assert isinstance(sent(inspector, dropped)[0]["reply"]["logit"], float)


@pytest.mark.slow
@pytest.mark.parametrize(("message", "view", "says"), [
    (dict(), dict(layer="G/attention.64"), "has no attention layer 'G/attention.64'"),
    (dict(kind="drop", name="a.txt"), {}, "'a.txt' cannot be read as an image"),
    (dict(kind="dance"), {}, "kind='dance' is no request"),
    (dict(), dict(forbid=list(range(64))), "forbid leaves query 0 no key"),
    (dict(kind="causal", query=0), dict(source="recorded"), "snapshots keep no network"),
    (dict(kind=None), {}, "kind=None is no request"),
    (dict(kind=[]), {}, "kind=[] is no request"),
    (dict(run=1), {}, "run=1 is none of the 1 run"),
    (dict(run=-1), {}, "run=-1 is none of the 1 run"),
    (dict(run="a"), {}, "run='a' is none of"),
    (dict(view=None), {}, "view=None is not an object"),
    (dict(view=[]), {}, "view=[] is not an object"),
    (dict(), dict(steps=[float("nan")]), "steps=[nan] of the view does not fit"),
    (dict(), dict(steps=3), "steps=3 of the view does not fit"),
    (dict(), dict(source="elsewhere"), "source='elsewhere' is not one of"),
    (dict(), dict(source=[]), "source=[] is not one of"),
    (dict(), dict(source="real"), "source='real' needs a layer of D"),
    (dict(), dict(sample=-1), "sample=-1 is not"),
    (dict(), dict(sample=10**400), "is not a whole number"),
    (dict(), dict(seed={}), "seed={} is not"),
    (dict(), dict(truncation=None), "truncation=None is not"),
    (dict(), dict(towards=5, mix=0.5), "towards=5 of the view does not fit"),
    (dict(), dict(towards=[1], mix=0.5), "towards=(1,) is not"),
    (dict(), dict(mix="x", towards=[1, 2]), "mix='x' is not a number"),
    (dict(), dict(forbid=[0] * 1_000_000), "is not a selection of the 64 positions"),
    (dict(), dict(forbid="all"), "forbid='all' of the view does not fit"),
    (dict(), dict(forbid=[0], pins=["x"], scope="pins"), "pins=['x'] of the view does not fit"),
    (dict(), dict(gamma0="yes"), "gamma0='yes' is not true or false"),
    (dict(), dict(gamma="2"), "gamma='2' is not a number"),
    (dict(), dict(gamma=float("nan")), "gamma=nan is not a number"),
    (dict(), dict(replace="best"), "replace='best' is not one of uniform, local"),
    (dict(), dict(layer=7), "layer=7 is not"),
    (dict(), dict(directions=5), "directions=5 of the view does not fit"),
    (dict(), dict(directions=[float("nan")]), "directions=[nan] of the view does not fit"),
    (dict(), dict(directions=[1] * 9), "is not at most 8 amounts: z has no more directions"),
    (dict(), dict(paint="all"), "paint='all' of the view does not fit"),
    (dict(), dict(paint=[64], paint_from=2), "paint=64 is no position of"),
    (dict(), dict(paint=[3], paint_from="x"), "paint_from='x' is not the number of a sample"),
    (dict(), dict(paint=[3], paint_shift=[-1, 0]), "key 3 would take its value from row -1, column 3, outside of a 8x8 map"),
    (dict(), dict(paint=[3], paint_shift=[1]), "paint_shift=(1,) is not a number of rows and one of columns"),
    (dict(), dict(paint=[3], paint_shift=0), "paint_shift=0 of the view does not fit"),
    (dict(kind="measure"), {}, "nothing to measure: the request forbids no keys, and neither gamma nor the map is changed"),
    (dict(kind="measure"), dict(gamma0=True, source="recorded"), "snapshots keep no network"),
    (dict(kind="measure"), dict(gamma0=True, source="dropped", layer="D/attention.16"), "source='dropped' has no images to measure over"),
    (dict(kind="measure", batch=4), dict(gamma0=True), "batch=4 is none of the 4 batches of samples"),
    (dict(kind="measure", batch="x"), dict(gamma0=True), "batch='x' is none of the 4 batches"),
    (dict(kind="measure"), dict(forbid=list(range(64))), "forbid leaves query 0 no key"),
    (dict(), dict(weights=None), "weights=None of the view does not fit"),
    (dict(), {"class": "x"}, "class='x' of the view does not fit"),
    (dict(kind="strip"), dict(sample=[]), "sample=[] is not"),
    (dict(kind="strip"), dict(sample=-8), "sample=-8 is not"),
    (dict(kind="strip"), dict(sample=None), "sample=None is not"),
    (dict(kind="causal"), {}, "query=-1 is not a position"),
    (dict(kind="causal", query="x"), {}, "query='x' is not a position"),
    (dict(kind="drop"), {}, "is not the name of a dropped image file"),
    (dict(kind="drop", name=[]), {}, "is not the name of a dropped image file"),
    (dict(kind="export"), {}, "format='' is not one of"),
    (dict(kind="export", format="../x"), {}, "format='../x' is not one of"),
    (dict(kind="export", format="png", view=5), {}, "view=5 is not an object"),
    (dict(kind="export", format="png"), dict(pins="x"), "pins='x' of the view does not fit"),
    (dict(kind="export", format="png"), dict(opacity="x"), "opacity='x' of the view does not fit"),
    (dict(kind="export", format="png"), dict(scale=[]), "scale=[] of the view does not fit"),
    (dict(kind="export", format="png"), dict(layer="../../x"), "layer='../../x' is not a network and a layer"),
    (dict(kind="export", format="html"), dict(layer="D/../../x"), "has no attention layer 'D/../../x'"),
    (dict(kind="export", format="png"), dict(steps=[[]]), "steps=[[]] of the view does not fit"),
    (dict(kind="export", format="png"), dict(pins=[10**6]), "is not a position"),
])  # fmt: skip
def test_what_goes_wrong_is_reported_in_one_line(run, message, view, says):
    inspector = AttentionInspector(run)
    content, _ = sent(inspector, inspector.messages(**view)[0] | message, [b"text"])
    assert says in content["error"] and "\n" not in content["error"] and content["id"] == "7" and len(content["error"]) < 400


def test_what_makes_no_difference_makes_the_same_answer(run):
    """Requests are normalised in one place: whatever else the controls say, equal pictures are computed once."""
    inspector = AttentionInspector(run)
    (plain,) = inspector.messages()
    inspected = []
    inspect = inspector.runs[0].inspect
    inspector.runs[0].inspect = lambda request: inspected.append(request) or inspect(request)
    first = sent(inspector, plain)

    def same(message, **changes):
        return sent(inspector, message | dict(view=message["view"] | changes)) == first

    for changes in (
        dict(opacity=0.1), dict(pins=[5]), dict(towards=[7, 8]), dict(mix=0.5), dict(scope="pins", pins=[], forbid=[3]), dict(steps=[]),
        dict(steps=[3]), dict(weights="newest"), dict(directions=[0, 0]), dict(paint=[3]), dict(paint_from=5), dict(measure=True),
    ):  # fmt: skip
        assert same(plain, **changes)
    assert inspected == []  # the answer that the notebook keeps
    for a, b in (
        (dict(gamma0=True), dict(gamma0=True, replace="local", forbid=[2])),
        (dict(source="recorded"), dict(source="recorded", gamma0=True, seed=9, truncation=1, weights="raw", steps=[3], **{"class": 2})),
        (dict(source="real", layer="D/attention.16"), dict(source="real", layer="D/attention.16", seed=9, towards=[1, 2], mix=0.3)),
        (dict(forbid=[5, 3], scope="pins", pins=[9, 4]), dict(forbid=[3, 5], scope="pins", pins=[4, 9])),
        (dict(directions=[1.5, 0, 0]), dict(directions=[1.5])),
        (dict(source="real", layer="D/attention.16", sample=1), dict(source="real", layer="D/attention.16", sample=1, directions=[1])),
        (dict(paint=[5, 3], paint_from=2, sample=3), dict(paint=[3, 5], paint_from=2, sample=3)),
        (dict(gamma0=True, sample=3), dict(gamma0=True, sample=3, paint=[3], paint_from=2)),
    ):
        inspected.clear()
        assert sent(inspector, inspector.messages(**a)[0]) == sent(inspector, inspector.messages(**b)[0]) and len(inspected) == 1
    assert sent(inspector, inspector.messages(source="recorded", steps=[0])[0])[0]["reply"]["step"] == 0
    assert {k: first[0]["reply"][k] for k in ("step", "weights")} == dict(step=4, weights="ema")  # what the front end shows as chosen
    causal = [sent(inspector, inspector.messages("causal", query=9, gamma0=off)[0])[1] for off in (False, True)]
    assert causal[0] == causal[1]  # a causal map is that of the layer as it learned


@pytest.mark.parametrize("content", [None, [], {}, dict(id=7), dict(id="7"), dict(request={})])
def test_what_is_no_message_is_reported_once(run, content, capsys):
    inspector = AttentionInspector(run)
    inspector.send = lambda *_: pytest.fail("nobody asked")
    inspector._receive(inspector, content, [])
    assert capsys.readouterr().err.count("\n") <= 1
    for request in (None, 5, [], "look"):
        del inspector.send
        assert "it must be an object" in sent(inspector, request)[0]["error"]


def test_an_odd_view_breaks_nothing(run):
    inspector = AttentionInspector(run)
    good = dict(inspector.view)
    for changes in (
        dict(pins=None),
        dict(steps="x"),
        dict(layer={}),
        dict(sample="a"),
        dict(weights=3),
        dict(seed=[]),
        dict(reading="x"),
        dict(forbid=3),
    ):
        inspector.view = good | changes
        assert inspector.answers == []
    inspector.view = {"layer": "G/attention.16"}
    assert inspector.view["pins"] == [] and inspector.view["opacity"] == good["opacity"] and len(inspector.answers) == 2
    inspector.view = good
    assert len(inspector.answers) == 2


HOSTILE = ["</script><script>window.hit=1</script>", "<img src=x onerror=window.hit=1>", "a/b", "$x$", "{state}", "猫"]


def test_hostile_names_are_text_in_the_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "provenance", dict(data=dict(classes=HOSTILE)))
    monkeypatch.setattr(Run, "name", HOSTILE[0])
    inspector = AttentionInspector(run)
    page = inspector.save(tmp_path / "view.html").read_text(encoding="utf-8")
    assert page.count("</script") == 2 and "<script>window" not in page and "<img" not in page
    state = json.loads(re.search(r'^<script type="application/json" id="wb-state">(.*?)</script>', page, re.S | re.M)[1])
    assert state["catalog"][0]["classes"] == HOSTILE and state["catalog"][0]["label"] == HOSTILE[0]
    assert inspector._repr_mimebundle_()[0]["image/png"]


def test_a_run_without_checkpoints_shows_what_was_recorded(run, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(run.path, bare, ignore=shutil.ignore_patterns("checkpoints"))
    inspector = AttentionInspector(Run(bare))
    assert inspector.view["source"] == "recorded" and inspector.view["steps"] == [4] and len(inspector.answers) == 2
    assert "image/png" in inspector._repr_mimebundle_()[0]
    content, _ = sent(inspector, dict(kind="inspection", view=dict(layer="G/attention.16")))
    assert "has no checkpoint yet" in content["error"]
    shutil.rmtree(bare / "attention")
    with pytest.raises(WorkbenchError, match="has no checkpoint yet"):
        AttentionInspector(Run(bare))
    with pytest.raises(WorkbenchError, match="has no checkpoint yet"):
        AttentionInspector(run, Run(bare))


def test_a_damaged_checkpoint_is_reported_where_the_picture_would_be(run, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(run.path, damaged)
    (damaged / "checkpoints" / "4" / "ema.safetensors").write_bytes(b"")
    inspector = AttentionInspector(Run(damaged))
    assert " cannot be read: " in sent(inspector, inspector.messages()[0])[0]["error"]
    assert "reply" in sent(inspector, inspector.messages(steps=[2])[0])[0]
    data, _ = inspector._repr_mimebundle_()
    assert " cannot be read: " in data["text/plain"] and "image/png" not in data
    shutil.rmtree(damaged / "checkpoints" / "2")
    assert "has no checkpoint at step 2" in sent(inspector, inspector.messages(steps=[2], sample=3, weights="raw")[0])[0]["error"]


def test_views_of_the_demo_lie_among_the_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(tmp_path / "outputs"))
    demo = Run("demo")
    before = sorted(demo.path.rglob("*"))
    content, _ = sent(AttentionInspector("demo"), dict(kind="export", format="png"))
    assert content["reply"]["path"].startswith(str(tmp_path / "outputs" / "demo" / "views"))
    assert sorted(demo.path.rglob("*")) == before


def test_a_folder_for_views_that_cannot_be_written_is_one_line(tmp_path, run, monkeypatch):
    (tmp_path / "views").write_text("")
    monkeypatch.setattr(Run, "views", tmp_path / "views")
    for ending in ("png", "html"):
        content, _ = sent(AttentionInspector(run), dict(kind="export", format=ending))
        assert "cannot be written" in content["error"] and "\n" not in content["error"]


def test_the_saved_state_can_show_the_view(run):
    """Whatever the view becomes, the answers that a notebook keeps fit it; what was asked before is not computed again."""
    inspector = AttentionInspector(run)
    look = inspector.answers[1]
    inspector.view = {**inspector.view, "sample": 11, "pins": [3]}
    assert inspector.answers[1]["view"]["sample"] == 11 and inspector.answers[0]["reply"]["start"] == 8
    _, parts = sent(inspector, inspector.messages()[0])
    assert inspector.answers[1]["buffers"] == parts and inspector.answers[1]["buffers"] != look["buffers"]
    looked = []
    inspector.runs[0].inspect = looked.append
    inspector.view = {**inspector.view, "opacity": 0.2, "pins": [3, 4]}
    assert not looked
    del inspector.runs[0].inspect
    inspector.view = {**inspector.view, "layer": "G/attention.64"}  # no reason to fail here
    assert inspector.answers == []


@pytest.mark.slow
def test_new_checkpoints_come_with_the_next_change(tiny):
    growing = train(tiny(run="growing", checkpoint_every=2, sample_every=2))
    inspector = AttentionInspector(growing)
    assert inspector.catalog[0]["steps"] == [2, 4]
    train(tiny(resume="growing", steps=6, checkpoint_every=2, sample_every=2))
    inspector.view = {**inspector.view, "opacity": 0.3}
    assert inspector.catalog[0]["steps"] == Run("growing").checkpoint_steps() == [2, 4, 6]
    assert inspector.catalog[0]["recorded"] == [0, 2, 4, 6]


def test_comparisons(run):
    for other, labels in (("gamma=0", ["seen", "seen, γ = 0"]), ("seen@2", ["seen", "seen"]), ("@2", ["seen", "seen"])):
        inspector = AttentionInspector(run, other)
        assert [info["label"] for info in inspector.catalog] == labels
        assert inspector.view["steps"] == ([4, 4] if other == "gamma=0" else [4, 2])
        looks = [sent(inspector, request) for request in inspector.messages()]
        assert looks[0][1][0] != looks[1][1][0]  # other images
        assert len(inspector.figure().picture.axes) == 3 * (
            2 + len(inspector.view["pins"])
        )  # image, maps and their scale; of a, b and b - a
    assert repr(AttentionInspector("seen", "gamma=0")) == "AttentionInspector('seen', 'seen, γ = 0')"


def test_a_run_without_attention_is_no_error(tiny):
    bare = train(tiny(run="bare", attention_g="none", attention_d="none"))
    inspector = AttentionInspector(bare)
    assert inspector.catalog[0]["layers"] == [] and inspector.answers == [] and inspector.figure() is None
    assert "image/png" not in inspector._repr_mimebundle_()[0]
    with pytest.raises(WorkbenchError, match="has no attention layer: nothing to save"):
        inspector.save("view.html")


def test_attention_in_d_alone(tiny):
    inspector = AttentionInspector(train(tiny(run="judge", attention_g="none")))
    assert inspector.view["layer"] == "D/attention.16" and inspector.figure()


def test_the_page_holds_all_that_it_shows(run, tmp_path):
    inspector = AttentionInspector(run, view=AttentionView(run="seen", classes="bar", seeds="2"))
    path = inspector.save(tmp_path / "new" / "view.html")
    page = path.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["']|@import|url\(\s*["']?http|fetch\(|import\s*\(""", page)
    state = json.loads(re.search(r'^<script type="application/json" id="wb-state">(.*?)</script>', page, re.S | re.M)[1])
    pictures = [answer for answer in state["answers"] if answer["kind"] == "inspection"]
    held = {(picture["view"]["sample"], picture["view"]["layer"]): picture for picture in pictures}
    assert held.keys() >= {(k, "G/attention.8") for k in range(8)}
    _, parts = inspector.answer(held[3, "G/attention.16"])
    assert [base64.b64decode(part["base64"]) for part in held[3, "G/attention.16"]["buffers"]] == parts
    assert state["view"]["class"] == 5


def cells(figure, row=0):
    """The images of a row of a figure, (height, width, 3) uint8."""
    sheet = figure.description
    opened = (Image.open(io.BytesIO(base64.b64decode(sheet.images[cell.image]))) for cell in sheet.rows[row].cells)
    return [np.asarray(image).astype(float) for image in opened]


def painted(image, values, high, opacity=0.5):
    """A map from 0 to `high` over a grey image, pixel by pixel."""
    grey = image @ [0.2126, 0.7152, 0.0722]
    colours = colormaps["inferno"](np.rint(255 * values / high).astype(int), bytes=True)[..., :3].astype(float)
    times = len(image) // len(values)
    return (1 - opacity) * grey[..., None] + opacity * np.kron(colours, np.ones((times, times, 1)))


READS = {  # by the definitions, in terms of the map beta (N, M) and the values
    "outgoing": lambda seen, q: seen.beta[q],
    "incoming": lambda seen, q: seen.beta[:, q // 16 // 2 * 8 + q % 16 // 2],
    "value_weighted": lambda seen, q: seen.beta[q] * seen.projections.value_norm[0],
    **{name: lambda seen, q, name=name: seen.statistics[name] for name in attention.STATISTICS},
}


def truth_of(run, reading, pin):
    if reading != "causal":
        return READS[reading](InspectedRun(run).inspect(InspectionRequest("G/attention.16", label=1, sample=1)), pin)
    generator = run.generator()
    inputs = sampling.latents(1, 8, 0, 1), torch.tensor([1])
    return attention.causal_map(generator, inputs, "attention.16", pin)


@pytest.mark.parametrize("reading", ["causal", *attention.READINGS])
def test_a_saved_figure_shows_the_reading_that_is_shown(run, reading, tmp_path):
    """Pixel by pixel: each pin's map on one scale; a statistic of all places once, also without a pin."""
    inspector = AttentionInspector(run)
    pins = [] if reading == "entropy" else [37, 200]
    view = dict(reading=reading, pins=pins, sample=1, layer="G/attention.16", **{"class": 1})
    image, *maps, bar = cells(figures.redraw(f"{inspector.save(tmp_path / 'view.svg', view)}.json"))
    expected = [truth_of(run, reading, pin).numpy() for pin in ([0] if reading in attention.STATISTICS else pins)]
    assert len(maps) == len(expected)
    high = max(values.max() for values in expected)
    for drawn, values in zip(maps, expected, strict=True):
        side = round(len(values) ** 0.5)
        assert (
            np.abs(drawn - painted(image, values.reshape(side, side), high)).max() <= 8
        )  # a step of the colours, where the rounding falls
    assert bar.shape == (16, 256, 3)


@pytest.mark.parametrize("what", [
    dict(gamma0=True), dict(gamma=-1.5), dict(replace="uniform"), dict(replace="local"), dict(forbid=[3, 9]),
    dict(forbid=[3, 9], scope="pins"), dict(forbid=[3], replace="local"), dict(paint=[18, 19, 26], paint_from=3),
    dict(paint=[18, 19, 26], paint_shift=[1, -2]), dict(gamma0=True, directions=[2, -1]),
])  # fmt: skip
def test_a_saved_figure_shows_what_was_changed(run, what):
    inspector = AttentionInspector(run)
    view = dict(pins=[37], **what)
    figure = inspector.figure(view)
    image, _, _, after, change = cells(figure)
    header, parts = inspector.answer(inspector.messages(**view)[0])  # what the front end shows
    assert header["after"] and np.array_equal(after, np.frombuffer(parts[6], np.uint8).reshape(32, 32, 3))
    factor = int(figure.description.rows[0].cells[-1].title.split(" x ")[1])
    assert np.array_equal(change, np.clip(128 + factor * (after - image), 0, 255)) and np.abs(change - 128).max() > 63
    assert "what if: " in figure.description.title


def test_what_is_painted_and_where_the_latent_is_are_in_words(run):
    inspector = AttentionInspector(run)
    title = inspector.figure(dict(paint=[18, 19], paint_from=3, directions=[0, -1.25])).description.title
    assert "what if: 2 keys with the values of sample 3" in title and "sample 0, direction 2 -1.25 sd" in title
    title = inspector.figure(dict(paint=[18], paint_shift=[1, -2], forbid=[9])).description.title
    assert "1 key knocked out, 1 key with the values of this image, +1 row and -2 columns away" in title


def test_effects_are_measured_batch_by_batch_and_saved_as_they_are_shown(run, tmp_path):
    """The front end asks for one batch of samples after the other; cancelling is asking no further. Figure and page hold the same numbers."""
    inspector = AttentionInspector(run)
    what_if = dict(forbid=[18, 19], scope="pins", pins=[37], measure=True, layer="G/attention.16")
    measured = []
    measure = inspector.runs[0].measure
    inspector.runs[0].measure = lambda request, samples: measured.append(samples) or measure(request, samples)
    replies = [sent(inspector, inspector.messages("measure", **what_if)[0] | dict(batch=k))[0]["reply"] for k in range(4)]
    assert [reply["done"] for reply in replies] == [16, 32, 48, 64] and ["rows" in reply for reply in replies] == [
        False,
        False,
        False,
        True,
    ]
    assert measured == [range(0, 16), range(16, 32), range(32, 48), range(48, 64)]  # each once
    rows = json.loads(json.dumps(replies[-1]["rows"]))
    assert [row["quantity"] for row in rows] == [
        "change of the image (RMS)",
        "change at the pins (RMS)",
        "change of the twins' hue disagreement",
    ]
    assert rows[0]["n"] == 64 and rows[0]["change"] > 0 and inspector.effects(what_if) == [rows]
    title = inspector.figure(what_if).description.title
    row = rows[1]
    pins = (
        f"64 samples, change at the pins (RMS): {row['change']:.2g} [{row['low']:.2g}, {row['high']:.2g}]; random keys {row['null']:.2g} ["
    )
    assert pins in title and f"; difference {row['more']:.2g} [" in title
    page = inspector.save(tmp_path / "view.html", what_if).read_text(encoding="utf-8")
    state = json.loads(re.search(r'^<script type="application/json" id="wb-state">(.*?)</script>', page, re.S | re.M)[1])
    assert [answer["reply"]["rows"] for answer in state["answers"] if answer["kind"] == "measure"] == [rows]
    assert len(measured) == 4  # never twice
    assert "64 samples without paint, " in inspector.figure(what_if | dict(paint=[3], paint_from=2)).description.title
    for plain in (dict(what_if, measure=False), dict(measure=True)):  # without an intervention there is nothing to measure
        assert "64 samples" not in inspector.figure(plain).description.title


def test_a_layer_with_gamma_0_has_no_effect(run, tmp_path):
    still = tmp_path / "still"
    shutil.copytree(run.path, still)
    for file in still.glob("checkpoints/*/*.safetensors"):
        save_file({name: torch.zeros_like(t) if name.endswith("gamma") else t for name, t in load_file(file).items()}, file)
        seal(file.parent)
    for what_if in (dict(gamma0=True), dict(replace="uniform"), dict(forbid=[3, 9])):
        for row in AttentionInspector(Run(still)).effects(what_if)[0]:
            assert (row["change"], row["low"], row["high"]) == (0, 0, 0)
            assert "forbid" not in what_if or (row["null"], row["more_low"], row["more_high"]) == (0, 0, 0)


def test_a_scale_relative_to_uniform(run):
    """In octaves around a uniform map; what differs from it by less than a factor of two does not reach the ends."""
    inspector = AttentionInspector(run)
    view = dict(pins=[37], layer="G/attention.16", scale="uniform", opacity=1)
    _, drawn, _ = cells(inspector.figure(view))
    beta = truth_of_view(run)[37].numpy().reshape(8, 8)
    octaves = max(1, np.log2(64 * beta.max()))
    places = 0.5 + np.log2(64 * beta) / (2 * octaves)
    colours = colormaps["RdBu_r"](np.rint(255 * places.clip(0, 1)).astype(int), bytes=True)[..., :3]
    assert np.abs(drawn[1::4, 1::4] - colours).max() <= 8
    scale = scale_of([(None, np.full(64, 1 / 64))], READINGS["received"], relative=True)
    assert scale.octaves == 1 and scale.text == "× the average, 1/2 to 2 × average"


def truth_of_view(run):
    return InspectedRun(run).inspect(InspectionRequest("G/attention.16", label=0)).beta


def test_noise_and_uniform_maps_look_like_no_structure(run, tmp_path):
    """With gamma near 0 the output hardly changes, and what is left is rounding; with queries near 0 the map is uniform."""
    flat = tmp_path / "flat"
    shutil.copytree(run.path, flat)
    for file in flat.glob("checkpoints/*/*.safetensors"):
        tensors = load_file(file)
        for name, tensor in tensors.items():
            if name.endswith("gamma"):
                tensor.fill_(7e-6)
            elif "query" in name and name.endswith(".u"):
                tensor *= 1e9  # divides the normalised queries
        save_file(tensors, file)
        seal(file.parent)
    inspector = AttentionInspector(Run(flat))
    layer = dict(layer="G/attention.16", pins=[37], opacity=1)
    for reading, relative in (("causal", False), ("causal", True), ("outgoing", True), ("entropy", True)):
        figure = inspector.figure(layer | dict(reading=reading, scale="uniform" if relative else "zero"))
        _, drawn, _ = cells(figure)
        assert np.ptp(drawn, axis=(0, 1)).max() <= (60 if reading == "causal" else 0), reading  # of 255
    assert figure.description.rows[0].cells[-1].title.endswith("1/2 to 2 × uniform")
    causal = inspector.figure(layer | dict(reading="causal")).description.rows[0].cells[-1].title
    assert "no more than rounding" in causal


def test_a_saved_comparison_has_the_differences_and_offsets_that_are_shown(run):
    inspector = AttentionInspector(run, "@2")
    figure = inspector.figure(dict(pins=[37], panel="offsets", layer="G/attention.16"))
    images = [cells(figure, row)[0] for row in range(2)]
    change, heat, bar, offsets, _ = cells(figure, 2)
    factor = int(figure.description.rows[2].cells[0].title.split(" x ")[1])
    assert np.array_equal(change, np.clip(128 + factor * (images[1] - images[0]), 0, 255))
    requests = [InspectionRequest("G/attention.16", step, label=0) for step in (4, 2)]
    a, b = (InspectedRun(run).inspect(request).beta[37].numpy().reshape(8, 8) for request in requests)
    c, d = (InspectedRun(run).offsets(request).numpy() for request in requests)
    for drawn, expected in ((heat, b - a), (offsets, d - c)):
        places = 0.5 + expected / (2 * np.abs(expected).max())
        colours = colormaps["RdBu_r"](np.rint(255 * places).astype(int), bytes=True)[..., :3]
        assert np.abs(drawn - colours).max() <= 8
    assert np.array_equal(bar[0], bar[-1])
    high = max(c.max(), d.max())
    colours = colormaps["inferno"](np.rint(255 * c / high).astype(int), bytes=True)[..., :3]
    assert np.abs(cells(figure)[3] - colours).max() <= 8


def test_a_saved_figure_of_d_has_its_logits(run):
    inspector = AttentionInspector(run)
    view = dict(layer="D/attention.16", source="real", gamma0=True, pins=[3])
    header, _ = inspector.answer(inspector.messages(**view)[0])
    assert f"logit {header['logit']:.3g} → {header['logit_after']:.3g}" in inspector.figure(view).description.title


def test_without_a_network_the_figure_shows_what_the_front_end_shows(run):
    inspector = AttentionInspector(run)
    recorded = dict(source="recorded", sample=0, pins=[3])
    assert inspector.figure(recorded | dict(reading="causal")).description == inspector.figure(recorded).description


def test_a_page_holds_the_causal_maps_and_offsets_that_were_shown(run, tmp_path):
    inspector = AttentionInspector(run)
    inspector.save(tmp_path / "view.html", dict(reading="causal", pins=[3, 40], panel="offsets"))
    page = (tmp_path / "view.html").read_text(encoding="utf-8")
    state = json.loads(re.search(r'^<script type="application/json" id="wb-state">(.*?)</script>', page, re.S | re.M)[1])
    assert [answer["query"] for answer in state["answers"] if answer["kind"] == "causal"] == [3, 40]
    assert len([answer for answer in state["answers"] if answer["kind"] == "offsets"]) == 3  # layers


def test_export_buttons_write_beside_the_run(run):
    inspector = AttentionInspector(run)
    for ending in ("png", "svg", "pdf", "html", "html"):
        content, (file,) = sent(inspector, dict(kind="export", format=ending, view={**inspector.view, "pins": [3, 40]}))
        path = Path(content["reply"]["path"])
        assert content["reply"]["text"] == f"written: {path}" and content["reply"]["name"] == path.name
        assert file == path.read_bytes()  # the front end downloads it
    names = {path.name for path in run.views.iterdir()}
    assert names == {
        f"attention-G16-4{tail}" for tail in (".png", ".png.json", ".svg", ".svg.json", ".pdf", ".pdf.json", ".html", "-2.html")
    }
    kept, *others = (json.loads((run.views / f"attention-G16-4.{ending}.json").read_text()) for ending in ("svg", "png", "pdf"))
    assert all(other["figure"] == kept["figure"] for other in others)
    image, *maps, _ = kept["figure"]["rows"][0]["cells"]
    assert len(image["dots"]) == len(maps) == 2
    figures.redraw(run.views / "attention-G16-4.svg.json")
    with pytest.raises(ParameterError, match=r"a view can be \.png, \.svg, \.pdf or \.html"):
        inspector.save("view.gif")


def test_headless_it_is_a_picture_and_no_widget(run):
    data, _ = AttentionInspector(run)._repr_mimebundle_()
    assert set(data) == {"text/plain", "image/png"} and base64.b64decode(data["image/png"]).startswith(b"\x89PNG")


def test_shown_by_a_notebook_the_picture_has_an_output_of_its_own(run, monkeypatch):
    """An export prefers a widget, which it cannot show without a network, to the picture beside it."""
    shown = []
    monkeypatch.setattr("workbench.widgets.inspector.widget.display", lambda content, **how: shown.append((content, how)))
    inspector = AttentionInspector(run)
    inspector._ipython_display_()
    assert [set(content) for content, _ in shown] == [{"text/plain", "image/png"}]  # headless: the picture alone
    shown.clear()
    monkeypatch.setattr(AttentionInspector, "comm", True)
    monkeypatch.setattr(AttentionInspector, "_repr_mimebundle_", lambda self: ({"image/png": "QUJD", "application/x-widget": {}}, {}))
    inspector._ipython_display_()
    (widget, _), (still, _) = shown
    assert set(widget) == {"application/x-widget"} and "data:image/png;base64,QUJD" in still.data
    (name,) = inspector._dom_classes
    assert f"body:has(.{name}) .{name}-still" in still.data and f'class="{name}-still"' in still.data


# ------------------------------------------------------------------------------------------------ the front end's modules


def test_the_bundle_is_one_module():
    script = AttentionInspector._esm
    assert script.count("\nexport ") == script.count("\nexport default widget;") == 1 and "\nimport " not in script
    scripts = "".join(map(bundle, ("widget.js", "page.js", "live.js", "worker.js", "chart.js", "outputs.js", "film.js")))
    assert all(path.read_text().splitlines()[0] in scripts for path in SOURCES.glob("*.js"))
    assert not any(word in scripts for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("))
    assert all(colour in script for colour in QUERY_COLOURS)  # a pin has the colour of its dot in a figure
    for name, reading in READINGS.items():
        assert re.search(rf'{name}: {{ name: "[^"]+", unit: "{re.escape(reading.unit)}"', script), name


@pytest.mark.parametrize(("modules", "says"), [
    ({"a.js": 'import { x } from "./b.js";\n', "b.js": "const x = 1;\n"}, "a.js imports x, which b.js does not export"),
    ({"a.js": 'import { x } from "./b.js";\nconst y = x;\n', "b.js": "export const x = 1;\nlet y = 2;\n"}, "y is declared in b.js and in a.js"),
    ({"a.js": 'import { x } from "./b.js";\n', "b.js": 'import { z } from "./a.js";\n'}, "import each other: a.js -> b.js -> a.js"),
    ({"a.js": 'import { x as y } from "./b.js";\n', "b.js": "export const x = 1;\n"}, "a.js imports x as y, which b.js does not export"),
    ({"a.js": 'import x from "./b.js";\n', "b.js": ""}, "a.js has an import or export that is neither"),
    ({"a.js": 'import { x } from "./b.js";\n', "b.js": "const x = 1;\nexport { x };\n"}, "b.js does not export"),
    ({"a.js": "const { x, y } = z;\n"}, "declare one name at a time"),
])  # fmt: skip
def test_modules_that_cannot_be_joined(tmp_path, modules, says):
    for name, text in modules.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(says)):
        bundle("a.js", tmp_path)


def test_modules_are_joined_in_the_order_of_their_imports(tmp_path):
    (tmp_path / "a.js").write_text('import { f } from "./b.js";\nimport {\n  g,\n} from "./c.js";\n\nexport default f(g);\n')
    (tmp_path / "b.js").write_text('import { g } from "./c.js";\n\nexport function f() {\n  return g;\n}\n')
    (tmp_path / "c.js").write_text("export const g = 1;\n")
    assert bundle("a.js", tmp_path) == "const g = 1;\n\nfunction f() {\n  return g;\n}\n\nexport default f(g);\n"


# ------------------------------------------------------------------------------------------------- networks without a run


def vit():
    network = VisionTransformer(image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    torch.nn.init.normal_(network.heads.head.weight)
    return network


def test_a_network_without_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network, x = vit(), 2 * torch.rand(9, 3, 16, 16) - 1
    inspector = AttentionInspector(network=network, inputs=(x,), classes=["a", "b", "c"])
    (info,) = inspector.catalog
    assert [info[name] for name in ("steps", "recorded", "weights", "classes", "latents", "count", "real")] == [[], [], [], [], "", 9, 0]
    assert inspector.view["layer"] == info["layers"][-1]["id"] and len(inspector.view["pins"]) == 3 and len(inspector.answers) == 2
    with torch.no_grad(), attention.capture(network.eval()) as maps:
        logits = network(x)
    given = maps["encoder.layers.encoder_layer_1.self_attention"]
    for head in (-1, 0, 1):
        content, parts = sent(inspector, inspector.messages(sample=4, head=head)[0])
        reply, heads = content["reply"], 2 if head < 0 else 1
        assert (reply["tokens"], reply["rows"], reply["side"], reply["heads"], reply["gamma"]) == (["class"], 4, 4, heads, None)
        query, key, norms, lse, stats = (torch.frombuffer(bytearray(part), dtype=torch.float32) for part in parts[1:6])
        beta = torch.exp(query.view(heads, 17, 4) @ key.view(heads, 17, 4).transpose(1, 2) - lse.view(heads, 17, 1))
        torch.testing.assert_close(beta, given[4] if head < 0 else given[4, [head]])
        assert len(norms) == heads * 17 and stats.view(6, 17)[0].isfinite().all() and stats.view(6, 17)[1, 0].isnan()
    assert content["reply"]["logit"] == pytest.approx(logits[4].max().item(), abs=1e-5)
    for kind, size in (("causal", 17), ("offsets", 49)):
        _, (part,) = sent(inspector, inspector.messages(kind, **(dict(query=0) if kind == "causal" else {}), head=1)[0])
        assert len(part) == 4 * size
    assert "head=-2 of the view does not fit" in sent(inspector, inspector.messages(head=-2)[0])[0]["error"]
    assert sent(inspector, inspector.messages(head=7)[0])[0]["reply"]["heads"] == 2  # the mean: there is no such head
    content, _ = sent(inspector, dict(kind="export", format="png", view=dict(pins=[0, 5])))
    assert Path(content["reply"]["path"]).resolve().parent == tmp_path
    sheet = inspector.figure(dict(pins=[0, 5], head=1)).description
    assert [len(cell.dots) for cell in sheet.rows[0].cells[:3]] == [1, 0, 1]  # a token has no place
    assert sheet.rows[0].cells[1].title == "class token" and "head 1" in sheet.title and "gamma" not in sheet.title
    assert "image/png" in inspector._repr_mimebundle_()[0]
    assert (
        "NaN" not in inspector.save(tmp_path / "view.html").read_text(encoding="utf-8").partition("wb-state")[2].partition("</script>")[0]
    )


def test_a_generator_without_a_run_and_what_is_beside_it(tmp_path):
    generator = Run("demo").generator()

    def draw(count, seed):
        return sampling.latents(count, generator.z_dim, seed), torch.arange(count) % 6

    inspector = AttentionInspector(
        generator=generator, inputs=draw, classes=Run("demo").class_names, b="gamma=0", folder=tmp_path / "views"
    )
    assert repr(inspector) == "AttentionInspector('Generator', 'Generator, γ = 0')" and inspector.catalog[0]["latents"] == "seed"
    request = inspector.messages(layer="G/attention.16", seed=3, sample=2, **{"class": 1})
    pictures = [sent(inspector, message) for message in request]
    z = sampling.latents(8, generator.z_dim, 3)[2:3]
    image = np.frombuffer(pictures[0][1][0], np.uint8).reshape(32, 32, 3)
    assert np.array_equal(image, to_uint8(sampling.images(generator, z, torch.tensor([1])))[0].permute(1, 2, 0).numpy())
    assert pictures[0][0]["reply"]["about"] == "square, sample 2, seed 3" and pictures[1][0]["reply"]["gamma"] == 0
    assert inspector.save(tmp_path / "both.png").exists()
    inspector.export(inspector.figure())
    assert sorted(path.name for path in (tmp_path / "views").iterdir() if path.suffix != ".json") == [
        f"attention.{e}" for e in ("html", "png", "svg")
    ]


@pytest.mark.parametrize(("how", "message"), [
    (dict(inputs=(1,)), "inputs belong to a network; give generator=... or network=..."),
    (dict(network=torch.nn.Identity()), "inputs are missing: the network's inputs for a batch"),
    (dict(a="demo", network=torch.nn.Identity(), inputs=(1,)), "a run, generator and network are given; give one of them"),
    (dict(a="demo", b=torch.nn.Identity()), "b is a network and a a run; give both as networks"),
])  # fmt: skip
def test_a_network_and_its_inputs_belong_together(how, message):
    with pytest.raises(ParameterError, match=message):
        AttentionInspector(**how)
