"""Figures that notebooks show and save, with a sidecar from which `redraw` draws them again."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path

from ..files import UnreadableError, read_json, replace_bytes, replace_text, storing
from ..machine import describe_machine, git_state
from ..messages import ParameterError, WorkbenchError
from .charts import GREY, PAGE, Chart, Composition, Sheet
from .interactive import content
from .plain import from_plain, to_plain
from .tables import Table

FORMATS = (".png", ".svg", ".pdf")


class Drawing:
    """A figure drawn by matplotlib.

    Attributes
    ----------
    description : Chart, Sheet or Composition
        What the figure shows, as plain data.
    view : str
        The line that opens the view in the inspector, or empty; it is kept in the sidecar.
    """

    def __init__(self, description: Chart | Sheet | Composition):
        self.description = description
        self.view = ""

    @property
    def picture(self):
        """A new `matplotlib.figure.Figure`, for a screen."""
        from .print import picture

        return picture(self.description)

    @property
    def printed(self) -> list:
        """The same for a two-column paper: as wide as a column or the page, with the title and notes as a caption; a figure for each page."""
        from .paper import pages

        return pages(self.description)

    def png(self, dpi: int = 100) -> bytes:
        """The figure as PNG bytes."""
        return _bytes([self.picture], ".png", dpi)

    def png_for_any_theme(self) -> bytes:
        """The same without a background, for a page that is light or dark."""
        from .print import picture
        from .theme import for_any_theme, inked

        with inked(GREY):
            return _bytes([picture(for_any_theme(self.description), "none")], ".png")

    def save(self, path: str | PathLike) -> Path:
        """Write the figure as PNG, for a screen, or as SVG or PDF, for paper, and beside it the sidecar that `redraw` reads.

        A figure taller than a page of a journal gets pages: a PDF has them all, and of an SVG the others are `<name>-page2.svg` and so on.

        Raises
        ------
        ParameterError
            If the file name has another ending.
        """
        path = Path(path)
        if path.suffix not in FORMATS:
            raise ParameterError(f"path={str(path)!r} ends in {path.suffix!r}; a figure can be .png, .svg or .pdf")
        contents, machine = self._files(path.suffix), describe_machine()
        sidecar = dict(figure=to_plain(self.description), git=git_state(), python=machine["python"], versions=machine["versions"])
        sidecar |= dict(view=self.view) if self.view else {}
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        pages = (path if number == 1 else path.with_name(f"{path.stem}-page{number}{path.suffix}") for number in itertools.count(1))
        for data, page in zip(contents, pages, strict=False):
            replace_bytes(page, data)
        with storing(path):
            for page in itertools.takewhile(Path.exists, pages):  # of a taller figure that was saved there before
                page.unlink()
        replace_text(path.with_name(path.name + ".json"), json.dumps(sidecar, allow_nan=False))
        return path

    def _files(self, ending: str) -> list[bytes]:
        """The files of an ending: several for the pages of an SVG."""
        if ending == ".png":
            return [self.png(300)]
        return [_bytes(self.printed, ending)] if ending == ".pdf" else [_bytes([page], ending) for page in self.printed]

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"image/png": base64.b64encode(self.png_for_any_theme()).decode()}


def _bytes(pages: list, ending: str, dpi: int = 100) -> bytes:
    """Matplotlib figures as a file; several only as PDF."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import PdfPages

    stream = io.BytesIO()
    # No Type 3 fonts, which publishers refuse. No date and no random names: a figure drawn again is the same file.
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "workbench"}):
        if ending == ".pdf":
            with PdfPages(stream, metadata={"CreationDate": None}) as file:
                for page in pages:
                    file.savefig(page)
        else:
            pages[0].savefig(stream, format=ending[1:], dpi=dpi, metadata={"Date": None} if ending == ".svg" else None)
    return stream.getvalue()


