"""The records of a run as figures and the dashboard draw them: numbers and NaN, whatever the files hold."""

from __future__ import annotations

import math

from ..records import is_evaluation, is_number, is_spectra, is_step

LARGEST = 1e300  # beyond it axes overflow


def number(value) -> float | int | None:
    """A number to draw: NaN where it is not finite or too large for an axis; None for what is no number."""
    if not is_number(value):
        return None
    return value if abs(value) < LARGEST else math.nan


def history(rows: list[dict]) -> list[dict]:
    """Rows of `Run.history` with a step, of which what is no number is left out."""
    numbers = ({key: number(value) for key, value in row.items()} for row in rows if is_step(row.get("step")))
    return [{key: value for key, value in row.items() if value is not None} for row in numbers]


def spectra(rows: list[dict]) -> list[dict]:
    """Rows of `Run.spectra` with step and layers; singular values that cannot be drawn are None."""
    return [
        dict(step=row["step"], layers={name: layer for name, of in row["layers"].items() if (layer := _layer(name, of))})
        for row in rows
        if is_spectra(row)
    ]


def layer_names(rows: list[dict]) -> list[str]:
    """The layers of rows of `spectra`, in the order in which they are met."""
    return list(dict.fromkeys(name for row in rows for name in row["layers"]))


def evaluations(rows: list[dict]) -> list[dict]:
    """Rows of `Run.evaluations` with step, protocol and scores that are numbers."""
    return [row | dict(scores={name: number(value) for name, value in row["scores"].items()}) for row in rows if is_evaluation(row)]


def _layer(name: str, of: dict) -> dict | None:
    """What is known of a layer of G or D, or None."""
    if name[:2] not in ("G/", "D/"):
        return None
    estimate = _finite(of.get("estimate"))
    return dict(exact=[_finite(value) for value in of["exact"]]) | ({} if estimate is None else dict(estimate=estimate))


def _finite(value) -> float | int | None:
    value = number(value)
    return None if value is None or math.isnan(value) else value
