"""Charts of the records of training: histories, and the singular values of the layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from typing import NamedTuple

import numpy as np

from ..messages import ParameterError, WorkbenchError
from ..parameters import nearest
from ..records import effective, largest_of_all, with_margin
from ..studies.groups import AXES, along, mean_and_sd
from . import records
from .charts import MOST_POINTS, Axis, Band, Chart, Line, Panel, brief_numbers, colours, rounded
from .figure import Plot

TITLES = {  # of the panels of several runs, by column of the history
    "loss_d": "hinge loss of D", "loss_g": "hinge loss of G", "d_real": "D's output on real images", "d_fake": "D's output on fakes",
    "margin_d": "margin of D: real less fake", "saturated_real": "saturation of D, real images", "saturated_fake": "saturation of D, fakes",
    "grad_norm_d": "gradient norm of D", "grad_norm_d_max": "gradient norm of D, largest", "grad_norm_g": "gradient norm of G",
    "grad_norm_g_max": "gradient norm of G, largest",
}  # fmt: skip
COUNTERS = ("step", "images", "seconds")
UNITS = {  # title of a panel of `diagnostics` -> title of its y axis
    "gradient norms": "norm", "margin of D": "logit", "saturation of D": "share of images",
    "weights of G": "largest singular value", "weights of D": "largest singular value", "weights at work": "largest singular value",
}  # fmt: skip
LINEAR = ("margin of D", "saturation of D")
GROWTH = {"sigma_g": "weights of G", "at_work_g": "G at work", "sigma_d": "weights of D", "at_work_d": "D at work"}
MISSING_LAYER = dict(exact=[None])  # stands for a layer that a row of the spectra lacks
OF_D, OF_G, OF_REAL, OF_FAKE = colours(4)
Curve = dict[int, tuple[float, float]]  # step -> (x, value)


class RunRecords(NamedTuple):
    """The records of a run: the names of its group and of the run, and the rows of `Run.history` and `Run.spectra`."""

    group: str
    name: str
    history: list[dict]
    spectra: list[dict] = []


def curves(name: str, history: list[dict]) -> Plot:
    """Losses, D's outputs, gammas and learning rates of a run, over steps."""
    history = records.history(history)
    gammas = {key: key.removeprefix("gamma_") for key in (history[-1] if history else ()) if key.startswith("gamma_")}
    topics = (  # title, unit of the y axis, column of the history -> name in the legend
        ("hinge losses", "loss", {"loss_d": "D", "loss_g": "G"}),
        ("D's output", "logit", {"d_real": "real", "d_fake": "fake"}),
        ("gamma of the attention layers", "gamma", gammas),
        ("learning rates", "rate", {"lr_d": "D", "lr_g": "G"}),
    )
    panels = []
    for title, unit, columns in topics:
        lines = [_column(history, *column, colour) for column, colour in zip(columns.items(), colours(len(columns)), strict=True)]
        panels.append(Panel(title, Axis("G step"), Axis(unit), tuple(lines)))
    return Plot(Chart(name, tuple(panels), columns=2, height=230, legend="panels").thinned())


def curves_by_group(runs: Sequence[RunRecords], axis: str = "steps", keys: str = "") -> Plot:
    """A panel for every column of the histories of several runs, and for D's margin.

    The runs of a group have one colour: thin lines, and their mean with a band of one standard deviation (n - 1), up to the end of the
    shortest run.

    Parameters
    ----------
    axis
        "steps", "images" or "hours" (of training).
    keys
        Columns of the history, or patterns such as `gamma_*`, separated by commas; by default all but constant learning rates.

    Raises
    ------
    ParameterError, WorkbenchError
        For another axis, or a key that no history has.
    """
    require_axis(axis)
    runs = [run._replace(history=with_margin(records.history(run.history))) for run in runs]
    groups, panels = _by_group(runs), []
    for key in _select_keys([run.history for run in runs if run.history], keys):
        parts = [
            lines_of_group(
                group,
                colour,
                [(run.name, _along(run, axis, {row["step"]: row[key] for row in run.history if key in row})) for run in members],
            )
            for group, colour, members in groups
        ]
        panels.append(panel_of_groups(TITLES.get(key, _title(key)), Axis(AXES[axis][2]), Axis(), parts))
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    title += ": mean ± one standard deviation, and every seed" if len(runs) > len(groups) else ""
    chart = Chart(title, tuple(panels))
    thinned = chart.thinned(MOST_POINTS)
    return Plot(chart if thinned is chart else replace(thinned, title=f"{title}; ends and extremes of long curves are drawn"))


