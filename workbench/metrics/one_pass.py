"""One pass over generated images, and every score that was requested."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..messages import nearest, short_repr
from ..parameters import ParameterError, WorkbenchError
from ..progress import silent
from .extractors import Extractor
from .limits import feature_array
from .protocols import Protocol
from .references import Reference
from .scores import SCORES, Collected, ImageSet, Inputs, Score, Value
from .stream import features_in_order, is_main


def select(scores: str | Iterable[str], extractor: Extractor) -> set[str] | None:
    """The scores that a parameter names, as keys of SCORES; None stands for all that can be computed.

    Raises
    ------
    ParameterError
        For an unknown score, or one whose name belongs to the reference Inception alone.
    """
    names = [name.strip() for name in (scores.split(",") if isinstance(scores, str) else scores)]
    names = [name for name in names if name]
    if not names or names == ["all"]:
        return None
    general = {score.general: name for name, score in SCORES.items()}
    for name in names:
        if name not in SCORES and name not in general:
            known = sorted({*SCORES, *general})
            raise ParameterError(f"scores={short_repr(name)} is not known; {nearest(name, known)}any of: {', '.join(known)}")
        if name in SCORES and name not in general and not extractor.reference:
            raise ParameterError(
                f"scores={name!r} is defined by the reference Inception, and the extractor is {extractor.label}: set extractor='inception', "
                f"or ask for {SCORES[name].general!r}"
            )
    return {general.get(name, name) for name in names}


@dataclass(frozen=True)
class Plan:
    """Which scores are computed, and which are not and why."""

    inputs: Inputs
    scores: tuple[type[Score], ...]
    left_out: dict[str, str]  # the name that a score is requested by -> why it cannot be computed

    @property
    def features(self) -> int:
        """Of how many samples, the first ones, the features are kept."""
        return max((score.features(self.inputs) for score in self.scores), default=0)


def plan(
    scores: set[str] | None,
    extractor: Extractor,
    protocol: Protocol,
    samples: ImageSet,
    real: ImageSet | None,
    widths: tuple[int, int],
    truth: bool = False,
    among: Iterable[str] = SCORES,
) -> Plan:
    """What can be computed of these images; nothing is computed yet.

    Parameters
    ----------
    scores
        Keys of SCORES that are requested; None: all of `among` that can be computed.
    samples, real
        The generated images, and the real ones that they are scored against.
    widths
        Features and logits of an image, as of `Extractor.widths`.
    truth
        Whether there is ground truth.

    Raises
    ------
    ParameterError
        If a score that is requested cannot be computed; the message says why.
    """
    inputs = Inputs(extractor, protocol, widths, samples, real, truth, keep_all=bool(scores and "intra_fid" in scores))
    considered = [score for name, score in SCORES.items() if name in (scores or set(among))]
    missing = {score: reason for score in considered if (reason := score.missing(inputs))}
    if scores and missing:
        score, reason = next(iter(missing.items()))
        raise ParameterError(f"scores={score.request(extractor)!r} cannot be computed: {reason}")
    left_out = {score.request(extractor): reason for score, reason in missing.items()}
    return Plan(inputs, tuple(score for score in considered if score not in missing), left_out)


def measure(
    images_of: Callable[[int, int], tuple[Tensor, Tensor | None]],
    reference: Reference | None,
    plan: Plan,
    truth: Callable[[Tensor, Tensor | None], dict[str, Tensor]] | None = None,
    batch_size: int = 64,
    progress: Callable | None = None,
    what: str = "images",
) -> dict | None:
    """Score `protocol.n` images in one pass. All processes take part; only the main one gets the result.

    Parameters
    ----------
    images_of
        As for `features_in_order`.
    reference
        Of the real images; without it, only what needs none is computed.
    truth
        Called as `truth(images, labels)`: numbers (B,) by name of which the medians are scores (of "readable": the mean).
    progress, what
        As for `reference`, called with `what` as its text.

    Returns
    -------
    dict or None
        What `records.evaluation_record` takes: `scores`: name -> value; `errors`: standard deviations of some; `per_class`: name -> a
        value for each class; `left_out`: score -> why it is not there; `protocol`: one line; `settings`: the protocol; `n`; `extractor`;
        `reference`; `seconds`.
    """
    began = time.monotonic()
    inputs, protocol, n = plan.inputs, plan.inputs.protocol, plan.inputs.protocol.n
    scores = [score(inputs, reference) for score in plan.scores] if is_main() else []
    collected = Collected(np.zeros(n, np.int64))
    bias = getattr(inputs.extractor.network, "logit_bias", None) if protocol.logit_bias else None

    def columns(images: Tensor, labels: Tensor | None) -> Tensor:
        values = truth(images, labels)
        collected.truths = list(values)
        return torch.stack([value.float() for value in values.values()], 1)

    columns_of = columns if SCORES["truth"] in plan.scores else None
    with (progress or silent)(n, what) as advance:
        for chunk in features_in_order(images_of, n, inputs.extractor, protocol.to_pixels, columns_of, batch_size, advance):
            first, last = chunk.start, chunk.start + len(chunk.features)
            chunk = chunk if bias is None else replace(chunk, logits=chunk.logits + bias.to(chunk.logits))
            for score in scores:
                score.update(chunk)
            collected.labels[first:last] = chunk.labels.cpu().numpy()
            if first < plan.features:
                if collected.features is None:
                    collected.features = feature_array(plan.features, chunk.features.shape[1])
                collected.features[first:last] = chunk.features[: plan.features - first].cpu().numpy()
    if not is_main():
        return None
    result = dict(scores={}, errors={}, per_class={}, left_out=dict(plan.left_out))
    with (progress or silent)(len(scores), "scores") as advance:
        for score in scores:
            try:
                for value in score.compute(collected):
                    _add(result, value)
            except (WorkbenchError, RuntimeError) as error:  # no memory, an eigenvalue that does not converge; the others are kept
                result["left_out"][score.request(inputs.extractor)] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            advance(1)
    return result | header(reference, inputs.extractor, protocol) | dict(seconds=round(time.monotonic() - began, 1))


def _add(result: dict, value: Value) -> None:
    for key, part in (("scores", value.value), ("errors", value.error), ("per_class", value.per_class), ("left_out", value.reason or None)):
        if part is not None:
            result[key][value.name] = part


def header(reference: Reference | None, extractor: Extractor, protocol: Protocol) -> dict:
    """What a record says of how its scores came about."""
    real = {key: reference.facts[key] for key in ("data", "fingerprint", "size", "n")} if reference else None
    return dict(
        protocol=f"{protocol.line(real['n'] if real else None)}; {extractor.label}",
        settings=asdict(protocol),
        n=protocol.n,
        extractor=dict(name=extractor.name, sha256=extractor.digest, reference=extractor.reference),
        reference=real,
    )
