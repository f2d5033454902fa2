"""The records in `history.jsonl`, `spectra.jsonl` and `evaluations.jsonl`: which are valid, and quantities computed from them.

Readers check every line: a file may be damaged, or from another version.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from .messages import ParameterError, short_repr
from .readers import MAX_INTEGER

BY_TRAINING = "during_training"  # marks evaluations that a run made itself, and repeats after a resume from an earlier step

USUAL = ("images", "seconds", "loss_d", "loss_g", "d_real", "d_fake")  # columns of a history

EXTRACTOR = dict(name=str, sha256=str, reference=bool)
REFERENCE = dict(data=str, fingerprint=str, size=int, n=int)


def is_number(value) -> bool:
    """Whether a value is a number, also NaN or an infinity, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value) -> bool:
    """Whether a value is a finite number that fits into a float."""
    return is_number(value) and abs(value) <= sys.float_info.max


def finite(row: dict) -> dict:
    """The values of a row that are finite numbers."""
    largest = sys.float_info.max
    for value in row.values():
        if type(value) not in (int, float) or not -largest <= value <= largest:
            return {name: value for name, value in row.items() if is_finite(value)}
    return row  # nearly always, and histories are long


def is_whole(value, low: int = 0) -> bool:
    """Whether a value is a whole number from `low` to the largest exact one of JavaScript, 2**53 - 1."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < MAX_INTEGER


def is_history(row: dict) -> bool:
    """Whether a line of `history.jsonl` is valid: a step, and numbers under the usual names."""
    for name in USUAL:
        if name in row and not is_number(row[name]):
            return False
    return is_whole(row.get("step"))


def is_spectra(row: dict) -> bool:
    """Whether a line of `spectra.jsonl` is valid: a step, and the singular values of every layer (None: not finite)."""

    def is_layer(layer) -> bool:
        values = layer.get("exact") if isinstance(layer, dict) else None
        return isinstance(values, list) and bool(values) and all(value is None or is_number(value) for value in values)

    layers = row.get("layers")
    return is_whole(row.get("step")) and isinstance(layers, dict) and all(map(is_layer, layers.values()))


def is_evaluation(row: dict) -> bool:
    """Whether a line of `evaluations.jsonl` is valid: a step, its protocol as text, and scores that are numbers."""
    scores = row.get("scores")
    return (
        is_whole(row.get("step"))
        and isinstance(row.get("protocol"), str)
        and isinstance(scores, dict)
        and all(map(is_number, scores.values()))
    )


def is_comparable(record: dict) -> bool:
    """Whether a valid evaluation can be compared with others: it describes its protocol, extractor and real images."""
    return (
        {"settings", "extractor", "reference"} <= record.keys()
        and _is_settings(record["settings"])
        and _is_none_or(EXTRACTOR, record["extractor"])
        and _is_none_or(REFERENCE, record["reference"])
    )


def _is_settings(value) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _is_none_or(types: Mapping[str, type], value) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in types.items()))


def effective(spectrum: dict) -> float | None:
    """The largest singular value of the weight that a layer applies: after spectral normalization, if the layer has it."""
    largest, divisor = spectrum["exact"][0], spectrum.get("estimate", 1.0)
    return largest / divisor if largest is not None and divisor else None


def largest_of_all(layers: dict[str, dict]) -> dict[str, float]:
    """The largest singular value over the layers of each network, to compare the growth of networks with different layers.

    Parameters
    ----------
    layers
        As `diagnostics.spectra` returns, or `layers` of a row of `Run.spectra`. Layers without a finite value are left out.

    Returns
    -------
    dict
        `sigma_g`, `sigma_d`: of the weights. `at_work_g`, `at_work_d`: see `effective`.
    """
    largest = {}
    for kind, value in (("sigma", lambda layer: layer["exact"][0]), ("at_work", effective)):
        for letter in "GD":
            values = [value(layer) for name, layer in layers.items() if name[0] == letter]
            if numbers := [v for v in values if v is not None]:
                largest[f"{kind}_{letter.lower()}"] = max(numbers)
    return largest


def with_margin(history: list[dict]) -> list[dict]:
    """The rows of `Run.history` with D's margin as `margin_d`: its mean output on real images minus that on fakes."""
    return [row | {"margin_d": row["d_real"] - row["d_fake"]} if {"d_real", "d_fake"} <= row.keys() else row for row in history]


def evaluation_record(
    scores: Mapping[str, float],
    *,
    protocol: str,
    settings: Mapping,
    n: int,
    extractor: Mapping | None,
    reference: Mapping | None,
    step: int | None = None,
    seed: int | None = None,
    errors: Mapping[str, float] | None = None,
    per_class: Mapping[str, Sequence[float | None]] | None = None,
    left_out: Mapping[str, str] | None = None,
    requested: Iterable[str] | None = None,
    seconds: float | None = None,
) -> dict:
    """The record of one evaluation: a line of `evaluations.jsonl`.

    Parameters
    ----------
    scores, errors, per_class
        Score -> its value; its standard deviation; its value for each class, or None. Values that are not finite go to `left_out`.
    protocol
        One line with everything that the scores depend on besides the generator.
    settings
        The same by name; `name` is that of the protocol. Records compare if settings (without `name`), extractor and reference are equal.
    n
        Number of generated images.
    extractor
        `name`, `sha256` of its weights, and whether it is the `reference` Inception; None: the scores need none.
    reference
        The real images: `data`, `fingerprint`, `size` in pixels, and their number `n`; None: the scores need none.
    step, seed
        G step of the checkpoint; seed of the latents. None: the images come from no run.
    left_out
        Score -> why it has no value.
    requested
        The requested scores; None: all that can be computed.
    seconds
        Duration of the evaluation.

    Returns
    -------
    dict
        Ready for JSON; also `time`, in seconds since 1970.

    Raises
    ------
    ParameterError
        If the record would not be valid, or not comparable.
    """
    finite = {name: value for name, value in scores.items() if is_finite(value)}
    record = dict(
        scores=finite,
        errors={name: value for name, value in (errors or {}).items() if name in finite},
        per_class={name: list(values) for name, values in (per_class or {}).items()},
        left_out=dict(left_out or {}) | {name: f"it came out as {value}" for name, value in scores.items() if name not in finite},
        protocol=protocol,
        settings=dict(settings),
        n=n,
        extractor=None if extractor is None else dict(extractor),
        reference=None if reference is None else dict(reference),
        seed=seed,
        requested="all" if requested is None else sorted(requested),
        seconds=seconds,
        time=time.time(),
    )
    fits = dict(
        scores=all(map(is_number, scores.values())), protocol=isinstance(protocol, str), settings=_is_settings(record["settings"]),
        extractor=_is_none_or(EXTRACTOR, record["extractor"]), reference=_is_none_or(REFERENCE, record["reference"]),
    )  # fmt: skip
    for name, fit in fits.items():
        if not fit:
            value = scores if name == "scores" else record[name]
            raise ParameterError(f"{name}={short_repr(value)} does not fit an evaluation: see evaluation_record")
    if step is None:
        return record
    if not is_whole(step):
        raise ParameterError(f"step={short_repr(step)} is not a step: a whole number from 0 on")
    return dict(step=step) | record
