# ruff: noqa: RUF001
"""Layers and checkpoints at a glance: the map of one place in every attention layer of a run, at steps of its training."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from .. import figures
from ..attention import Projections
from ..figures import Glance
from ..figures.film import evenly
from ..messages import ParameterError, WorkbenchError
from .inspected import Inspected
from .inspection_request import InspectionRequest

COLUMNS = 8


def columns(run: Inspected, source: str) -> list[int]:
    """The steps of an overview, to which the one that is shown is added: of checkpoints or, for "recorded", of snapshots."""
    return evenly(run.recorded_steps if source == "recorded" else run.steps, COLUMNS - 1)


def overview(
    run: Inspected, request: InspectionRequest, query: int, relative: bool = False, colour: str = figures.QUERY_COLOURS[0]
) -> figures.Drawing:
    """The map of a query in every attention layer, at steps of the training.

    Parameters
    ----------
    request
        The image; its step is one of the columns.
    query
        A position of the request's layer; in other layers, the position at the same place.
    relative
        Colours in octaves around a uniform map, else from 0.
    colour
        Of the dot at the query.

    Raises
    ------
    ParameterError
        If the image or the position does not exist.
    """
    layers = [layer for layer in run.layers if layer["network"] == "D" or request.source not in ("real", "dropped")]
    side = next(layer["side"] for layer in layers if layer["id"] == request.layer)
    steps = sorted({*columns(run, request.source), *([] if request.step is None else [request.step])})
    images: list[torch.Tensor | str] = []
    rows: dict[str, list[Glance | None]] = {layer["id"]: [] for layer in layers}
    for step in steps:
        try:
            image, projections = run.every_layer(replace(request, step=step))
            images.append(image)
        except ParameterError:
            raise
        except WorkbenchError as error:
            projections = {}
            images.append(str(error))
        for name, row in rows.items():
            row.append(glance(projections[name], query, side) if name in projections else None)
    what = f"{run.label}: query {divmod(query, side)} of {request.layer[0]} {side}×{side}, and its place in every layer"
    return figures.overview(steps, images, {layer["label"]: rows[layer["id"]] for layer in layers}, what, relative, colour)


def glance(layer: Projections, query: int, side: int) -> Glance:
    """The map of a query of another layer, of `side`, in this layer."""
    row, column = ((2 * at + 1) * layer.side // (2 * side) for at in divmod(query, side))
    weights = torch.softmax(layer.query[0, row * layer.side + column] @ layer.key[0].T, dim=0).double()
    entropy = -(weights * weights.clamp_min(1e-300).log()).sum().item()
    assert layer.gamma is not None  # those of runs have one
    times = (weights * len(weights)).view(layer.key_side, layer.key_side).numpy()
    return Glance(times, layer.gamma, entropy / math.log(len(weights)), ((row + 0.5) / layer.side, (column + 0.5) / layer.side))
