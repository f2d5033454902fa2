"""The view as a figure: the images with their pins and maps, in the colours and on the scale of the front end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...attention import STATISTICS, Inspection
from ...data import to_uint8
from ...figures import QUERY_COLOURS, Drawing, Sheet, compose
from ...figures.charts import Cell, Row
from ...figures.images import encoded_pixels
from ...figures.painting import OFFSETS, READINGS, Reading, Scale, colour_bar, difference, differences, over, scale_of, values_of
from ...messages import counted
from ...views.inspection_request import InspectionRequest


@dataclass(frozen=True)
class Group:
    """Maps of one kind on one scale.

    Attributes
    ----------
    maps
        For each run; those of the reading for each pin, or one of all places.
    on_image
        Whether they lie on the image.
    """

    kind: Reading
    maps: list[list[np.ndarray]]
    scale: Scale
    on_image: bool


def view_figure(
    inspections: Sequence[Inspection],
    view: dict,
    request: InspectionRequest,
    causal: Sequence[Sequence[np.ndarray]] = (),
    offsets: Sequence[np.ndarray] = (),
    effects: Sequence[Sequence[dict]] = (),
    words: Sequence[str] = (),
) -> Drawing:
    """A row for each run: its image, a map for each pin (or one of all places), the scale, and after an intervention the changed image.

    The last row of two runs is their difference.

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
    offsets
        If the view shows them: the map by offset of each run.
    effects
        If the view shows them: what the intervention changes over samples, in each run; see `studies.effects.summarise`.
    words
        Further lines of the title.

    Raises
    ------
    ParameterError
        If a pin is not a position of the layer.
    """
    reading, relative = view["reading"], view["scale"] == "uniform"
    for query in view["pins"]:
        inspections[0].projections.places.place(query)  # raises if there is none
    queries = [0] if reading in STATISTICS else view["pins"]  # a statistic has one map, whatever the query
    maps = [
        [values_of(seen, reading, query, causal[run][k] if causal else None) for k, query in enumerate(queries)]
        for run, seen in enumerate(inspections)
    ]
    groups = []
    for kind, of_runs in ((READINGS[reading], maps), (OFFSETS, [[values] for values in offsets])):
        pairs = [(seen, values) for seen, row in zip(inspections, of_runs, strict=False) for values in row]
        if pairs:
            groups.append(Group(kind, of_runs, scale_of(pairs, kind, relative), on_image=kind is not OFFSETS))
    images: list[str] = []
    rows = [_run(number, seen, groups, view, images) for number, seen in enumerate(inspections)]
    if len(inspections) == 2:
        rows.append(_difference(inspections, groups, images))
    title = "\n".join([_title(inspections, reading, request), *words, *_effects(inspections, effects, bool(request.paint))])
    return Drawing(Sheet(title, tuple(map(Row, rows)), tuple(images)))


def stacked(above: Drawing, below: Drawing) -> Drawing:
    """Two sheets, one above the other, as parts of one figure; their titles become captions."""
    captions = [". ".join(line.rstrip(".") for line in part.description.title.splitlines()) + "." for part in (above, below)]
    return compose([above, below], captions, columns=1)


def _run(number: int, seen: Inspection, groups: list[Group], view: dict, images: list[str]) -> tuple[Cell, ...]:
    """The cells of a run. Appends the images to `images`."""
    image, tokens = _pixels(seen.image), seen.projections.places.tokens
    dots = [_dot(seen, query, colour) for query, colour in zip(view["pins"], QUERY_COLOURS, strict=False)]
    cells = [_cell(image, images, dots=tuple(dot for dot in dots if dot))]
    for group in groups:
        for k, values in enumerate(group.maps[number]):
            colours = group.scale.colours(values, group.kind.reference(seen) if group.kind.reference else 0.0)
            if group.on_image:
                of_all = view["reading"] in STATISTICS
                painted = over(image, colours, view["opacity"], view["smooth"])
                shown = tuple(dot for dot in (dots if of_all else dots[k : k + 1]) if dot)
                query = len(tokens) if of_all else view["pins"][k]
                cells.append(_cell(painted, images, dots=shown, title=f"{tokens[query]} token" if query < len(tokens) else ""))
            else:
                cells.append(_cell(colours, images, title=group.kind.name))
        cells.append(_bar(group.scale, view["opacity"] if group.on_image else None, images))
    if seen.after is not None:
        after = _pixels(seen.after)
        change, factor = difference(image, after)
        cells += [_cell(after, images, title="after"), _cell(change, images, title=f"difference x {factor}")]
    return tuple(cells)


def _dot(seen: Inspection, query: int, colour: str) -> tuple[float, float, str] | None:
    """Where a query is in the image, x and y, and its colour; None for a token."""
    layout = seen.projections.places
    place = layout.place(query)
    sizes = zip(place or (), seen.image.shape[-2:], layout.grid, strict=False)
    y_x = [(at + 0.5) * pixels / count - 0.5 for at, pixels, count in sizes]
    return (y_x[1], y_x[0], colour) if place else None


def _difference(inspections: Sequence[Inspection], groups: list[Group], images: list[str]) -> tuple[Cell, ...]:
    """The cells of b - a, below those of the runs."""
    change, factor = difference(*(_pixels(seen.image) for seen in inspections))
    cells = [_cell(change, images, title=f"b - a, x {factor}")]
    for group in groups:
        changes, scale = differences(group.maps, group.kind)
        cells += [_cell(scale.colours(values), images, title="b - a") for values in changes]
        cells.append(_bar(scale, None, images))
    return tuple(cells)


def _bar(scale: Scale, opacity: float | None, images: list[str]) -> Cell:
    return _cell(colour_bar(scale, opacity), images, title=scale.text.replace(", ", "\n", 1))


def _cell(pixels: np.ndarray, images: list[str], **more) -> Cell:
    """A cell of an image (height, width, 3) uint8, which is appended to `images`."""
    images.append(encoded_pixels(pixels))
    return Cell(len(images) - 1, **more)


def _pixels(image: torch.Tensor) -> np.ndarray:
    """(3, S, S) in [-1, 1] as (S, S, 3) uint8."""
    return to_uint8(image).movedim(0, -1).contiguous().numpy()


def _title(inspections: Sequence[Inspection], reading: str, request: InspectionRequest) -> str:
    """A line for each run, and one for what is shown of all."""
    layer = inspections[0].projections
    rows, columns = layer.places.grid
    if layer.gamma is None:
        kind = "" if layer.trusted else " (not reproduced by its map)"
        heads = (
            [f"head {request.head}" if request.head >= 0 else f"mean of {layer.heads} heads"]
            if layer.heads > 1 or request.head >= 0
            else []
        )
    else:
        kind, heads = " (paper)" if layer.key_side == layer.side else " (official)", []  # which pools its keys
    place = request.network if request.network in ("G", "D") and layer.gamma is not None else request.path or "the layer"
    what = [f"{place}, {rows}x{columns}{kind}", *heads, READINGS[reading].name, *_intervention(request)]
    return "\n".join([*map(_line, inspections), "; ".join(what)])


def _line(seen: Inspection) -> str:
    gamma = seen.projections.gamma
    words = [f"{seen.network}: {seen.about}"] + ([] if gamma is None else [f"gamma {gamma:+.3g}"])
    if seen.logit is not None:
        words.append(f"logit {seen.logit:.3g}" + ("" if seen.logit_after is None else f" → {seen.logit_after:.3g}"))
    return "; ".join(words)


def _intervention(request: InspectionRequest) -> list[str]:
    """The intervention in words."""
    words = [request.intervention, _painted(request)]
    return [f"what if: {', '.join(filter(None, words))}"] if any(words) else []


def _painted(request: InspectionRequest) -> str:
    """What takes other values, in words."""
    if not request.paint:
        return ""
    rows, columns = request.paint_shift
    source = "this image" if request.paint_from is None else f"sample {request.paint_from}"
    away = f", {rows:+d} row{'s' * (abs(rows) != 1)} and {columns:+d} column{'s' * (abs(columns) != 1)} away" if rows or columns else ""
    return f"{counted(len(request.paint), 'key')} with the values of {source}{away}"


def _effects(inspections: Sequence[Inspection], effects: Sequence[Sequence[dict]], painted: bool) -> list[str]:
    """A line for each quantity of each run: its mean change over samples, with 95 % intervals. They are not painted on."""
    lines = []
    for seen, rows in zip(inspections, effects, strict=False):
        run = f"{seen.network}: " if len(effects) > 1 else ""
        for row in rows:
            parts = [f"{_number(row['change'])} {_interval(row, '')}"]
            if row["null"] is not None:
                parts += [
                    f"random keys {_number(row['null'])} {_interval(row, 'null_')}",
                    f"difference {_number(row['more'])} {_interval(row, 'more_')}",
                ]
            lines.append(f"{run}{row['n']} samples{' without paint' if painted else ''}, {row['quantity']}: {'; '.join(parts)}")
    return lines


def _interval(row: dict, prefix: str) -> str:
    return f"[{_number(row[f'{prefix}low'])}, {_number(row[f'{prefix}high'])}]"


def _number(value: float) -> str:
    return f"{value:.2g}"