def _select_keys(histories: list[list[dict]], patterns: str) -> list[str]:
    """Columns of the histories, the best known first."""
    known = list(dict.fromkeys(key for history in histories for row in history for key in row if key not in COUNTERS))
    known = list(dict.fromkeys([*(k for k in TITLES if k in known), *(k for k in known if k.startswith("gamma_")), *known]))
    words = [word for part in patterns.split(",") if (word := part.strip())]
    if not words:
        return [k for k in known if not k.startswith("lr_") or any(len({row[k] for row in h if k in row}) > 1 for h in histories)]
    selected: list[str] = []
    for word in words:
        matches = [k for k in known if fnmatchcase(k, word)]
        if not matches:
            raise WorkbenchError(f"no history has {word!r}; {nearest(word, known)}there are: {', '.join(known) or 'none'}")
        selected += matches
    return list(dict.fromkeys(selected))


def _title(key: str) -> str:
    site = re.fullmatch(r"gamma_([gd])(\d+)", key)
    return f"gamma, {site[1].upper()} at {site[2]}x{site[2]}" if site else key


def diagnostics(name: str, history: list[dict], spectra: list[dict]) -> Plot:
    """Signs of a healthy training: gradient norms, D's margin and saturation, and the largest singular value of each layer.

    Margin: D's mean logit on real images minus that on fakes. Saturation: share of images where D's hinge loss is flat. Singular values are
    those of the weights, and in the last panel those of the weights at work, after spectral normalization.
    """
    history, spectra = with_margin(records.history(history)), records.spectra(spectra)
    lines: dict[str, list[Line]] = {title: [] for title in UNITS}
    for letter, network, colour in (("d", "D", OF_D), ("g", "G", OF_G)):
        largest = replace(_column(history, f"grad_norm_{letter}_max", f"{network}, max", colour), dash=True, width=1)
        lines["gradient norms"] += [_column(history, f"grad_norm_{letter}", network, colour), largest]
    lines["margin of D"] = [_column(history, "margin_d", "real - fake", OF_D)]
    lines["saturation of D"] = [_column(history, f"saturated_{k}", k, colour) for k, colour in (("real", OF_REAL), ("fake", OF_FAKE))]
    steps = brief_numbers([row["step"] for row in spectra])
    for layer in records.layer_names(spectra):
        rows = [row["layers"].get(layer, MISSING_LAYER) for row in spectra]
        line = partial(Line, steps, name=layer, colour=OF_G if layer[0] == "G" else OF_D, width=1, legend=False, source=layer)
        lines[f"weights of {layer[0]}"].append(line(brief_numbers([row["exact"][0] for row in rows])))
        lines["weights at work"].append(line(brief_numbers([effective(row) for row in rows])))
    panels = [Panel(title, Axis("G step"), Axis(unit, title not in LINEAR), tuple(lines[title])) for title, unit in UNITS.items()]
    return Plot(Chart(name, tuple(panels), legend="panels").thinned())


def singular_values(name: str, spectra: list[dict], network: str = "G") -> Plot:
    """Singular values of the weight of every layer of a network through training, a panel for each layer.

    Solid: the largest two, exact. Dashed: the estimate by which spectral normalization divides the weight.

    Parameters
    ----------
    network
        "G" or "D".

    Raises
    ------
    ParameterError, WorkbenchError
        For another network, or a run without spectra.
    """
    if network not in ("G", "D"):
        raise ParameterError(f"network={network!r} is not one of G, D")
    spectra = records.spectra(spectra)
    if not spectra:
        raise WorkbenchError(f"run {name!r} has no spectra.jsonl yet, or no line of it can be read; singular values come from there")
    steps = brief_numbers([row["step"] for row in spectra])
    panels = []
    for layer in (layer for layer in records.layer_names(spectra) if layer[0] == network):
        rows = [row["layers"].get(layer, MISSING_LAYER) for row in spectra]
        lines = (
            Line(steps, brief_numbers([row["exact"][0] for row in rows]), "largest", "#1f77b4"),
            Line(steps, brief_numbers([(row["exact"] + [None])[1] for row in rows]), "second", "#9ecae1"),
            Line(steps, brief_numbers([row.get("estimate") for row in rows]), "estimate", "#d62728", dash=True),
        )
        panels.append(Panel(layer[2:], lines=tuple(line for line in lines if any(y is not None for y in line.y))))
    title = f"{name}: singular values of the weights of {network}, through training (G steps)"
    return Plot(Chart(title, tuple(panels), columns=4, height=170).thinned())


