"""The records in `history.jsonl`, `spectra.jsonl` and `evaluations.jsonl`: which are valid, and what follows from them.

Readers check every line: a file may be damaged, or of another version.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence

from .messages import ParameterError, short_repr

BY_TRAINING = "during_training"  # key of evaluations that a training repeats when it is resumed from before them
MAX_STEP = 2**53  # the largest integer of JSON in every language

EXTRACTOR = dict(name=str, sha256=str, reference=bool)
REFERENCE = dict(data=str, fingerprint=str, size=int, n=int)

# ------------------------------------------------------------------------------------------------------- values


def is_number(value) -> bool:
    """Whether a value of a record is a number, NaN and infinities included; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_finite(value) -> bool:
    """Whether a value of a record is a finite number that a float holds."""
    return is_number(value) and abs(value) <= sys.float_info.max


def is_step(value) -> bool:
    """Whether a value of a record is a step."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_STEP


# -------------------------------------------------------------------------------------------------------- lines


def is_history(row: dict) -> bool:
    """Whether a line of `history.jsonl` is valid: a step, and numbers for the names that every line has."""
    names = ("images", "seconds", "loss_d", "loss_g", "d_real", "d_fake")
    return is_step(row.get("step")) and all(is_number(row[name]) for name in names if name in row)


def is_spectra(row: dict) -> bool:
    """Whether a line of `spectra.jsonl` is valid: a step, and the singular values of every layer (None: not finite)."""

    def is_layer(layer) -> bool:
        values = layer.get("exact") if isinstance(layer, dict) else None
        return isinstance(values, list) and bool(values) and all(value is None or is_number(value) for value in values)

    layers = row.get("layers")
    return is_step(row.get("step")) and isinstance(layers, dict) and all(map(is_layer, layers.values()))


def is_evaluation(row: dict) -> bool:
    """Whether a line of `evaluations.jsonl` is valid: a step, its protocol in words, and scores that are numbers."""
    scores = row.get("scores")
    return (
        is_step(row.get("step"))
        and isinstance(row.get("protocol"), str)
        and isinstance(scores, dict)
        and all(map(is_number, scores.values()))
    )


def is_comparable(record: dict) -> bool:
    """Whether a valid evaluation can be compared with others: it has the settings of its protocol, extractor and real images."""
    return (
        {"settings", "extractor", "reference"} <= record.keys()
        and _is_settings(record["settings"])
        and _is_record_of(EXTRACTOR, record["extractor"])
        and _is_record_of(REFERENCE, record["reference"])
    )


def _is_settings(value) -> bool:
    return isinstance(value, dict) and isinstance(value.get("name"), str)


def _is_record_of(kinds: Mapping[str, type], value) -> bool:
    return value is None or (isinstance(value, dict) and all(isinstance(value.get(name), kind) for name, kind in kinds.items()))


# ------------------------------------------------------------------------------------------- derived from lines


def effective(spectrum: dict) -> float | None:
    """The largest singular value of a layer's weight at work: after spectral normalization, if the layer has it."""
    largest, divisor = spectrum["exact"][0], spectrum.get("estimate", 1.0)
    return largest / divisor if largest is not None and divisor else None


def largest_of_all(layers: dict[str, dict]) -> dict[str, float]:
    """The largest singular value over the layers of each network: `sigma_g`, `sigma_d` of weights, `at_work_g`, `at_work_d` of weights at work.

    Four numbers that compare the growth of networks with different layers. Layers without a finite value are left out.

    Parameters
    ----------
    layers
        What `diagnostics.spectra` returns, or `layers` of a row of `Run.spectra`.
    """
    largest = {}
    for kind, value in (("sigma", lambda layer: layer["exact"][0]), ("at_work", effective)):
        for letter in "GD":
            values = [value(layer) for name, layer in layers.items() if name[0] == letter]
            if numbers := [v for v in values if v is not None]:
                largest[f"{kind}_{letter.lower()}"] = max(numbers)
    return largest


def margin(row: dict) -> float | None:
    """D's margin, from a row of `Run.history`: its mean output on real images minus that on fakes; None if the row lacks them."""
    return row["d_real"] - row["d_fake"] if "d_real" in row and "d_fake" in row else None


def with_margin(history: list[dict]) -> list[dict]:
    """The rows of `Run.history` with D's margin as `margin_d`."""
    return [row if margin(row) is None else row | {"margin_d": margin(row)} for row in history]


# ---------------------------------------------------------------------------------------------------- evaluations


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
    scores
        Name -> value. Values that are not finite go to `left_out`.
    protocol
        Everything that the scores depend on besides the generator, in one line.
    settings
        The same by name; `name` is that of the protocol. Records compare if settings (without `name`), extractor and reference are equal.
    n
        Number of generated images.
    extractor
        `name`, `sha256` of its weights, and whether it is the `reference` Inception; None: the scores need none.
    reference
        The real images: `data`, `fingerprint`, `size` in pixels, and their number `n`; None: the scores need none.
    step
        G step of the checkpoint; None: the images are of no run.
    seed
        Seed of the latents; None: the images are of no run.
    errors
        Standard deviations of some scores.
    per_class
        Score -> a value for each class, or None.
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
        extractor=_is_record_of(EXTRACTOR, record["extractor"]), reference=_is_record_of(REFERENCE, record["reference"]),
    )  # fmt: skip
    for name, fit in fits.items():
        if not fit:
            raise ParameterError(
                f"{name}={short_repr(scores if name == 'scores' else record[name])} does not fit an evaluation: see evaluation_record"
            )
    if step is None:
        return record
    if not is_step(step):
        raise ParameterError(f"step={short_repr(step)} is not a step: a whole number from 0 on")
    return dict(step=step) | record
