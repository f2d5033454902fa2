"""Folders of exports, and a page of tables and figures that opens without a network."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from ..figures import Drawing, Plot, Table
from ..messages import ParameterError, short_repr
from ..paths import folder_name, outputs_dir

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1080px; padding: 0 1em; color: #1d2126; background: #fff }
h1 { font-size: 1.5em; margin-bottom: 0 } h2 { font-size: 1.15em; margin-top: 2em } p, ul { color: #5a6270 }
section { overflow-x: auto } img { max-width: 100%; image-rendering: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .25em .8em; border-bottom: 1px solid #e3e6ea } thead th { border-bottom: 2px solid #9aa3ad; text-align: left }
"""


def export_folder(kind: str, out: str, default: str) -> Path:
    """The folder of an export: `out`, a name in `outputs/<kind>` or a path; if empty, a name made from `default`."""
    return outputs_dir() / kind / (os.path.expanduser(out) if out else folder_name(default))


def require_folder(out: str, folder: Path) -> None:
    """Refuse a folder that cannot be written to, before any work is done. An empty `out` always fits.

    A ParameterError if `out` is a relative path that leaves `outputs`, or cannot be written to.
    """
    if not out:
        return
    reason = ""
    relative = not os.path.isabs(os.path.expanduser(out))
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not (out.strip() and out.isprintable()):
        reason = "names no folder"
    elif relative and (".." in folder.parts or out.startswith("~") or Path(out) == Path()):
        reason = "leads elsewhere: give a name, or an absolute path"
    elif any(len(os.fsencode(part)) > 255 for part in folder.parts):
        reason = "has a name of more than 255 bytes"
    elif not existing.is_dir():
        reason = f"cannot be a folder: {existing} is no folder"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"cannot be written to: check the permissions of {existing}, and that its disk can be written to"
    if reason:
        raise ParameterError(f"out={short_repr(out)} {reason}")


def page(title: str, about: str, sections: Mapping[str, Sequence[Table | Drawing | None]]) -> str:
    """One HTML page of tables and figures, with plotly.js; sections without content are left out."""
    from plotly.offline import get_plotlyjs

    body = ""
    for heading, parts in sections.items():
        content = "".join(f"<section>{_embedded(part)}</section>" for part in parts if part is not None)
        body += f"<h2>{heading}</h2>{content}" if content else ""
    interactive = any(isinstance(part, Plot) for parts in sections.values() for part in parts)
    title, script = html.escape(title), f"<script>{get_plotlyjs()}</script>" if interactive else ""
    head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>{script}'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><h1>{title}</h1><p>{html.escape(about)}</p>{body}</body></html>\n'


def _embedded(part: Table | Drawing) -> str:
    """HTML that needs nothing but plotly.js in the page."""
    if isinstance(part, Table):
        return part._repr_html_()
    if isinstance(part, Plot):
        return part.figure.to_html(full_html=False, include_plotlyjs=False, config=dict(displaylogo=False, responsive=True))
    stream = io.BytesIO()
    Image.open(io.BytesIO(part.png())).convert("RGB").save(stream, "WEBP", quality=90)
    return f'<img alt="samples" src="data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}">'
