"""Figures and tables: functions that return something Jupyter can show, and never show it themselves.

`drawing` says what a figure is, `maps`, `plots`, `diagnostics`, `grids`, `experiments` and `studies` make them, `tables` are tables. Every
`Drawing` and `Plot` is saved with a sidecar from which `redraw` draws it again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from os import PathLike
from pathlib import Path

from ..files import UnreadableError, read_json
from ..parameters import WorkbenchError
from .diagnostics import diagnostics, growth, singular_values
from .drawing import Drawing, Note, Plot, static_png
from .experiments import experiments
from .grids import grid_image, real_images, sample_rows, samples, strips
from .maps import QUERY_COLOURS, attention_maps
from .plots import curves, scatter, scores, summary_png
from .studies import correspondence, long_range, transplant
from .tables import Measured, Table, measured, score_table, table

__all__ = [
    "QUERY_COLOURS", "Drawing", "Measured", "Note", "Plot", "Table", "attention_maps", "correspondence", "curves",
    "diagnostics", "experiments", "grid_image", "growth", "listing", "long_range", "measured", "real_images", "redraw", "sample_rows", "samples", "scatter", "score_table", "scores",
    "singular_values", "static_png", "strips", "summary_png", "table", "transplant", "write",
]  # fmt: skip

DRAWN_AGAIN_BY = {  # name in a recipe -> module of this package and function, which is called with the recipe's parameters
    "attention_maps": ("figures.maps", "attention_maps_again"),
    "curves": ("figures.plots", "curves_again"),
    "scores": ("figures.plots", "scores_again"),
    "scatter": ("figures.plots", "scatter_again"),
    "diagnostics": ("figures.diagnostics", "diagnostics_again"),
    "singular_values": ("figures.diagnostics", "singular_values_again"),
    "growth": ("figures.diagnostics", "growth_again"),
    "sample_rows": ("figures.grids", "sample_rows_again"),
    "experiments": ("figures.experiments", "experiments_again"),
    "long_range": ("figures.studies", "long_range"),
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
    sidecar = Path(sidecar)
    try:
        recipe = read_json(sidecar)
    except FileNotFoundError:
        raise WorkbenchError(f"{str(sidecar)!r} is not the sidecar of a figure: there is no such file") from None
    except UnreadableError as error:
        raise WorkbenchError(f"{str(sidecar)!r} is not the sidecar of a figure: {error.reason}") from None
    name, parameters = recipe.get("figure"), recipe.get("parameters")
    if not isinstance(name, str) or name not in DRAWN_AGAIN_BY or not isinstance(parameters, dict):
        raise WorkbenchError(f"{str(sidecar)!r} is not the sidecar of a figure: {name!r} is none of {', '.join(DRAWN_AGAIN_BY)}")
    module, function = DRAWN_AGAIN_BY[name]
    draw = getattr(import_module(f"workbench.{module}"), function)
    try:
        return draw(**parameters)
    except WorkbenchError as error:
        raise WorkbenchError(f"{str(sidecar)!r} cannot be drawn again: {error}") from None
    except Exception as error:  # whatever parameters that are not ours lead to
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise WorkbenchError(f"{str(sidecar)!r} cannot be drawn again, its parameters do not fit the figure {name!r} ({reason})") from None


def write(folder: Path, tables: Mapping[str, Table], captions: Mapping[str, str], figures: Mapping[str, Drawing | Plot]) -> None:
    """Write tables and figures as a paper takes them: CSV and LaTeX, SVG and PDF with their sidecars. Tables without rows are left out.

    Parameters
    ----------
    tables, figures
        By the names of their files.
    captions
        Of the tables, by the same names; a table's label is `tab:<folder>-<name>`.
    """
    for name, made in ((name, made) for name, made in tables.items() if made.rows):
        made.csv(folder / f"{name}.csv")
        made.latex(folder / f"{name}.tex", captions[name], f"tab:{_label(folder.name)}-{name}")
    for name, made in figures.items():
        picture = made.drawing if isinstance(made, Plot) else made
        for ending in ("svg", "pdf"):
            picture.save(folder / f"{name}.{ending}")


def _label(name: str) -> str:
    """A name as LaTeX takes it in `\\label`, where nothing can be escaped."""
    return re.sub(r"[^A-Za-z0-9.:+=-]", "-", name)


def listing(folder: Path) -> str:
    """What is in a folder that was written to, in lines."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return "\n  ".join([f"written to {folder}:", *names])
