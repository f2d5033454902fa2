"""What `train.ipynb` calls: the images that D sees, samples, curves, diagnostics, and attention maps; `settings` checks what is trained."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image

from .. import figures
from ..config import Config
from ..data import Images, augment, batch_indices, to_unit
from ..data.datasets import Drawn
from ..figures import Drawing, Note, Plot
from ..figures.charts import MAX_PIXELS
from ..files import UnreadableError, read_bytes, reading
from ..messages import ParameterError, WorkbenchError, counted
from ..model import sampling
from ..runs import Run
from .attention import AttentionView


def real_images(data: Images | Drawn, config: Config, columns: int = 10) -> Image.Image:
    """The first real images of the training as D will see them, after every transform, in a grid."""
    count = min(4 * columns, data.length or 4 * columns)
    x = to_unit(data.batch(batch_indices(data.length, config.seed, 0, count))[0])
    u = torch.rand(len(x), augment.NUMBERS, generator=sampling.rng(config.seed, 3))
    grid = sampling.tile(augment.apply(config.augment, x, u, real=True), columns)
    return figures.enlarged(Image.fromarray(grid.permute(1, 2, 0).numpy()))


def samples(run: Run, step: int | None = None, width: int = 800) -> Image.Image | Note:
    """The sample grid of a step (by default the newest), enlarged without blur to about `width` pixels.

    Returns
    -------
    Image or Note
        A note if there are no samples yet, or those of the step cannot be read.

    Raises
    ------
    ParameterError
        If there are no samples of `step`.
    """
    steps = run.sample_steps()
    if not steps:
        return Note(f"run {run.name!r} has no samples yet; they come every {counted(run.config.sample_every, 'step')}")
    if step is not None and step not in steps:
        raise ParameterError(f"step={step!r}: run {run.name!r} has no samples of this step; it has those of: {', '.join(map(str, steps))}")
    try:
        return figures.enlarged(sample_grid(run.sample_path(steps[-1] if step is None else step)), width)
    except WorkbenchError as error:
        return Note(error)


def sample_rows(run: Run) -> list[str]:
    """The names of the classes of the rows of the run's sample grids; [] without classes."""
    names = run.class_names
    _, labels = sampling.grid(len(names), 1, 0, columns=1)
    return [] if labels is None else [names[label] for label in labels.tolist()]


def sample_grid(path: Path) -> Image.Image:
    """The sample grid in a PNG file.

    Raises
    ------
    UnreadableError
        If the file is missing, damaged, no PNG, or far larger than any grid.
    """
    with reading(path):
        content = read_bytes(path)
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            size = image.size
            if size[0] * size[1] <= MAX_PIXELS:
                image.load()
                return image
    except Exception:  # Pillow raises almost anything on a broken file
        raise UnreadableError(path, "no PNG, or a damaged one" if content.strip(b"\0") else "empty") from None
    raise UnreadableError(path, f"{size[0]}x{size[1]} pixels, far more than a sample grid has")


def curves(run: Run) -> Plot:
    """Losses, D's outputs, gammas and gradient norms over steps."""
    return figures.curves(run.name, run.history())


def scores(run: Run) -> Plot | Note:
    """The scores that were measured in training, over steps; a note if there are none."""
    plot = figures.scores_of_run(run.name, run.evaluations())
    return (
        plot
        if plot.description.panels
        else Note(f"run {run.name!r} has no scores yet; they come every {counted(run.config.evaluate_every, 'step')}")
    )


def diagnostics(run: Run) -> Plot:
    """D's margin and saturation, and the largest singular value of every layer; see `figures.diagnostics`."""
    return figures.diagnostics(run.name, run.history(), run.spectra())


def singular_values(run: Run, network: str = "G") -> Plot:
    """Singular values of the weight of every layer of "G" or "D"; see `figures.singular_values`."""
    return figures.singular_values(run.name, run.spectra(), network)


def attention(run: Run) -> Drawing | Note | None:
    """Where the generator looks; see `AttentionView.figure`."""
    return AttentionView(run=run.reference).figure()


def summary_png(run: Run) -> bytes:
    """The newest sample grid above the curves: the static picture of a run, for a page of any theme."""
    grid, chart = samples(run, width=980), Image.open(io.BytesIO(curves(run).png_for_any_theme()))
    parts = [chart] if isinstance(grid, Note) else [grid, chart]
    width = max(part.width for part in parts)
    sheet = Image.new("RGBA", (width, sum(part.height for part in parts)))
    top = 0
    for part in parts:
        sheet.paste(part.convert("RGBA"), ((width - part.width) // 2, top))
        top += part.height
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()
