"""Figures of what tells why runs go as they go: of one run in full, and how the layers of several runs grow."""

from __future__ import annotations

from collections.abc import Sequence

from ..parameters import ParameterError, WorkbenchError
from ..runs import Run
from ..studies import groups
from ..studies.groups import AXES
from ..training.diagnostics import effective, largest_of_all, margin
from . import records as records_of
from .drawing import Plot
from .panels import add_lines, colours, empty_panels, literal

UNITS = {  # title of a panel -> of its y axis, which is logarithmic for all but the shares and the margin
    "gradient norms": "norm", "margin of D": "logit", "saturation of D": "share of images",
    "weights of G": "largest singular value", "weights of D": "largest singular value", "weights at work": "largest singular value",
}  # fmt: skip
UNKNOWN = dict(exact=[None])  # of a layer that a row of the spectra lacks
LINEAR = ("margin of D", "saturation of D")
GROWTH = {"sigma_g": "weights of G", "at_work_g": "G at work", "sigma_d": "weights of D", "at_work_d": "D at work"}
OF_D, OF_G = colours(2)
OF_REAL, OF_FAKE = colours(4)[2:]


def diagnostics(run: Run, records: dict[str, int] | None = None) -> Plot:
    """Why a training goes as it goes: gradient norms, D's margin and saturation, and the largest singular value of every layer.

    Margin: mean logit of D on real less that on fake images. Saturation: shares of images that D's hinge loss is flat at. The singular
    values are those of the weights; of the last panel those that the layers work with, after spectral normalization where there is any.

    Parameters
    ----------
    records
        How many lines of the history ("history") and of the spectra ("spectra") count: what a sidecar keeps, since the run may go on; by
        default all.
    """
    counted = dict(history=len(run.history()), spectra=len(run.spectra())) | (records or {})
    history = records_of.history(run.history()[: counted["history"]])
    spectra = records_of.spectra(run.spectra()[: counted["spectra"]])
    figure, add = empty_panels(list(UNITS), height=220)

    def line(panel: str, name: str, colour: str, points: list[tuple], dash: str | None = None) -> None:
        style = dict(name=name, mode="lines", line=dict(color=colour, dash=dash, width=1 if dash else 1.6))
        style |= dict(legendgroup=panel, legendgrouptitle_text=panel)
        add(panel, x=[step for step, _ in points], y=[value for _, value in points], **style)

    def column(key: str) -> list[tuple]:
        return [(row["step"], row[key]) for row in history if key in row]

    for letter, name, colour in (("d", "D", OF_D), ("g", "G", OF_G)):
        line("gradient norms", name, colour, column(f"grad_norm_{letter}"))
        line("gradient norms", f"{name}, max", colour, column(f"grad_norm_{letter}_max"), dash="dash")
    line("margin of D", "real - fake", OF_D, [(row["step"], margin(row)) for row in history if margin(row) is not None])
    for name, colour in (("real", OF_REAL), ("fake", OF_FAKE)):
        line("saturation of D", name, colour, column(f"saturated_{name}"))
    steps = [row["step"] for row in spectra]
    for name in records_of.layer_names(spectra):
        rows = [row["layers"].get(name, UNKNOWN) for row in spectra]
        style = dict(name=literal(name), mode="lines", line=dict(color=OF_G if name[0] == "G" else OF_D, width=1), legend=False)
        style["hovertemplate"] = f"{literal(name)}: %{{y:.4g}} at %{{x:,}}<extra></extra>"
        values = {f"weights of {name[0]}": [row["exact"][0] for row in rows], "weights at work": [effective(row) for row in rows]}
        for panel, y in values.items():
            add(panel, x=steps, y=y, legendgroup=panel, **style)
    for panel, unit in UNITS.items():
        add.axes(panel, "G step", unit, log_y=panel not in LINEAR)
    figure.update_layout(title=literal(run.name))
    return Plot(figure, "diagnostics", dict(run=run.reference, records=counted))


