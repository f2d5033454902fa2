"""Charts of the records of training: histories, and the singular values of the layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np

from ..messages import ParameterError, WorkbenchError, counted
from ..parameters import nearest
from ..records import effective, largest_of_all, with_margin
from ..studies.groups import AXES, along, mean_and_sd
from . import records
from .charts import (
    MOST_POINTS,
    OF_D,
    OF_FAKE,
    OF_G,
    OF_REAL,
    Axis,
    Band,
    Chart,
    Line,
    Panel,
    brief_numbers,
    colours,
    rounded,
    thin,
)  # fmt: skip
from .figure import Plot

TITLES = {  # of the panels of several runs, by column of the history
    "loss_d": "hinge loss of D", "loss_g": "hinge loss of G", "d_real": "D's output on real images", "d_fake": "D's output on fakes",
    "margin_d": "margin of D: real less fake", "saturated_real": "saturation of D, real images", "saturated_fake": "saturation of D, fakes",
    "grad_norm_d": "gradient norm of D", "grad_norm_d_max": "gradient norm of D, largest", "grad_norm_g": "gradient norm of G",
    "grad_norm_g_max": "gradient norm of G, largest",
}  # fmt: skip
UNITS_OF_COLUMNS = {  # start of the name of a column -> title of the y axis
    "loss_": "loss", "d_": "logit", "margin_": "logit", "saturated_": "share of images", "grad_norm_": "norm", "gamma_": "gamma", "lr_": "rate",
}  # fmt: skip
COUNTERS = ("step", "images", "seconds")
UNITS = {  # title of a panel of `diagnostics` -> title of its y axis
    "margin of D": "logit", "saturation of D": "share of images",
    "weights of G": "largest singular value", "weights of D": "largest singular value", "weights at work": "largest singular value",
}  # fmt: skip
LINEAR = ("margin of D", "saturation of D")
OF_EVERY_RUN = ("hinge losses", "D's output")  # other panels are left out where a run has no such values
LOGARITHMIC = ("gradient norms", "learning rates")
LIMITS = {"saturated_real": (0.0, 1.0), "saturated_fake": (0.0, 1.0)}  # what a column can be; a band of deviations ends there
POSITIVE, ANY = (0.0, np.inf), (-np.inf, np.inf)
GROWTH = {"sigma_g": "weights of G", "at_work_g": "G at work", "sigma_d": "weights of D", "at_work_d": "D at work"}
MISSING_LAYER = dict(exact=[None])  # stands for a layer that a row of the spectra lacks


class Curve(NamedTuple):
    """Values (T,) at steps (T,), and their places (T,) on the x axis."""

    steps: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def through(cls, points: Sequence[tuple[int, float, float]]) -> Curve:
        """The curve through points (step, x, value)."""
        steps, x, y = np.array(points, float).reshape(-1, 3).T
        return cls(steps.astype(int), x, y)


class RunRecords(NamedTuple):
    """The records of a run: the names of its group and of the run, and the rows of `Run.history` and `Run.spectra`."""

    group: str
    name: str
    history: list[dict]
    spectra: list[dict] = []


def curves(name: str, history: list[dict], axis: str = "steps", others: Mapping[str, list[dict]] = {}) -> Plot:
    """Losses, D's outputs, gammas and gradient norms of a run, over steps, images or hours; learning rates too, where they change.

    With others, name of a run -> its history, each run has a colour, and what is G's, or of fakes, is dashed.
    """
    require_axis(axis)
    runs = [(name, records.history(history)), *((other, records.history(rows)) for other, rows in others.items())]
    titles = {"hinge losses": "loss", "D's output": "logit", "gamma": "gamma", "gradient norms": "norm"}
    rates = [key for key in ("lr_d", "lr_g") if any(len({row.get(key) for row in rows}) > 1 for _, rows in runs)]
    titles |= {"learning rates": "rate"} if rates else {}
    lines: dict[str, list[Line]] = {title: [] for title in titles}
    for (run, rows), of_run in zip(runs, colours(len(runs)), strict=True):
        gammas = [key for key in (rows[-1] if rows else ()) if key.startswith("gamma_")]
        of_gamma = _colours_of_gammas(gammas)
        topics = {
            "hinge losses": [("loss_d", "D", OF_D), ("loss_g", "G", OF_G)],
            "D's output": [("d_real", "real", OF_REAL), ("d_fake", "fake", OF_FAKE)],
            "gamma": [(key, key.removeprefix("gamma_"), of_gamma[key]) for key in gammas],
            "gradient norms": [("grad_norm_d", "D", OF_D), ("grad_norm_g", "G", OF_G)],
        } | ({"learning rates": [("lr_d", "D", OF_D), ("lr_g", "G", OF_G)]} if rates else {})
        for title, columns in topics.items():
            for key, part, colour in columns:
                line = _column(rows, key, part, colour, axis)
                if others:
                    second = part in ("G", "fake") or part.startswith("g")
                    line = replace(line, name=run, colour=of_run, dash=second, legend=not second, source=f"{part} of {run}")
                lines[title].append(line)
                if title == "gradient norms" and not others:
                    largest = _column(rows, f"{key}_max", f"{part}, max", colour, axis)
                    lines[title].append(replace(largest, dash=True, width=1, legend=False))
    dashed = {title: "fake" if title == "D's output" else "G" for title in titles} if others else {"gradient norms": "largest"}
    panels = []
    for title, unit in titles.items():
        if title not in OF_EVERY_RUN and not any(line.x for line in lines[title]):
            continue
        words = [f"dashed: {dashed[title]}"] if title in dashed else []
        zeros = sum(value == 0 for line in lines[title] for value in line.y) if title in LOGARITHMIC else 0
        words += [f"{zeros} zero{'s are' if zeros > 1 else ' is'} not drawn"] if zeros else []
        full = f"{title} ({'; '.join(words)})" if words else title
        panels.append(Panel(full, time_axis(axis), Axis(unit, title in LOGARITHMIC), tuple(lines[title])))
    note = constant_rates(runs[0][1])
    return Plot(Chart(name, tuple(panels), (note,) if note else (), columns=2, height=230, legend="panels").thinned())


def constant_rates(history: list[dict]) -> str:
    """The learning rates in words, if they stay the same: a line instead of a panel."""
    rates = {name: {row[key] for row in history if key in row} for name, key in (("G", "lr_g"), ("D", "lr_d"))}
    if not all(len(values) == 1 for values in rates.values()):
        return ""
    return "learning rates: " + ", ".join(f"{name} {min(values):.3g}" for name, values in rates.items())


def _colours_of_gammas(keys: Sequence[str]) -> dict[str, str]:
    """The first layer of G and of D have the colours of G and D, others those that nothing else has."""
    free, taken, result = iter(colours(len(keys))), set(), {}
    for key in keys:
        colour = OF_G if key.startswith("gamma_g") else OF_D
        result[key] = next(free) if colour in taken else colour
        taken.add(colour)
    return result


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
    selected = _select_keys([run.history for run in runs if run.history], keys)
    most = max(16, MOST_POINTS // max(1, len(selected) * (len(runs) + len(groups))))
    for key in selected:
        parts = [
            lines_of_group(
                group,
                colour,
                [(run.name, _curve(run.history, axis, [(row["step"], row[key]) for row in run.history if key in row])) for run in members],
                most=most,
                limits=LIMITS.get(key, POSITIVE if key.startswith("grad_norm") else ANY),
            )
            for group, colour, members in groups
        ]
        panels.append(panel_of_groups(TITLES.get(key, _title(key)), time_axis(axis), Axis(_unit(key)), parts))
    title = runs[0].name if len(runs) == 1 else counted(len(runs), "run")
    title += ": mean ± one standard deviation, and every seed" if len(runs) > len(groups) else ""
    title += "; ends and extremes of long curves are drawn" if any(len(run.history) > most for run in runs) else ""
    return Plot(Chart(title, tuple(panels)))


def _select_keys(histories: list[list[dict]], patterns: str) -> list[str]:
    """Columns of the histories, the best known first."""
    known = [key for key in dict.fromkeys(chain.from_iterable(chain.from_iterable(histories))) if key not in COUNTERS]
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


def _unit(key: str) -> str:
    """The title of the y axis of a column."""
    return next((unit for start, unit in UNITS_OF_COLUMNS.items() if key.startswith(start)), "")


def _title(key: str) -> str:
    site = re.fullmatch(r"gamma_([gd])(\d+)", key)
    return f"gamma, {site[1].upper()} at {site[2]}x{site[2]}" if site else key


def diagnostics(name: str, history: list[dict], spectra: list[dict]) -> Plot:
    """Signs of a healthy training: D's margin and saturation, and the largest singular value of each layer.

    Margin: D's mean logit on real images minus that on fakes. Saturation: share of images where D's hinge loss is flat. Singular values are
    those of the weights, and in the last panel those of the weights at work, after spectral normalization.
    """
    history, spectra = with_margin(records.history(history)), records.spectra(spectra)
    lines: dict[str, list[Line]] = {title: [] for title in UNITS}
    lines["margin of D"] = [_column(history, "margin_d", "real - fake", OF_D)]
    lines["saturation of D"] = [_column(history, f"saturated_{k}", k, colour) for k, colour in (("real", OF_REAL), ("fake", OF_FAKE))]
    steps = brief_numbers([row["step"] for row in spectra])
    for layer in records.layer_names(spectra):
        rows = [row["layers"].get(layer, MISSING_LAYER) for row in spectra]
        line = partial(Line, steps, name=layer, colour=OF_G if layer[0] == "G" else OF_D, width=1, legend=False, source=layer)
        lines[f"weights of {layer[0]}"].append(line(brief_numbers([row["exact"][0] for row in rows])))
        lines["weights at work"].append(line(brief_numbers([effective(row) for row in rows])))
    panels = [Panel(title, time_axis("steps"), Axis(unit, title not in LINEAR), tuple(lines[title])) for title, unit in UNITS.items()]
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
    steps, colour = brief_numbers([row["step"] for row in spectra]), OF_G if network == "G" else OF_D
    panels = []
    for layer in (layer for layer in records.layer_names(spectra) if layer[0] == network):
        rows = [row["layers"].get(layer, MISSING_LAYER) for row in spectra]
        lines = (
            Line(steps, brief_numbers([row["exact"][0] for row in rows]), "largest", colour),
            Line(steps, brief_numbers([(row["exact"] + [None])[1] for row in rows]), "second", colour, opacity=0.45),
            Line(steps, brief_numbers([row.get("estimate") for row in rows]), "estimate", dash=True, width=1.2),
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
        largest = [(run, [(row["step"], largest_of_all(row["layers"])) for row in run.spectra]) for run in members if run.spectra]
        for key, of_key in parts.items():
            values = [
                (run.name, _curve(run.history, axis, [(step, of_step[key]) for step, of_step in steps if of_step.get(key, 0) > 0]))
                for run, steps in largest
            ]
            of_key.append(lines_of_group(group, colour, values, log=True))
    y = Axis("largest singular value", log=True)
    panels = [panel_of_groups(title, time_axis(axis), y, parts[key]) for key, title in GROWTH.items()]
    title = "Largest singular value of any layer; at work: after spectral normalization, if any"
    return Plot(Chart(title, tuple(panels), columns=2, height=230).thinned())


Part = tuple[list[Line], list[Band]]  # the lines and bands of one group in a panel


def time_axis(axis: str) -> Axis:
    """The x axis "steps", "images" or "hours"."""
    return Axis(AXES[axis][2], whole=axis != "hours")


def require_axis(axis: str) -> None:
    if axis not in AXES:
        raise ParameterError(f"axis={axis!r} is not one of {', '.join(AXES)}")


def _by_group(runs: Sequence[RunRecords]) -> list[tuple[str, str, list[RunRecords]]]:
    """Name, colour and runs of each group, in order of appearance."""
    groups: dict[str, list[RunRecords]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return [(group, colour, groups[group]) for group, colour in zip(groups, colours(len(groups)), strict=True)]


def _curve(history: list[dict], axis: str, points: Sequence[tuple[int, float]]) -> Curve:
    """Points (step, value) of a run with this history."""
    steps, y = np.array(points, float).reshape(-1, 2).T
    return Curve(steps.astype(int), along(history, axis, steps), y)


def panel_of_groups(title: str, x: Axis, y: Axis, parts: Sequence[Part]) -> Panel:
    """A panel with the parts of all groups, see `lines_of_group`."""
    return Panel(title, x, y, tuple(line for lines, _ in parts for line in lines), tuple(band for _, bands in parts for band in bands))


def lines_of_group(
    label: str, colour: str, runs: Sequence[tuple[str, Curve]], about: str = "", mode: str = "lines", log: bool = False, most: int = 0,
    limits: tuple[float, float] = ANY,
) -> Part:  # fmt: skip
    """Lines of the runs (name, curve) of one group; with several runs also their mean, with a band of one standard deviation.

    `about` is further text at the pointer. With `log`, mean and deviation are those of the logarithms. With `most`, lines are thinned to
    about so many points. The band ends at the limits of what a value can be.
    """
    alone = len(runs) == 1
    line = partial(Line, name=label, colour=colour, mode=mode, about=about)

    def kept(y: np.ndarray) -> np.ndarray:
        return thin(y, most) if most else np.arange(len(y))

    lines = []
    for name, curve in runs:
        keep = kept(curve.y)
        x, y = brief_numbers(curve.x[keep]), brief_numbers(curve.y[keep])
        lines.append(line(x, y, source=name, legend=alone, width=1.6 if alone else 0.8, opacity=1.0 if alone else 0.45))
    if len(runs) < 2:
        return lines, []
    scale, back = (np.log, np.exp) if log else (np.asarray, np.asarray)
    _, mean, sd = mean_and_sd([(curve.steps, scale(curve.y)) for _, curve in runs])
    _, at, _ = mean_and_sd([(curve.steps, curve.x) for _, curve in runs])
    keep = kept(mean)
    at, mean, low, high = (values[keep] for values in (at, back(mean), back(mean - sd).clip(*limits), back(mean + sd).clip(*limits)))
    source = f"{label}, {'geometric ' if log else ''}mean of {len(runs)}"
    lines.append(line(brief_numbers(at), brief_numbers(mean), width=2, source=source))
    finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(at)
    if finite.sum() < 2:
        return lines, []
    return lines, [Band(rounded(at[finite]), rounded(low[finite]), rounded(high[finite]), label, colour)]


def _column(history: list[dict], key: str, name: str, colour: str, axis: str = "steps") -> Line:
    rows = [row for row in history if key in row]
    xs = along(history, axis, [row["step"] for row in rows])
    return Line(brief_numbers(xs), brief_numbers([row[key] for row in rows]), name, colour)
