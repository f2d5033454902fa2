# ruff: noqa: RUF001
"""Pages of a run that need no Python: the inspector with the answers that it holds, or a living one, whose generator runs in the browser."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ...figures.painting import DIVERGING, PALETTE, colour_table
from ...files import replace_text, storing
from ...messages import ParameterError, WorkbenchError, say_once
from ...model.folding import fold
from ...runs import Run
from ...tensors import first_not_finite
from ...views.attention import AttentionView
from ...views.inspected_run import STRIP, InspectedRun
from ...views.inspection_request import InspectionRequest
from .export import page
from .requests import DEFAULT_VIEW, catalog, opened
from .widget import AttentionInspector

LIVE_BYTES = 3_000_000  # of a page; a larger network is there alone
MAX_LIVE_BYTES = 64_000_000  # a browser would take minutes to read more
ROOM = 150_000  # bytes of a page without networks


def export_page(
    run: Run | str,
    path: str | os.PathLike | None = None,
    *,
    live: bool = True,
    view: AttentionView | None = None,
    steps: Sequence[int] | None = None,
) -> Path:
    """Write a page (.html) that shows where the generator of a run looks: one file, without Python, a server or a network.

    Parameters
    ----------
    run
        A run, its name, "run@step" or path.
    path
        The file; by default `live.html` or `attention.html` in the folder of the run's exports.
    live
        The generator itself runs in the browser: any seed, class, interpolation, truncation and intervention. Its weights are rounded to
        float16; its images differ from those of the run by less than 1/255 at nearly all pixels. Otherwise the page holds a few images, and
        also the discriminator's attention.
    view
        What the page opens on.
    steps
        The checkpoints of a living page. By default the newest (or that of `view` or `run`), and as many others, evenly chosen, as fit into
        3 MB.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    WorkbenchError, ParameterError
        If there is no such run or checkpoint, or the page cannot hold its network.
    """
    inspected, view = InspectedRun.of(run), view or AttentionView()
    path = Path(path or inspected.run.views / ("live.html" if live else "attention.html"))
    if path.suffix != ".html":
        raise ParameterError(f"path={str(path)!r} ends in {path.suffix!r}; a page ends in .html")
    if not live:
        return AttentionInspector(run, view=view).save(path)
    text = _living(inspected, view, steps)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)
    return path


def _living(run: InspectedRun, view: AttentionView, steps: Sequence[int] | None) -> str:
    if view.network != "G":
        raise ParameterError(f"network={view.network!r}: a living page holds the generator; give network='G', or live=False")
    layers, weights = [layer for layer in run.layers if layer["network"] == "G"], view.weights_of(run)
    if layers:
        request = view.requests(run)[0]
        pins = view.queries_of(run.inspect(request))
    else:  # a page of images
        request, pins = InspectionRequest("G/none", run.start if view.step is None else view.step, weights), []
    start = run.run.checkpoint_step(request.step)
    networks = _networks(run, weights, start, steps)
    state = DEFAULT_VIEW | opened(view, request, [start], pins)
    offered: dict = dict(
        steps=[network["step"] for network in networks],
        recorded=[],
        real=0,
        weights=[weights],
        layers=layers,
        tools=["pin", "brush", "copy"],
    )
    offered |= {} if layers else dict(about=f"{Path(run.config.data).name} · {run.config.image_size}×{run.config.image_size}")
    about = f"The generator of {run.name} runs in this page, with weights in float16: no server, and no network."
    living = dict(
        about=about, z_dim=run.config.z_dim, image_size=run.config.image_size, classes=run.class_names, page=STRIP, networks=networks
    )
    tables = dict(palette=colour_table(PALETTE).tobytes(), diverging=colour_table(DIVERGING).tobytes())
    traits = dict(catalog=[catalog(run) | offered], view=state, defaults=DEFAULT_VIEW, formats=["png"], answers=[], living=living) | tables
    return page(f"{run.name}: where its generator looks", AttentionInspector._css, traits, "live.js", "worker.js")


def _networks(run: InspectedRun, weights: str, start: int, steps: Sequence[int] | None) -> list[dict]:
    """The networks of the page, in order of their steps, with that of step `start`."""
    networks = {start: pack(run, start, weights)}
    size = sum(len(networks[start][part]) for part in ("half", "single")) * 4 / 3  # base64
    if size > MAX_LIVE_BYTES:
        raise WorkbenchError(
            f"the generator of run {run.name!r} would take {size / 1e6:,.0f} MB of a page, and a browser should not read more than "
            f"{MAX_LIVE_BYTES / 1e6:.0f} MB: give live=False"
        )
    saved = [step for step in run.run.checkpoint_steps() if step != start]
    count = min(max(0, int((LIVE_BYTES - ROOM) / size) - 1), len(saved))
    others = [saved[round(k)] for k in np.linspace(0, len(saved) - 1, count)] if steps is None else steps
    for step in {*others} - {start}:
        try:
            networks[step] = pack(run, step, weights)
        except WorkbenchError as error:
            if steps is not None:
                raise
            say_once(f"{error}; the page leaves it out")
    return [networks[step] for step in sorted(networks)]


def pack(run: InspectedRun, step: int, weights: str) -> dict:
    """The generator of a checkpoint for `js/generator.js`: step, weights, operations (see `model.folding.fold`), and the bytes of their tensors.

    In place of a tensor, the operations have its shape and where it begins: in `single`, float32, or with a `scale` in `half`, float16, to be
    multiplied by the scale.
    """
    generator = run.run.generator(step, weights)
    if bad := first_not_finite(generator.state_dict()):
        raise WorkbenchError(f"run {run.name!r}, step {step}: {bad} of G is not finite; choose another checkpoint")
    half, single = bytearray(), bytearray()

    def place(value, name=""):
        if isinstance(value, dict):
            return {key: place(part, key) for key, part in value.items()}
        if not isinstance(value, Tensor):
            return value
        if name in ("gain", "bias"):  # small
            single.extend(value.float().contiguous().numpy().tobytes())
            return dict(shape=list(value.shape), at=len(single) - 4 * value.numel())
        scale = value.abs().max().item() or 1.0  # else small weights would lose digits
        half.extend((value / scale).half().contiguous().numpy().tobytes())
        return dict(shape=list(value.shape), at=len(half) - 2 * value.numel(), scale=scale)

    return dict(
        step=step, weights=weights, operations=[place(operation) for operation in fold(generator)], half=bytes(half), single=bytes(single)
    )