def growth(runs: Sequence[RunRecords], axis: str = "steps") -> Plot:
    """The largest singular value of any layer of G and of D through training: of the weights, and of the weights at work.

    The runs of a group have one colour: thin lines, and their geometric mean with a band of one standard deviation of the logarithm. Runs
    without spectra are left out.

    Parameters
    ----------
    axis
        "steps", "images" or "hours" (of training), else a ParameterError.
    """
    require_axis(axis)
    parts: dict[str, list[Part]] = {key: [] for key in GROWTH}
    runs = [run._replace(history=records.history(run.history), spectra=records.spectra(run.spectra)) for run in runs]
    for group, colour, members in _by_group(runs):
        largest = [(run, {row["step"]: largest_of_all(row["layers"]) for row in run.spectra}) for run in members if run.spectra]
        for key, of_key in parts.items():
            values = [
                (run.name, _along(run, axis, {step: of_step[key] for step, of_step in steps.items() if of_step.get(key, 0) > 0}))
                for run, steps in largest
            ]
            of_key.append(lines_of_group(group, colour, values, log=True))
    y = Axis("largest singular value", log=True)
    panels = [panel_of_groups(title, Axis(AXES[axis][2]), y, parts[key]) for key, title in GROWTH.items()]
    title = "Largest singular value of any layer; at work: after spectral normalization, if any"
    return Plot(Chart(title, tuple(panels), columns=2, height=230).thinned())


Part = tuple[list[Line], list[Band]]  # the lines and bands of one group in a panel


def require_axis(axis: str) -> None:
    if axis not in AXES:
        raise ParameterError(f"axis={axis!r} is not one of {', '.join(AXES)}")


def _by_group(runs: Sequence[RunRecords]) -> list[tuple[str, str, list[RunRecords]]]:
    """Name, colour and runs of each group, in order of appearance."""
    groups: dict[str, list[RunRecords]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return [(group, colour, groups[group]) for group, colour in zip(groups, colours(len(groups)), strict=True)]


def _along(run: RunRecords, axis: str, values: dict[int, float]) -> Curve:
    xs = along(run.history, axis, list(values)).tolist()
    return {step: (x, value) for (step, value), x in zip(values.items(), xs, strict=True)}


def panel_of_groups(title: str, x: Axis, y: Axis, parts: Sequence[Part]) -> Panel:
    """A panel with the parts of all groups, see `lines_of_group`."""
    return Panel(title, x, y, tuple(line for lines, _ in parts for line in lines), tuple(band for _, bands in parts for band in bands))


def lines_of_group(
    label: str, colour: str, runs: Sequence[tuple[str, Curve]], about: str = "", mode: str = "lines", log: bool = False
) -> Part:
    """Lines of the runs (name, curve) of one group; with several runs also their mean, with a band of one standard deviation.

    `about` is further text at the pointer. With `log`, mean and deviation are those of the logarithms.
    """
    alone = len(runs) == 1
    line = partial(Line, name=label, colour=colour, mode=mode, about=about)
    lines = [
        line(
            brief_numbers([x for x, _ in curve.values()]), brief_numbers([y for _, y in curve.values()]),
            source=name, legend=alone, width=1.6 if alone else 0.8, opacity=1.0 if alone else 0.45,
        )
        for name, curve in runs
    ]  # fmt: skip
    if len(runs) < 2:
        return lines, []
    scale, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    steps, mean, sd = mean_and_sd([{step: float(scale(y)) for step, (_, y) in curve.items()} for _, curve in runs])
    low, high = back(mean - sd), back(mean + sd)
    x = np.mean([[curve[step][0] for step in steps.tolist()] for _, curve in runs], 0)
    source = f"{label}, {'geometric ' if log else ''}mean of {len(runs)}"
    lines.append(line(brief_numbers(x), brief_numbers(back(mean)), width=2, source=source))
    finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(x)
    if finite.sum() < 2:
        return lines, []
    return lines, [Band(rounded(x[finite]), rounded(low[finite]), rounded(high[finite]), label, colour)]


def _column(history: list[dict], key: str, name: str, colour: str) -> Line:
    rows = [row for row in history if key in row]
    return Line(brief_numbers([row["step"] for row in rows]), brief_numbers([row[key] for row in rows]), name, colour)
