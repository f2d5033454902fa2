"""Latency of the attention inspector from a move or click of the mouse to the painted map, in a real JupyterLab and Chromium.

    python -m benchmarks.latency     medians and 95th percentiles, in milliseconds

Measured on the run in the package (32x32 images) and on an untrained one of 128x128 with attention at 64x64, from the browser's time stamp
of the event to the end of the script that paints.
"""

import random
import shutil
import statistics
import sys
from pathlib import Path

from workbench import Config, train
from workbench.paths import DEMO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # for the tests' driver of JupyterLab
from lab import Notebook, lab_in_browser, wait_until

LISTEN = """() => {
  window.waited = { hover: [], click: [], look: [] };
  let since = 0;
  for (const kind of ["pointermove", "click", "input"]) addEventListener(kind, (event) => { since = event.timeStamp; }, true);
  new PerformanceObserver((list) => {
    for (const { startTime, detail } of list.getEntries()) if (since) window.waited[detail.kind].push(startTime - since);
  }).observe({ type: "mark" });
}"""
# While the latent is dragged: how long each picture took, from the move of the mouse that it is for.
DRAGGED = """() => {
  const about = document.querySelector(".wb.inspector .title .muted"), moves = new Map();
  const amount = (text) => Number(text.replace("\\u2212", "-"));
  let last = "";
  window.pictures = [];
  addEventListener("pointermove", (event) => {
    const text = document.querySelector(".wb.inspector .directions output")?.textContent;
    if (text && text !== last) moves.set(amount(text), event.timeStamp);
    last = text;
  });
  new MutationObserver(() => {
    const shown = Number(about.textContent.match(/direction 1 ([-+.\\d]+) sd/)?.[1] ?? 0);
    if (moves.has(shown)) window.pictures.push(performance.now() - moves.get(shown));
    moves.delete(shown); // it is drawn again at every news
  }).observe(about, { childList: true, characterData: true, subtree: true });
}"""
LARGE = dict(
    run="large", image_size=128, width=32, attention_g="64", attention_d="64", batch_size=2, steps=1, evaluate_every=0, mixed_precision="no"
)


def measure(notebook: Notebook, view, side: int, count: int) -> dict[str, list[float]]:
    """Milliseconds of `count` moves and clicks over the `side` x `side` queries of an inspector, and of the first views of seven images."""
    page, stage = notebook.page, view.locator(".stage")
    stage.wait_for()
    wait_until(lambda: view.locator(".thumbs button").count() == 8)
    page.wait_for_timeout(1000)
    page.evaluate(LISTEN)
    box, rng = stage.bounding_box(), random.Random(0)

    def random_query() -> tuple[float, float]:
        column, row = ((rng.randrange(side) + 0.5) / side for _ in range(2))
        return box["x"] + column * box["width"], box["y"] + row * box["height"]

    for _ in range(count):
        page.mouse.move(*random_query())
        page.wait_for_timeout(40)
    hovers = page.evaluate("() => window.waited.hover.splice(0)")
    for _ in range(count):
        page.mouse.click(*random_query())
        page.wait_for_timeout(60)
    page.mouse.move(1, 1)
    clicks = page.evaluate("() => window.waited.click.splice(0)")
    page.wait_for_timeout(300)
    page.evaluate("() => window.waited.look.splice(0)")
    for k in range(1, 8):  # at the first view of a sample the generator runs
        view.locator(".thumbs button").nth(k).click()
        wait_until(lambda k=k: page.evaluate("() => window.waited.look.length") >= k)
        page.wait_for_timeout(200)
    looks = page.evaluate("() => window.waited.look.splice(0)")
    return {"hover to paint": hovers, "click to paint, image known": clicks, "click to paint, the generator runs": looks[:7]}


def drag(notebook: Notebook, view, count: int) -> dict[str, list[float]]:
    """Milliseconds from a move of the mouse to the picture of the moved latent: after single moves, and of every picture that is shown while
    the mouse moves on, 60 times a second."""
    page, stage = notebook.page, view.locator(".stage")
    view.get_by_role("button", name="Drag latent").click()
    stage.evaluate("stage => stage.closest('.wb').scrollIntoView()")
    page.wait_for_timeout(300)
    page.evaluate(DRAGGED)
    box = stage.bounding_box()
    x, y, step = box["x"] + box["width"] / 2, box["y"] + 100, box["width"] / 100  # 100 steps: from -3 to 3 standard deviations
    page.mouse.move(x, y)
    page.mouse.down()
    for k in range(1, count + 1):
        page.mouse.move(x + k * step, y)
        wait_until(lambda k=k: page.evaluate("() => window.pictures.length") >= k)
        page.wait_for_timeout(150)
    page.mouse.up()
    single = page.evaluate("() => window.pictures.splice(0)")
    view.get_by_role("button", name="Reset").click()
    page.wait_for_timeout(500)
    page.evaluate("() => window.pictures.splice(0)")
    page.mouse.move(box["x"] + 10, y)
    page.mouse.down()
    for k in range(1, 100):
        page.mouse.move(box["x"] + 10 + k * 0.9 * step, y)
        page.wait_for_timeout(16)
    page.mouse.up()
    page.wait_for_timeout(500)
    return {"drag to picture, single moves": single, "drag to picture, moving on": page.evaluate("() => window.pictures")}


def main() -> None:
    with lab_in_browser() as (lab, browser):
        shutil.copytree(DEMO, lab.outputs / "demo")
        shutil.move(train(Config.preset("twins32", **LARGE)).path, lab.outputs / "large")
        for run, side, layer in (("demo", 16, 16), ("large", 64, 64)):
            page = browser.new_context(viewport={"width": 1500, "height": 1600}).new_page()
            view = f"workbench.AttentionView(run={run!r}, layer={layer})"
            notebook = Notebook(page, lab.write(f"{run}.ipynb", f"import workbench\nworkbench.AttentionInspector(view={view})"))
            notebook.run(0)
            inspector = notebook.output(0).locator(".wb.inspector")
            for action, times in (measure(notebook, inspector, side, 60) | drag(notebook, inspector, 20)).items():
                high = sorted(times)[int(0.95 * (len(times) - 1))]
                median = statistics.median(times)
                print(f"{run:<6} {side}x{side} queries  {action:<36} median {median:6.1f} ms  95 % {high:6.1f} ms  ({len(times)})")
            page.close()
            lab.end_sessions()


if __name__ == "__main__":
    main()
