"""A film of a training: what it shows of each step, as plain data, and as pictures of one size."""

from __future__ import annotations

import io
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .charts import DARK, Chart

WIDTH, HEIGHT = 12.8, 7.2  # inches of a picture; at 100 dpi 1280 x 720 pixels
EDGE, TOP, BODY = 0.25, 1.05, 5.6  # inches: the margin, and where the images and the chart are
LEFT, CHART = 6.75, 5.4  # inches: widths of the images and of the chart
MAPS, GAP = 1.65, 0.2  # inches: the largest height of the maps, and the space above them
FADE = 0.72  # how much of the curves after the step is covered


@dataclass(frozen=True)
class Frame:
    """What a film shows of a step: the sample grid, an image beside its attention maps (None: no attention), and numbers in words."""

    step: int
    samples: Image.Image
    maps: Image.Image | None
    numbers: str


@dataclass(frozen=True)
class Film:
    """A film of a training.

    Attributes
    ----------
    title, caption
        Text that all pictures share.
    steps
        At least two, ascending.
    frame
        From a step to its `Frame`, which is read when it is drawn.
    chart
        Curves over steps; all x axes have the same range.
    dots
        Queries on `Frame.maps`: x and y as shares of its width and height, and a colour.
    """

    title: str
    caption: str
    steps: tuple[int, ...]
    frame: Callable[[int], Frame]
    chart: Chart
    dots: tuple[tuple[float, float, str], ...] = ()


class Stage:
    """Draws the pictures of a film; only what differs between steps is drawn for each.

    Parameters
    ----------
    dpi
        Pixels per inch; the pictures have `WIDTH` x `HEIGHT` inches.
    """

    def __init__(self, film: Film, dpi: int = 100):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.font_manager import findfont

        from .literal_text import LiteralFigure
        from .print import draw_chart

        self.film, self.dpi = film, dpi
        figure = LiteralFigure(figsize=(WIDTH, HEIGHT), dpi=dpi, facecolor="white")
        figure.text(1 - EDGE / WIDTH, 1 - 0.2 / HEIGHT, film.title, ha="right", va="top", fontsize=15, color=DARK)
        figure.text(EDGE / WIDTH, 0.12 / HEIGHT, film.caption, ha="left", va="bottom", fontsize=8.5, color="#555555")
        ratios = (WIDTH - CHART - EDGE, CHART, EDGE), (TOP, BODY, HEIGHT - TOP - BODY)
        grid = figure.add_gridspec(
            3, 3, width_ratios=ratios[0], height_ratios=ratios[1], left=0, right=1, bottom=0, top=1, wspace=0, hspace=0
        )
        draw_chart(figure.add_subfigure(grid[1, 1]), film.chart, CHART, BODY)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self._background = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        self._panels = [([round(edge) for edge in axes.bbox.extents], axes.get_xlim()) for axes in figure.axes]
        self._fonts = [ImageFont.truetype(findfont("DejaVu Sans"), self._pixels(size)) for size in (0.26, 0.155)]

    def draw(self, frame: Frame) -> Image.Image:
        """The picture of a step, RGB."""
        picture, inch = self._background.copy(), self._pixels
        pen = ImageDraw.Draw(picture)
        pen.text((inch(EDGE), inch(0.16)), f"step {frame.step:,}", fill=DARK, font=self._fonts[0])
        pen.text((inch(EDGE), inch(0.58)), frame.numbers, fill=DARK, font=self._fonts[1])
        maps = frame.maps and fitted(frame.maps, inch(LEFT), inch(MAPS))
        samples = fitted(frame.samples, inch(LEFT), inch(BODY) - (maps.height + inch(GAP) if maps else 0))
        picture.paste(samples, (inch(EDGE), inch(TOP)))
        if maps:
            corner = inch(EDGE), inch(TOP + GAP) + samples.height
            picture.paste(maps, corner, maps)
            self._draw_dots(pen, corner, maps.size)
        for (left, bottom, right, top), (first, last) in self._panels:
            at = round(left + (right - left) * min(max((frame.step - first) / (last - first), 0.0), 1.0))
            box = (at, picture.height - top, right, picture.height - bottom)
            picture.paste(Image.blend(picture.crop(box), Image.new("RGB", (right - at, top - bottom), "white"), FADE), box)
            pen.line((at, box[1], at, box[3]), fill=DARK, width=max(1, self.dpi // 66))
        return picture

    def _draw_dots(self, pen: ImageDraw.ImageDraw, corner: tuple[int, int], size: tuple[int, int]) -> None:
        radius = 0.055 * self.dpi
        for x, y, colour in self.film.dots:
            x, y = (start + share * length for start, share, length in zip(corner, (x, y), size, strict=True))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline="white", width=max(1, self.dpi // 66))

    def _pixels(self, inches: float) -> int:
        return round(inches * self.dpi)


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """An image as large as fits, without blur."""
    scale = min(width / image.width, height / image.height)
    scale = math.floor(scale) if scale >= 3 else scale  # then pixels of one size
    times = math.ceil(scale)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST).resize(size, Image.Resampling.BOX)


def over_image(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map (side, side) in [0, 1] over an image (S, S, 3), both uint8: the image is grey, and stays visible where the map is low."""
    from matplotlib import colormaps

    times = image.shape[0] // heat.shape[0]
    heat = heat.repeat(times, 0).repeat(times, 1)
    colours, opacity = colormaps["inferno"](heat)[..., :3] * 255, (0.45 + 0.5 * heat)[..., None]
    return np.rint(opacity * colours + (1 - opacity) * image.mean(2, keepdims=True) / 1.6).astype(np.uint8)


def svg_chart(chart: Chart) -> tuple[str, list[dict[str, float]]]:
    """The curves of a film as SVG whose ink is `currentColor`, and each panel: its edges as shares of the picture, and the ends of its x axis."""
    from matplotlib import rc_context

    from .literal_text import LiteralFigure
    from .print import draw_chart
    from .theme import for_any_theme, inked

    ink = "#010203"  # no colour of a chart
    stream = io.StringIO()
    with inked(ink), rc_context({"svg.hashsalt": uuid.uuid4().hex}):  # random names of its parts: a page may hold several
        figure = LiteralFigure(figsize=(CHART, BODY))
        draw_chart(figure, for_any_theme(chart), CHART, BODY)
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    width, height = figure.bbox.width, figure.bbox.height
    panels = []
    for axes in figure.axes:
        (left, bottom, right, top), (first, last) = axes.bbox.extents, axes.get_xlim()
        edges = dict(left=left / width, right=right / width, top=1 - top / height, bottom=1 - bottom / height)
        panels.append({name: float(f"{value:.5g}") for name, value in (edges | dict(first=first, last=last)).items()})
    return text[text.index("<svg") :].replace(ink, "currentColor"), panels


def evenly(steps: Sequence[int], count: int) -> list[int]:
    """At most `count` of the steps, evenly chosen, with the first and the last."""
    return [steps[round(k)] for k in np.linspace(0, len(steps) - 1, min(count, len(steps)))]
