"""Charts of what runs write down while they train: their histories, and the singular values of their layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from ..parameters import ParameterError, WorkbenchError, nearest
from ..records import effective, largest_of_all, with_margin
from ..studies.groups import AXES, along, mean_and_sd
from . import records
from .charts import MOST_POINTS, Axis, Band, Chart, Line, Panel, brief_numbers, colours
from .figure import Plot

TOPICS = {  # title of a panel, unit of its y axis -> column of the history: name in the legend; or the beginning of columns
    ("hinge losses", "loss"): {"loss_d": "D", "loss_g": "G"},
    ("D's output", "logit"): {"d_real": "real", "d_fake": "fake"},
    ("gamma of the attention layers", "gamma"): "gamma_",
    ("learning rates", "rate"): {"lr_d": "D", "lr_g": "G"},
}
TITLES = {  # of the panels of several runs, by column of the history
    "loss_d": "hinge loss of D", "loss_g": "hinge loss of G", "d_real": "D's output on real images", "d_fake": "D's output on fakes",
    "margin_d": "margin of D: real less fake", "saturated_real": "saturation of D, real images", "saturated_fake": "saturation of D, fakes",
    "grad_norm_d": "gradient norm of D", "grad_norm_d_max": "gradient norm of D, largest", "grad_norm_g": "gradient norm of G",
    "grad_norm_g_max": "gradient norm of G, largest",
}  # fmt: skip
COUNTERS = ("step", "images", "seconds")
UNITS = {  # title of a panel of `diagnostics` -> of its y axis, which is logarithmic for all but the shares and the margin
    "gradient norms": "norm", "margin of D": "logit", "saturation of D": "share of images",
    "weights of G": "largest singular value", "weights of D": "largest singular value", "weights at work": "largest singular value",
}  # fmt: skip
LINEAR = ("margin of D", "saturation of D")
GROWTH = {"sigma_g": "weights of G", "at_work_g": "G at work", "sigma_d": "weights of D", "at_work_d": "D at work"}
UNKNOWN = dict(exact=[None])  # of a layer that a row of the spectra lacks
OF_D, OF_G, OF_REAL, OF_FAKE = colours(4)


class RunRecords(NamedTuple):
    """What a run wrote down: its name and that of its group of seeds, rows of `Run.history` and of `Run.spectra`."""

    group: str
    name: str
    history: list[dict]
    spectra: list[dict] = []


def curves(name: str, history: list[dict]) -> Plot:
    """Losses, D's outputs, gammas and learning rates of a run, over steps."""
    history = records.history(history)
    panels = []
    for (title, unit), columns in TOPICS.items():
        if isinstance(columns, str):
            columns = {key: key.removeprefix(columns) for key in (history[-1] if history else {}) if key.startswith(columns)}
        lines = [_column(history, key, label, colour) for (key, label), colour in zip(columns.items(), colours(len(columns)), strict=True)]
        panels.append(Panel(title, Axis("G step"), Axis(unit), tuple(lines)))
    return Plot(Chart(name, tuple(panels), columns=2, height=230, legend="panels").thinned())


def curves_by_group(runs: Sequence[RunRecords], axis: str = "steps", keys: str = "") -> Plot:
    """A panel for every number of the histories of several runs and for D's margin.

    Runs of one group are in one colour: thin, and above them their mean with a band of one standard deviation (n - 1), which ends where the
    first of them does.

    Parameters
    ----------
    axis
        "steps", "images" or "hours" (of training).
    keys
        Numbers of the history to draw, or patterns such as `gamma_*`, separated by commas; by default all but learning rates that never
        change.

    Raises
    ------
    ParameterError, WorkbenchError
        For another axis, or a key that no history has.
    """
    require_axis(axis)
    runs = [run._replace(history=with_margin(records.history(run.history))) for run in runs]
    panels = []
    for key in _chosen_keys([run.history for run in runs if run.history], keys):
        lines, bands = [], []
        for group, colour in group_colours(runs).items():
            values = [
                (run.name, _along(run, axis, {row["step"]: row[key] for row in run.history if key in row}))
                for run in runs
                if run.group == group
            ]
            of_group = lines_of_group(group, colour, values)
            lines, bands = lines + of_group[0], bands + of_group[1]
        panels.append(Panel(TITLES.get(key, _title(key)), Axis(AXES[axis][2]), lines=tuple(lines), bands=tuple(bands)))
    several = len(runs) > len(group_colours(runs))
    title = title_of_runs(runs) + (": mean ± one standard deviation, and every seed" if several else "")
    chart = Chart(title, tuple(panels))
    thinned = chart.thinned(MOST_POINTS)
    return Plot(chart if thinned is chart else replace(thinned, title=f"{title}; ends and extremes of long curves are drawn"))


