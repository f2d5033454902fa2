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
HEIGHT = 2400  # of the window: all of the inspector, of which the animation shows a part
WIDTH = 840  # pixels of the animation
LIMIT = 1_000_000  # bytes
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
        self.down = 0.0  # CSS pixels from the top of the inspector to what is recorded
        self.frames: list[Image.Image] = []
        self.times: list[int] = []  # milliseconds

    def take(self, milliseconds: int) -> None:
        """A frame of the inspector as it is now."""
        self.page.wait_for_timeout(300)
        box = self.view.bounding_box()
        shot = self.page.screenshot(clip=dict(x=box["x"], y=box["y"] + self.down, width=SIZE[0], height=SIZE[1]))
        self.frames.append(Image.open(io.BytesIO(shot)).convert("RGB"))
        self.times.append(milliseconds)

    def point(self, row: int, column: int, milliseconds: int = 220) -> None:
        """Hover over a position of the feature map."""
        box = self.stage.bounding_box()
        x, y = (box[edge] + (k + 0.5) * box[length] / self.side for edge, k, length in (("x", column, "width"), ("y", row, "height")))
        self.page.mouse.move(x, y)
        wait_until(lambda: self.stage.locator(".heat").evaluate(HEAT) == row * self.side + column, 60)
        self.take(milliseconds)

    def click(self, milliseconds: int) -> None:
        """Click where the pointer is."""
        self.page.mouse.down()
        self.page.mouse.up()
        self.take(milliseconds)

    def press(self, name: str, done, milliseconds: int, at=None) -> None:
        """Press a button, and wait until it is `done`; without milliseconds, off the record. What is recorded moves down to `at`, if given."""
        self.view.get_by_role("button", name=name).hover()
        if milliseconds and not at:
            self.take(300)
        self.page.mouse.down()
        self.page.mouse.up()
        wait_until(done, 120)
        if at:
            top, box = self.view.bounding_box()["y"], at.bounding_box()
            self.down = box["y"] + box["height"] - top - SIZE[1]
        if milliseconds:
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
    """Hover, pin two places, explain one, measure what attention does, drag the latent, and enter an earlier checkpoint."""
    film = Film(page, view, side=16)
    film.point(1, 8, 900)
    film.point(6, 4)
    film.point(7, 3, 400)
    film.click(900)
    for column in (6, 9):
        film.point(7, column)
    film.point(7, 12, 400)
    page.keyboard.down("Shift")
    film.click(1200)
    page.keyboard.up("Shift")

    words = view.locator(".explain p")
    film.press("Explain this place", lambda: words.inner_text().startswith("Query"), 3200)
    film.press("γ = 0", view.locator(".triple .after").is_visible, 1200)
    film.press("Measure over 64 samples", view.locator(".effects table").is_visible, 2600)
    film.frames[-1].save(DOCS / "inspector.png", optimize=True)
    film.press("Explain this place", words.is_hidden, 0)
    film.press("γ = 0", view.locator(".triple .after").is_hidden, 0)

    film.press("Drag latent", view.locator(".latent-card").is_visible, 600)
    box = film.stage.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for k in range(1, 7):
        page.mouse.move(x + k * box["width"] / 16, y - k * box["height"] / 24)
        wait_until(lambda: view.locator(".stale").count() == 0, 60)
        film.take(350)
    page.mouse.up()
    film.take(900)

    cells = view.locator(".overview .cells button")
    film.press(
        "Layers × checkpoints", lambda: cells.count() and view.locator(".overview .stale").count() == 0, 2200, at=view.locator(".overview")
    )
    film.press("G · 32×32, step 1,500", lambda: view.locator(".stale").count() == 0, 1600)
    film.down = 0
    film.take(2600)
    return film


def main() -> None:
    with lab_in_browser() as (lab, browser):
        page = browser.new_context(viewport={"width": SIZE[0] + 480, "height": HEIGHT}).new_page()
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
