"""Figures for a two-column paper: as wide as a column or the page, parts above their captions, and no page taller than a journal's."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from matplotlib import rc_context

from .charts import COLUMN, LETTERS, PAGE, Chart, Composition, Sheet
from .labels import with_room
from .literal_text import PLAIN, LiteralFigure
from .print import LABELS, draw, size_of

TALLEST = 9.0  # inches of a page
NARROWEST = 2.0  # inches of a panel in a composition
NEXT = 74  # pixels between panels side by side in a composition, less the margins: for ticks and the title of the axis

Piece = tuple[Chart | Sheet, str]  # a part, or some of its rows, and its caption in lines
RowOfPieces = tuple[Piece | None, ...]


def on_paper(description: Chart | Sheet | Composition) -> Composition:
    """A description as a figure of a two-column paper: as wide as a column if it fits one, else as the page."""
    if isinstance(description, Composition):
        return description
    fits = description.across == 1 if isinstance(description, Chart) else size_of(description, PAGE)[0] <= COLUMN
    return Composition((description,), (description.title,), columns=1, width=COLUMN if fits else PAGE)


def pages(description: Chart | Sheet | Composition) -> list[LiteralFigure]:
    """A description as figures of a paper, none taller than a page: a part that is taller is continued on the next one."""
    whole = on_paper(description)
    tallest = TALLEST * max(1, whole.width / PAGE)  # wider than a page is a poster
    width, shared = whole.width / _across(whole), list[list[RowOfPieces]]()
    room = 0.0
    for row in (cut for whole_row in _rows(whole) for cut in _cut(whole_row, width, tallest)):
        height = _height(row, width)
        if height > room:
            shared.append([])
            room = tallest
        shared[-1].append(row)
        room -= height
    return [_drawn(rows, whole, "white") for rows in shared]


def composition(whole: Composition, background: str) -> LiteralFigure:
    """All parts as one figure, however tall."""
    return _drawn(_rows(whole), whole, background)


def _across(whole: Composition) -> int:
    return min(whole.columns, len(whole.parts))


def _rows(whole: Composition) -> list[RowOfPieces]:
    across = _across(whole)
    width = whole.width / across
    captions = [textwrap.fill(caption, max(12, int(15 * width))) for caption in _captions(whole)]
    pieces = [(_fitted(part, width), caption) for part, caption in zip(whole.parts, captions, strict=True)]
    return [tuple(pieces[start : start + across]) for start in range(0, len(pieces), across)]


def _cut(row: RowOfPieces, width: float, tallest: float) -> Iterator[RowOfPieces]:
    """A row of parts as rows that fit a page."""
    return zip_longest(*([*_continued(piece, width, tallest)] for piece in row if piece))


def _continued(piece: Piece, width: float, tallest: float) -> Iterator[Piece]:
    """A part in pieces that fit a page; the caption stands below the first one, and its letter below each."""
    part, caption = piece
    rows = part.rows if isinstance(part, Chart) else len(part.rows)
    across = part.across if isinstance(part, Chart) else 1

    def some(first: int, count: int) -> Chart | Sheet:
        if isinstance(part, Sheet):
            return replace(part, rows=part.rows[first : first + count])
        chosen = part.panels[first * across : (first + count) * across]
        return replace(part, panels=chosen, widths=part.widths[: len(chosen)])

    if rows < 2 or _height((piece,), width) <= tallest:
        yield piece
        return
    fitting = [count for count in range(1, rows) if _height(((some(0, count), caption),), width) <= tallest]
    most = max(fitting, default=1)
    each = -(-rows // -(-rows // most))  # equally many on each page
    letter = caption[:4] if caption.startswith("(") and caption[2:4] == ") " else ""
    for first in range(0, rows, each):
        yield some(first, each), f"{letter}Continued." if first else caption


def _below(piece: Piece | None) -> float:
    """Inches of a caption."""
    caption = piece[1] if piece else ""
    return 0.14 * (caption.count("\n") + 1) + 0.12 if caption else 0.04


def _height(row: RowOfPieces, width: float) -> float:
    """Inches of a row of parts with their captions."""
    return max(size_of(piece[0], width)[1] + _below(piece) for piece in row if piece)


def _drawn(rows: list[RowOfPieces], whole: Composition, background: str) -> LiteralFigure:
    across = _across(whole)
    width = whole.width / across
    heights = [_height(row, width) for row in rows]
    figure = LiteralFigure(figsize=(whole.width, sum(heights)), dpi=100, facecolor=background)
    grid = figure.add_gridspec(len(rows), across, height_ratios=heights, left=0, right=1, bottom=0, top=1, wspace=0, hspace=0)
    style: Any = PLAIN | {"axes.labelsize": 8}
    with rc_context(style):
        for row, (pieces, height) in enumerate(zip(rows, heights, strict=True)):
            for column, piece in enumerate(pieces):
                if not piece:
                    continue
                part, caption = piece
                tall = height - _below(piece) if isinstance(part, Chart) else size_of(part, width)[1]  # images keep their size
                rest = height - tall
                frames: Any = figure.add_subfigure(grid[row, column]).subfigures(2, 1, height_ratios=[tall, rest], hspace=0)
                draw(frames[0], part, width, tall)
                frames[1].text(0.03, 1 - 0.04 / rest, caption, ha="left", va="top", fontsize=8)
    return figure


def _captions(whole: Composition) -> list[str]:
    """The captions with their letters, and with the notes of their parts, such as the protocol of scores, once."""
    captions, said = [], set[str]()
    for letter, caption, part in zip(LETTERS, whole.captions, whole.parts, strict=False):
        notes = [note for note in part.notes if note not in said] if isinstance(part, Chart) else []
        sentences = [*caption.splitlines(), *notes]
        said.update(notes)
        closed = (text if text.endswith((".", "?", "!")) else f"{text}." for text in map(str.strip, sentences) if text)
        captions.append(" ".join([*([f"({letter})"] if len(whole.parts) > 1 else []), *closed]))
    return captions


def _fitted(part: Chart | Sheet, width: float) -> Chart | Sheet:
    """A part of a composition as it fits a width in inches; its caption replaces its title and notes."""
    if isinstance(part, Chart):
        columns = max(1, min(part.columns, int(width / NARROWEST)))
        gap = max(part.gap, NEXT * columns / (100 * width))
        widths = part.widths if columns == part.across else ()
        return with_room(replace(part, title="", notes=(), columns=columns, widths=widths, height=150, gap=gap))
    columns = max(1, *(len(row.cells) for row in part.rows))
    return replace(part, title="", cell=max(0.1, min(part.cell, (width - 0.1 - (LABELS if part.labels else 0)) / columns)))