class Plot(Drawing):
    """A chart: interactive in a notebook, and drawn by matplotlib in files and where no JavaScript runs (a git host)."""

    description: Chart

    @cached_property
    def figure(self):
        """The `plotly.graph_objects.Figure`."""
        from plotly.graph_objects import Figure

        return Figure(content(self.description))

    def _repr_mimebundle_(self, include=None, exclude=None):
        from .theme import clear, for_any_theme

        figure = json.loads(type(self)(for_any_theme(self.description)).figure.to_json())
        return {"application/vnd.plotly.v1+json": figure | dict(layout=clear(figure["layout"]))} | super()._repr_mimebundle_()


class Note:
    """One line in place of a figure: why there is none. Using it as a figure raises a WorkbenchError with this reason."""

    def __init__(self, reason: object):
        self._reason = str(reason)

    def __repr__(self) -> str:
        return self._reason

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str):
        raise AttributeError(name) if name.startswith("_") else WorkbenchError(self._reason)


def compose(parts: Sequence[Drawing], captions: Sequence[str], columns: int = 2, width: float = PAGE) -> Drawing:
    """Figures as lettered parts, (a), (b), ..., of one figure for a paper, each above its caption; saved with one sidecar.

    Titles are left out, notes such as the protocol of scores go into the caption, and the panels of a part are laid out anew to fit.

    Parameters
    ----------
    captions
        One for each part.
    columns, width
        Parts side by side, and the width in inches: 3.4 for one column of a two-column paper, 6.9 for the page.

    Raises
    ------
    ParameterError, WorkbenchError
        If captions and parts are not equally many, or cannot be drawn; for a part that is a note, with its reason.
    """
    descriptions = [part.description for part in parts]
    flat = tuple(part for part in descriptions if not isinstance(part, Composition))
    if len(flat) < len(descriptions):
        raise ParameterError("a composition cannot be a part of another one; compose the parts of both")
    try:
        return Drawing(Composition(flat, tuple(captions), columns, width))
    except ValueError as error:
        raise ParameterError(str(error)) from None


def redraw(sidecar: str | PathLike) -> Drawing:
    """Draw a figure again from its sidecar (`<figure>.json`), without its runs.

    Raises
    ------
    WorkbenchError
        If the file is not the sidecar of a figure.
    """
    sidecar = Path(sidecar)
    reason = f"{str(sidecar)!r} is not the sidecar of a figure"
    try:
        description = from_plain(read_json(sidecar).get("figure"))
        drawing = Plot(description) if isinstance(description, Chart) else Drawing(description)
        drawing.png(20)
        return drawing
    except FileNotFoundError:
        raise WorkbenchError(f"{reason}: the file does not exist") from None
    except UnreadableError as error:
        raise WorkbenchError(f"{reason}: {error.reason}") from None
    except WorkbenchError as error:
        raise WorkbenchError(f"{reason}: {error}") from None
    except Exception as error:  # invalid colours, images and sizes
        raise WorkbenchError(f"{reason}: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}") from None


def write(folder: Path, tables: Mapping[str, Table], captions: Mapping[str, str], figures: Mapping[str, Drawing]) -> None:
    """Write tables as CSV and LaTeX, figures as SVG and PDF with their sidecars. Tables without rows are left out.

    Parameters
    ----------
    tables, figures
        By file name, without an ending.
    captions
        Of the tables, by the same names. The label of a table is `tab:<folder>-<name>`.
    """
    label = re.sub(r"[^A-Za-z0-9.:+=-]", "-", folder.name)  # nothing can be escaped in `\label`
    for name, table in tables.items():
        if table.rows:
            table.csv(folder / f"{name}.csv")
            table.latex(folder / f"{name}.tex", captions[name], f"tab:{label}-{name}")
    for name, figure in figures.items():
        for ending in (".svg", ".pdf"):
            figure.save(folder / f"{name}{ending}")


def listing(folder: Path) -> str:
    """The files in a folder, a line each."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return "\n  ".join([f"written to {folder}:", *names])
