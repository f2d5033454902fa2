"""A real JupyterLab and a real Chromium, for tests and for measuring."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import nbformat

from workbench.runs import Run

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

    def close(self):
        for folder in self.outputs.iterdir():  # runs outlive kernels
            Run(folder).stop()
        self.end_sessions()
        self.process.terminate()
        self.process.wait(30)

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


def wait_until(true, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (answer := true()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return answer


@contextmanager
def chromium():
    """A headless Chromium; None where it is not installed, or playwright is not."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sync_playwright = None
    if not (CHROMIUM and sync_playwright):
        yield None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@contextmanager
def lab_in_browser():
    """A JupyterLab and a headless Chromium for a program, which ends with a line if there is no Chromium."""
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        if not browser:
            sys.exit("this needs Chromium (Debian: apt install chromium) and playwright (pip install playwright)")
        lab = Lab(Path(folder))
        try:
            yield lab, browser
        finally:
            lab.close()
