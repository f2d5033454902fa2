# ruff: noqa: RUF001, RUF002
"""Layers × checkpoints, and places in words: what they show, what is saved of it, and what a page holds."""

import base64
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from lab import wait_until
from PIL import Image

from workbench import AttentionInspector, AttentionView, Run, attention
from workbench.attention.snapshots import load_snapshot
from workbench.figures.overview import scale_of_times
from workbench.figures.painting import colour_table
from workbench.model import sampling
from workbench.views.inspected_run import InspectedRun
from workbench.views.inspection_request import InspectionRequest
from workbench.views.overview import columns, glance, overview
from workbench.widgets.inspector import export

QUERY = 13 * 32 + 8  # of G 32x32; in layers of 16x16 at row 6, column 4


@pytest.fixture(autouse=True)
def headless(monkeypatch):
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")


@pytest.fixture
def demo(tmp_path):
    """A copy of the demo to change, with the checkpoints at 500 and 4000."""
    run = Run(shutil.copytree(Run("demo").path, tmp_path / "outputs" / "copy"))
    for step in (100, 1500):
        shutil.rmtree(run.path / "checkpoints" / str(step))
    return run


def truth(run, step, sample=4, label=3):
    """Of every layer at a step: the weights of the query relative to a uniform map, by `capture`; and gamma."""
    generator, discriminator, y = run.generator(step), run.discriminator(step), torch.tensor([label])
    with attention.capture(generator) as of_g, attention.capture(discriminator) as of_d, torch.no_grad():
        x = sampling.images(generator, sampling.latents(1, generator.z_dim, 0, sample), y)
        discriminator(x, y)
    networks = (("G/attention.16", of_g, generator), ("G/attention.32", of_g, generator), ("D/attention.16", of_d, discriminator))
    found = {}
    for name, maps, network in networks:
        beta = maps[name[2:]][0, QUERY if name == "G/attention.32" else 6 * 16 + 4].double().numpy()
        found[name] = (beta * len(beta), network.get_submodule(name[2:]).gamma.item())
    return x[0], found


def test_a_column_is_what_capture_sees_at_its_step(demo):
    run = InspectedRun(demo)
    for step in (500, 4000):
        image, layers = run.every_layer(InspectionRequest("G/attention.32", step, label=3, sample=4))
        x, expected = truth(demo, step)
        torch.testing.assert_close(image, x, atol=1e-5, rtol=0)
        assert layers.keys() == expected.keys()
        for name, (times, gamma) in expected.items():
            seen = glance(layers[name], QUERY, side=32)
            np.testing.assert_allclose(seen.times.ravel(), times, rtol=2e-3, atol=1e-4)
            beta = times / len(times)
            assert seen.gamma == pytest.approx(gamma)
            assert seen.entropy == pytest.approx(-(beta * np.log(np.maximum(beta, 1e-300))).sum() / math.log(len(beta)), rel=1e-3)
            assert seen.spot == ((13.5 / 32, 8.5 / 32) if name == "G/attention.32" else (6.5 / 16, 4.5 / 16))
    assert run._open.cache_info().currsize == 0  # the networks that are looked at stay open


