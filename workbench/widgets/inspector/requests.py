# ruff: noqa: RUF001
"""Requests to a run from the view, the state of all controls of the front end. Only this module interprets a view.

The front end sends the view and the kind of answer, and caches answers by the entries of the view that they depend on.
"""

from __future__ import annotations

from pathlib import Path

from ...attention import READINGS
from ...messages import ParameterError, WorkbenchError, short_repr
from ...views.attention import MAX_QUERIES
from ...views.inspected_run import ENDLESS, STRIP, InspectedRun
from ...views.inspection_request import InspectionRequest, are_whole, is_whole
from ...views.overview import columns
from ...views.view_line import GAMMA0

# The state of all controls. Entries that an InspectionRequest does not have: `steps` of the runs; `class`, a label; `pins`, the pinned queries, of
# which one is `active`; `scope`, "all" or "pins": the queries whose attention to the forbidden keys is knocked out; `scale` of the colours, "zero"
# or "uniform"; `panel`, what the side view shows: "map", "images" or "offsets"; `overview` and `explain`, whether layers and checkpoints are shown,
# and the active pin is explained in words.
DEFAULT_VIEW: dict = dict(
    layer="", steps=[], weights="ema", source="samples", seed=0, sample=0, truncation=0.0, towards=None, mix=0.0, reading="outgoing", pins=[],
    active=-1, opacity=0.5, smooth=False, gamma0=False, forbid=[], scope="all", replace="", tool="pin", scale="zero",
    panel="map", **{"class": -1},
    overview=False,
    explain=False,
)  # fmt: skip


SCALES = ("zero", "uniform")


def shown(view: dict) -> dict:
    """The view as the front end shows it: of snapshots, which keep no network, there is no causal map, and none by offset."""
    if view["source"] != "recorded":
        return view
    return view | dict(panel="map") | (dict(reading="outgoing") if view["reading"] == "causal" else {})


def active_pin(view: dict) -> int:
    """Which pin the front end takes as active: -1 without pins."""
    return max(0, min(view["active"], len(view["pins"]) - 1)) if view["pins"] else -1


def catalog(run: InspectedRun) -> dict:
    """The choices of the controls for a run."""
    config = run.config
    return dict(
        label=run.label, about=f"{Path(config.data).name} · {config.image_size}×{config.image_size} · {config.attention_variant} attention",
        steps=run.run.checkpoint_steps(), recorded=run.recorded_steps, weights=run.weights, image_size=config.image_size,
        classes=run.class_names, real=ENDLESS, page=STRIP, layers=run.layers, gamma0=run.gamma0,
        name=GAMMA0 if run.gamma0 else run.run.reference, columns={source: columns(run, source) for source in ("samples", "recorded")},
    )  # fmt: skip


def resolve(kind: str, view: dict, run: InspectedRun, number: int, offered: dict) -> InspectionRequest:
    """The request of a view for one kind of answer of a run.

    Checks the entries that it interprets; an `InspectionRequest` checks the others. Entries without effect on the answer keep their
    defaults, so that equal pictures have equal requests.

    Parameters
    ----------
    kind
        "inspection", "strip", "causal", "explain", "overview" or "offsets".
    run, number
        The run, and its index in the view.
    offered
        Its `catalog` in the front end: an unknown step becomes the newest, unknown weights become the first.

    Raises
    ------
    ParameterError, WorkbenchError
        If an entry does not fit, or the run has no layer for such images.
    """
    for name, fits in (
        ("steps", are_whole(view["steps"])), ("pins", are_whole(view["pins"]) and len(view["pins"]) <= MAX_QUERIES),
        ("forbid", are_whole(view["forbid"])), ("towards", view["towards"] is None or are_whole(view["towards"])),
        ("weights", isinstance(view["weights"], str)), ("class", isinstance(view["class"], int)),
        ("reading", view["reading"] in ("causal", *READINGS)), ("scale", view["scale"] in SCALES),
        ("opacity", isinstance(view["opacity"], int | float) and 0 <= view["opacity"] <= 1),
    ):  # fmt: skip
        if not fits:
            raise ParameterError(f"{name}={short_repr(view[name])} of the view does not fit")
    if not run.layers:
        raise WorkbenchError(f"run {run.name!r} has no attention layer: nothing to show")
    source = "samples" if kind == "offsets" else view["source"]  # offsets are averaged over samples, whatever is shown
    layers = [layer["id"] for layer in run.layers if source not in ("real", "dropped") or layer["network"] == "D"]
    if not layers:
        raise ParameterError(f"source={source!r}: run {run.name!r} has no attention layer for such images")
    layer = layers[0] if view["layer"] in ("", None) else view["layer"]
    if kind == "overview" or (kind == "strip" and not run.gamma0):
        layer = layers[0]  # all layers see the same samples
    request = dict(layer=layer, step=_step(view, number, offered, source), source=source)
    if source != "recorded":
        saved = offered["weights"] or ["ema"]
        request["weights"] = view["weights"] if view["weights"] in saved else saved[0]
    if source != "recorded" and view["class"] < (run.config.num_classes or 0):
        request["label"] = view["class"]
    if source == "samples":
        request |= dict(seed=view["seed"], truncation=view["truncation"])
    if kind == "offsets":
        return InspectionRequest(**request)
    request["sample"] = view["sample"]
    if kind == "strip":
        if is_whole(view["sample"]):  # the first image of its page; samples and real images have several pages
            request["sample"] = view["sample"] // STRIP * STRIP if source in ("samples", "real") else 0
        return InspectionRequest(**request)
    if source == "samples" and view["towards"] and view["mix"]:
        request |= dict(towards=tuple(view["towards"]), mix=view["mix"])
    if kind == "inspection" and source != "recorded":  # snapshots keep no network
        request |= _intervention(view)
    return InspectionRequest(**request)


def _step(view: dict, number: int, offered: dict, source: str) -> int | None:
    steps = offered["recorded"] if source == "recorded" else offered["steps"]
    step = view["steps"][number] if number < len(view["steps"]) else None
    return step if step in steps else next(reversed(steps), None)


def _intervention(view: dict) -> dict:
    """The intervention on the layer in a view."""
    if view["gamma0"]:  # other interventions have no effect then
        return dict(gamma0=view["gamma0"])
    queries = tuple(sorted(view["pins"])) if view["scope"] == "pins" else None
    if not view["forbid"] or queries == ():
        return dict(replace=view["replace"])
    return dict(replace=view["replace"], forbid=tuple(sorted(view["forbid"])), queries=queries)
