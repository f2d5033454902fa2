"""Requests to a run from the view, the state of all controls of the front end. Only this module interprets a view.

The front end sends the view and the kind of answer, and caches answers by the entries of the view that they depend on.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...attention import READINGS
from ...messages import ParameterError, WorkbenchError, short_repr
from ...records import is_whole
from ...views.attention import MAX_QUERIES, AttentionView
from ...views.inspected import STRIP, Inspected
from ...views.inspection_request import InspectionRequest, are_amounts, are_whole, intervention_of
from ...views.overview import columns

# The state of all controls. Entries that an InspectionRequest does not have: `steps` of the runs; `class`, a label; `pins`, the pinned queries, of
# which one is `active`; `scope`, "all" or "pins": the queries whose attention to the forbidden keys is knocked out; `scale` of the colours, "zero"
# or "uniform"; `panel`, what the side view shows: "map", "images" or "offsets"; `tool`, "pin", "drag", "brush" or "paint"; `measure`, whether the
# effects of the intervention are measured over samples; `overview` and `explain`, whether layers and checkpoints are shown, and the active pin is
# explained in words.
DEFAULT_VIEW: dict = dict(
    layer="", steps=[], weights="ema", source="samples", seed=0, sample=0, truncation=0.0, towards=None, mix=0.0, reading="outgoing", pins=[],
    active=-1, opacity=0.5, smooth=False, gamma0=False, gamma=None, forbid=[], scope="all", replace="", tool="pin", scale="zero",
    panel="map", **{"class": -1}, head=-1,
    directions=[],
    paint=[],
    paint_from=None,
    paint_shift=[0, 0],
    measure=False,
    overview=False,
    explain=False,
)  # fmt: skip


SCALES = ("zero", "uniform")


def opened(view: AttentionView, request: InspectionRequest, steps: list[int], pins: list[int]) -> dict:
    """The state of the controls that shows a request, with these steps of the runs and pins."""
    names = ("layer", "weights", "source", "sample", "seed", "truncation")
    state = {name: getattr(request, name) for name in names} | {"class": request.label, "directions": list(request.directions)}
    return state | dict(steps=steps, reading=view.reading, pins=pins, active=0 if pins else -1)


def shown(view: dict) -> dict:
    """The view as the front end shows it: of snapshots, which keep no network, there is no causal map, and none by offset; there are effects only
    of an intervention, and only over samples or real images."""
    changed = (view["gamma0"] or view["gamma"] is not None or view["replace"] or view["forbid"]) and view["source"] in ("samples", "real")
    view = view | dict(measure=bool(view["measure"] and changed))
    if view["source"] != "recorded":
        return view
    return view | dict(panel="map") | (dict(reading="outgoing") if view["reading"] == "causal" else {})


def active_pin(view: dict) -> int:
    """Which pin the front end takes as active: -1 without pins."""
    return max(0, min(view["active"], len(view["pins"]) - 1)) if view["pins"] else -1


def catalog(run: Inspected) -> dict:
    """The choices of the controls for a run, or another network."""
    return dict(
        label=run.label, about=run.about, steps=run.steps, recorded=run.recorded_steps, weights=run.weights, image_size=run.image_size[1],
        classes=run.class_names if run.num_classes else [], real=run.real, page=STRIP, layers=run.layers, gamma0=run.gamma0,
        latents=run.latents, count=run.samples, directions=run.directions, tools=list(run.tools),
        name=run.reference, columns={source: columns(run, source) for source in ("samples", "recorded")},
    )  # fmt: skip


def resolve(kind: str, view: dict, run: Inspected, number: int, offered: dict) -> InspectionRequest:
    """The request of a view for one kind of answer of a run.

    Checks the entries that it interprets; an `InspectionRequest` checks the others. Entries without effect on the answer keep their
    defaults, so that equal pictures have equal requests.

    Parameters
    ----------
    kind
        "inspection", "strip", "causal", "explain", "overview", "offsets" or "measure".
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
        ("weights", isinstance(view["weights"], str)), ("class", isinstance(view["class"], int)), ("head", is_whole(view["head"], -1)),
        ("directions", are_amounts(view["directions"])), ("paint", are_whole(view["paint"])),
        ("paint_shift", isinstance(view["paint_shift"], list | tuple)),
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
    if source != "recorded" and view["class"] < run.num_classes:
        request["label"] = view["class"]
    if source == "samples":
        request |= dict(seed=view["seed"], truncation=view["truncation"])
    heads = next((entry["heads"] for entry in run.layers if entry["id"] == layer), 1)
    if kind in ("inspection", "offsets") and view["head"] < heads > 1:
        request["head"] = view["head"]
    if kind == "offsets":
        return InspectionRequest(**request)
    if kind == "measure":  # over the samples from the first one on
        return InspectionRequest(**request, **intervention_of(view))
    request["sample"] = view["sample"]
    if kind == "strip":
        if is_whole(view["sample"]):  # the first image of its page; samples and real images have several pages
            request["sample"] = view["sample"] // STRIP * STRIP if source in ("samples", "real") else 0
        return InspectionRequest(**request)
    if source == "samples" and view["towards"] and view["mix"]:
        request |= dict(towards=tuple(view["towards"]), mix=view["mix"])
    if source == "samples" and any(view["directions"]):
        last = max(k for k, amount in enumerate(view["directions"]) if amount)
        request["directions"] = tuple(view["directions"][: last + 1])
    if kind == "inspection" and source != "recorded":  # snapshots keep no network
        request |= intervention_of(view) | _painting(view)
    return InspectionRequest(**request)


def checked(view: dict, runs: Sequence[Inspected], catalogs: Sequence[dict]) -> list[InspectionRequest]:
    """The request of a view for a picture of each run; raises if a run has no such picture."""
    requests = [resolve("inspection", view, run, number, catalogs[number]) for number, run in enumerate(runs)]
    for run, request in zip(runs, requests, strict=True):
        run.check(request)
    return requests


def _step(view: dict, number: int, offered: dict, source: str) -> int | None:
    steps = offered["recorded"] if source == "recorded" else offered["steps"]
    step = view["steps"][number] if number < len(view["steps"]) else None
    return step if step in steps else next(reversed(steps), None)


def _painting(view: dict) -> dict:
    """What takes the values of other keys; values of an image that it takes from their own places change nothing."""
    shift = tuple(view["paint_shift"])
    if view["gamma0"] or not view["paint"] or (view["paint_from"] is None and shift == (0, 0)):
        return {}
    return dict(paint=tuple(sorted(view["paint"])), paint_from=view["paint_from"], paint_shift=shift)
