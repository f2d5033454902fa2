# ruff: noqa: RUF001
"""Notebooks as a person meets them: a real JupyterLab in a real Chromium, with real runs and evaluations."""

import base64
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from lab import READY, Lab, Notebook, wait_until
from matplotlib import colormaps
from PIL import Image
from torchvision.models import VisionTransformer

from workbench import Config, SelfAttention, attention, train
from workbench.data import to_uint8
from workbench.data.twins import Twins
from workbench.figures.painting import READINGS, values_of
from workbench.model import sampling
from workbench.model.directions import main_directions
from workbench.paths import program
from workbench.runs import Run, create_run
from workbench.tensors import load_tensors, save_tensors, seal
from workbench.widgets import AttentionInspector

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture
def page(browser):
    context = browser.new_context(viewport={"width": 1500, "height": 1100})
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


TRAIN = """
import workbench
config = workbench.Config.preset("twins32", run="watched", width=8, attention_g="16", batch_size=8, steps=100_000, log_every=2, sample_every=10, checkpoint_every=50)
run = workbench.launch(config)
dashboard = workbench.Dashboard(run)
"""
STEP = re.compile(r"step ([\d,]+)")


def shown_step(view) -> int:
    """The step whose samples a dashboard shows."""
    return int(STEP.search(view.locator(".wb-samples .widget-html").first.inner_text())[1].replace(",", ""))


def choose_theme(notebook, theme):
    """Choose JupyterLab's theme "Light" or "Dark"."""
    notebook.do(f"jupyterapp.commands.execute('apputils:change-theme', {{ theme: 'JupyterLab {theme}' }})")
    wait_until(lambda: notebook.page.evaluate("document.body.dataset.jpThemeLight") == str(theme == "Light").lower())
    notebook.page.locator("#jupyterlab-splash").wait_for(state="detached")  # a second change before that is an error of JupyterLab's own


FIT = "plots => plots.length > 0 && plots.every(plot => Math.abs(plot.querySelector('.main-svg').clientWidth - plot.parentElement.clientWidth) < 2)"
PAPER = "plot => getComputedStyle(plot.querySelector('.main-svg')).backgroundColor"


