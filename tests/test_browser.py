# ruff: noqa: RUF001
"""Notebooks as a person meets them: a real JupyterLab in a real Chromium, with real trainings and evaluations."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import pytest

from workbench import Config, train
from workbench.runs import Run, create_run

pytestmark = pytest.mark.slow

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
NO_NEWS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}}

# Wait for the kernel, not for the page: cells that run before it is connected are lost.
READY = """() => {
  const widget = window.jupyterapp?.shell?.currentWidget, session = widget?.context?.sessionContext, kernel = session?.session?.kernel;
  return widget?.context.isReady && session.isReady && kernel?.connectionStatus === "connected" && kernel.status === "idle";
}"""


class Lab:
    """A JupyterLab server with settings of its own, in `folder`."""

    def __init__(self, folder: Path):
        self.files, self.outputs, self.token = folder / "files", folder / "outputs", "token-of-the-tests"
        names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        private = {name: str(folder / name.lower()) for name in names}
        settings = Path(private["JUPYTER_CONFIG_DIR"], "labconfig", "default_setting_overrides.json")
        for place in (self.files, self.outputs, settings.parent):
            place.mkdir(parents=True)
        settings.write_text(json.dumps(NO_NEWS))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        options = ["--no-browser", "--expose-app-in-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
        options += [f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.files}"]
        environment = {**os.environ, **private, "WORKBENCH_OUTPUTS": str(self.outputs), "WORKBENCH_DATA": str(folder / "data")}
        environment.pop("WORKBENCH_HEADLESS", None)
        environment["OMP_NUM_THREADS"] = "1"  # threads that wait for each other starve beside a browser on two cores
        with open(folder / "server.log", "w") as log:
            self.process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log)
        wait_until(lambda: self.call("/api/status"), 60)

    def call(self, path: str, method: str = "GET"):
        request = urllib.request.Request(self.url + path, method=method, headers={"Authorization": f"token {self.token}"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read() or "null")
        except OSError:  # not there yet
            return None

    def end_sessions(self):
        for session in self.call("/api/sessions"):  # kernels outlive pages
            self.call(f"/api/sessions/{session['id']}", "DELETE")

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook; its address."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, self.files / name)
        return f"{self.url}/lab/tree/{name}?reset&token={self.token}"


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page, address: str):
        self.page, self.errors, self.hosts = page, [], set()
        page.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))
        page.goto(address)
        page.wait_for_function(READY, timeout=60_000)

    def do(self, script: str):
        """Start something in JupyterLab, without waiting for its end."""
        self.page.evaluate(f"() => {{ const notebook = jupyterapp.shell.currentWidget; {script} }}")

    def run(self, cell: int):
        self.do(f"notebook.content.activeCellIndex = {cell}; jupyterapp.commands.execute('notebook:run-cell')")

    def output(self, cell: int):
        return self.page.locator(".jp-Notebook .jp-Cell").nth(cell).locator(".jp-OutputArea-output")

    def saved(self, lab: Lab, name: str):
        self.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(lab.files / name, 4)


def wait_until(true, seconds: float = 30):
    end = time.monotonic() + seconds
    while not (answer := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return answer


@pytest.fixture(scope="module")
def chromium():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if not (CHROMIUM and sync_playwright):
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("the browser tests need Chromium (Debian: apt install chromium) and playwright (pip install playwright)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(chromium, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    for folder in lab.outputs.iterdir():  # trainings outlive kernels
        Run(folder).stop()
    lab.end_sessions()
    lab.process.terminate()
    lab.process.wait(30)


@pytest.fixture
def page(chromium):
    context = chromium.new_context(viewport={"width": 1500, "height": 1100})
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()


SHOWN = """image => image.complete && image.naturalWidth > 0 ? image.dataset.step : null"""
TRAIN = """
import workbench
config = workbench.Config.preset("twins32", run="watched", width=8, batch_size=8, steps=100_000, log_every=1, sample_every=10)
dashboard = workbench.Dashboard(workbench.launch(config))
"""


def test_a_training_is_watched_left_found_again_and_stopped(lab, page):
    again = "import workbench\nawait workbench.Dashboard('watched').follow()"
    notebook = Notebook(page, lab.write("watch.ipynb", TRAIN, "await dashboard.follow()", "print('another', 'cell')\ndashboard", again))
    for cell in range(3):
        notebook.run(cell)

    # The view is alive: progress, curves and samples.
    view = notebook.output(1).locator(".wb")
    badge, steps, image, slider = (view.locator(part) for part in (".badge", ".facts span:first-child b", "img", "input[type=range]"))
    badge.get_by_text("training").wait_for()
    before = steps.inner_text()
    wait_until(lambda: steps.inner_text() != before)
    assert view.locator(".chart h3").all_inner_texts() == ["Losses", "Output of D", "Attention", "Learning rates"]
    points = "curves => curves.map(curve => curve.getAttribute('d').split('L').length)"
    wait_until(lambda: min(view.locator(".plot .curve").evaluate_all(points), default=0) > 5)
    assert view.locator(".plot .curve").count() == 8
    wait_until(lambda: int(slider.get_attribute("max")) >= 2)

    # Back through time by keyboard; what is new does not take the view along until the end of the slider is reached.
    newest = int(wait_until(lambda: image.evaluate(SHOWN)))
    slider.focus()
    page.keyboard.press("Home")
    wait_until(lambda: image.evaluate(SHOWN) == "0")
    page.keyboard.press("ArrowRight")
    wait_until(lambda: image.evaluate(SHOWN) == "10")
    assert slider.get_attribute("aria-valuetext") == "step 10"
    wait_until(lambda: int(slider.get_attribute("max")) * 10 > newest)
    assert image.evaluate(SHOWN) == "10"
    page.keyboard.press("End")
    wait_until(lambda: int(image.evaluate(SHOWN) or 0) > newest)

    # The pointer reads values off all charts at once.
    values = view.locator(".legend b")
    view.locator(".plot").first.hover()
    wait_until(lambda: view.locator(".plot .dot").count() == 8)
    assert re.search(r"step \d+: D −?\d.*, G −?\d", view.locator(".plot").first.get_attribute("aria-label"))
    assert all(re.fullmatch(r"−?\d.*", text) for text in values.all_inner_texts())

    # Other cells wait for the one that waits, until that is told to let them run; the view stays alive, and may be there twice.
    assert notebook.output(2).count() == 0
    view.get_by_role("button", name="Let other cells run").click()
    notebook.output(2).get_by_text("another cell").wait_for()
    notebook.output(1).get_by_text("watched trains on").wait_for()
    second = notebook.output(2).locator(".wb")
    for one in (second, view):
        before = one.locator(".facts").inner_text()
        wait_until(lambda one=one, before=before: one.locator(".facts").inner_text() != before)
    second.locator("input[type=range]").press("Home")
    wait_until(lambda: second.locator("img").evaluate(SHOWN) == "0")
    assert int(image.evaluate(SHOWN)) > 0

    # The themes.
    colour = "path => getComputedStyle(path).stroke"
    light = view.locator(".curve").first.evaluate(colour)
    notebook.do("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    wait_until(lambda: view.locator(".curve").first.evaluate(colour) != light)

    # The kernel goes, and the training goes on.
    assert view.locator(".farewell").is_hidden()
    notebook.do("notebook.context.sessionContext.session.kernel.restart()")
    view.locator(".farewell").wait_for()
    assert view.locator(".farewell").inner_text().endswith('await Dashboard("watched").follow()')
    slider.press("Home")  # what the browser has, it shows without a kernel
    wait_until(lambda: image.evaluate(SHOWN) == "0")
    page.wait_for_function(READY)
    notebook.run(3)
    view = notebook.output(3).locator(".wb")
    view.locator(".badge").get_by_text("training").wait_for()
    wait_until(lambda: view.locator("img").evaluate(SHOWN))

    # The stop button.
    view.get_by_role("button", name="Stop").click()
    assert view.locator(".badge").inner_text() == "stopping…"
    view.locator(".badge").get_by_text("stopped").wait_for()
    run = Run(lab.outputs / "watched")
    told = f"stopped at step {run.checkpoint_steps()[-1]}; {run.how_to_go_on()}"
    assert view.locator(".note:visible").all_inner_texts() == [told]
    notebook.output(3).get_by_text(told).nth(1).wait_for()  # printed too
    assert view.get_by_role("button", name="Stop").is_disabled()

    # The notebook keeps a picture for where no widget can be, and the widget for when no kernel runs any more.
    saved = notebook.saved(lab, "watch.ipynb")
    assert {"application/vnd.jupyter.widget-view+json", "image/png"} <= set(saved.cells[3].outputs[0].data)
    assert len(json.dumps(saved.metadata.widgets)) < 300_000
    lab.end_sessions()
    again = Notebook(page.context.new_page(), page.url)
    view = again.output(3).locator(".wb")
    wait_until(lambda: view.locator("img").evaluate(SHOWN))
    assert view.locator(".note:visible").all_inner_texts() == [told]
    assert view.locator(".plot .curve").count() == 8

    assert notebook.errors == again.errors == []
    assert notebook.hosts | again.hosts <= {"127.0.0.1", None}


def test_a_run_is_evaluated(lab, page, monkeypatch, tiny):
    """The committed notebook: a bar while it works, then scores with their protocol, plots and pictures."""
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(lab.outputs))
    train(tiny(run="measured", checkpoint_every=2))
    page.set_viewport_size({"width": 1500, "height": 3500})  # cells out of sight are not in the page
    cells = nbformat.read(NOTEBOOKS / "evaluate.ipynb", 4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    code[0] += "\nrun, steps, n, reference_n = 'measured', 'all', 60, 20000"
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
    assert table.locator("thead th").all_inner_texts() == ["", "step 2", "step 4"]
    for tip in table.locator("td").evaluate_all("cells => cells.map(cell => cell.title)"):
        assert tip.startswith("workbench (but n=60, reference_n=20000): n=60") and "twins@" in tip and "twins at 32x32" in tip
    plot = notebook.output(2)
    plot.locator("img").wait_for()
    plot.hover()  # a picture, until somebody wants more of it
    plot.locator(".ytitle").first.wait_for()
    assert "twins@" in plot.locator(".ytitle").first.text_content()
    for cell in (3, 4):
        notebook.output(cell).locator("img").wait_for()
    assert "median distance to the nearest of 20,000 real images" in notebook.output(4).first.inner_text()
    saved = notebook.saved(lab, "evaluate.ipynb")
    pictures = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in saved.cells]
    assert pictures == [0, 0, 1, 1, 1]
    assert notebook.errors == [] and notebook.hosts <= {"127.0.0.1", None}


def test_the_stop_square_asks_the_training_to_save_and_stop(lab, page, monkeypatch):
    monkeypatch.setenv("WORKBENCH_OUTPUTS", str(lab.outputs))
    run = create_run(Config.preset("twins32", run="interrupted"))
    run.set_status(state="running", alarms=["collapse: all samples look the same"])  # as long as this process lives
    notebook = Notebook(page, lab.write("interrupt.ipynb", "import workbench\nawait workbench.Dashboard('interrupted').follow()"))
    notebook.run(0)
    view = notebook.output(0).locator(".wb")
    assert view.get_by_role("alert").inner_text() == "collapse: all samples look the same"
    interrupt = "notebook.context.sessionContext.session.kernel.interrupt()"
    notebook.do(interrupt)
    view.locator(".badge").get_by_text("stopping…").wait_for()
    assert (run.path / "stop").exists()
    notebook.do(interrupt)
    notebook.output(0).get_by_text("interrupted trains on").wait_for()
    run.set_status(state="failed", message="no room left on the disk")
    view.locator(".badge").get_by_text("failed").wait_for()
    assert view.get_by_role("alert").inner_text().splitlines() == ["collapse: all samples look the same", "no room left on the disk"]
    assert notebook.errors == []
