# ruff: noqa: RUF001
"""Layers and checkpoints at a glance: a row of small maps for each layer, a column for each step, on one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .charts import EMPTY, Cell, Row, Sheet
from .figure import Drawing
from .images import QUERY_COLOURS, encoded, encoded_pixels
from .painting import PALETTE, Reading, Scale, colour_bar, scale_of


@dataclass(frozen=True)
class Glance:
    """Where one query of a layer attends.

    Attributes
    ----------
    times
        Its weights relative to a uniform map (key_side, key_side): 1 is uniform.
    entropy
        Of the weights, as a share of that of a uniform map.
    spot
        The query's row and column, as shares of the map's height and width.
    """

    times: np.ndarray
    gamma: float
    entropy: float
    spot: tuple[float, float]


TIMES = Reading("Looks at", "weight × number of keys", lambda seen: 1.0)
CLIPPED = 0.75  # share of the maps that fit the scale from 0; a few sharp maps must not leave the others dark


def scale_of_times(maxima: Sequence[float], relative: bool) -> Scale:
    """One scale for maps with these maxima: in octaves around a uniform map, or from 0 to the maximum of three maps in four."""
    if relative or not maxima:
        return scale_of([(None, np.array(maxima or [1.0]))], TIMES, relative)
    ordered = sorted(maxima)
    high = ordered[math.ceil(CLIPPED * (len(ordered) - 1))]
    beyond = f", the brightest up to {_brief(ordered[-1])}" if ordered[-1] > high else ""
    return Scale(PALETTE, f"0 to {_brief(high)} × uniform{beyond}", high)


def overview(
    steps: Sequence[int],
    images: Sequence[Tensor | str],
    rows: Mapping[str, Sequence[Glance | None]],
    title: str,
    relative: bool,
    colour: str = QUERY_COLOURS[0],
) -> Drawing:
    """A column for each step, with its image above, and a row of maps for each layer.

    Parameters
    ----------
    images
        (3, S, S) in [-1, 1] of each step, or the reason why there is none.
    rows
        Label of the layer -> a map for each step, None where there is none.
    relative
        Colours in octaves around a uniform map, else from 0.
    """
    content: list[str] = []

    def cell(image: str, **more) -> Cell:
        content.append(image)
        return Cell(len(content) - 1, **more)

    scale = scale_of_times([glance.times.max() for row in rows.values() for glance in row if glance], relative)
    head = []
    for step, image in zip(steps, images, strict=True):
        head.append(Cell(EMPTY) if isinstance(image, str) else cell(encoded(image), title=f"{step:,}"))
    head.append(cell(encoded_pixels(colour_bar(scale, None)), title="scale"))
    sheet = [Row(tuple(head), "step")]
    for label, row in rows.items():
        cells = []
        for glance in row:
            if glance is None:
                cells.append(Cell(EMPTY))
                continue
            colours = scale.colours(glance.times, 1.0)
            y, x = (share * len(colours) - 0.5 for share in glance.spot)
            words = f"γ {glance.gamma:.2g} · {glance.entropy:.0%}"
            cells.append(cell(encoded_pixels(colours), dots=((x, y, colour),), title=words))
        sheet.append(Row(tuple(cells), label))
    lines = [title, f"Colours: {scale.text}. Above each map: γ, and the entropy as a share of a uniform map's."]
    lines += [f"step {step:,}: {image}" for step, image in zip(steps, images, strict=True) if isinstance(image, str)]
    return Drawing(Sheet("\n".join(lines), tuple(sheet), tuple(content), cell=0.95, labels=True))


def _brief(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"
