"""Exports of the inspector: file names, and pages that are interactive without a kernel or a network."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

from ...messages import ParameterError, WorkbenchError, short_repr
from ...views.inspection_request import InspectionRequest
from ..bundle import bundle, document

FORMATS = ("png", "svg", "pdf", "html")
MAX_PAGE_BYTES = 24_000_000  # of answers

BODY = """<main id="wb-view"></main>
<script type="application/json" id="wb-state">{state}</script>
{more}<script type="module">{script}</script>"""


def free_path(folder: Path, requests: Sequence[InspectionRequest], ending: str) -> Path:
    """A path without a file, named after the layer and the steps."""
    if ending not in FORMATS:
        raise ParameterError(f"format={short_repr(ending)} is not one of {', '.join(FORMATS)}")
    words = [requests[0].layer.replace("/attention.", ""), *(str(request.step) for request in requests if request.step is not None)]
    stem, number = re.sub(r"[^A-Za-z0-9-]+", "-", f"attention-{'-'.join(words)}")[:100], 1
    while (path := folder / f"{stem}{f'-{number}' if number > 1 else ''}.{ending}").exists():
        number += 1
    return path


def page_answers(view: dict, layers: list[str], steps: list[int], answers: Callable[..., list[dict]]) -> list[dict]:
    """The answers in a page: this image and its neighbours in the strip, in every layer, up to `MAX_PAGE_BYTES`; the causal maps of the pins,
    their explanations, the offsets of every layer, the effects of the intervention, and the overview of this image up to half of the limit, if the
    view shows them.

    Parameters
    ----------
    layers
        The layers that all runs have.
    steps
        The columns of the overview.
    answers
        `answers(kind, view, **more)`: the answers of every run to a view.
    """
    strip = answers("strip", view)
    start, count = strip[0]["reply"]["start"], strip[0]["reply"]["count"]
    samples = sorted(range(start, start + count), key=lambda sample: sample != view["sample"])
    pages, size = [*strip], 0
    if view["reading"] == "causal":
        pages += [answer for query in view["pins"] for answer in answers("causal", view, query=query)]
    if view["panel"] == "offsets":
        pages += [answer for layer in layers for answer in answers("offsets", view | dict(layer=layer))]
    if view["measure"]:
        pages += answers("measure", view)
    if view["explain"]:
        pages += [answer for query in view["pins"] for answer in answers("explain", view, query=query)]
    if view["overview"]:
        overview = _overview(view, steps, answers)
        size = _size(overview)
        pages += overview
    first = len(pages)
    for sample, layer in product(samples, sorted(layers, key=lambda layer: layer != view["layer"])):
        if layer.startswith("G") and view["source"] in ("real", "dropped"):
            continue
        places: dict = {} if layer == view["layer"] else dict(forbid=[], paint=[])  # those of another layer
        pictures = answers("inspection", view | dict(sample=sample, layer=layer) | places)
        size += _size(pictures)
        if len(pages) > first and size > MAX_PAGE_BYTES:
            break
        pages += pictures
    return pages


def _overview(view: dict, steps: list[int], answers: Callable[..., list[dict]]) -> list[dict]:
    """The columns of the overview of the first run that can be read; none if they are too large."""
    columns = []
    for step in steps:
        with suppress(WorkbenchError):
            columns += answers("overview", view | dict(steps=[step, *view["steps"][1:]]), runs=1)
    return columns if _size(columns) <= MAX_PAGE_BYTES / 2 else []


def _size(answers: list[dict]) -> int:
    return sum(len(buffer) for answer in answers for buffer in answer["buffers"])


def page(title: str, css: str, state: dict, script: str = "page.js", worker: str = "") -> str:
    """A page that shows the inspector, from the state of the widget; `worker` is a module for its script to start as a worker."""
    more = f'<script type="text/plain" id="wb-worker">{bundle(worker)}</script>\n' if worker else ""
    text = json.dumps(state, default=_encode).replace("<", "\\u003c")  # so that no text can end the script element
    return document(html.escape(title), css, BODY.format(state=text, more=more, script=bundle(script)))


def _encode(value: bytes) -> dict:
    return dict(base64=base64.b64encode(value).decode())
