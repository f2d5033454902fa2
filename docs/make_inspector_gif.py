# ruff: noqa: RUF001
"""Record docs/inspector.gif and docs/inspector.png: the inspector in a real JupyterLab, on the run that ships with the package.

    python docs/make_inspector_gif.py

Needs Chromium and playwright, as the browser tests do. The clock of the animation is its own: frames are taken when the picture is settled.
"""

import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # what drives JupyterLab is shared with the tests
from lab import Notebook, lab_in_browser, wait_until

DOCS = Path(__file__).resolve().parent
SIZE = (1120, 1072)  # CSS pixels of the inspector that are recorded
WIDTH = 880  # pixels of the animation
LIMIT = 2_000_000  # bytes
CELL = """
import workbench as wb
wb.AttentionInspector(view=wb.AttentionView(run="demo", layer=16, classes="cross", seeds="0:4", queries="1,8"))
"""
HEAT = "canvas => canvas.query ?? null"
POINTER = """() => {
  const pointer = document.createElement("div");
  pointer.id = "pointer";
  pointer.innerHTML = '<svg width="28" height="28" viewBox="0 0 16 16"><path d="M1 0v13l3.5-3 2 5 2.3-1-2-4.8H12z" fill="#fff" stroke="#000"/></svg>';
  pointer.style.cssText = "position:fixed;z-index:99999;pointer-events:none;left:0;top:0";
  document.body.append(pointer);
  addEventListener("pointermove", (event) => {
    pointer.style.left = `${event.clientX}px`;
    pointer.style.top = `${event.clientY}px`;
  }, true);
}"""


class Film:
    """Frames of an inspector, with how long each is shown."""

    def __init__(self, page, view, side: int):
        self.page, self.view, self.side = page, view, side
        self.stage = view.locator(".stage").first
        self.frames: list[Image.Image] = []
        self.times: list[int] = []  # milliseconds

    def take(self, milliseconds: int) -> None:
        """A frame of the inspector as it is now."""
        self.page.wait_for_timeout(300)
        box = self.view.bounding_box()
        shot = self.page.screenshot(clip=dict(x=box["x"], y=box["y"], width=SIZE[0], height=SIZE[1]))
        self.frames.append(Image.open(io.BytesIO(shot)).convert("RGB"))
        self.times.append(milliseconds)

    def point(self, row: int, column: int, milliseconds: int = 220) -> None:
        """Hover over a position of the feature map."""
        box = self.stage.bounding_box()
        x, y = (box[edge] + (k + 0.5) * box[length] / self.side for edge, k, length in (("x", column, "width"), ("y", row, "height")))
        self.page.mouse.move(x, y)
        wait_until(lambda: self.stage.locator(".heat").evaluate(HEAT) == row * self.side + column, 60)
        self.take(milliseconds)

    def click(self, milliseconds: int, locator=None) -> None:
        """Click where the pointer is, or on something."""
        if locator:
            locator.hover()
            self.take(300)
        self.page.mouse.down()
        self.page.mouse.up()
        self.take(milliseconds)

    def save(self, path: Path, width: int) -> None:
        """Write an animated GIF: one palette for all frames, which keeps what does not change from being stored again."""
        height = round(SIZE[1] * width / SIZE[0])
        frames = [frame.resize((width, height), Image.Resampling.LANCZOS) for frame in self.frames]
        colours = Image.new("RGB", (width, height * 4))
        for k in range(4):
            colours.paste(frames[k * (len(frames) - 1) // 3], (0, k * height))
        palette = colours.quantize(255, method=Image.Quantize.MEDIANCUT)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=self.times, loop=0, optimize=True)


def record(page, view) -> Film:
    """Hover, pin two places, take another image, switch attention off, and go back through training."""
    film = Film(page, view, side=16)
    slider = view.get_by_label("Step", exact=True)
    film.point(1, 8, 1000)
    for column in (4, 3):
        film.point(6, column)
    film.point(7, 3, 500)
    film.click(900)
    for column in (5, 7, 9, 11):
        film.point(7, column)
    film.point(7, 12, 400)
    page.keyboard.down("Shift")
    film.click(1400)
    page.keyboard.up("Shift")
    for sample in (5, 4):
        film.click(900, view.locator(".thumbs button").nth(sample))
    view.get_by_role("button", name="γ = 0").hover()
    film.take(500)
    page.mouse.down()
    page.mouse.up()
    view.locator(".triple .after").wait_for(timeout=60_000)
    film.take(2200)
    film.frames[-1].save(DOCS / "inspector.png", optimize=True)
    slider.hover()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowRight", "ArrowRight"):
        before = slider.input_value()
        slider.press(key)
        wait_until(lambda before=before: slider.input_value() != before, 60)
        page.wait_for_timeout(2500)  # the generator of that checkpoint runs
        film.take(800)
    return film


def main() -> None:
    with lab_in_browser() as (lab, browser):
        page = browser.new_context(viewport={"width": SIZE[0] + 480, "height": SIZE[1] + 300}).new_page()
        notebook = Notebook(page, lab.write("inspector.ipynb", CELL))
        notebook.do("jupyterapp.commands.execute('application:toggle-left-area')")
        notebook.run(0)
        view = notebook.output(0).locator(".wb.inspector")
        wait_until(lambda: view.locator(".thumbs button").count() == 8, 180)
        view.evaluate("(node, [width, height]) => Object.assign(node.style, { width: `${width}px`, minHeight: `${height}px` })", list(SIZE))
        page.evaluate(POINTER)
        film = record(page, view)
    path = DOCS / "inspector.gif"
    film.save(path, WIDTH)
    size = path.stat().st_size
    print(f"{path}: {len(film.frames)} frames, {sum(film.times) / 1000:.1f} s, {size:,} bytes")
    if size > LIMIT:
        sys.exit(f"{path.name} has {size:,} bytes; it may have {LIMIT:,}: record a smaller WIDTH")


if __name__ == "__main__":
    main()
