"""Sheets of images: rows of samples with labels, and where a network looks."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from PIL import Image

from ..parameters import ParameterError
from .charts import EMPTY, Cell, Row, Sheet
from .figure import Drawing

QUERY_COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ff9f0a", "#bf5af2", "#00b8c4", "#ff6fb5", "#a2845e")  # as in the inspector


def strips(rows: Sequence[tuple[str, torch.Tensor | str]], title: str, size: int = 64) -> Drawing | None:
    """Rows of images (B, 3, S, S) in [-1, 1] with a label each, or of a reason in their place; None without rows.

    `size` is that of an image, in hundredths of an inch.
    """
    if not rows:
        return None
    images: list[str] = []
    made = []
    for label, content in rows:
        if isinstance(content, str):
            made.append(Row(label=label, note=content))
            continue
        made.append(Row(tuple(Cell(len(images) + k) for k in range(len(content))), label))
        images += [encoded(image) for image in content]
    return Drawing(Sheet(title, tuple(made), tuple(images), cell=size / 100, labels=True))


def attention_maps(
    looks: Sequence[tuple], queries: Sequence[Sequence[int]], reading: str = "outgoing", title: str = "", titles: Sequence[str] = ()
) -> Drawing:
    """Images with a dot for each query, and the map of each; where the layer was changed, also the image after it and the difference.

    Parameters
    ----------
    looks
        Who looked (with `label`, `config`, `class_name`), and what was seen (see `Look` of `views.attention`).
    queries
        Row-major positions asked about, for each look.
    reading
        How maps are read, see `Look.heat`.
    title, titles
        Of the figure, by default what was looked at; and of each image.
    """
    if any(len(places) > len(QUERY_COLOURS) for places in queries):
        raise ParameterError(f"queries are {max(map(len, queries))} places; a figure shows at most {len(QUERY_COLOURS)}")
    images: list[str] = []
    rows = [_looked_at(look, places, reading, images) for (_, look), places in zip(looks, queries, strict=True)]
    for row, text in zip(rows, titles, strict=False):
        row[0] = Cell(row[0].image, dots=row[0].dots, title=text)
    if len(looks) > 2:  # many images stand side by side, each above its maps
        rows = [list(column) for column in zip_longest(*rows, fillvalue=Cell(EMPTY))]
    return Drawing(Sheet(title or _title(looks, reading), tuple(Row(tuple(row)) for row in rows), tuple(images)))


def _looked_at(look, queries: Sequence[int], reading: str, images: list[str]) -> list[Cell]:
    side, size, first = look.projections.side, look.image.shape[-1], len(images)
    images.append(encoded(look.image))
    dots = [((query % side + 0.5) * size / side - 0.5, (query // side + 0.5) * size / side - 0.5, colour)
            for query, colour in zip(queries, QUERY_COLOURS, strict=False)]  # fmt: skip
    maps = (packed(look.heat(reading, query)) for query in queries)
    cells = [Cell(first, dots=tuple(dots)), *(Cell(first, heat, side, (dot,)) for heat, dot in zip(maps, dots, strict=True))]
    if look.after is not None:
        change = look.after - look.image
        images += [encoded(look.after), encoded(change / change.abs().max().clamp(min=1e-6))]
        cells += [Cell(first + 1), Cell(first + 2)]
    return cells


def _title(looks: Sequence[tuple], reading: str) -> str:
    (subject, look), others = looks[0], looks[1:]
    scene, layer = look.scene, look.projections
    names = dict.fromkeys(f"{one.label}, step {seen.scene.step:,}" for one, seen in looks if seen.scene.step is not None)
    kind = subject.config.attention_variant
    lines = [" against ".join(names), f"{scene.network}, {layer.side}x{layer.side} ({kind}), gamma {layer.gamma:+.3f}, {reading} attention"]
    if not others:
        lines[1] += f"; {_about(subject, look)}"
    if any(seen.after is not None for _, seen in looks):
        lines[1] += "; last: with the layer changed, and the difference"
    return "\n".join(lines)


def _about(subject, look) -> str:
    """What was looked at, in words; the class by its number where no font has its name."""
    from .pictures import drawable

    name = "" if look.label is None else subject.class_name(look.label)
    if not name or drawable(name) or not look.about.startswith(name):
        return look.about
    return f"class {look.label}{look.about.removeprefix(name)}"


def encoded(image: torch.Tensor) -> str:
    """An image (3, H, W) in [-1, 1] as PNG in base64."""
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0)
    stream = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def packed(heat: torch.Tensor) -> str:
    """A map (side, side) as text: float32, compressed, in base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(heat.numpy(), "<f4").tobytes(), 9)).decode()


def enlarged(image: Image.Image, width: int = 800, most: int = 50_000_000) -> Image.Image:
    """An image enlarged without blur to about `width` pixels, and to at most `most` in all."""
    factor = max(1, min(round(width / image.width), int((most // (image.width * image.height)) ** 0.5)))
    # RGBA, which JPEG cannot hold: Jupyter would keep a blurred JPEG beside the PNG.
    return image.convert("RGBA").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
