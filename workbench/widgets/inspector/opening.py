"""What an inspector opens on: its runs, and the first state of its controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from ...attention import salient_positions
from ...messages import ParameterError, WorkbenchError
from ...runs import Run
from ...views.attention import AttentionView
from ...views.inspected import Inspected
from ...views.inspected_network import InspectedNetwork
from ...views.inspected_run import InspectedRun
from ...views.inspection_request import InspectionRequest
from .line import view_of
from .requests import checked, opened


def runs_of(a: Run | str, b: Run | str | nn.Module | None, view: AttentionView) -> list[Inspected]:
    """The run, and the one to compare it with."""
    if view.line:
        if a or b:
            raise ParameterError("a line names the runs that it shows; leave a and b out")
        return [*view.runs()]
    first, other = InspectedRun.of(a) if a else view.runs()[0], b or view.compare
    if isinstance(other, nn.Module):
        raise ParameterError("b is a network and a a run; give both as networks: generator=..., inputs=..., b=...")
    return [first, InspectedRun.of(other, first)] if other else [first]


def start(view: AttentionView, runs: Sequence[Inspected], catalogs: Sequence[dict]) -> dict:
    """The state of the controls that shows a view; empty if the first run has no attention layer."""
    network = runs[0]
    if isinstance(network, InspectedNetwork):
        entry = network.layers[-1]
        image = network.inspect(InspectionRequest(entry["id"])).image
        pins = [len(entry["tokens"]) + at for at in salient_positions(image, (entry["rows"], entry["side"]))]
        return dict(layer=entry["id"], steps=[], reading=view.reading, pins=pins, active=0)
    first, *others = (run for run in runs if isinstance(run, InspectedRun))
    if not first.layers:
        return {}
    if view.line:
        return _of_line(view, [first, *others], catalogs)
    layer = view.layer_of(first)
    if layer is None:  # the other network has attention
        layer = first.layers[-1]
        view = replace(view, network=layer["network"])
    if not first.run.checkpoint_steps() and all(info["recorded"] for info in catalogs):  # start at the last snapshot
        steps = [info["recorded"][-1] for info in catalogs]
        request = InspectionRequest(layer["id"], steps[0], source="recorded")
    else:
        request = view.requests(first)[0]
        steps = [request.step, *(int(run.run.checkpoint_path(run.start).name) for run in others)]
    try:
        pins = view.queries_of(first.inspect(request))
    except ParameterError:
        raise
    except WorkbenchError:  # the front end shows the reason; other steps may be readable
        pins = []
    return opened(view, request, steps, pins)


def _of_line(view: AttentionView, runs: Sequence[InspectedRun], catalogs: Sequence[dict]) -> dict:
    """The view of a line, checked, with the newest steps where it names none."""
    words = view.words
    if not words.layer:
        words = replace(words, layer=(view.layer_of(runs[0]) or runs[0].layers[-1])["id"])
    state = view_of(words, catalogs)
    kind, offer = ("snapshot", "recorded") if state["source"] == "recorded" else ("checkpoint", "steps")
    steps: list[int | None] = []
    for run, info, given in zip(runs, catalogs, (words.step, words.beside_step), strict=False):
        step = steps[0] if given is None and run.gamma0 else given
        if step is not None and step not in info[offer]:
            raise ParameterError(
                f"line: run {run.name!r} has no {kind} of step {step}; it has: {', '.join(map(str, info[offer])) or 'none'}"
            )
        steps.append(step if step is not None or not info[offer] else info[offer][-1])
    state |= dict(steps=[step for step in steps if step is not None])
    checked(state, runs, catalogs)  # raises
    return state
