# ruff: noqa: RUF001
"""The living page: its generator, latents and answers in a real Chromium against PyTorch's, and the page with the network cut off."""

import base64
import io
import json
import re

import numpy as np
import pytest
import torch
from lab import wait_until
from PIL import Image
from torch import nn

from workbench import AttentionView, Config, Generator, ParameterError, Run, SelfAttention, WorkbenchError, export_page
from workbench.data import to_uint8
from workbench.model import sampling
from workbench.model.layers import BatchNorm
from workbench.runs.checkpoints import save_checkpoint
from workbench.views.inspected_run import InspectedRun
from workbench.widgets.bundle import bundle
from workbench.widgets.inspector import living
from workbench.widgets.inspector.answers import Answers
from workbench.widgets.inspector.requests import DEFAULT_VIEW

# A worker with the state of a page; `answer` promises the reply to a request (or its error), and its parts in base64.
START = """([source, text]) => {
  const thaw = (key, value) => typeof value?.base64 === "string"
    ? Uint8Array.from(atob(value.base64), (letter) => letter.charCodeAt(0)).buffer : value;
  const encode = (buffer) => btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""));
  const worker = new Worker(URL.createObjectURL(new Blob([source])));
  worker.postMessage({ state: JSON.parse(text, thaw).living });
  window.answer = (request) => new Promise((resolve, reject) => {
    worker.onerror = reject;
    worker.onmessage = ({ data: { reply, error, buffers = [] } }) => resolve([reply ?? error, buffers.map(encode)]);
    worker.postMessage({ id: "1", request });
  });
}"""


def made(folder, name, **settings):
    """A run of one checkpoint of random weights; gammas and batch norm's gains, biases and statistics are away from where they start."""
    config = Config.preset("twins32", run=name, **dict(width=8, z_dim=24, num_classes=6, attention_d="none") | settings)
    torch.manual_seed(1)
    generator = Generator(config)
    with torch.no_grad():
        for module in generator.modules():
            if isinstance(module, BatchNorm):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.3, 2)
                if not module.sn:
                    module.gain.uniform_(0.5, 1.5)
                    module.bias.normal_(0, 0.3)
            if isinstance(module, SelfAttention):
                module.gamma.fill_(-0.8)
        generator.norm.gain.mul_(0.4)  # else tanh would hide differences
    run = folder / name
    run.mkdir(parents=True)
    (run / "config.json").write_text(config.to_json())
    save_checkpoint(run, 10, {"ema": generator.state_dict()}, {"step": 10})
    return Run(run)


VARIANTS = {
    "demo": None,
    "paper": dict(attention_variant="paper", attention_g="16", num_classes=0),
    "two": dict(attention_g="8,32", sn_g=False, sn_gains=True, init="orthogonal", batch_norm_eps=1e-3, batch_norm_group=8, width=12),
    "large": dict(image_size=64, attention_g="16", max_multiplier=2, dtype="float64", z_dim=10),
    "residual": dict(attention_block="residual", attention_g="16"),
    "none": dict(attention_g="none", width=9),
}


class Living:
    """The worker of a living page in a browser, and the kernel's answers to the same messages."""

    def __init__(self, browser, run, path, worker="", steps=()):
        text = export_page(run, path, steps=steps).read_text()
        self.state = text.partition('id="wb-state">')[2].partition("</script>")[0]
        self.catalog, self.kernel = json.loads(self.state)["catalog"], Answers([InspectedRun(run)])
        self.layers = [layer["id"] for layer in self.catalog[0]["layers"]]
        self.page = browser.new_page()
        self.page.evaluate(START, [worker or bundle("worker.js"), self.state])

    def ask(self, kind, query=None, **view):
        message = dict(kind=kind, run=0, view=DEFAULT_VIEW | view, query=query)
        reply, parts = self.page.evaluate("message => answer(message)", message)
        return message, reply, [base64.b64decode(part) for part in parts]

    def both(self, kind, **request):
        """Both replies, and pairs of parts."""
        message, reply, parts = self.ask(kind, **request)
        expected, others = self.kernel.picture(message, self.catalog)
        return (reply, expected), list(zip(parts, others, strict=True))


