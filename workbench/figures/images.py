"""Sheets of images: rows of samples with labels, and attention maps."""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np
import torch
from PIL import Image

from ..attention import Inspection
from ..messages import ParameterError
from .charts import EMPTY, MAX_PIXELS, Cell, Row, Sheet
from .figure import Drawing

QUERY_COLOURS = ("#ff3b30", "#34c759", "#0a84ff", "#ff9f0a", "#bf5af2", "#00b8c4", "#ff6fb5", "#a2845e")  # as in the inspector


def strips(rows: Sequence[tuple[str, torch.Tensor | str]], title: str) -> Drawing | None:
    """Rows of a label and images (B, 3, S, S) in [-1, 1], or the reason why there are none; None without rows."""
    if not rows:
        return None
    images: list[str] = []
    sheet_rows = []
    for label, content in rows:
        if isinstance(content, str):
            sheet_rows.append(Row(label=label, note=content))
            continue
        sheet_rows.append(Row(tuple(Cell(len(images) + k) for k in range(len(content))), label))
        images += [encoded(image) for image in content]
    return Drawing(Sheet(title, tuple(sheet_rows), tuple(images), cell=0.64, labels=True))


def attention_maps(inspections: Sequence[Inspection], reading: str = "outgoing", title: str = "", titles: Sequence[str] = ()) -> Drawing:
    """Images with their queries, and a map for each query; after an intervention also the changed image and the difference.

    Parameters
    ----------
    inspections
        Images with the attention of a layer, and the queries to show.
    reading
        See `Inspection.heat`.
    title
        By default networks, layer and reading.
    titles
        A title for each image.

    Raises
    ------
    ParameterError
        For more queries than there are colours.
    """
    most = max(len(inspection.queries) for inspection in inspections)
    if most > len(QUERY_COLOURS):
        raise ParameterError(f"queries are {most} positions; a figure shows at most {len(QUERY_COLOURS)}")
    images: list[str] = []
    rows = [_cells(inspection, reading, images) for inspection in inspections]
    for row, text in zip(rows, titles, strict=False):
        row[0] = Cell(row[0].image, dots=row[0].dots, title=text)
    if len(inspections) > 2:  # many images stand side by side, each above its maps
        rows = [list(column) for column in zip_longest(*rows, fillvalue=Cell(EMPTY))]
    return Drawing(Sheet(title or _title(inspections, reading), tuple(Row(tuple(row)) for row in rows), tuple(images)))


def _cells(inspection: Inspection, reading: str, images: list[str]) -> list[Cell]:
    """The cells of an inspection: image, maps, changed image and difference. Appends the images to `images`."""
    layout, (height, width), first = inspection.projections.places, inspection.image.shape[-2:], len(images)
    (rows, columns), side = layout.grid, math.lcm(*layout.grid)
    images.append(encoded(inspection.image))
    dots = [((place[1] + 0.5) * width / columns - 0.5, (place[0] + 0.5) * height / rows - 0.5, colour) if (place := layout.place(query)) else None
            for query, colour in zip(inspection.queries, QUERY_COLOURS, strict=False)]  # fmt: skip
    cells = [Cell(first, dots=tuple(dot for dot in dots if dot))]
    for query, dot in zip(inspection.queries, dots, strict=True):
        heat = inspection.heat(reading, query).repeat_interleave(side // rows, 0).repeat_interleave(side // columns, 1)
        cells.append(Cell(first, packed(heat), side, (dot,) if dot else (), "" if dot else f"{layout.tokens[query]} token"))
    if inspection.after is not None:
        change = inspection.after - inspection.image
        images += [encoded(inspection.after), encoded(change / change.abs().max().clamp(min=1e-6))]
        cells += [Cell(first + 1), Cell(first + 2)]
    return cells


def _title(inspections: Sequence[Inspection], reading: str) -> str:
    first, layer = inspections[0], inspections[0].projections
    variant = "paper" if layer.key_side == layer.side else "official"  # which pools its keys
    network, size = first.layer.partition("/")[0], "x".join(map(str, layer.places.grid))
    kind = f" ({variant}), gamma {layer.gamma:+.3f}" if layer.gamma is not None else f" of {first.layer}"
    words = [f"{network if layer.gamma is not None else 'map'}, {size}{kind}, {reading} attention"]
    if len(inspections) == 1:
        words.append(_about(first))
    if any(inspection.after is not None for inspection in inspections):
        words.append("last: with the layer changed, and the difference")
    return " against ".join(dict.fromkeys(inspection.network for inspection in inspections)) + "\n" + "; ".join(words)


def _about(inspection: Inspection) -> str:
    """The description of the image, with the number of the class if no font can show its name."""
    from .literal_text import readable

    name = inspection.class_name
    if not name or readable(name) == name or not inspection.about.startswith(name):
        return inspection.about
    return f"class {inspection.label}{inspection.about.removeprefix(name)}"


def encoded(image: torch.Tensor) -> str:
    """An image (3, H, W) in [-1, 1] as PNG in base64."""
    return encoded_pixels(((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def encoded_pixels(pixels: np.ndarray) -> str:
    """Pixels (H, W, 3) uint8 as PNG in base64."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def packed(heat: torch.Tensor) -> str:
    """A map (side, side) as text: float32, compressed, in base64."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(heat.numpy(), "<f4").tobytes(), 9)).decode()


def enlarged(image: Image.Image, width: int = 800) -> Image.Image:
    """An image enlarged without blur to about `width` pixels."""
    factor = max(1, min(round(width / image.width), int((MAX_PIXELS // (image.width * image.height)) ** 0.5)))
    # RGBA, which JPEG cannot hold: Jupyter would keep a blurred JPEG beside the PNG.
    return image.convert("RGBA").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