def test_a_latent_is_moved_along_the_directions_of_each_step(demo):
    run = InspectedRun(demo)
    for step in (500, 4000):
        request = InspectionRequest("G/attention.32", step, label=3, sample=4, directions=(1.0, -2.0))
        image, layers = run.every_layer(request)
        assert run._open.cache_info().currsize == (step == 4000)
        seen = run.inspect(request)
        torch.testing.assert_close(image, seen.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(layers[request.layer].query, seen.projections.query, atol=1e-4, rtol=1e-3)


def test_columns_of_snapshots_and_of_real_images(demo):
    run = InspectedRun(demo)
    snapshot = load_snapshot(demo.attention_path(900))
    _, layers = run.every_layer(InspectionRequest("G/attention.32", 900, source="recorded", sample=1))
    for name, layer in snapshot.layers.items():
        assert torch.equal(layers[name].query, layer.query[1:2]) and layers[name].gamma == layer.gamma
    _, layers = run.every_layer(InspectionRequest("D/attention.16", 500, source="real", sample=2))
    assert list(layers) == ["D/attention.16"]
    assert columns(run, "samples") == [500, 4000] and len(columns(run, "recorded")) == 7


def cells(figure, row):
    """The images of a row of a sheet, by column."""
    sheet = figure.description
    opened = (Image.open(io.BytesIO(base64.b64decode(sheet.images[cell.image]))) for cell in sheet.rows[row].cells if cell.image >= 0)
    return [np.asarray(image.convert("RGB")).astype(int) for image in opened]


@pytest.mark.parametrize("relative", [False, True])
def test_the_figure_has_one_scale(demo, relative):
    figure = overview(InspectedRun(demo), InspectionRequest("G/attention.32", 4000, label=3, sample=4), QUERY, relative)
    expected = [truth(demo, step)[1] for step in (500, 4000)]
    maxima = sorted(times.max() for column in expected for times, _ in column.values())
    table = colour_table("RdBu_r" if relative else "inferno").astype(int)
    for row, name in enumerate(expected[0], start=1):
        for drawn, column in zip(cells(figure, row), expected, strict=True):
            times = column[name][0].reshape(len(drawn), -1)
            places = 0.5 + np.log2(np.maximum(times, 1e-30)) / (2 * max(1, math.log2(maxima[-1]))) if relative else times / maxima[4]
            assert np.abs(drawn - table[np.rint(255 * places.clip(0, 1)).astype(int)]).max() <= 10
    titles = [cell.title for cell in figure.description.rows[2].cells]
    assert (
        titles[1]
        == f"γ {expected[1]['G/attention.32'][1]:.2g} · {glance(InspectedRun(demo).every_layer(InspectionRequest('G/attention.32', 4000, label=3, sample=4))[1]['G/attention.32'], QUERY, 32).entropy:.0%}"
    )
    assert [row.label for row in figure.description.rows] == ["step", "G · 16×16", "G · 32×32", "D · 16×16"]
    assert ("1/" in figure.description.title) == relative and figure.png()


def test_few_sharp_maps_leave_the_others_visible():
    scale = scale_of_times([1.0, 2.0, 3.0, 4.0, 200.0], relative=False)
    assert scale.high == 4 and scale.text == "0 to 4 × uniform, the brightest up to 200"
    assert scale_of_times([1.0], relative=False).text == "0 to 1 × uniform" and scale_of_times([], relative=False).high > 0


def test_a_checkpoint_that_cannot_be_read_is_said(demo):
    (demo.path / "checkpoints" / "500" / "ema.safetensors").write_bytes(b"")
    figure = AttentionView(run=str(demo.path), classes="cross", seeds="0:4", queries="13,8").overview()
    assert "step 500: " in figure.description.title and "cannot be read" in figure.description.title and figure.png()
    inspector = AttentionInspector(demo)
    inspector.save(demo.path / "view.html", dict(overview=True))
    assert [answer["reply"]["step"] for answer in held(demo.path / "view.html", "overview")] == [4000]


def test_headless_views_have_overviews_and_explanations(tiny, demo):
    view = AttentionView(run=str(demo.path), network="D", source="real", queries="3,4; 3,12")
    assert [row.label for row in view.overview().description.rows] == ["step", "D · 16×16"]
    assert [line[:24] for line in view.explanation().splitlines()] == ["Query (3, 4) of D 16×16 ", "Query (3, 12) of D 16×16"]
    from workbench import train

    bare = AttentionView(run=train(tiny(attention_g="none", attention_d="none", steps=2)).name)
    assert bare.overview() is None and "has no attention layer" in bare.explanation()


def test_the_saved_figure_has_what_is_open(demo):
    inspector = AttentionInspector.from_line(f"{demo.path}@4000 G/attention.32 sample=4 pins=13,8 class=cross overview=true explain=true")
    above, below = inspector.figure().description.parts
    expected = overview(inspector.runs[0], inspector._requests(inspector.view)[0], QUERY)
    assert below == expected.description and above.rows == inspector.figure(dict(overview=False)).description.rows
    assert inspector.runs[0].explain(inspector._requests(inspector.view)[0], QUERY).sentence in above.title
    pair = AttentionInspector.from_line(f"{demo.path} beside=gamma0 pins=13,8 explain=true")
    lines = pair.figure().description.title.splitlines()
    assert lines[-2].startswith("a: Query (13, 8)") and lines[-1].startswith("b: Query (13, 8)") and "Gamma is 0: " in lines[-1]
    assert inspector.figure(dict(pins=[])).description.rows  # nothing to explain, and no query of an overview


def held(path, kind):
    state = json.loads(re.search(r'^<script type="application/json" id="wb-state">(.*?)</script>', path.read_text(), re.S | re.M)[1])
    return [answer for answer in state["answers"] if answer["kind"] == kind]


@pytest.mark.parametrize(("message", "says"), [
    (dict(kind="explain"), "query=-1 is not a position"), (dict(kind="explain", query=[]), "query=[] is not a position"),
    (dict(kind="explain", query=99999), "query=99999 is not a position"),
])  # fmt: skip
def test_requests_that_do_not_fit(message, says):
    inspector = AttentionInspector("demo")
    answers = []
    inspector.send = lambda content, parts=None: answers.append(content)
    inspector._receive(inspector, dict(id="1", request=dict(run=0, view=inspector.view) | message), [])
    assert says in answers[0]["error"]


# ---------------------------------------------------------------------------------------------------- in the browser


LINE = "demo@4000 G/attention.32 sample=4 pins=13,8+13,22 class=cross overview=true explain=true"
PIXELS = "canvas => [canvas.width, Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)]"


def drawn(cell):
    side, values = cell.locator("canvas").evaluate(PIXELS)
    return np.array(values).reshape(side, side, 4)[:, :, :3]


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["zero", "uniform"])
def test_the_page_shows_what_the_figure_has(browser, tmp_path, scale):
    inspector = AttentionInspector.from_line(f"{LINE} scale={scale}".replace(" scale=zero", ""))
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    errors = []
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(inspector.save(tmp_path / "view.html").as_uri())
    view = page.locator(".wb.inspector")
    page.wait_for_timeout(200)
    below = inspector.figure().description.parts[1]
    from workbench.figures import Drawing

    expected = [cell for row in range(1, 4) for cell in cells(Drawing(below), row)]
    buttons = view.locator(".overview .cells button")
    assert buttons.count() == len(expected) == 12
    for k, pixels in enumerate(expected):
        assert np.abs(drawn(buttons.nth(k)) - pixels).max() <= 10
    titles = [cell.title for row in below.rows[1:] for cell in row.cells]
    for k, title in enumerate(titles):
        gamma, share = re.fullmatch(r"γ (\S+) · (\d+)%", title).groups()
        shown = buttons.nth(k).locator(".words").inner_text().replace("−", "-").split("\n")
        assert float(shown[0].removeprefix("γ ")) == pytest.approx(float(gamma)) and abs(int(shown[1].split()[0]) - int(share)) <= 1
    assert view.locator(".explain p").inner_text() == inspector._explanations(inspector.view)[0]

    # It follows the pointer, and another pin; this page holds the words of both pins, and of no other place.
    before = drawn(buttons.nth(7))
    view.locator(".stage").hover(position=dict(x=30, y=30))
    wait_until(lambda: (drawn(buttons.nth(7)) != before).any())
    page.mouse.move(1, 1)
    view.locator(".pinned").nth(1).click()
    assert view.locator(".explain p").inner_text().startswith("Query (13, 22)")
    view.locator(".stage").click(position=dict(x=30, y=30))
    assert view.locator(".explain p").inner_text() == "This page holds the words for the pins that it opened with."

    # A cell of a layer that the page holds is entered; steps that it does not hold cannot be.
    assert buttons.nth(0).is_disabled() and buttons.nth(3).is_enabled()
    view.locator(".overview [aria-current=true]").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert view.get_by_role("button", name="16×16", exact=True).get_attribute("aria-pressed") == "true"
    assert view.locator(".overview [aria-current=true]").get_attribute("aria-label").startswith("G · 16×16, step 4,000: γ ")
    view.locator(".thumbs button").nth(5).click()
    assert "does not hold the layers × checkpoints of this image" in view.locator(".overview .legends").inner_text()
    assert errors == []
    context.close()


@pytest.mark.slow
def test_a_page_that_is_too_small_for_an_overview_says_so(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "MAX_PAGE_BYTES", 100_000)
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    path = AttentionInspector.from_line(LINE).save(tmp_path / "view.html")
    assert held(path, "overview") == []
    page.goto(path.as_uri())
    assert "This page does not hold" in page.locator(".overview .legends").inner_text()
    page.goto(AttentionInspector("demo").save(tmp_path / "closed.html").as_uri())
    page.get_by_role("button", name="Layers × checkpoints").tap()
    assert "This page does not hold" in page.locator(".overview .legends").inner_text()
    monkeypatch.undo()
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")
    page.goto(AttentionInspector.from_line(LINE).save(tmp_path / "open.html").as_uri())
    page.wait_for_timeout(200)
    sizes = page.locator(".overview button, .explain button, .line button").evaluate_all(
        "nodes => nodes.map(node => [node.offsetWidth, node.offsetHeight])"
    )
    assert len(sizes) == 15 and min(map(min, sizes)) >= 40
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    context.close()