@pytest.fixture
def living_page(browser, tmp_path):
    opened = []

    def start(name, **options):
        run = Run("demo") if name == "demo" else made(tmp_path, name, **VARIANTS[name])
        opened.append(Living(browser, run, tmp_path / "page.html", **options))
        return opened[-1]

    yield start
    for page in opened:
        page.page.close()


def share_off(shown, expected):
    """The share of pixels that differ by more than 1/255 in a channel."""
    shown, expected = (np.frombuffer(part, np.uint8).reshape(-1, 3).astype(int) for part in (shown, expected))
    return (np.abs(shown - expected).max(1) > 1).mean()


def of_kernel(page, samples=16, seed=3):
    """The images of the run by PyTorch, as the bytes of strips."""
    run, (offered,) = page.kernel.runs[0], page.catalog
    generator = run.run.generator(offered["steps"][-1])
    z, y = sampling.latents(samples, generator.z_dim, seed), sampling.labels(samples, generator.num_classes)
    return to_uint8(sampling.images(generator, z, y)).permute(0, 2, 3, 1).numpy().tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_images_are_those_of_pytorch(living_page, name):
    page = living_page(name)
    shown = b"".join(page.ask("strip", seed=3, sample=start)[2][0] for start in (0, 8))
    assert share_off(shown, of_kernel(page)) <= 0.001
    assert page.ask("inspection", seed=3, sample=9)[2][0] == shown[9 * len(shown) // 16 :][: len(shown) // 16]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("[[[0], [1, 2]], [[0, 1], [2]]]", "[[[0, 1], [2]], [[0], [1, 2]]]"),  # the rows that a doubled pixel sees
        ("label * channels", "0 * channels"),
        ("Math.exp(weights[m] - most)", "Math.exp(0.9 * (weights[m] - most))"),
    ],
)
def test_a_fault_shows(living_page, right, wrong):
    source = bundle("worker.js")
    assert source.count(right) == 1
    page = living_page("demo", worker=source.replace(right, wrong))
    shown = b"".join(page.ask("strip", seed=3, sample=start)[2][0] for start in (0, 8))
    assert share_off(shown, of_kernel(page)) > 0.01


