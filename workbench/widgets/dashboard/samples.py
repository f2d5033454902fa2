"""The samples of a dashboard: a grid with the names of its rows, and a slider through the steps."""

from __future__ import annotations

import html
import io
from collections.abc import Callable

import ipywidgets
from PIL import Image

from ...messages import WorkbenchError, counted
from ...views.train import sample_rows

PREVIEW_BYTES = 120_000  # a larger picture is saved in the notebook as WebP


class Samples:
    """The samples of a dashboard.

    Parameters
    ----------
    dashboard : Dashboard
        Whose run, steps of samples and pictures are shown.
    changed
        Is called when the user has moved the slider.

    Attributes
    ----------
    step : int or None
        Of the samples that are shown.
    """

    def __init__(self, dashboard, changed: Callable[[], None]) -> None:
        self._dashboard = dashboard
        self._steps: list[int] = []
        self._picture_of: tuple = ()
        self._reason = ""  # why the samples cannot be shown
        self._caption, self._rows = ipywidgets.HTML(), ipywidgets.HTML(layout=dict(flex="0 0 auto"))
        self._image = ipywidgets.Image(format="png", layout=dict(flex="1 1 0", min_width="0", object_fit="contain"))
        self._slider = ipywidgets.IntSlider(min=0, max=0, readout=False, layout=dict(flex="1 1 auto"))
        self._newest = ipywidgets.Button(description="newest", layout=dict(width="80px", flex="0 0 auto"))
        self._slider.observe(lambda _: changed(), "value")
        self._newest.on_click(lambda _: self._to_newest())
        self.controls = (self._slider,)
        grid = ipywidgets.HBox([self._rows, self._image], layout=dict(align_items="stretch"))
        row = ipywidgets.HBox([self._slider, self._newest])
        self.root = ipywidgets.VBox([self._caption, grid, row])
        self.root.add_class("wb-samples")

    @property
    def step(self) -> int | None:
        return self._steps[min(self._slider.value, len(self._steps) - 1)] if self._steps else None

    def show(self, step: float) -> None:
        """Move to the samples nearest to a step."""
        if self._steps:
            self._slider.value = min(range(len(self._steps)), key=lambda k: abs(self._steps[k] - step))

    def update(self) -> None:
        self._update_slider()
        step, newest = self.step, self._steps[-1] if self._steps else None
        self._slider.disabled = self._newest.disabled = step is None
        if step is None:
            self._image.layout.display = "none"
            self._caption.value = f"no samples yet; they come every {counted(self._dashboard.head['sample_every'], 'step')}"
            return
        path = self._dashboard.run.sample_path(step)
        stamp = (step, path.stat().st_mtime_ns if path.exists() else 0)
        if stamp != self._picture_of:
            self._picture_of = stamp
            self._draw(step)
        words = f"<b>Samples</b> step {step:,}" + (", the newest" if step == newest else "")
        self._caption.value = f"{words}: {html.escape(self._reason)}" if self._reason else words

    def shrink(self) -> None:
        """Make a large picture smaller, for the notebook."""
        self._image.value = preview(self._image.value)

    def _draw(self, step: int) -> None:
        picture, self._reason = self._dashboard.sample(step)
        self._image.layout.display = None if picture else "none"
        names: list[str] = []
        if picture:
            self._image.format, self._image.value = "png", picture
            try:
                names = sample_rows(self._dashboard.run)
            except WorkbenchError:  # the head reports it
                names = []
        self._rows.value = "<div class='wb-rows'>" + "".join(f"<span>{html.escape(name[:16])}</span>" for name in names) + "</div>"

    def _update_slider(self) -> None:
        """Give the slider the current steps; it stays at its step, or at the newest."""
        steps = self._dashboard.samples
        if steps == self._steps:
            return
        step = None if self._slider.value == len(self._steps) - 1 else self.step  # None: the newest
        self._steps = list(steps)
        last = max(0, len(steps) - 1)
        with self._slider.hold_trait_notifications():
            self._slider.max = last
            self._slider.value = last if step is None or step not in steps else steps.index(step)

    def _to_newest(self) -> None:
        self._slider.value = self._slider.max


def preview(picture: bytes, side: int = 600) -> bytes:
    """A picture that is small enough for a notebook: a large one is made smaller, to `side` pixels, as WebP."""
    if len(picture) <= PREVIEW_BYTES:
        return picture
    image, stream = Image.open(io.BytesIO(picture)), io.BytesIO()
    image.thumbnail((side, side))
    image.save(stream, "WEBP", quality=45)
    return stream.getvalue()
