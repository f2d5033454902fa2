"""Images in grids and rows: samples of one run, the same latents through several, real images."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

import torch
from PIL import Image

from .. import augment, sampling
from ..config import Config
from ..runs import Run
from .drawing import Drawing, png_bytes


def samples(run: Run, step: int | None = None, width: int = 800) -> Image.Image:
    """The sample grid of a step (by default the newest), enlarged without blur to about `width` pixels."""
    steps = run.sample_steps()
    # RGBA, which JPEG cannot hold: Jupyter would keep a blurred JPEG beside the PNG.
    image = Image.open(run.sample_path(steps[-1] if step is None else step), formats=["PNG"]).convert("RGBA")
    factor = max(1, round(width / image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def real_images(data, config: Config, columns: int = 10) -> Image.Image:
    """What D will see: the first real images of the training after every transform, in a grid."""
    from ..data import batch_indices, to_unit

    count = min(4 * columns, data.length or 4 * columns)
    x = to_unit(data.batch(batch_indices(data.length, config.seed, 0, count))[0])
    u = torch.rand(len(x), augment.NUMBERS, generator=sampling.generator_for(config.seed, 3))
    x = augment.apply(config.augment, x, u, real=True)
    return grid_image(x, columns)


def grid_image(x: torch.Tensor, columns: int = 10, width: int = 800) -> Image.Image:
    """Images (B, 3, S, S) in [-1, 1] in a grid, enlarged without blur to about `width` pixels."""
    grid = sampling.tile(x, columns)
    factor = max(1, round(width / grid.shape[2]))
    return Image.fromarray(grid.permute(1, 2, 0).repeat_interleave(factor, 0).repeat_interleave(factor, 1).numpy()).convert("RGBA")


def strips(rows: list[tuple[str, torch.Tensor]], title: str, size: int = 64) -> Image.Image | None:
    """Rows of images (B, 3, S, S) in [-1, 1] with a label each, enlarged without blur to about `size` pixels; None without rows."""
    return Image.open(io.BytesIO(png_bytes(_strips(rows, title, size), 120))) if rows else None


def sample_rows(
    rows: Sequence[tuple[str, Run, int]], seed: int = 0, columns: int = 8, weights: str = "auto", truncation: float = 0.0
) -> Drawing | None:
    """The same latents through several generators: a row for each, classes in turn.

    Parameters
    ----------
    rows
        Label, run, and step of its checkpoint, for each row.
    seed, columns, truncation
        Of the latents, how many, and where they are truncated (0: not).
    weights
        "ema", "raw", or "auto": averaged where there are such.

    Returns
    -------
    Drawing or None
        None without rows.

    Raises
    ------
    WorkbenchError
        If there is no such checkpoint, or a run keeps no average.
    """
    if not rows:
        return None
    drawn = []
    for label, run, step in rows:
        config = run.config
        z, y = sampling.latents(columns, config.z_dim, seed, truncation=truncation), sampling.labels(columns, config.num_classes or 0)
        drawn.append(
            ("\n".join(textwrap.fill(line, 34) for line in label.splitlines()), sampling.images(run.generator(step, weights), z, y))
        )
    title = f"latents 0 to {columns - 1} of seed {seed}, the same in every row, classes in turn"
    title += f", truncated at {truncation:g}" if truncation else ""
    for name, what in (("z_dim", "latents"), ("num_classes", "classes")):
        if len({getattr(run.config, name) for _, run, _ in rows}) > 1:
            title += f"; not the same {what} where {name} differs"
    parameters = dict(rows=[[label, run.reference, step] for label, run, step in rows])
    parameters |= dict(seed=seed, columns=columns, weights=weights, truncation=truncation)
    return Drawing(_strips(drawn, title), "sample_rows", parameters)


def sample_rows_again(rows: list[list], **how) -> Drawing:
    """The figure of a recipe of `sample_rows`."""
    return sample_rows([(label, Run(run), step) for label, run, step in rows], **how)


def _strips(rows: list[tuple[str, torch.Tensor]], title: str, size: int = 64):
    from matplotlib.figure import Figure

    columns = max(len(images) for _, images in rows)
    picture = Figure(figsize=(2.6 + columns * size / 100, 0.5 + len(rows) * (size + 4) / 100), facecolor="white")
    panels = picture.subplots(len(rows), columns, squeeze=False, gridspec_kw=dict(wspace=0.05, hspace=0.05))
    for (label, images), line in zip(rows, panels, strict=True):
        for panel in line:
            panel.axis("off")
        for panel, image in zip(line, images, strict=False):
            panel.imshow(pixels(image), interpolation="nearest")
        line[0].text(-0.1, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    picture.suptitle(title, fontsize=10, x=0.01, ha="left", y=0.99)
    width, height = picture.get_size_inches()
    picture.subplots_adjust(left=2.4 / width, right=0.995, bottom=0.02, top=1 - 0.4 / height)
    return picture


def pixels(image: torch.Tensor):
    """An image (3, S, S) in [-1, 1] as matplotlib takes it: (S, S, 3) in [0, 1]."""
    return ((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).numpy()
