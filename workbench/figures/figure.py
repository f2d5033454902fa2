"""Figures as notebooks show and save them; and how one is drawn again from its sidecar, which holds what it shows."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path

from ..files import UnreadableError, read_json, replace_bytes, replace_text, storing
from ..machine import describe_machine, git_state
from ..parameters import ParameterError, WorkbenchError
from .charts import Chart, Sheet, from_plain, to_plain
from .interactive import figure as plotly_figure
from .tables import Table

FORMATS = (".png", ".svg", ".pdf")


class Drawing:
    """A figure drawn by matplotlib.

    Attributes
    ----------
    description : Chart or Sheet
        What it shows, as plain data.
    """

    def __init__(self, description: Chart | Sheet):
        self.description = description

    @property
    def picture(self):
        """A new `matplotlib.figure.Figure` of it."""
        from .print import picture

        return picture(self.description)

    def png(self, dpi: int = 110) -> bytes:
        """The figure as PNG bytes."""
        from .print import png

        return png(self.picture, dpi)

    def save(self, path: str | PathLike) -> Path:
        """Write the figure as PNG, SVG or PDF, by the ending, and beside it a sidecar that holds what it shows (`redraw` takes that).

        Raises
        ------
        ParameterError
            For another ending.
        """
        path = Path(path)
        if path.suffix not in FORMATS:
            raise ParameterError(f"path={str(path)!r} ends in {path.suffix!r}; a figure can be .png, .svg or .pdf")
        content, sidecar = self._file(path.suffix), json.dumps(self._sidecar(), allow_nan=False)
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        replace_bytes(path, content)
        replace_text(path.with_name(path.name + ".json"), sidecar)
        return path

    def _file(self, ending: str) -> bytes:
        from matplotlib import rc_context

        # Letters as letters (publishers refuse Type 3 fonts); neither a date nor random names, so that a figure drawn again is the same file.
        metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}[ending]
        stream = io.BytesIO()
        with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "workbench"}):
            self.picture.savefig(stream, format=ending[1:], dpi=300, metadata=metadata)
        return stream.getvalue()

    def _sidecar(self) -> dict:
        machine = describe_machine()
        return dict(figure=to_plain(self.description), git=git_state(), python=machine["python"], versions=machine["versions"])

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": base64.b64encode(self.png()).decode()}


class Plot(Drawing):
    """A chart: interactive in a notebook, and drawn by matplotlib for a file and where no JavaScript runs (a page of a git host)."""

    @cached_property
    def figure(self):
        """The `plotly.graph_objects.Figure`."""
        return plotly_figure(self.description)

    def png(self, dpi: int = 100) -> bytes:
        """The figure as PNG bytes."""
        return super().png(dpi)

    def _repr_mimebundle_(self, include=None, exclude=None):
        content = json.loads(self.figure.to_json())
        return {"application/vnd.plotly.v1+json": content} | super()._repr_mimebundle_()


class Note:
    """What a notebook shows where a picture cannot be: the reason, in one line. To use it as a picture raises that as a WorkbenchError."""

    def __init__(self, reason: object):
        self._reason = str(reason)

    def __repr__(self) -> str:
        return self._reason

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str):
        raise AttributeError(name) if name.startswith("_") else WorkbenchError(self._reason)


def redraw(sidecar: str | PathLike) -> Drawing | Plot:
    """The figure of a sidecar (`<figure>.json`), which holds all that it shows: runs are not needed.

    Raises
    ------
    WorkbenchError
        If it is no such file.
    """
    sidecar = Path(sidecar)
    reason = f"{str(sidecar)!r} is not the sidecar of a figure"
    try:
        description = from_plain(read_json(sidecar).get("figure"))
        drawn = Plot(description) if isinstance(description, Chart) else Drawing(description)
        drawn.png(20)
        return drawn
    except FileNotFoundError:
        raise WorkbenchError(f"{reason}: there is no such file") from None
    except UnreadableError as error:
        raise WorkbenchError(f"{reason}: {error.reason}") from None
    except WorkbenchError as error:
        raise WorkbenchError(f"{reason}: {error}") from None
    except Exception as error:  # colours, pictures and sizes that are none
        raise WorkbenchError(f"{reason}: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}") from None


def write(folder: Path, tables: Mapping[str, Table], captions: Mapping[str, str], figures: Mapping[str, Drawing]) -> None:
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
        for ending in (".svg", ".pdf"):
            made.save(folder / f"{name}{ending}")


def _label(name: str) -> str:
    """A name as LaTeX takes it in `\\label`, where nothing can be escaped."""
    return re.sub(r"[^A-Za-z0-9.:+=-]", "-", name)


def listing(folder: Path) -> str:
    """What is in a folder that was written to, in lines."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return "\n  ".join([f"written to {folder}:", *names])
