"""Figures and tables: functions that return something Jupyter can show, and never show it themselves.

`drawing` says what a figure is, `maps`, `plots`, `grids` and `studies` make them, `tables` are tables. Every `Drawing` and `Plot` is saved with a
sidecar from which `redraw` draws it again.
"""

from __future__ import annotations

import json
from importlib import import_module
from os import PathLike
from pathlib import Path

from ..parameters import WorkbenchError
from .drawing import Drawing, Plot, static_png
from .grids import grid_image, real_images, sample_rows, samples, strips
from .maps import attention, attention_maps, attention_through_training
from .plots import curves, scatter, scores, summary_png
from .studies import correspondence, transplant
from .tables import Measured, Table, score_table, table

__all__ = [
    "Drawing", "Measured", "Plot", "Table", "attention", "attention_maps", "attention_through_training", "correspondence", "curves",
    "grid_image", "real_images", "redraw", "sample_rows", "samples", "scatter", "score_table", "scores", "static_png", "strips",
    "summary_png", "table", "transplant",
]  # fmt: skip

DRAWN_AGAIN_BY = {  # name in a recipe -> module of this package and function, which is called with the recipe's parameters
    "attention_maps": ("figures.maps", "attention_maps_again"),
    "attention_through_training": ("figures.maps", "through_training_again"),
    "curves": ("figures.plots", "curves_again"),
    "scores": ("figures.plots", "scores_again"),
    "scatter": ("figures.plots", "scatter_again"),
    "sample_rows": ("figures.grids", "sample_rows_again"),
    "correspondence": ("figures.studies", "correspondence_again"),
    "transplant": ("figures.studies", "transplant_again"),
}


def redraw(sidecar: str | PathLike) -> Drawing | Plot:
    """The figure that a sidecar (`<figure>.json`) describes, drawn again from the runs, which must be where they were.

    Raises
    ------
    WorkbenchError
        If it is no such file, or what it was drawn from is not there.
    """
    try:
        recipe = json.loads(Path(sidecar).read_text())
        (module, function), parameters = DRAWN_AGAIN_BY[recipe["figure"]], dict(recipe["parameters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkbenchError(f"{str(sidecar)!r} is not the sidecar of a figure: {type(error).__name__}: {error}") from None
    return getattr(import_module(f"workbench.{module}"), function)(**parameters)
