"""The records of a run as numbers that figures and the dashboard can draw, whatever the files contain."""

from __future__ import annotations

import math

from ..records import is_evaluation, is_number, is_spectra, is_whole

LARGEST = 1e300  # larger numbers overflow axes


def number(value) -> float | int | None:
    """A number to draw: NaN if it is infinite or too large for an axis; None if the value is not a number."""
    if not is_number(value):
        return None
    return value if abs(value) < LARGEST else math.nan


def history(rows: list[dict]) -> list[dict]:
    """Rows of `Run.history` that have a step; other values than numbers are left out."""
    return [_numbers(row) for row in rows if is_whole(row.get("step"))]


def _numbers(row: dict) -> dict:
    for value in row.values():
        if type(value) not in (int, float) or not -LARGEST < value < LARGEST:
            break
    else:
        return row  # nearly always, and histories are long
    numbers = {key: number(value) for key, value in row.items()}
    return {key: value for key, value in numbers.items() if value is not None}


def spectra(rows: list[dict]) -> list[dict]:
    """Valid rows of `Run.spectra`; singular values that cannot be drawn are None."""
    return [
        dict(step=row["step"], layers={name: _layer(layer) for name, layer in row["layers"].items() if name[:2] in ("G/", "D/")})
        for row in rows
        if is_spectra(row)
    ]


def layer_names(rows: list[dict]) -> list[str]:
    """The layers of rows of `spectra`, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row["layers"]))


def evaluations(rows: list[dict]) -> list[dict]:
    """Valid rows of `Run.evaluations`."""
    return [row | dict(scores={name: number(value) for name, value in row["scores"].items()}) for row in rows if is_evaluation(row)]


def _layer(layer: dict) -> dict:
    estimate = _finite(layer.get("estimate"))
    return dict(exact=[_finite(value) for value in layer["exact"]]) | ({} if estimate is None else dict(estimate=estimate))


def _finite(value) -> float | int | None:
    value = number(value)
    return None if value is None or math.isnan(value) else value