def _chosen_keys(histories: list[list[dict]], wanted: str) -> list[str]:
    """Numbers of the history, the best known first."""
    known = list(dict.fromkeys(key for history in histories for row in history for key in row if key not in COUNTERS))
    order = [k for k in TITLES if k in known] + [k for k in known if k.startswith("gamma_")]
    known = order + [k for k in known if k not in order]
    if not wanted.strip(" ,"):
        return [k for k in known if not k.startswith("lr_") or any(len({row[k] for row in h if k in row}) > 1 for h in histories)]
    chosen = []
    for word in filter(None, (part.strip() for part in wanted.split(","))):
        matches = [k for k in known if fnmatchcase(k, word)]
        if not matches:
            raise WorkbenchError(f"no history has {word!r}; {nearest(word, known)}there are: {', '.join(known) or 'none'}")
        chosen += matches
    return list(dict.fromkeys(chosen))


def _title(key: str) -> str:
    site = re.fullmatch(r"gamma_([gd])(\d+)", key)
    return f"gamma, {site[1].upper()} at {site[2]}x{site[2]}" if site else key


def diagnostics(name: str, history: list[dict], spectra: list[dict]) -> Plot:
    """Why a training goes as it goes: gradient norms, D's margin and saturation, and the largest singular value of every layer.

    Margin: mean logit of D on real less that on fake images. Saturation: shares of images that D's hinge loss is flat at. The singular
    values are those of the weights; of the last panel those that the layers work with, after spectral normalization where there is any.
    """
    history, spectra = with_margin(records.history(history)), records.spectra(spectra)
    lines = {title: [] for title in UNITS}
    for letter, network, colour in (("d", "D", OF_D), ("g", "G", OF_G)):
        largest = replace(_column(history, f"grad_norm_{letter}_max", f"{network}, max", colour), dash=True, width=1)
        lines["gradient norms"] += [_column(history, f"grad_norm_{letter}", network, colour), largest]
    lines["margin of D"] = [_column(history, "margin_d", "real - fake", OF_D)]
    lines["saturation of D"] = [_column(history, f"saturated_{k}", k, colour) for k, colour in (("real", OF_REAL), ("fake", OF_FAKE))]
    steps = brief_numbers([row["step"] for row in spectra])
    for layer in records.layer_names(spectra):
        rows = [row["layers"].get(layer, UNKNOWN) for row in spectra]
        style = dict(name=layer, colour=OF_G if layer[0] == "G" else OF_D, width=1, legend=False, source=layer)
        lines[f"weights of {layer[0]}"].append(Line(steps, brief_numbers([row["exact"][0] for row in rows]), **style))
        lines["weights at work"].append(Line(steps, brief_numbers([effective(row) for row in rows]), **style))
    panels = [Panel(title, Axis("G step"), Axis(unit, title not in LINEAR), tuple(lines[title])) for title, unit in UNITS.items()]
    return Plot(Chart(name, tuple(panels), legend="panels").thinned())


def singular_values(name: str, spectra: list[dict], network: str = "G") -> Plot:
    """Singular values of the weight of every layer of a network through training, a panel for each layer.

    Solid: the largest two, exact. Dashed: the estimate that the layer divides its weight by, where it has spectral normalization.

    Parameters
    ----------
    network
        "G" or "D".

    Raises
    ------
    ParameterError, WorkbenchError
        For another network, or a run that wrote no spectra down.
    """
    if network not in ("G", "D"):
        raise ParameterError(f"network={network!r} is not one of G, D")
    spectra = records.spectra(spectra)
    if not spectra:
        raise WorkbenchError(f"run {name!r} has no spectra.jsonl yet, or none that can be read: no singular values to show")
    steps = brief_numbers([row["step"] for row in spectra])
    panels = []
    for layer in (layer for layer in records.layer_names(spectra) if layer[0] == network):
        rows = [row["layers"].get(layer, UNKNOWN) for row in spectra]
        values = {
            "largest": ([row["exact"][0] for row in rows], dict(colour="#1f77b4")),
            "second": ([(row["exact"] + [None])[1] for row in rows], dict(colour="#9ecae1")),
            "estimate": ([row.get("estimate") for row in rows], dict(colour="#d62728", dash=True)),
        }
        lines = [Line(steps, brief_numbers(numbers), label, **style) for label, (numbers, style) in values.items()]
        panels.append(Panel(layer[2:], lines=tuple(line for line in lines if any(y is not None for y in line.y))))
    title = f"{name}: singular values of the weights of {network}, through training (G steps)"
    return Plot(Chart(title, tuple(panels), columns=4, height=170).thinned())


