"""Images in grids and rows: samples of one run, the same latents through several, real images."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..config import Config
from ..data import augment
from ..files import UnreadableError
from ..model import sampling
from ..parameters import ParameterError, WorkbenchError
from ..runs import Run
from .drawing import Drawing, Note, png_bytes

MOST_COLUMNS = 100  # of one row
MOST_PIXELS = 50_000_000  # of a sample grid; ours have a twentieth of it


def samples(run: Run, step: int | None = None, width: int = 800) -> Image.Image | Note:
    """The sample grid of a step (by default the newest), enlarged without blur to about `width` pixels.

    Returns
    -------
    Image or Note
        A note where there are no samples yet, or those of the step cannot be read.

    Raises
    ------
    ParameterError
        If there are no samples of a step that was asked for.
    """
    steps = run.sample_steps()
    if not steps:
        return Note(f"run {run.name!r} has no samples yet: they come every {run.config.sample_every} steps")
    if step is not None and step not in steps:
        raise ParameterError(f"step={step!r}: run {run.name!r} has no samples of it; there are those of: {', '.join(map(str, steps))}")
    try:
        image = sample_grid(run.sample_path(steps[-1] if step is None else step))
    except WorkbenchError as error:
        return Note(error)
    image = image.convert("RGBA")  # which JPEG cannot hold: Jupyter would keep a blurred JPEG beside the PNG
    factor = max(1, min(round(width / image.width), math.isqrt(MOST_PIXELS // (image.width * image.height))))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def sample_grid(path: Path) -> Image.Image:
    """The sample grid in a PNG file.

    Raises
    ------
    UnreadableError
        If the file is gone, damaged, no PNG, or far larger than any grid.
    """
    if not path.is_file():  # a pipe would be waited for
        raise UnreadableError(path, "missing, or not a regular file")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableError(path, error.strerror or str(error)) from None
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            size = image.size
            if size[0] * size[1] <= MOST_PIXELS:
                image.load()
                return image
    except Exception:  # Pillow raises almost anything on a broken file
        raise UnreadableError(path, "no PNG, or a damaged one" if content.strip(b"\0") else "empty") from None
    raise UnreadableError(path, f"{size[0]}x{size[1]} pixels, far more than a sample grid has")


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
    ParameterError
        For other weights.

    Notes
    -----
    A row whose generator cannot be opened has the reason in place of images: no checkpoint, a damaged one, or no average kept.
    """
    if not 1 <= columns <= MOST_COLUMNS:
        raise ParameterError(f"columns={columns!r} is out of range; at least 1 and at most {MOST_COLUMNS}")
    if weights not in ("ema", "raw", "auto"):
        raise ParameterError(f"weights={weights!r} is not one of ema, raw, auto")
    if not rows:
        return None
    drawn = []
    for label, run, step in rows:
        drawn.append(
            ("\n".join(textwrap.fill(line, 34) for line in label.splitlines()), _row(run, step, seed, columns, weights, truncation))
        )
    title = f"latents 0 to {columns - 1} of seed {seed}, the same in every row, classes in turn"
    title += f", truncated at {truncation:g}" if truncation else ""
    for name, what in (("z_dim", "latents"), ("num_classes", "classes")):
        if len({getattr(run.config, name) for (_, run, _), (_, row) in zip(rows, drawn, strict=True) if not isinstance(row, str)}) > 1:
            title += f"; not the same {what} where {name} differs"
    parameters = dict(rows=[[label, run.reference, step] for label, run, step in rows])
    parameters |= dict(seed=seed, columns=columns, weights=weights, truncation=truncation)
    return Drawing(_strips(drawn, title), "sample_rows", parameters)


def _row(run: Run, step: int, seed: int, columns: int, weights: str, truncation: float) -> torch.Tensor | str:
    """Images of a generator, or why there are none."""
    try:
        config, generator = run.config, run.generator(step, weights)
    except WorkbenchError as error:
        return str(error)
    z, y = sampling.latents(columns, config.z_dim, seed, truncation=truncation), sampling.labels(columns, config.num_classes or 0)
    return sampling.images(generator, z, y)


def sample_rows_again(rows: list[list], **how) -> Drawing:
    """The figure of a recipe of `sample_rows`."""
    return sample_rows([(label, Run(run), step) for label, run, step in rows], **how)


def _strips(rows: list[tuple[str, torch.Tensor | str]], title: str, size: int = 64):
    """Rows of images with a label each, or of a text in their place."""
    from .pictures import Picture

    columns = max((len(images) for _, images in rows if not isinstance(images, str)), default=8)
    picture = Picture(figsize=(2.6 + columns * size / 100, 0.5 + len(rows) * (size + 4) / 100), facecolor="white")
    panels = picture.subplots(len(rows), columns, squeeze=False, gridspec_kw=dict(wspace=0.05, hspace=0.05))
    for (label, images), line in zip(rows, panels, strict=True):
        for panel in line:
            panel.axis("off")
        if isinstance(images, str):
            line[0].text(0, 0.5, textwrap.fill(images, 16 * columns), transform=line[0].transAxes, va="center", fontsize=7)
            images = ()
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