# What a view can ask for.
ASKED = [
    dict(),
    dict(gamma=1.7, truncation=0.7),
    dict(gamma0=True, towards=[5, 2], mix=0.3),
    dict(replace="local", forbid=[9], towards=[5, 2], mix=0.72, truncation=1.2),
    dict(replace="uniform", steps=[100]),
    dict(forbid=[3, 4], scope="pins", pins=[2, 9], **{"class": 3}),
    dict(forbid=[3, 4], scope="pins", gamma=0),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo", "two"])
def test_answers_are_those_of_the_kernel(living_page, name):
    page = living_page(name, steps=[100] if name == "demo" else ())
    for layer in page.layers[:1] if name == "demo" else page.layers:
        for view in ASKED:
            (reply, expected), ((image, other), *parts) = page.both("inspection", layer=layer, seed=2, sample=5, **view)
            assert reply == expected | dict(gamma=pytest.approx(expected["gamma"]))
            assert share_off(image, other) <= 0.001
            for a, b in parts[:5]:  # of float16 weights
                shown, truth = (np.frombuffer(part, np.float32) for part in (a, b))
                np.testing.assert_allclose(shown, truth, rtol=0, atol=4e-3 * np.abs(truth).max())
            assert all(share_off(a, b) <= 0.001 for a, b in parts[5:]) and len(parts) == 5 + expected["after"]
        for kind in ("causal", "offsets"):
            _, ((a, b),) = page.both(kind, query=37, layer=layer, seed=2, sample=5)
            shown, truth = (np.frombuffer(part, np.float32) for part in (a, b))
            np.testing.assert_allclose(shown, truth, rtol=0.01, atol=0.005 * truth.max())
    _, reply, _ = page.ask("inspection", layer=page.layers[0], forbid=list(range(64)))
    assert reply == "forbid leaves query 0 no key; leave every query at least one"


@pytest.mark.slow
def test_latents_are_those_of_the_package(browser):
    page = browser.new_page()
    page.add_script_tag(content=bundle("random.js"))
    draw = "([size, asked]) => { const of = latentSource(size); return asked.map((a) => Array.from(of(...a))); }"
    seeds = (0, 1, 7, 2**31 - 1, 2**32, 2**53 - 1)
    for size in (1, 24, 128):
        asked = [(seed, sample, threshold) for seed in seeds for sample, threshold in ((0, 0), (255, 0), (256, 0.4), (10_000, 2.5))]
        truth = torch.cat([sampling.latents(1, size, seed, sample, threshold) for seed, sample, threshold in asked])
        np.testing.assert_allclose(page.evaluate(draw, [size, asked]), truth, atol=3e-6)
    a, b = sampling.latents(2, 32)
    walk = "([a, b]) => [0, 0.25, 1].map((t) => interpolated(a, b, t)).concat([interpolated(a, a, 0.5)])"
    truth = [sampling.interpolate(a[None], b[None], t)[0].tolist() for t in (0, 0.25, 1)]
    np.testing.assert_allclose(page.evaluate(walk, [a.tolist(), b.tolist()]), [*truth, a.tolist()], atol=1e-6)
    page.close()


def cell(stage, query, side):
    """The middle of a position on a stage, relative to it."""
    box, (row, column) = stage.bounding_box(), divmod(query, side)
    return {"x": (column + 0.5) * box["width"] / side, "y": (row + 0.5) * box["height"] / side}


@pytest.mark.slow
@pytest.mark.parametrize("phone", [False, True])
def test_the_page_lives_without_a_network(browser, tmp_path, phone):
    size = (
        dict(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
        if phone
        else dict(viewport={"width": 1440, "height": 900})
    )
    context = browser.new_context(offline=True, **size)
    page, errors, hosts = context.new_page(), [], set()
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url[:7]))
    page.goto(export_page("demo", tmp_path / "page.html").as_uri())
    view, stage = page.locator(".wb.inspector"), page.locator(".stage")
    picture = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"

    def shows(**view):
        """Whether the stage has the image of a view."""
        request = dict(label=0, seed=0, sample=0, truncation=0.0) | view
        generator = Run("demo").generator(request.get("step"))
        z = sampling.latents(1, 32, request["seed"], request["sample"], request["truncation"])
        truth = to_uint8(sampling.images(generator, z, torch.tensor([request["label"]])))[0].permute(1, 2, 0).numpy()
        shown = np.array(stage.locator(".image").evaluate(picture)).reshape(-1, 4)[:, :3]
        return len(shown) == 1024 and share_off(shown.astype(np.uint8).tobytes(), truth.tobytes()) <= 0.001

    press = (lambda node: node.tap()) if phone else (lambda node: node.click())
    wait_until(shows)
    page.get_by_label("Seed", exact=True).fill("12345")
    wait_until(lambda: shows(seed=12345))
    page.get_by_label("Class").select_option("4")
    press(view.locator(".thumbs button").nth(5))
    wait_until(lambda: shows(seed=12345, sample=5, label=4))
    page.get_by_label("Truncation").fill("0.5")
    wait_until(lambda: shows(seed=12345, sample=5, label=4, truncation=0.5))
    page.get_by_label("Step", exact=True).fill("0")
    wait_until(lambda: shows(seed=12345, sample=5, label=4, truncation=0.5, step=100))
    page.get_by_label("Step", exact=True).fill("3")
    page.get_by_label("γ", exact=True).fill("2")
    view.locator(".triple .after").wait_for()
    press(page.get_by_role("button", name="learned γ"))
    wait_until(lambda: view.locator(".triple:visible").count() == 0)
    sixteen = page.get_by_role("button", name="16×16")
    press(sixteen)
    wait_until(lambda: sixteen.get_attribute("aria-pressed") == "true" and view.get_attribute("data-busy") is None)
    stage.tap(position=cell(stage, 77, 16)) if phone else stage.click(position=cell(stage, 77, 16))
    wait_until(lambda: view.locator(".pin").evaluate_all("pins => pins.map(pin => pin.dataset.query)") == ["77"])
    press(view.locator("[data-value=causal]"))
    heat = "canvas => Array.from(canvas.values ?? [])"
    request = dict(label=4, seed=12345, sample=5, truncation=0.5)
    truth = InspectedRun("demo").causal_map(living.InspectionRequest("G/attention.16", **request), 77).numpy()
    wait_until(lambda: len(shown := stage.locator(".heat").evaluate(heat)) == 64 and np.allclose(shown, truth, atol=0.01 * truth.max()))
    press(page.get_by_role("button", name="Knock out"))
    press(stage)
    wait_until(lambda: view.locator(".triple:visible").count() == 1)
    with page.expect_download() as download:
        press(page.get_by_role("button", name="Figure (PNG)"))
    assert Image.open(io.BytesIO(download.value.path().read_bytes())).size == (1024, 1024)
    assert download.value.suggested_filename == "seed-12345-sample-5.png"
    press(page.get_by_role("button", name="Time it"))
    wait_until(lambda: (text := re.search(r"([\d.]+) ms an image", view.locator("footer").inner_text())) and float(text[1]) < 150)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= size["viewport"]["width"]
    assert errors == [] and hosts <= {"file://", "blob:nu"}
    context.close()