def test_a_training_is_watched_left_found_again_and_stopped(lab, page):
    page.set_viewport_size({"width": 1440, "height": 900})
    cells = (TRAIN + "await dashboard.follow();", "workbench.live(workbench.views.train.samples, run)", "print('another', 'cell')")
    notebook = Notebook(page, lab.write("watch.ipynb", *cells))
    notebook.do("jupyterapp.commands.execute('notebook:run-all-cells')")

    # The cells after it run, and the page shows the dashboard: progress, samples, and four charts with live values, without scrolling.
    notebook.output(2).get_by_text("another cell").wait_for()
    view = notebook.output(0).locator(".wb-dashboard")
    badge, steps, image, slider = (view.locator(part) for part in (".badge", "b", ".wb-samples img", ".wb-samples .noUi-handle"))
    badge.get_by_text("training").wait_for()
    before = steps.nth(1).inner_text()
    wait_until(lambda: steps.nth(1).inner_text() != before)
    charts = view.locator(".js-plotly-plot:visible")
    wait_until(lambda: charts.count() == 4 and charts.locator(".scatterlayer .js-line").count() == 10)
    shown = charts.locator(".annotation-text").all_text_contents()
    assert [re.sub(r" \(\d+ values? outside\)", "", title) for title in shown] == ["hinge losses", "D's output", "gamma", "gradient norms"]
    assert charts.last.locator(".xtitle").text_content().startswith("G step · dashed: largest")
    wait_until(lambda: charts.evaluate_all(FIT))
    assert view.get_by_role("tab").all_inner_texts() == ["Curves", "Scores", "Diagnostics", "Layers"]
    chart = charts.first
    wait_until(lambda: chart.evaluate("plot => Math.min(...plot.data.map(trace => trace.x.length))") > 5)
    wait_until(lambda: image.evaluate("image => image.naturalWidth") > 0)
    assert view.locator(".wb-rows span").all_inner_texts() == Twins.classes
    wait_until(lambda: on_screen(page, view.locator(".wb-progress"), image, charts.nth(0), charts.nth(3)), 20)
    page.set_viewport_size({"width": 1024, "height": 700})
    wait_until(lambda: chart.bounding_box()["width"] < 420 and charts.nth(1).bounding_box()["y"] > chart.bounding_box()["y"] + 100)
    view.scroll_into_view_if_needed()
    notebook.do("document.querySelector('.wb-dashboard').scrollIntoView()")
    assert on_screen(page, view.locator(".wb-progress"), image, chart) and charts.nth(1).bounding_box()["y"] < 560
    page.set_viewport_size({"width": 1500, "height": 2200})

    # Back through time by keyboard; what is new does not take the view along until it is asked for.
    wait_until(lambda: shown_step(view) >= 30)
    newest = shown_step(view)
    slider.press("Home")
    wait_until(lambda: shown_step(view) == 0)
    slider.press("ArrowRight")
    wait_until(lambda: shown_step(view) == 10)
    first = image.get_attribute("src")
    wait_until(lambda: Run(lab.outputs / "watched").sample_steps()[-1] > newest + 20)
    assert shown_step(view) == 10 and image.get_attribute("src") == first
    view.get_by_role("button", name="newest").click()
    wait_until(lambda: shown_step(view) > newest)

    # The pointer reads values, a line can be hidden, the scale can be logarithmic, a part can be looked at; the chart goes on meanwhile.
    plot = chart.locator(".nsewdrag").first
    plot.hover()
    chart.locator(".hovertext").first.wait_for()
    visible = "plot => plot.data.filter(trace => trace.visible !== 'legendonly').length"
    view.get_by_label("log", exact=True).click()
    wait_until(lambda: chart.evaluate("plot => plot.layout?.yaxis.type") == "log")
    view.get_by_label("log", exact=True).click()
    wait_until(lambda: chart.evaluate("plot => plot.layout?.yaxis.type") == "linear")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 80, steps=5)
    page.mouse.up()
    wait_until(lambda: chart.evaluate("plot => plot.layout?.xaxis.autorange") is False)
    zoomed = chart.evaluate("plot => plot.layout.xaxis.range")
    count = "plot => plot.data?.[0].x.length ?? 0"
    before = chart.evaluate(count)
    wait_until(lambda: chart.evaluate(count) > before)
    assert chart.evaluate("plot => plot.layout.xaxis.range") == zoomed
    assert chart.evaluate(visible) == 2
    chart.locator(".legendtoggle").first.click()
    wait_until(lambda: chart.evaluate(visible) == 1)

    # A click on a curve shows the samples of that step.
    gamma = charts.nth(2)
    at, (x, y) = gamma.evaluate("""plot => {
        const { x, y } = plot.data[0], k = Math.floor(x.length / 3), { _offset: left } = plot._fullLayout.xaxis, { _offset: top } = plot._fullLayout.yaxis;
        return [x[k], [left + plot._fullLayout.xaxis.d2p(x[k]), top + plot._fullLayout.yaxis.d2p(y[k])]];
    }""")
    box = gamma.bounding_box()
    page.mouse.move(box["x"] + x, box["y"] + y)
    gamma.locator(".hovertext").first.wait_for()
    page.mouse.click(box["x"] + x, box["y"] + y)
    wait_until(lambda: abs(shown_step(view) - at) <= 20)

    # The charts follow the theme, and new ones begin with it.
    choose_theme(notebook, "Light")
    wait_until(lambda: chart.evaluate(PAPER) == "rgb(255, 255, 255)")
    choose_theme(notebook, "Dark")
    wait_until(lambda: chart.evaluate(PAPER) == "rgb(17, 17, 17)")

    # The diagnostics and the layers are drawn when they are looked at.
    view.get_by_role("tab", name="Diagnostics").click()
    charts.get_by_text("saturation of D").first.wait_for()
    assert chart.evaluate(PAPER) == "rgb(17, 17, 17)"
    assert charts.locator(".annotation-text").first.text_content() == "margin of D"
    wait_until(lambda: charts.evaluate_all(FIT))
    view.get_by_role("tab", name="Layers").click()
    view.locator("select:visible").last.select_option("G/output")
    names = "plots => plots.flatMap(plot => (plot.data ?? []).map(trace => trace.name))"
    wait_until(lambda: charts.evaluate_all(names) == ["largest", "second", "estimate"])
    view.get_by_role("tab", name="Curves").click()

    # A page that is reloaded shows the view again, alive, though nobody has saved the notebook: the view has, when it appeared.
    page.reload()
    page.wait_for_function(READY)
    badge.get_by_text("training").wait_for()
    before = steps.nth(1).inner_text()
    wait_until(lambda: steps.nth(1).inner_text() != before)
    wait_until(lambda: charts.count() == 4 and charts.first.evaluate(count) > 5)

    # A fork trains beside it, with a dashboard of its own below.
    view.get_by_text("Fork from here").click()
    wait_until(lambda: Run(lab.outputs / "watched").checkpoint_steps())
    wait_until(lambda: view.locator("select:visible").first.locator("option").count() > 0)
    view.get_by_placeholder("changed values").fill("lr_d=1e-3; steps=2000")
    view.get_by_role("button", name="Fork", exact=True).click()
    fork = view.locator(".wb-dashboard")
    fork.locator(".badge").get_by_text("training").wait_for()
    fork.get_by_role("button", name="Stop").click()
    fork.locator(".badge").get_by_text("stopped").wait_for()

    # The stop button. The cell below the dashboard, which showed samples of the beginning, is drawn again, though the page was reloaded.
    below = notebook.output(1).locator("img")
    early = below.get_attribute("src") if below.count() else None  # None: the cell ran before the first samples were there
    view.get_by_role("button", name="Stop").first.click()
    badge.first.get_by_text("stopped").wait_for()
    run = Run(lab.outputs / "watched")
    step = run.checkpoint_steps()[-1]
    told = f"stopped at step {step}; saved at step {step}; resume with: {shlex.join(program())} train -p resume watched"
    wait_until(lambda: view.locator(".note:visible").first.inner_text() == told)  # the badge and the notes come one after the other
    assert view.get_by_role("button", name="Stop").first.is_disabled()
    notebook.output(1).get_by_text(f"At step {step:,} of 100,000: stopped.").wait_for()
    wait_until(lambda: below.count() and below.get_attribute("src") != early)

    # The notebook keeps the widgets for a page without their kernel, and a picture for an export without JavaScript.
    kept = lambda: json.dumps(notebook.saved(lab, "watch.ipynb").metadata.get("widgets", {}))  # noqa: E731
    wait_until(lambda: f"stopped at step {step};" in kept())
    assert len(kept()) < 900_000  # two dashboards, with charts of three tabs
    exported = page.context.new_page()
    exported.route("**", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", lab.files / "watch.ipynb"], check=True, capture_output=True)
    exported.goto((lab.files / "watch.html").as_uri())
    pictures = exported.locator(".jp-OutputArea img:visible")
    wait_until(lambda: pictures.count() == 2 and all(pictures.evaluate_all("all => all.map(image => image.naturalWidth > 300)")))
    assert exported.get_by_text('import workbench as wb; await wb.Dashboard("watched").follow()').is_visible()
    exported.close()

    # The kernel goes: the view says so at once and offers nothing that cannot work; also when it is opened again without its kernel.
    assert view.locator(".farewell").first.is_hidden()
    notebook.do("notebook.context.sessionContext.session.kernel.restart()")
    view.locator(".farewell").first.wait_for()
    lab.end_sessions()
    reopened = Notebook(page.context.new_page(), page.url)
    view = reopened.output(0).locator(".wb-dashboard").first
    wait_until(lambda: view.locator(".wb-samples img").first.evaluate("image => image.naturalWidth") > 0)
    wait_until(lambda: view.locator(".note:visible").first.inner_text() == told)
    assert view.locator(".farewell").first.inner_text().endswith('import workbench as wb; await wb.Dashboard("watched").follow()')
    pointer = "element => getComputedStyle(element).pointerEvents"
    assert view.get_by_role("button", name="newest").first.evaluate(pointer) == "none"
    charts = view.locator(".js-plotly-plot:visible")
    wait_until(lambda: charts.locator(".scatterlayer .js-line").count() >= 10)
    for theme, colour in (("Light", "rgb(255, 255, 255)"), ("Dark", "rgb(17, 17, 17)")):
        choose_theme(reopened, theme)
        wait_until(lambda colour=colour: charts.first.evaluate(PAPER) == colour)

    # JupyterLab's own: updates that arrive before a reloaded page knows its widgets, and after a kernel is gone.
    own = ("Comm not found for comm id", "widget model not found")
    assert [error for error in notebook.errors + reopened.errors if not any(words in error for words in own)] == []
    assert notebook.hosts | reopened.hosts <= {"127.0.0.1", None}


def on_screen(page, *parts) -> bool:
    """Whether these parts are on the screen, as a whole."""
    height = page.viewport_size["height"] - 25  # without the status bar
    return all(part.bounding_box()["y"] > 80 and part.bounding_box()["y"] + part.bounding_box()["height"] <= height for part in parts)


def test_running_all_cells_ends_at_the_main_view_unless_the_user_has_scrolled(lab, page):
    page.set_viewport_size({"width": 1024, "height": 700})
    tall = "from IPython.display import HTML\nHTML('<div style=\"height: 1500px\">tall</div>')"
    main = "import asyncio, workbench\nawait asyncio.sleep(2)\nworkbench.reveal('the main view')"
    notebook = Notebook(page, lab.write("reveal.ipynb", tall + "\n#" * 50, main, tall, "2 + 2"))
    scroller = page.locator(".jp-WindowedPanel-outer")

    def run(scroll=0):
        scroller.evaluate("outer => outer.scrollTop = 0")
        notebook.do("jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_function("() => jupyterapp.shell.currentWidget.content.activeCellIndex === 3")
        if scroll:
            page.wait_for_timeout(1000)  # later than the click that runs the cells
            scroller.hover()
            page.mouse.wheel(0, scroll)
        page.wait_for_function("() => jupyterapp.shell.currentWidget.content.widgets.every(cell => cell.prompt !== '*')")
        notebook.output(1).get_by_text("the main view").wait_for()
        page.wait_for_timeout(1500)

    run()
    top = notebook.output(1).first.bounding_box()["y"] - scroller.bounding_box()["y"]
    assert 0 <= top < 60
    run()  # the outputs of before are there
    assert notebook.output(1).first.bounding_box()["y"] == pytest.approx(top + scroller.bounding_box()["y"], abs=3)
    run(-5000)  # to the beginning, where the user wants to read
    assert scroller.evaluate("outer => outer.scrollTop") == 0
    assert notebook.errors == []


def test_a_run_is_evaluated(lab, page, monkeypatch, tiny):
    """The committed notebook: a bar while it works, then scores with their protocol, plots and pictures."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(lab.outputs))
    train(tiny(run="measured", checkpoint_every=2))
    page.set_viewport_size({"width": 1500, "height": 3500})  # cells out of sight are not in the page
    cells = nbformat.read(NOTEBOOKS / "evaluate.ipynb", 4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    code[0] += "\nrun, steps, n, reference_n = 'measured', 'all', 60, 8000"
    notebook = Notebook(page, lab.write("evaluate.ipynb", *code))
    for cell in range(len(code)):
        notebook.run(cell)
    work = notebook.output(1)
    work.locator("progress").first.wait_for()
    work.get_by_text(re.compile(r"\d left")).first.wait_for()
    table = work.locator("table")
    table.wait_for(timeout=120_000)
    assert work.locator("progress").count() == 0  # lines are left of the bars
    work.get_by_text("60 of 60 images of step 4 in").wait_for()
    assert table.locator("thead th").all_inner_texts() == ["score", "step 2", "step 4"]
    for tip in table.locator("td:not(:first-child)").evaluate_all("cells => cells.map(cell => cell.title)"):
        assert tip.startswith("workbench (but n=60, reference_n=8000): n=60") and "twins@" in tip and "twins at 32x32" in tip
    plot = notebook.output(2)
    plot.locator("img").wait_for()
    picture = base64.b64decode(plot.locator("img").get_attribute("src").partition(",")[2])
    assert Image.open(io.BytesIO(picture)).convert("RGBA").getpixel((0, 0))[3] == 0  # on any theme
    plot.hover()  # a picture, until somebody wants more of it
    plot.locator(".ytitle").first.wait_for()
    assert "twins@" in plot.locator(".gtitle-subtitle").text_content()
    for cell in (3, 4):
        notebook.output(cell).locator("img").wait_for()
    assert "median distance to the nearest of 8,000 real images" in notebook.output(4).first.inner_text()
    saved = notebook.saved(lab, "evaluate.ipynb")
    pictures = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in saved.cells]
    assert pictures == [0, 0, 1, 1, 1]
    assert notebook.errors == [] and notebook.hosts <= {"127.0.0.1", None}


def test_the_stop_square_asks_the_training_to_save_and_stop(lab, page, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(lab.outputs))
    run = create_run(Config.preset("twins32", run="interrupted"))
    run.set_status(state="running", alarms=["collapse: all samples look the same"])  # as long as this process lives
    notebook = Notebook(page, lab.write("interrupt.ipynb", "import workbench\nawait workbench.Dashboard('interrupted').follow(wait=True)"))
    notebook.run(0)
    view = notebook.output(0).locator(".wb-dashboard")
    view.get_by_role("alert").wait_for()
    assert view.get_by_role("alert").inner_text() == "collapse: all samples look the same"
    interrupt = "notebook.context.sessionContext.session.kernel.interrupt()"
    notebook.do(interrupt)
    view.locator(".badge").get_by_text("stopping…").wait_for()
    assert (run.path / "stop").exists()
    notebook.do(interrupt)
    notebook.output(0).get_by_text("interrupted trains on").wait_for()
    run.set_status(state="failed", message="no room left on the disk")
    view.locator(".badge").get_by_text("failed").wait_for()
    wait_until(lambda: "no room left on the disk" in view.get_by_role("alert").inner_text())
    assert view.get_by_role("alert").inner_text().splitlines() == ["collapse: all samples look the same", "no room left on the disk"]
    assert notebook.errors == []


# ----------------------------------------------------------------------------------------------------- the inspector


@pytest.fixture(scope="module")
def seen(lab):
    """A run to look at, with attention that shows: gamma has hardly moved after four steps, so it is raised."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_OUTPUTS", str(lab.outputs))
        small = dict(width=8, z_dim=8, batch_size=8, steps=4, log_every=2, sample_every=2, checkpoint_every=2, evaluate_every=0)
        run = train(Config.preset("twins32", run="seen", attention_g="8,16", mixed_precision="no", **small))
    for path in run.path.glob("checkpoints/*/*.safetensors"):
        tensors = load_tensors(path)
        if not path.stem.startswith("optimizer"):
            tensors |= {name: torch.tensor(0.7) for name in tensors if name.endswith("gamma")}
        save_tensors(path, tensors)
        seal(path.parent)
    return run


def truth(run, step=None, sample=0, label=0, seed=0, layer="attention.16"):
    """The map (N, M) of G that the inspector must show, from the package's own functions."""
    generator = run.generator(step)
    with attention.capture(generator) as maps:
        sampling.images(generator, sampling.latents(1, generator.z_dim, seed, sample), torch.tensor([label]))
    return maps[layer][0].numpy()


def cell(stage, query, side=16):
    """The middle of a position on a stage, relative to it."""
    box = stage.bounding_box()
    row, column = divmod(query, side)
    return {"x": (column + 0.5) * box["width"] / side, "y": (row + 0.5) * box["height"] / side}


HEAT = "canvas => ({ query: canvas.query ?? null, values: Array.from(canvas.values ?? []) })"
PIXELS = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"


def assert_shows(heat, beta, query):
    """A canvas holds, and has painted, the map of this query."""
    wait_until(lambda: heat.evaluate(HEAT)["query"] == query)
    values = np.array(heat.evaluate(HEAT)["values"])
    np.testing.assert_allclose(values, beta[query], atol=1e-5)
    painted = np.array(heat.evaluate(PIXELS)).reshape(-1, 4)[:, :3]
    colours = colormaps["inferno"](np.rint(values / values.max() * 255).astype(int), bytes=True)[:, :3]
    assert np.abs(painted.astype(int) - colours).max() <= 8  # one step of the colours: where the rounding falls


def pins(view):
    return [int(query) for query in view.locator(".stage .pin").evaluate_all("pins => pins.map(pin => pin.dataset.query)")]


def test_an_image_is_clicked_on(lab, page, seen):
    page.set_viewport_size({"width": 1500, "height": 2200})
    start = "import workbench\nview = workbench.AttentionView(classes='disc', seeds='0', queries='0,0')\n"
    first = start + "inspector = workbench.AttentionInspector('seen', view=view)\ninspector"
    second = "other = workbench.AttentionInspector('seen@2', view=view)\nother"
    name, asked = "attention.ipynb", []  # kinds of what the front end asks the kernel for
    page.on("websocket", lambda socket: socket.on("framesent", lambda frame: asked.extend(re.findall(rb'"kind":"(\w+)"', frame))))
    notebook = Notebook(page, lab.write(name, first, second, "inspector.view['pins'], other.view['pins']"))
    notebook.run(0)
    notebook.run(1)
    view, other = (notebook.output(k).locator(".wb.inspector") for k in (0, 1))
    stage, heat = view.locator(".stage"), view.locator(".stage .heat")
    beta = truth(seen)
    assert_shows(heat, beta, 0)  # the pin that it opened with

    # A click selects the position under it; hovering previews without asking, shift-click adds.
    stage.click(position=cell(stage, 37))
    assert pins(view) == [37]
    assert_shows(heat, beta, 37)
    stage.hover(position=cell(stage, 200))
    assert_shows(heat, beta, 200)
    assert pins(view) == [37]
    stage.click(position=cell(stage, 99), modifiers=["Shift"])
    stage.click(position=cell(stage, 255), modifiers=["Shift"])
    assert pins(view) == [37, 99, 255] and view.locator(".pinned").count() == 3
    stage.click(position=cell(stage, 99), modifiers=["Shift"])
    assert pins(view) == [37, 255]
    wait_until(lambda: other.locator(".stage .heat").evaluate(HEAT)["query"] == 0)
    assert pins(other) == [0]  # the other inspector is another
    assert_shows(other.locator(".stage .heat"), truth(seen, step=2), 0)

    # By keyboard.
    stage.focus()
    page.keyboard.press("Escape")
    wait_until(lambda: pins(view) == [])
    before = heat.evaluate(HEAT)["query"]
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    wait_until(lambda: heat.evaluate(HEAT)["query"] not in (None, before))
    chosen = heat.evaluate(HEAT)["query"]
    page.keyboard.press("Enter")
    wait_until(lambda: pins(view) == [chosen])
    wait_until(lambda: "entropy" in view.locator("[aria-live=polite]").first.text_content())  # it speaks when the cursor rests

    # Opacity, and another way of reading.
    opacity = view.get_by_label("Opacity")
    opacity.focus()
    page.keyboard.press("Home")
    wait_until(lambda: heat.evaluate("canvas => getComputedStyle(canvas).opacity") == "0")
    page.keyboard.press("End")
    wait_until(lambda: heat.evaluate("canvas => getComputedStyle(canvas).opacity") == "1")
    view.get_by_role("button", name="Seen by").click()
    stage.hover(position=cell(stage, 85))
    wait_until(lambda: heat.evaluate(HEAT)["query"] == 85)
    key = (85 // 16 // 2) * 8 + 85 % 16 // 2
    np.testing.assert_allclose(heat.evaluate(HEAT)["values"], beta[:, key], atol=1e-5)
    view.get_by_role("button", name="Looks at").click()
    page.wait_for_timeout(400)  # the front end tells of changes when they have come to rest
    assert asked == []  # nobody was asked for any of this

    # What needs the generator: another sample, and attention switched off.
    view.locator(".thumbs button").nth(3).click()
    stage.hover(position=cell(stage, 20))
    wait_until(lambda: np.allclose(heat.evaluate(HEAT)["values"], truth(seen, sample=3)[20], atol=1e-5))
    view.get_by_role("button", name="γ = 0").click()
    view.locator(".triple .after").wait_for()
    assert asked == [b"inspection", b"inspection"]  # each picture once, and no strip again
    difference = np.array(view.locator(".triple canvas.after").evaluate(PIXELS)) - np.array(
        view.locator(".triple canvas.before").evaluate(PIXELS)
    )
    assert np.abs(difference).max() > 3
    view.get_by_role("button", name="γ = 0").click()

    # The brush forbids keys, and the kernel shows what that changes.
    view.get_by_role("button", name="Knock out").click()
    stage.click(position=cell(stage, 0))
    view.get_by_text("1 of 64 keys").wait_for()
    view.locator(".triple .after").wait_for()
    view.get_by_role("button", name="Clear", exact=True).click()
    view.get_by_role("button", name="Knock out").click()

    # Python knows what is shown; the buttons save it.
    stage.click(position=cell(stage, 50))
    page.wait_for_timeout(400)  # the front end tells of changes when they have come to rest
    notebook.run(2)
    notebook.output(2).get_by_text("([50], [0])").wait_for()
    with page.expect_download() as download:
        view.get_by_role("button", name="Figure (SVG)").click()
    view.get_by_text("written: ").wait_for()
    written = seen.path / "views" / "attention-G16-4.svg"
    assert written.stat().st_size > 5000
    assert download.value.suggested_filename == written.name and Path(download.value.path()).read_bytes() == written.read_bytes()
    view.get_by_role("link", name=f"download {written.name}").wait_for()

    # Both themes.
    inks = set()
    for theme in ("Light", "Dark"):
        choose_theme(notebook, theme)
        inks.add(view.evaluate("node => getComputedStyle(node).color"))
    assert len(inks) == 2

    # Without a kernel it goes on: hover and click, and samples that were seen.
    notebook.do("notebook.context.sessionContext.session.kernel.shutdown()")
    page.wait_for_timeout(500)
    stage.hover(position=cell(stage, 111))
    wait_until(lambda: heat.evaluate(HEAT)["query"] == 111)
    np.testing.assert_allclose(heat.evaluate(HEAT)["values"], truth(seen, sample=3)[111], atol=1e-5)
    stage.click(position=cell(stage, 112))
    assert pins(view) == [112]
    view.locator(".thumbs button").nth(0).click()
    stage.hover(position=cell(stage, 30))
    wait_until(lambda: np.allclose(heat.evaluate(HEAT)["values"], beta[30], atol=1e-5))

    saved = notebook.saved(lab, name)
    widget, still = saved.cells[0].outputs
    assert "application/vnd.jupyter.widget-view+json" in widget.data and '<img alt="AttentionInspector(' in still.data["text/html"]
    exported = page.context.new_page()
    exported.route("**", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", lab.files / name], check=True, capture_output=True)
    exported.goto((lab.files / name).with_suffix(".html").as_uri())
    pictures = exported.locator(".jp-OutputArea img:visible")  # one of each inspector, and never a blank
    wait_until(lambda: pictures.count() == 2 and all(pictures.evaluate_all("all => all.map(image => image.naturalWidth > 300)")))
    assert not page.locator(".jp-OutputArea img:visible").count()  # where the views are, there is no picture beside them
    exported.close()
    # Some versions of ipywidgets write to the console that the kernel is gone, which is so.
    assert [error for error in notebook.errors if "Could not send widget sync message" not in error] == []
    assert notebook.hosts <= {"127.0.0.1", None}


def test_layers_and_checkpoints_are_entered_and_a_place_is_explained(lab, page, seen):
    """With a kernel: the grid fills by itself, a cell is entered, the words come, and the line that is copied opens the same view in Python."""
    page.set_viewport_size({"width": 1500, "height": 2000})
    cells = ("import workbench\ninspector = workbench.AttentionInspector('seen')\ninspector", "print(inspector.line)")
    notebook = Notebook(page, lab.write("overview.ipynb", *cells))
    notebook.run(0)
    view = notebook.output(0).locator(".wb.inspector")
    view.locator(".stage").click(position=cell(view.locator(".stage"), 37))
    view.get_by_role("button", name="Layers × checkpoints").click()
    words = view.locator(".overview .words")
    wait_until(lambda: words.count() == 6 and all("γ 0.7" in text for text in words.all_inner_texts()))
    view.get_by_role("button", name="Explain this place").click()
    text = view.locator(".explain p")
    wait_until(lambda: text.inner_text().startswith("Query (2, 5) of G 16×16 "))
    view.get_by_role("button", name="G · 8×8, step 2: ").click()
    wait_until(lambda: text.inner_text().startswith("Query (1, 2) of G 8×8 "))
    assert view.get_by_role("button", name="G · 8×8, step 2: ").get_attribute("aria-current") == "true" and pins(view) == [10]
    heat = view.locator(".stage .heat")
    wait_until(lambda: np.allclose(heat.evaluate(HEAT)["values"], truth(seen, step=2, layer="attention.8")[10], atol=1e-5))
    view.get_by_role("button", name="recorded").click()
    wait_until(lambda: "the layer hardly contributes" in text.inner_text() and words.count() == 9)
    view.get_by_role("button", name="Copy this view").click()
    line = view.get_by_label("This view as a line").input_value()
    assert line == "seen@2 G/attention.8 source=recorded pins=1,2 class=disc overview=true explain=true"
    page.wait_for_timeout(400)
    notebook.run(1)
    notebook.output(1).get_by_text(line, exact=True).wait_for()
    assert notebook.errors == []


def test_the_latent_is_dragged_values_are_painted_and_effects_measured(lab, page, seen):
    page.set_viewport_size({"width": 1500, "height": 1800})
    view_cell = "view = workbench.AttentionView(run='seen', layer=16, classes='disc', seeds='0', queries='2,4')\n"
    cells = ("import workbench\n" + view_cell + "inspector = workbench.AttentionInspector(view=view)\ninspector", "inspector.view")
    notebook = Notebook(page, lab.write("tools.ipynb", *cells))
    notebook.run(0)
    view = notebook.output(0).locator(".wb.inspector")
    stage, heat, picture = view.locator(".stage"), view.locator(".stage .heat"), view.locator(".stage .image")
    view.get_by_role("button", name="Drag latent").click()
    assert_shows(heat, truth(seen), 36)
    generator, (first, second) = seen.generator(), main_directions(seen.generator())[:2]

    def shows_latent(amounts):
        """The picture and the map of the pin are those of a moved latent."""
        z = sampling.latents(1, 8) + amounts[0] * first + amounts[1] * second
        with attention.capture(generator) as maps:
            x = sampling.images(generator, z, torch.tensor([0]))
        pixels = lambda: np.array(picture.evaluate(PIXELS)).reshape(32, 32, 4)[..., :3]  # noqa: E731
        wait_until(lambda: np.abs(pixels().astype(int) - to_uint8(x[0]).permute(1, 2, 0).numpy()).max() <= 1)
        assert_shows(heat, maps["attention.16"][0].numpy(), 36)

    # Dragging: the picture and the map of the pin follow, also before the mouse button is up.
    box = stage.bounding_box()
    start = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + box["width"] / 4, start[1] - box["height"] / 6, steps=12)
    shows_latent((1.5, 1))
    page.mouse.up()
    view.get_by_role("button", name="Undo").click()
    shows_latent((0, 0))
    stage.press("Shift+ArrowRight")
    view.get_by_label("Direction 2").press("ArrowLeft")
    shows_latent((0.5, -0.05))
    view.get_by_role("button", name="Reset").click()
    shows_latent((0, 0))

    # Painting: a stroke that begins two keys right of the pin copies from there; its keys and their sources are marked.
    view.get_by_role("button", name="Paint").click()
    corner = lambda query: tuple(box[edge] + cell(stage, query)[edge] for edge in "xy")  # noqa: E731
    box = stage.bounding_box()
    page.mouse.move(*corner(2 * 16 + 8))
    page.mouse.down()
    page.mouse.move(*corner(2 * 16 + 10), steps=4)
    page.mouse.move(*corner(2 * 16 + 1), steps=8)  # whose source would be outside of the map
    page.mouse.up()
    after = view.locator(".triple .after")
    after.wait_for()
    page.wait_for_timeout(400)  # until the view is in Python, too
    notebook.run(1)
    shown = notebook.output(1).inner_text
    wait_until(lambda: "'paint_shift': [0, -2]" in shown())
    assert "'paint': [10, 11, 12, 13]" in shown().replace("\n", "") and view.locator(".stage .sources").get_attribute("d").count("M") == 4
    keys = torch.full((64,), -1)
    keys[10:14] = torch.arange(8, 12)
    change = attention.effect(generator, (sampling.latents(1, 8), torch.tensor([0])), "attention.16", patch=(0, keys))
    expected = to_uint8(change.after[0]).permute(1, 2, 0).numpy().astype(int)
    wait_until(lambda: np.abs(np.array(after.evaluate(PIXELS)).reshape(32, 32, 4)[..., :3] - expected).max() <= 1)
    view.get_by_label("Values from").select_option("3")
    stage.focus()
    page.keyboard.press("Enter")  # at the pin
    keys[:] = -1
    keys[10] = 10
    z = torch.cat([sampling.latents(1, 8, 0, 3), sampling.latents(1, 8)])
    change = attention.effect(generator, (z, torch.tensor([0, 0])), "attention.16", patch=(0, torch.stack([torch.full((64,), -1), keys])))
    expected = to_uint8(change.after[1]).permute(1, 2, 0).numpy().astype(int)
    wait_until(lambda: np.abs(np.array(after.evaluate(PIXELS)).reshape(32, 32, 4)[..., :3] - expected).max() <= 1)
    view.locator(".tool-card").get_by_role("button", name="Clear").click()

    # Effects over samples: numbers with intervals, until the intervention changes.
    view.get_by_role("button", name="γ = 0").click()
    view.get_by_role("button", name="Measure over 64 samples").click()
    table = view.locator(".effects table")
    table.wait_for()
    (rows,) = AttentionInspector(seen).effects(dict(gamma0=True, layer="G/attention.16", **{"class": 0}))
    for row, text in zip(rows, table.locator("tbody").all_inner_texts(), strict=True):
        assert row["quantity"] in text and f"{row['change']:.2g}".replace("-", "−") in text
    view.get_by_role("button", name="uniform", exact=True).click()
    wait_until(lambda: not table.is_visible() and view.get_by_role("button", name="Measure over 64 samples").is_visible())
    view.get_by_role("button", name="recorded").click()
    wait_until(lambda: not view.get_by_role("button", name="Drag latent").is_visible())
    assert notebook.errors == []


def test_a_page_has_no_tools_but_the_effects_that_were_measured(page, seen, tmp_path, monkeypatch):
    view, inspector = opened(page, seen, tmp_path, monkeypatch, forbid=[9, 10], measure=True, tool="drag", pins=[37], directions=[1, 0.5])
    (rows,) = inspector.effects(dict(forbid=[9, 10], layer="G/attention.16"))
    text = view.locator(".effects tbody").first.inner_text()
    page.set_viewport_size({"width": 1004, "height": 900})  # where the table is narrow, no number is broken
    assert set(view.locator(".effects td span").evaluate_all("spans => spans.map(span => span.getClientRects().length)")) == {1}
    assert not view.get_by_role("button", name="Add pins").is_visible()  # there is a mouse
    assert rows[0]["quantity"] in text and all(f"{rows[0][name]:.2g}" in text for name in ("change", "null"))
    assert "direction 1 +1 sd, direction 2 +0.5 sd" in view.locator(".title").inner_text()
    for name in ("Drag latent", "Knock out", "Paint", "Undo", "Measure", "Hide", "Reset"):
        assert view.get_by_role("button", name=name).count() == 0
    view.locator(".thumbs button").nth(2).click()
    view.get_by_text("sample 2, direction 1 +1 sd").wait_for()
    assert view.locator(".stale").count() == 0


def test_d_is_looked_at_too(lab, page, seen):
    """D on samples, on real images, and on an image of the user's."""
    start = "import workbench\nview = workbench.AttentionView(network='D', queries='3,4')\n"
    notebook = Notebook(page, lab.write("judge.ipynb", start + "workbench.AttentionInspector('seen', view=view)"))
    notebook.run(0)
    view = notebook.output(0).locator(".wb.inspector")
    view.locator(".stage .heat").wait_for()
    view.get_by_text(re.compile(r"logit −?\d")).first.wait_for()
    view.get_by_role("button", name="real", exact=True).click()
    view.get_by_text(re.compile(r"real image \d+")).first.wait_for()
    view.get_by_label("Class", exact=True).select_option("ring")
    wait_until(lambda: all(text.startswith("ring") for text in view.locator(".thumbs span").all_inner_texts()))
    view.get_by_role("button", name="yours").click()
    picture = lab.files / "mine.png"
    picture.write_bytes(seen.sample_path(4).read_bytes())
    view.locator("input[type=file]").set_input_files(picture)
    view.get_by_text(re.compile(r"mine\.png")).first.wait_for()
    view.get_by_role("button", name="recorded").click()
    view.get_by_text(re.compile("recorded latent 0, step 4")).first.wait_for()
    view.get_by_label("Step", exact=True).press("Home")
    view.get_by_text(re.compile("recorded latent 0, step 0")).first.wait_for()
    (lab.files / "words.png").write_text("no image")
    view.locator("input[type=file]").set_input_files(lab.files / "words.png")
    view.get_by_role("alert").get_by_text("'words.png' cannot be read as an image").wait_for()
    assert notebook.errors == []


def test_two_checkpoints_are_compared(lab, page, seen):
    page.set_viewport_size({"width": 1500, "height": 1800})
    start = "import workbench\nview = workbench.AttentionView(classes='disc', seeds='0', queries='0,0')\n"
    notebook = Notebook(page, lab.write("pair.ipynb", start + "workbench.AttentionInspector('seen', '@2', view=view)"))
    notebook.run(0)
    view = notebook.output(0).locator(".wb.inspector")
    heats = view.locator(".stage .heat")
    wait_until(lambda: heats.count() == 2)
    view.locator(".stage").nth(1).hover(position=cell(view.locator(".stage").nth(1), 77))
    for k, step in enumerate((4, 2)):  # one cursor for both
        assert_heat = heats.nth(k)
        wait_until(lambda heat=assert_heat: heat.evaluate(HEAT)["query"] == 77)
        np.testing.assert_allclose(assert_heat.evaluate(HEAT)["values"], truth(seen, step=step)[77], atol=1e-5)
    assert notebook.errors == []


def test_the_exported_page_answers_without_server_and_kernel(page, seen, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(seen.path.parent))
    errors, hosts = [], set()
    page.on("console", lambda message: message.type == "error" and errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(request.url.split("?")[0][:7]))
    path = AttentionInspector(seen).save(tmp_path / "view.html")
    page.goto(path.as_uri())
    view = page.locator(".wb.inspector")
    stage, heat = view.locator(".stage"), view.locator(".stage .heat")
    stage.click(position=cell(stage, 77))
    assert_shows(heat, truth(seen), 77)
    stage.hover(position=cell(stage, 130))
    assert_shows(heat, truth(seen), 130)
    view.locator(".thumbs button").nth(5).click()
    stage.hover(position=cell(stage, 131))
    wait_until(lambda: np.allclose(heat.evaluate(HEAT)["values"], truth(seen, sample=5)[131], atol=1e-5))
    view.get_by_role("button", name="8×8").click()
    stage.hover(position=cell(stage, 20, side=8))
    wait_until(lambda: np.allclose(heat.evaluate(HEAT)["values"], truth(seen, sample=5, layer="attention.8")[20], atol=1e-5))
    assert view.locator(".stale").count() == 0 and view.locator(".triple").count() == 0
    assert errors == [] and hosts <= {"file://", "blob:nu"}


def test_the_exported_page_shows_what_was_changed(page, seen, tmp_path, monkeypatch):
    """A page of a view with gamma at 0 holds the images after it, of every sample and layer."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(seen.path.parent))
    inspector = AttentionInspector(seen)
    page.goto(inspector.save(tmp_path / "view.html", {**inspector.view, "gamma0": True}).as_uri())
    view = page.locator(".wb.inspector")
    for choose in (view.locator(".thumbs button").nth(2), view.get_by_role("button", name="8×8")):
        choose.click()
        view.locator(".triple .after").wait_for()
        assert view.locator(".stale").count() == 0


def opened(page, seen, folder, monkeypatch, **view):
    """The page of a view of G's 16x16 layer, with its inspector."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(seen.path.parent))
    inspector = AttentionInspector(seen)
    path = inspector.save(folder / "view.html", {**inspector.view, "layer": "G/attention.16", **view})
    page.goto(path.as_uri())
    return page.locator(".wb.inspector"), inspector


def saved_cells(inspector, view):
    """The images of the figure that is saved of a view, (height, width, 3)."""
    sheet = inspector.figure(view).description
    opened = (Image.open(io.BytesIO(base64.b64decode(sheet.images[cell.image]))) for cell in sheet.rows[0].cells)
    return [np.asarray(image).astype(int) for image in opened]


def on_page(page, locator):
    """What the screen shows of an element, (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int)


@pytest.mark.parametrize("scale", ["zero", "uniform"])
def test_a_figure_has_the_colours_of_the_screen(page, seen, tmp_path, monkeypatch, scale):
    """For every reading: on the image, on the bar, and in the saved figure."""
    view, inspector = opened(page, seen, tmp_path, monkeypatch, reading="causal", pins=[37], scale=scale)
    page.add_style_tag(content=".overlay { visibility: hidden } * { border-radius: 0 !important }")
    stage = view.locator(".stage")
    for reading, kind in READINGS.items():
        view.locator(f".controls [data-value={reading}]").click()
        page.mouse.move(1, 1)
        page.wait_for_timeout(100)
        screen = on_page(page, stage)
        expected = saved_cells(inspector, dict(reading=reading, pins=[37], scale=scale, layer="G/attention.16"))[1]
        pixel = len(screen) / 32
        middles = ((np.arange(32) + 0.5) * pixel).astype(int)
        assert np.abs(screen[middles][:, middles] - expected).max() <= 6, reading  # a step of the colours, where the rounding falls
        assert view.locator(".side .scale").first.inner_text().startswith(kind.unit)
        bar = on_page(page, view.locator(".ramp canvas").first).reshape(-1, 3)
        shown = screen[middles][:, middles].reshape(-1, 3)
        assert max(np.abs(bar - colour).max(1).min() for colour in shown) <= 12, reading


def test_values_are_read_at_the_pointer(page, seen, tmp_path, monkeypatch):
    view, _ = opened(page, seen, tmp_path, monkeypatch, pins=[37, 200])
    beta, plain, value = truth(seen), view.locator(".side .plain"), view.locator(".side .value")
    view.get_by_role("button", name="Pin 1").click()
    plain.hover(position=cell(plain, 8 * 3 + 5, side=8))
    page.wait_for_timeout(100)
    number = float(re.search(r"rows 6–7, columns 10–11: ([\d.e−]+)", value.inner_text())[1].replace("−", "-"))
    assert number == pytest.approx(beta[37, 8 * 3 + 5], rel=0.01) and "× uniform" in value.inner_text()
    framed = view.locator(".stage .cursor").nth(1)
    assert framed.get_attribute("visibility") == "visible"
    page.mouse.move(1, 1)
    wait_until(lambda: value.inner_text() == "" and framed.get_attribute("visibility") == "hidden")
    view.locator(".reader").focus()
    for key in ("ArrowUp", "ArrowLeft"):
        page.keyboard.press(key)
    assert value.inner_text().startswith("key at rows 8–9, columns 6–7: ")
    assert "each stands for 2×2 places" in view.locator(".meaning").inner_text()


def test_pins_share_one_scale(page, seen, tmp_path, monkeypatch):
    view, _ = opened(page, seen, tmp_path, monkeypatch, pins=[37, 200])
    beta = truth(seen)
    high = beta[[37, 200]].max()
    for k, query in enumerate((37, 200)):
        painted = np.array(view.locator(".small").nth(k).evaluate(PIXELS)).reshape(-1, 4)[:, :3]
        expected = colormaps["inferno"](np.rint(255 * beta[query] / high).astype(int), bytes=True)[:, :3]
        assert np.abs(painted.astype(int) - expected).max() <= 8
    assert view.locator(".pins > p").inner_text() == f"Pins on one scale, 0 to {high:.2g}: attention weight"


def test_a_page_keeps_what_was_knocked_out_and_what_matters(page, seen, tmp_path, monkeypatch):
    what_if = dict(forbid=[0, 9], scope="pins", pins=[37], reading="causal", panel="offsets")
    view, _ = opened(page, seen, tmp_path, monkeypatch, **what_if)
    heat = view.locator(".stage .heat")
    z, y = sampling.latents(1, 8, 0, 0), torch.tensor([0])
    expected = attention.causal_map(seen.generator(), (z, y), "attention.16", 37).numpy()
    np.testing.assert_allclose(heat.evaluate(HEAT)["values"], expected, atol=1e-5)
    assert view.get_by_role("button", name="By offset").get_attribute("aria-pressed") == "true"
    assert view.locator(".axis.across").inner_text().split() == ["−15", "0", "+15"]
    for click in (
        lambda: view.locator(".stage").click(position=cell(view.locator(".stage"), 99)),
        lambda: view.get_by_role("button", name="8×8").click(),
        lambda: view.get_by_role("button", name="16×16").click(),
    ):
        click()
        page.wait_for_timeout(100)
        assert view.locator(".stage.stale").count() == 0
        assert not view.locator(".pins > p").is_visible()  # no scale of maps that are not there
    view.locator(".triple .after").wait_for()


def test_text_is_legible_in_a_dark_host(page, seen, tmp_path, monkeypatch):
    """In a host that only has dark colours, and in one whose variables are JupyterLab's light ones."""
    view, _ = opened(page, seen, tmp_path, monkeypatch)
    page.evaluate("document.body.removeAttribute('data-jp-theme-light')")
    for host in (
        "background: #1e1e1e; color: #ccc",
        "background: #1e1e1e; color: #ccc; --jp-ui-font-color1: #222; --jp-layout-color1: #fff",
        "",
    ):
        page.evaluate("style => document.body.setAttribute('style', style)", host)
        page.wait_for_timeout(50)
        ink, paper = (view.evaluate(f"node => getComputedStyle(node).{name}") for name in ("color", "backgroundColor"))
        light, dark = (np.mean([int(part) for part in re.findall(r"\d+", colour)[:3]]) for colour in (ink, paper))
        assert abs(light - dark) > 150
        assert (view.get_attribute("data-dark") is not None) == bool(host)


def test_the_image_is_within_five_tabs(page, seen, tmp_path, monkeypatch):
    opened(page, seen, tmp_path, monkeypatch)
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className === 'stage'"):
            break
    else:
        pytest.fail("the image was not reached")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    wait_until(lambda: page.locator(".stage .pin").count() == 1)


@pytest.mark.parametrize("other", [None, "gamma=0"])
def test_it_fits_on_a_phone(browser, seen, tmp_path, monkeypatch, other):
    """Nothing scrolls sideways, and fingers hit what there is to press."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(seen.path.parent))
    inspector = AttentionInspector(seen, other)
    what_if = {**inspector.view, "pins": [3, 77], "gamma0": other is None, "reading": "causal", "panel": "offsets"}
    path = inspector.save(tmp_path / "view.html", what_if)
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(path.as_uri())
    view = page.locator(".wb.inspector")
    view.get_by_role("button", name="Help").tap()
    for reading in READINGS:
        view.locator(f".controls [data-value={reading}]").tap()
        page.wait_for_timeout(50)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360, reading
    targets = "nodes => nodes.filter(node => node.offsetParent).map(node => [node.textContent, node.offsetWidth, node.offsetHeight])"
    small = [target for target in view.locator("button, select, input").evaluate_all(targets) if min(target[1:]) < 40]
    assert small == []
    stage = view.locator(".stage").first
    stage.tap(position=cell(stage, 99))
    wait_until(lambda: stage.locator(".pin").count() == 1)
    for adds, count in ((True, 2), (False, 1)):  # fingers have no shift key
        view.get_by_role("button", name="Add pins").tap()
        stage.tap(position=cell(stage, 130 + count))
        wait_until(lambda count=count: stage.locator(".pin").count() == count)
        assert view.get_by_role("button", name="Add pins").get_attribute("aria-pressed") == str(adds).lower()

    # The tools, in a view that is no page, but has lost its kernel.
    inspector.save(path, {**what_if, "measure": True, "directions": [0.5]})
    path.write_text(path.read_text().replace("frozen: true", "frozen: false"))
    page.goto(path.as_uri())
    if other is None:
        seed, right = view.get_by_label("Seed", exact=True), view.get_by_text("a whole number from 0 to 2,147,483,647").first
        for wrong in ("-3", "1.5", "99999999999", ""):
            seed.fill("8")
            assert not right.is_visible()
            seed.fill(wrong)
            assert right.is_visible(), wrong
        seed.fill("0")
    for tool in ("Knock out", "Paint", "Drag latent"):
        view.get_by_role("button", name=tool).tap()
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360, tool
        assert [target for target in view.locator("button, select, input").evaluate_all(targets) if min(target[1:]) < 40] == [], tool
    stage.scroll_into_view_if_needed()
    box, fingers = stage.bounding_box(), context.new_cdp_session(page)
    for kind, y in (("touchStart", 200), ("touchMove", 160), ("touchMove", 100), ("touchEnd", None)):
        points = [] if y is None else [dict(x=box["x"] + 100, y=box["y"] + y)]
        fingers.send("Input.dispatchTouchEvent", dict(type=kind, touchPoints=points))
    moved = float(view.get_by_label("Direction 2").input_value())
    assert moved == pytest.approx(6 * 100 / box["height"], abs=0.1)
    assert stage.bounding_box()["y"] == pytest.approx(box["y"], abs=2)  # the page did not scroll along
    context.close()


def test_a_film_in_jupyterlab_and_in_an_exported_notebook(lab, page):
    notebook = Notebook(page, lab.write("film.ipynb", 'import workbench\nworkbench.film("demo")'))
    notebook.run(0)
    view = notebook.output(0).locator(".wb.film")
    heading, colour = view.locator("h2"), "view => getComputedStyle(view).color"
    heading.wait_for()
    view.focus()
    for key, step in (("Home", "100"), ("ArrowDown", "100"), ("ArrowRight", "500"), ("ArrowUp", "900")):
        page.keyboard.press(key)  # and the notebook does not go to another cell
        assert heading.inner_text() == f"step {step}" and view.evaluate("view => view === document.activeElement")
    page.keyboard.press(" ")
    wait_until(lambda: heading.inner_text() not in ("step 900", "step 500"))
    choose_theme(notebook, "Light")  # other tests may have left the other one
    light = view.evaluate(colour)
    choose_theme(notebook, "Dark")
    wait_until(lambda: view.evaluate(colour) != light)
    choose_theme(notebook, "Light")
    assert notebook.hosts == {"127.0.0.1"}
    assert len(notebook.saved(lab, "film.ipynb").cells[0].outputs[0].data["text/html"]) < 2_000_000

    exported = page.context.new_page()
    exported.route("**", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    subprocess.run([sys.executable, "-m", "nbconvert", "--to", "html", lab.files / "film.ipynb"], check=True, capture_output=True)
    exported.goto((lab.files / "film.html").as_uri())
    exported.locator(".wb.film").focus()
    exported.keyboard.press("Home")
    assert exported.locator(".wb.film h2").inner_text() == "step 100"


class Wide(torch.nn.Module):
    """A generator of images 8 x 16 with 4 x 8 queries."""

    def __init__(self):
        super().__init__()
        self.first, self.look, self.last = torch.nn.Linear(4, 16 * 32), SelfAttention(16), torch.nn.Conv2d(16, 12, 1)
        self.look.gamma.data.fill_(3.0)

    def forward(self, z):
        return torch.tanh(torch.nn.functional.pixel_shuffle(self.last(self.look(self.first(z).view(-1, 16, 4, 8))), 2))


def test_heads_tokens_and_maps_that_are_not_square(page, tmp_path, monkeypatch):
    """Networks without a run: the maps on the screen are those of Python, of a class token too, and pointers hit the right places."""
    monkeypatch.setenv("WORKBENCH_HEADLESS", "1")
    vit = VisionTransformer(image_size=16, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    torch.nn.init.normal_(vit.encoder.layers[1].self_attention.in_proj_weight)
    classifier = AttentionInspector(network=vit, inputs=(2 * torch.rand(3, 3, 16, 16) - 1,))
    painter = AttentionInspector(generator=Wide(), inputs=(torch.randn(3, 4),))
    for inspector, queries, places in ((classifier, (0, 7), 16), (painter, (2, 29), 32)):
        layout = inspector.runs[0].layout(inspector.view["layer"])
        path = inspector.save(tmp_path / "view.html", dict(pins=list(queries), active=0, explain=True, overview=True))
        page.goto(path.as_uri())
        view = page.locator(".wb.inspector")
        seen, stage = unpacked(inspector), view.locator(".stage")
        assert (
            view.locator(".explain p").inner_text() == inspector.answer(inspector.messages("explain", query=queries[0])[0])[0]["sentence"]
        )
        for name in ("Layers × checkpoints", "Copy this view"):  # these need a run
            assert view.get_by_role("button", name=name).count() == 0
        for reading in ("outgoing", "incoming", "value_weighted", "entropy", "received"):
            view.locator(f".controls [data-value={reading}]").click()
            for number, query in enumerate(queries):
                view.locator(".pinned").nth(number).click()
                wait_until(lambda stage=stage, query=query: stage.locator(".heat").evaluate(HEAT)["query"] == query)
                page.wait_for_timeout(50)
                expected = values_of(seen, reading, query)
                np.testing.assert_allclose(stage.locator(".heat").evaluate(HEAT)["values"], expected.ravel(), atol=1e-5)
                assert stage.locator(".heat").evaluate("canvas => [canvas.height, canvas.width]") == list(expected.shape)
        assert len(pins(view)) == 2 - len(layout.tokens)  # a token is nowhere
        tokens = view.get_by_role("group", name="Token", exact=True).locator("button")
        assert tokens.all_inner_texts() == list(layout.tokens)
        box, (rows, columns) = stage.bounding_box(), layout.grid
        assert box["height"] / box["width"] == pytest.approx(seen.image.shape[1] / seen.image.shape[2], rel=0.02)
        for place in (0, places // 2 + 3, places - 1):
            row, column = divmod(place, columns)
            at = {"x": (column + 0.5) * box["width"] / columns, "y": (row + 0.5) * box["height"] / rows}
            stage.click(position=at)
            assert pins(view) == [len(layout.tokens) + place]
            middle = stage.locator(".pin circle").evaluate("circle => [circle.cx.baseVal.value, circle.cy.baseVal.value]")
            assert middle == pytest.approx([at["x"], at["y"]], abs=1)
        if layout.tokens:
            tokens.first.click()
            assert pins(view) == [] and view.locator(".pinned b").inner_text() == "class token"
            assert view.get_by_role("group", name="Head", exact=True).locator("button").all_inner_texts() == ["mean"]


def unpacked(inspector):
    """The inspection that a network's inspector shows."""
    (request,) = inspector._requests(inspector.view)
    return inspector.runs[0].inspect(request)
