"""The view as a figure: the images with their pins and maps, in the colours and on the scale of the front end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ...attention import STATISTICS, Inspection
from ...attention.readings import check_query
from ...data import to_uint8
from ...figures import QUERY_COLOURS, Drawing, Sheet
from ...figures.charts import Cell, Row
from ...figures.images import encoded
from ...views.inspection_request import InspectionRequest
from .painting import READINGS, Scale, colour_bar, difference, over, scale_of, values_of


def view_figure(
    inspections: Sequence[Inspection], view: dict, request: InspectionRequest, causal: Sequence[Sequence[np.ndarray]] = ()
) -> Drawing:
    """A row for each run: its image, a map for each pin (or one of all places), the scale, and after an intervention the changed image.

    Parameters
    ----------
    inspections
        Of each run.
    view
        The state of the controls: reading, pins, scale, opacity, smooth.
    request
        Of the first run, with the intervention.
    causal
        For the reading "causal": the map (M,) of each pin, for each run.

    Raises
    ------
    ParameterError
        If a pin is not a position of the layer.
    """
    reading, pins = view["reading"], view["pins"]
    for query in pins:
        check_query(query, inspections[0].projections.side ** 2)
    queries = [0] if reading in STATISTICS else pins  # a statistic has one map, whatever the query
    maps = [
        [values_of(seen, reading, query, causal[run][k] if causal else None) for k, query in enumerate(queries)]
        for run, seen in enumerate(inspections)
    ]
    pairs = [(seen, values) for seen, row in zip(inspections, maps, strict=True) for values in row]
    scale = scale_of(pairs, reading, view["scale"] == "uniform")
    images: list[str] = []
    rows = [Row(tuple(_cells(seen, row, scale, view, images))) for seen, row in zip(inspections, maps, strict=True)]
    return Drawing(Sheet(_title(inspections, reading, request), tuple(rows), tuple(images)))


def _cells(seen: Inspection, maps: list[np.ndarray], scale: Scale, view: dict, images: list[str]) -> list[Cell]:
    """The cells of a run. Appends the images to `images`."""
    side, image = seen.projections.side, _pixels(seen.image)
    at = [tuple((part + 0.5) * len(image) / side - 0.5 for part in divmod(query, side)) for query in view["pins"]]
    dots = tuple((x, y, colour) for (y, x), colour in zip(at, QUERY_COLOURS, strict=False))
    reference = READINGS[view["reading"]].reference

    def cell(pixels: np.ndarray, **more) -> Cell:
        images.append(encoded(torch.from_numpy(pixels / 127.5 - 1).movedim(-1, 0)))
        return Cell(len(images) - 1, **more)

    cells = [cell(image, dots=dots)]
    for k, values in enumerate(maps):
        painted = over(image, scale.colours(values, reference(seen) if reference else 0.0), view["opacity"], view["smooth"])
        cells.append(cell(painted, dots=dots if view["reading"] in STATISTICS else dots[k : k + 1]))
    if maps:
        cells.append(cell(colour_bar(scale, view["opacity"]), title=scale.text.replace(", ", "\n", 1)))
    if seen.after is not None:
        after = _pixels(seen.after)
        change, factor = difference(image, after)
        cells += [cell(after, title="after"), cell(change, title=f"difference x {factor}")]
    return cells


def _pixels(image: torch.Tensor) -> np.ndarray:
    """(3, S, S) in [-1, 1] as (S, S, 3) uint8."""
    return to_uint8(image).movedim(0, -1).contiguous().numpy()


def _title(inspections: Sequence[Inspection], reading: str, request: InspectionRequest) -> str:
    """A line for each run, and one for what is shown of all."""
    layer = inspections[0].projections
    variant = "paper" if layer.key_side == layer.side else "official"  # which pools its keys
    what = [f"{request.network}, {layer.side}x{layer.side} ({variant})", READINGS[reading].name, *_intervention(request)]
    return "\n".join([*map(_line, inspections), "; ".join(what)])


def _line(seen: Inspection) -> str:
    words = [f"{seen.network}: {seen.about}", f"gamma {seen.projections.gamma:+.3g}"]
    if seen.logit is not None:
        words.append(f"logit {seen.logit:.3g}" + ("" if seen.logit_after is None else f" → {seen.logit_after:.3g}"))
    return "; ".join(words)


def _intervention(request: InspectionRequest) -> list[str]:
    """The intervention in words."""
    keys, queries = len(request.forbid), "all places" if request.queries is None else f"{len(request.queries)} pins"
    words = [
        "gamma = 0" if request.gamma0 else "",
        f"{request.replace} map" if request.replace else "",
        f"{keys} keys knocked out for {queries}" if keys else "",
    ]
    return [f"what if: {', '.join(filter(None, words))}"] if any(words) else []