@pytest.mark.slow
def test_without_attention_the_page_has_images(browser, tmp_path):
    page = browser.new_page()
    page.goto(export_page(made(tmp_path, "none", **VARIANTS["none"]), tmp_path / "page.html").as_uri())
    page.locator(".thumbs button").nth(3).click()
    page.get_by_text("3, seed 0, sample 3").wait_for()
    page.get_by_role("button", name="Interpolate").click()
    page.get_by_text("50% towards seed 1, sample 3").wait_for()
    page.close()


# --------------------------------------------------------------------------------------------------- without a browser


def test_the_page_in_the_documentation_has_the_networks_of_the_demo():
    page = (living.Path(__file__).parents[2] / "docs" / "live.html").read_bytes()
    assert len(page) <= 3_000_000
    held = json.loads(page.partition(b'id="wb-state">')[2].partition(b"</script>")[0])["living"]["networks"]
    networks = {step: living.pack(InspectedRun("demo"), step, "ema") for step in Run("demo").checkpoint_steps()}
    encoded = [
        network | {part: dict(base64=base64.b64encode(network[part]).decode()) for part in ("half", "single")}
        for network in networks.values()
    ]
    assert held == json.loads(json.dumps(encoded))


def test_a_page_holds_the_checkpoints_that_fit(tmp_path, monkeypatch):
    def steps(**options):
        text = export_page("demo", tmp_path / "page.html", **options).read_text()
        return json.loads(text.partition('id="wb-state">')[2].partition("</script>")[0])["catalog"][0]["steps"]

    assert steps() == [100, 500, 1500, 4000] and steps(steps=[]) == [4000]
    assert steps(view=AttentionView(step=500), steps=[100]) == [100, 500]
    monkeypatch.setattr(living, "LIVE_BYTES", 1_600_000)
    assert steps() == [100, 4000]
    monkeypatch.setattr(living, "LIVE_BYTES", 100)
    assert steps() == [4000]
    monkeypatch.setattr(living, "MAX_LIVE_BYTES", 100)
    with pytest.raises(WorkbenchError, match="would take 1 MB of a page"):
        steps()


class Elsewhere(nn.Identity):
    """A layer that the page does not know."""


def test_what_a_page_cannot_hold_is_refused(tmp_path, monkeypatch):
    for options, says in (
        (dict(path=tmp_path / "page.png"), "a page ends in .html"),
        (dict(view=AttentionView(network="D")), "network='D': a living page holds the generator"),
        (dict(steps=[7]), "has no checkpoint at step 7"),
    ):
        with pytest.raises(WorkbenchError, match=re.escape(says)):
            export_page("demo", **dict(path=tmp_path / "page.html") | options)
    with pytest.raises(ParameterError, match=re.escape("a page ends in .html")):
        export_page("demo", tmp_path / "page.png", live=False)
    generator = Run("demo").generator()
    monkeypatch.setattr(Run, "generator", lambda *_: generator)
    generator.output.bias[0] = float("nan")
    with pytest.raises(WorkbenchError, match=r"step 4000: output\.bias of G is not finite"):
        export_page("demo", tmp_path / "page.html", steps=[])
    generator.output.bias[0] = 0
    generator.attention["16"] = Elsewhere()
    with pytest.raises(WorkbenchError, match=r"attention\.16 is a Elsewhere; a folded generator"):
        living.pack(InspectedRun("demo"), 4000, "ema")
    assert not (tmp_path / "page.html").exists()


def test_without_live_it_is_the_page_of_the_inspector(tmp_path):
    text = export_page("demo", tmp_path / "page.html", live=False).read_text()
    assert 'id="wb-worker"' not in text and "D/attention.16" in text
