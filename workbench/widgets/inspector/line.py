"""The view of an inspector as a line of text, and back (see `views.view_line`); `js/line.js` does the same in the browser."""

from __future__ import annotations

from collections.abc import Sequence

from ...attention import READINGS
from ...messages import ParameterError, counted, nearest, short_repr
from ...views.attention import MAX_QUERIES
from ...views.inspection_request import SOURCES
from ...views.view_line import ViewLine, class_of, class_text, latent_of, positions_of, positions_text, value_of, value_text
from .requests import DEFAULT_VIEW, SCALES, active_pin

CHOICES = dict(
    source=SOURCES, weights=("ema", "raw"), reading=("causal", *READINGS), scale=SCALES, panel=("map", "images", "offsets"),
    tool=("pin", "drag", "brush", "paint"), scope=("all", "pins"), replace=("", "uniform", "local"),
)  # fmt: skip
GRIDS = dict(
    pins="side", forbid="key_side", paint="key_side"
)  # entries that are positions, which only maps of runs have in a line: square ones
NUMBERS = dict(gamma=0.0, paint_from=0)  # entries that are a number or, by default, None
IN_HEAD = ("layer", "steps")  # entries of a view that are words of their own


def line_of(view: dict, catalogs: Sequence[dict]) -> str:
    """The line of a view of runs with these catalogs: what is not the default, in the order of `DEFAULT_VIEW`."""
    info = catalogs[0]
    layer = _layer(info, view["layer"])
    view = view | dict(active=active_pin(view))
    entries = {
        name: _text(name, view, layer, info["classes"])
        for name in DEFAULT_VIEW
        if name not in IN_HEAD and view[name] != _default(name, view)
    }
    steps = [*view["steps"], None, None]
    beside = catalogs[1]["name"] if len(catalogs) > 1 else ""
    return str(ViewLine(info["name"], steps[0], view["layer"], beside, steps[1] if beside else None, entries))


def view_of(line: ViewLine, catalogs: Sequence[dict]) -> dict:
    """The view of a line; steps that it does not name are left out.

    Raises
    ------
    ParameterError
        For an entry that is unknown or does not fit, in one line.
    """
    info = catalogs[0]
    layer = _layer(info, line.layer)
    view = dict(DEFAULT_VIEW, layer=line.layer)
    for name, text in line.entries.items():
        if name not in DEFAULT_VIEW or name in IN_HEAD:
            known = [other for other in DEFAULT_VIEW if other not in IN_HEAD]
            raise ParameterError(f"line: there is no {short_repr(name)}; {nearest(name, known)}known are: beside, {', '.join(known)}")
        view[name] = _value(name, text, layer, info["classes"])
        if name in CHOICES and view[name] not in CHOICES[name]:
            choices = list(filter(None, CHOICES[name]))
            raise ParameterError(
                f"line: {name}={short_repr(view[name])} is not one of {', '.join(choices)}; {nearest(view[name], choices)}".rstrip("; ")
            )
    if len(view["pins"]) > MAX_QUERIES:
        raise ParameterError(f"line: pins are {counted(len(view['pins']), 'place')}; at most {MAX_QUERIES}")
    if "active" not in line.entries:
        view["active"] = _default("active", view)
    elif not 0 <= view["active"] < len(view["pins"]):
        raise ParameterError(f"line: active={view['active'] + 1} is none of the {len(view['pins'])} pins")
    steps = [line.step, line.beside_step][: len(catalogs)]
    return view | dict(steps=[step for k, step in enumerate(steps) if None not in steps[: k + 1]])


def _layer(info: dict, name: str) -> dict:
    """The layer of a view; the first if the view names none."""
    layers = {layer["id"]: layer for layer in info["layers"]}
    if name not in layers and (name or not layers):
        there = f"{nearest(name, layers)}there are: {', '.join(layers)}" if layers else "it has none"
        raise ParameterError(f"line: run {info['label']!r} has no attention layer {short_repr(name)}; {there}")
    return layers[name] if name else info["layers"][0]


def _default(name: str, view: dict):
    """The value that a line leaves out: of the active pin the first one, if there is any."""
    return 0 if name == "active" and view["pins"] else DEFAULT_VIEW[name]


def _text(name: str, view: dict, layer: dict, classes: Sequence[str]) -> str:
    if name in GRIDS:
        side = layer[GRIDS[name]]
        return positions_text([position for position in view[name] if position < side**2], side)  # as the front end shows them
    if name == "class":
        return class_text(view[name], classes)
    if name == "active":
        return str(view[name] + 1)  # as the pins are numbered
    return ":".join(map(str, view[name])) if name == "towards" else value_text(view[name])


def _value(name: str, text: str, layer: dict, classes: Sequence[str]):
    if name in GRIDS:
        return list(dict.fromkeys(positions_of(name, text, layer[GRIDS[name]])))
    if name == "class":
        return class_of(text, classes)
    if name == "active":
        return value_of(name, text, 1) - 1
    return latent_of(name, text) if name == "towards" else value_of(name, text, NUMBERS.get(name, DEFAULT_VIEW[name]))