def singular_values(run: Run, network: str = "G", records: int | None = None) -> Plot:
    """Singular values of the weight of every layer of a network through training, a panel for each layer.

    Solid: the largest two, exact. Dashed: the estimate that the layer divides its weight by, where it has spectral normalization.

    Parameters
    ----------
    network
        "G" or "D".
    records
        How many lines of the spectra count: what a sidecar keeps, since the run may go on; by default all.

    Raises
    ------
    ParameterError, WorkbenchError
        For another network, or a run that wrote no spectra down.
    """
    if network not in ("G", "D"):
        raise ParameterError(f"network={network!r} is not one of G, D")
    records = len(run.spectra()) if records is None else records
    spectra = records_of.spectra(run.spectra()[:records])
    if not spectra:
        raise WorkbenchError(f"run {run.name!r} has written down no singular values: it is older than they are, or has not begun")
    names = [name for name in records_of.layer_names(spectra) if name[0] == network]
    figure, add = empty_panels(names, columns=4, height=170, titles=[literal(name[2:]) for name in names])
    steps = [row["step"] for row in spectra]
    for name in names:
        rows = [row["layers"].get(name, UNKNOWN) for row in spectra]
        lines = {
            "largest": ([row["exact"][0] for row in rows], dict(color="#1f77b4")),
            "second": ([(row["exact"] + [None])[1] for row in rows], dict(color="#9ecae1")),
            "estimate": ([row.get("estimate") for row in rows], dict(color="#d62728", dash="dash")),
        }
        for label, (values, line) in lines.items():
            if any(value is not None for value in values):
                add(name, x=steps, y=values, name=label, legendgroup=label, line=line, mode="lines", legend=True)
    figure.update_annotations(font_size=11)
    title = f"{literal(run.name)}: singular values of the weights of {network}, through training (G steps)"
    figure.update_layout(title=title, legend=dict(orientation="h", y=-40 / figure.layout.height, yanchor="top"))
    return Plot(figure, "singular_values", dict(run=run.reference, network=network, records=records))


def growth(runs: Sequence[Run], axis: str = "steps", records: dict[str, int] | None = None) -> Plot:
    """The largest singular value of any layer of G and of D through training, of several runs: of the weights, and of those at work.

    Runs that differ in the seed alone are in one colour: thin, and above them their geometric mean with a band of one standard deviation
    of the logarithm. Runs that wrote no spectra down are left out.

    Parameters
    ----------
    axis
        "steps", "images" or "hours" (of training).
    records
        How many lines of the spectra of each run count, by `Run.reference`: what a sidecar keeps; by default all.

    Raises
    ------
    ParameterError
        For another axis.
    """
    if axis not in AXES:
        raise ParameterError(f"axis={axis!r} is not one of {', '.join(AXES)}")
    counted = {run.reference: len(run.spectra()[: (records or {}).get(run.reference)]) for run in runs}
    spectra = {run.path: records_of.spectra(run.spectra()[: counted[run.reference]]) for run in runs}
    members = groups.group(runs)
    figure, add = empty_panels(list(GROWTH.values()), columns=2, height=230)
    for group, colour in zip(members, colours(len(members)), strict=True):
        lines: dict[str, dict] = {key: {} for key in GROWTH}
        for run in (run for run in group.runs if spectra[run.path]):
            steps = [row["step"] for row in spectra[run.path]]
            found = [largest_of_all(row["layers"]) for row in spectra[run.path]]
            places = groups.along(records_of.history(run.history()), axis, steps).tolist()
            for key in GROWTH:
                at = zip(steps, places, found, strict=True)
                lines[key][run] = {step: (place, values[key]) for step, place, values in at if (values.get(key) or 0) > 0}
        for key, panel in GROWTH.items():
            add_lines(add, panel, group.label, colour, lines[key], log=True)
    for panel in GROWTH.values():
        add.axes(panel, AXES[axis][2], "largest singular value", log_y=True)
    title = "Largest singular value of any layer; at work: after spectral normalization, where there is any"
    figure.update_layout(title=title, legend=dict(orientation="h", y=-60 / figure.layout.height, yanchor="top"))
    return Plot(figure, "growth", dict(runs=list(counted), axis=axis, records=counted))


def diagnostics_again(run: str, **how) -> Plot:
    """The figure of a recipe of `diagnostics`."""
    return diagnostics(Run(run), **how)


def singular_values_again(run: str, **how) -> Plot:
    """The figure of a recipe of `singular_values`."""
    return singular_values(Run(run), **how)


def growth_again(runs: list[str], **how) -> Plot:
    """The figure of a recipe of `growth`."""
    return growth([Run(name) for name in runs], **how)