def growth(runs: Sequence[RunRecords], axis: str = "steps") -> Plot:
    """The largest singular value of any layer of G and of D through training, of several runs: of the weights, and of those at work.

    Runs of one group are in one colour: thin, and above them their geometric mean with a band of one standard deviation of the logarithm.
    Runs without spectra are left out.

    Parameters
    ----------
    axis
        "steps", "images" or "hours" (of training).

    Raises
    ------
    ParameterError
        For another axis.
    """
    require_axis(axis)
    runs = [run._replace(history=records.history(run.history), spectra=records.spectra(run.spectra)) for run in runs]
    lines, bands = ({key: [] for key in GROWTH} for _ in range(2))
    for group, colour in group_colours(runs).items():
        members = [
            (run, {row["step"]: largest_of_all(row["layers"]) for row in run.spectra}) for run in runs if run.group == group and run.spectra
        ]
        for key in GROWTH:
            values = [
                (run.name, _along(run, axis, {step: found[key] for step, found in rows.items() if (found.get(key) or 0) > 0}))
                for run, rows in members
            ]
            of_group = lines_of_group(group, colour, values, log=True)
            lines[key] += of_group[0]
            bands[key] += of_group[1]
    y = Axis("largest singular value", log=True)
    panels = [Panel(title, Axis(AXES[axis][2]), y, tuple(lines[key]), tuple(bands[key])) for key, title in GROWTH.items()]
    title = "Largest singular value of any layer; at work: after spectral normalization, where there is any"
    return Plot(Chart(title, tuple(panels), columns=2, height=230).thinned())


# ---------------------------------------------------------------------------------------------- lines of several runs


def require_axis(axis: str) -> None:
    if axis not in AXES:
        raise ParameterError(f"axis={axis!r} is not one of {', '.join(AXES)}")


def group_colours(runs: Sequence[RunRecords]) -> dict[str, str]:
    """A colour for each group, in the order in which they are met."""
    groups = list(dict.fromkeys(run.group for run in runs))
    return dict(zip(groups, colours(len(groups)), strict=True))


def title_of_runs(runs: Sequence[RunRecords]) -> str:
    return runs[0].name if len(runs) == 1 else f"{len(runs)} runs"


def _along(run: RunRecords, axis: str, values: dict[int, float]) -> dict[int, tuple[float, float]]:
    """{step: (place on the axis, value)}"""
    places = along(run.history, axis, list(values)).tolist()
    return {step: (place, value) for (step, value), place in zip(values.items(), places, strict=True)}


def lines_of_group(
    label: str,
    colour: str,
    runs: Sequence[tuple[str, dict[int, tuple[float, float]]]],
    about: str = "",
    mode: str = "lines",
    log: bool = False,
) -> tuple[list[Line], list[Band]]:
    """Lines of runs of one group, and where there are several, above them their mean with a band of one standard deviation.

    Parameters
    ----------
    runs
        Name of a run, and its {step: (place on the axis, value)}.
    about
        What else a pointer shows.
    log
        Mean and deviation are those of the logarithms, as a logarithmic axis has them; values are positive.
    """
    alone = len(runs) == 1
    style = dict(name=label, colour=colour, mode=mode, about=about)
    look = dict(width=1.6, opacity=1.0) if alone else dict(width=0.8, opacity=0.45)
    lines = [
        Line(
            brief_numbers([x for x, _ in values.values()]),
            brief_numbers([y for _, y in values.values()]),
            source=name,
            legend=alone,
            **look,
            **style,
        )
        for name, values in runs
    ]
    if len(runs) < 2:
        return lines, []
    scale, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    steps, mean, sd = mean_and_sd([{step: scale(value) for step, (_, value) in values.items()} for _, values in runs])
    mean, low, high = back(mean), back(mean - sd), back(mean + sd)
    x = np.mean([[values[step][0] for step in steps.tolist()] for _, values in runs], 0)
    of = f"{'geometric ' if log else ''}mean of {len(runs)}"
    lines.append(Line(brief_numbers(x), brief_numbers(mean), width=2, source=f"{label}, {of}", **style))
    there = np.isfinite(low) & np.isfinite(high) & np.isfinite(x)
    borders = (brief_numbers(values[there]) for values in (x, low, high))
    return lines, [Band(*borders, label, colour)] if there.sum() > 1 else []


def _column(history: list[dict], key: str, name: str, colour: str) -> Line:
    rows = [row for row in history if key in row]
    return Line(brief_numbers([row["step"] for row in rows]), brief_numbers([row[key] for row in rows]), name, colour)
