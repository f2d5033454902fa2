"""The film of a run in a notebook, and its files."""

from __future__ import annotations

import base64
import html
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from ...figures.film import Film, Frame, Stage, evenly, svg_chart
from ...figures.video import FASTEST, write_video
from ...files import replace_text, storing
from ...messages import ParameterError, WorkbenchError, say_once, short_repr
from ...progress import progress, silent
from ...runs import Run
from ...views.film import film_of
from ..bundle import bundle, document, styles

DPI = {".mp4": 100, ".gif": 75}
SECONDS = 10.0  # of a film in a notebook or a page
SHORTEST, LONGEST = 0.1, 3600.0
NOTEBOOK_BYTES, PAGE_BYTES = 1_500_000, 24_000_000  # of the pictures; a Jupyter server refuses outputs of more than a few megabytes
COLOURS_FROM = 8  # pictures from which a GIF takes its colours
WEBP_QUALITY, LARGEST = 90, 720  # pictures in a page are not larger: that is about their place there

BODY = """<style>{css}</style>
<div class="wb film" data-film data-lm-suppress-shortcuts="true"><img class="poster" alt="{title}" src="{poster}">
<script type="application/json">{film}</script></div>
<script type="module">{script}</script>"""


class FilmView:
    """A film that a notebook shows under a scrub bar, without a kernel or a network, and that can be saved.

    Attributes
    ----------
    film : figures.film.Film
        Its content, as plain data.
    """

    def __init__(self, film: Film):
        self.film = film

    def __repr__(self) -> str:
        steps = self.film.steps
        return f"FilmView({self.film.title!r}, {len(steps)} steps from {steps[0]:,} to {steps[-1]:,})"

    def save(self, path: str | os.PathLike, seconds: float = SECONDS) -> Path:
        """Write the film as .mp4 (H.264), .gif, or as a page (.html) that needs no kernel and no network.

        Parameters
        ----------
        seconds
            Duration. A film of more steps than can be shown in that time has every second one, every third one, ...

        Raises
        ------
        ParameterError, WorkbenchError
            For another ending or duration; if the file cannot be written, or no step can be read.
        """
        path = Path(path)
        if path.suffix not in (*DPI, ".html"):
            raise ParameterError(f"path={str(path)!r} ends in {path.suffix!r}; a film can be .mp4, .gif or .html")
        if not isinstance(seconds, int | float) or not SHORTEST <= seconds <= LONGEST:
            raise ParameterError(f"seconds={short_repr(seconds)} is not a duration: a number from {SHORTEST:g} to {LONGEST:g}")
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".html":
            title = html.escape(self.film.title)
            replace_text(path, document(title, ":root { color-scheme: light dark; }", self._body(seconds, PAGE_BYTES, show_progress=True)))
            return path
        steps = evenly(self.film.steps, max(2, int(FASTEST[path.suffix] * seconds)))
        stage = Stage(self.film, DPI[path.suffix])
        sample = [stage.draw(frame) for frame in self._frames(evenly(steps, COLOURS_FROM if path.suffix == ".gif" else 2))]
        pictures = (stage.draw(frame) for frame in self._frames(steps, show_progress=True))
        write_video(path, pictures, sample, len(steps), seconds)
        return path

    def _frames(self, steps: list[int], show_progress: bool = False) -> Iterator[Frame]:
        """The frames that can be read; others are reported."""
        error, count = None, 0
        with (progress if show_progress else silent)(len(steps), f"frames of {self.film.title}") as advance:
            for step in steps:
                try:
                    frame = self.film.frame(step)
                except WorkbenchError as reason:
                    error = reason
                    say_once(f"left out: {reason}")
                else:
                    count += 1
                    yield frame
                advance(1)
        if error and not count:
            raise error

    def _body(self, seconds: float, most: int, show_progress: bool = False) -> str:
        """The element of a page that shows the film; of steps whose pictures would have more bytes than `most`, evenly chosen ones."""
        film, steps = self.film, list(self.film.steps)
        (newest,) = self._frames(steps[-1:])
        each = len(_encoded(newest.samples)) + len(_encoded(newest.maps))
        chosen = evenly(steps, max(2, most // each))
        frames = list(self._encoded_frames(chosen, show_progress))
        chart, panels = svg_chart(film.chart)
        fewer = f" {len(chosen)} of {len(steps)} steps, so that the page stays small." if len(chosen) < len(steps) else ""
        content: dict = {name: [frame[name] for frame in frames] for name in frames[0]}
        content |= dict(title=film.title, caption=film.caption + fewer, seconds=seconds, chart=chart, panels=panels, dots=film.dots)
        text = json.dumps(content).replace("<", "\\u003c")  # so that no text can end the script element
        title, poster = html.escape(film.title), _encoded(Stage(film).draw(newest))
        css = styles("css/base.css", "film/film.css")
        return BODY.format(title=title, css=css, poster=poster, film=text, script=bundle("film.js"))

    def _encoded_frames(self, steps: list[int], show_progress: bool) -> Iterator[dict]:
        for frame in self._frames(steps, show_progress):
            yield dict(steps=frame.step, samples=_encoded(frame.samples), maps=_encoded(frame.maps), numbers=frame.numbers)

    def _repr_mimebundle_(self, include=None, exclude=None):
        """The page, and a picture for where no JavaScript runs."""
        stream = io.BytesIO()
        (newest,) = self._frames([self.film.steps[-1]])
        Stage(self.film).draw(newest).save(stream, "PNG")
        page, picture = self._body(SECONDS, NOTEBOOK_BYTES), base64.b64encode(stream.getvalue()).decode()
        return {"text/html": page, "image/png": picture, "text/plain": repr(self)}


def film(run: Run | str = "", network: str = "G", layer: int | None = None, sample: int = 0, queries: str = "auto") -> FilmView:
    """A film of a run that trains or has ended: samples, attention maps, gamma and curves of every step with samples.

    Each step is shown with the newest snapshot of the attention and the newest numbers until it. Where a run keeps snapshots alone, as the demo
    does, their images are the samples.

    Parameters
    ----------
    run
        A run or its name; by default the newest one.
    network, layer, queries
        Whose attention, see `AttentionView`; by default the largest layer of G, and positions that are salient in the last image.
    sample
        The latent whose maps are shown, by its number in the snapshots.

    Raises
    ------
    WorkbenchError, ParameterError
        If there is no such run, layer, latent or position, or the run has samples of fewer than two steps.

    Examples
    --------
    >>> wb.film("twins32").save("film.mp4")  # doctest: +SKIP
    """
    return FilmView(film_of(run, network, layer, sample, queries))


def _encoded(picture: Image.Image | None) -> str:
    """A picture as the address of an image in a page; "" for none."""
    if picture is None:
        return ""
    stream, picture = io.BytesIO(), picture.copy()
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(stream, "WEBP", quality=WEBP_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
