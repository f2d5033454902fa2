"""One pass over generated images that computes all requested scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace

import numpy as np
from torch import Tensor

from ..messages import ParameterError, WorkbenchError, nearest, one_line, short_repr
from ..progress import silent
from .extractors import Extractor
from .protocols import Protocol
from .references import Reference
from .resources import feature_array
from .scores import SCORES, Collected, ImageSet, Inputs, Score
from .stream import features_in_order, is_main


def select(scores: str | Iterable[str], extractor: Extractor) -> set[str] | None:
    """The keys of SCORES that a parameter names; None: all that can be computed.

    A ParameterError for an unknown score, or one that only the reference Inception defines.
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
                f"or scores={SCORES[name].general!r}"
            )
    return {general.get(name, name) for name in names}


@dataclass(frozen=True)
class Plan:
    """Which scores are computed, and why others are not."""

    inputs: Inputs
    scores: tuple[type[Score], ...]
    left_out: dict[str, str]  # `Score.request` -> why it cannot be computed

    @property
    def features(self) -> int:
        """The number k: the features of the first k samples are kept."""
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
    """Decide which scores can be computed of these images; a ParameterError says why a requested score cannot.

    Parameters
    ----------
    scores
        Requested keys of SCORES; None: all of `among` that can be computed.
    samples, real
        The generated images and the real ones, which may be cropped: each of the extractor's crops counts.
    widths
        Numbers of features and logits per crop: `Extractor.widths`.
    truth
        Whether ground truth is known.
    """
    samples, real = samples.in_crops(extractor.crops), real and real.in_crops(extractor.crops)
    inputs = Inputs(extractor, protocol, widths, samples, real, truth, keep_all=bool(scores and "intra_fid" in scores))
    considered = [score for name, score in SCORES.items() if name in (scores or set(among))]
    left_out = {score.request(extractor): reason for score in considered if (reason := score.missing(inputs))}
    if scores and left_out:
        name, reason = next(iter(left_out.items()))
        raise ParameterError(f"scores={name!r} cannot be computed: {reason}")
    return Plan(inputs, tuple(score for score in considered if score.request(extractor) not in left_out), left_out)


def measure(
    images_of: Callable[[int, int], tuple[Tensor, Tensor | None]],
    reference: Reference | None,
    plan: Plan,
    truth: Callable[[Tensor, Tensor | None], dict[str, Tensor]] | None = None,
    batch_size: int = 64,
    progress: Callable | None = None,
    text: str = "images",
) -> dict | None:
    """Score `protocol.n` images in one pass with all processes; the main one gets the result.

    Parameters
    ----------
    images_of, truth, batch_size
        As for `features_in_order`. The scores of `truth` are medians (of "readable": the mean).
    reference
        Of the real images; None: only scores that need none.
    progress, text
        As for `reference`.

    Returns
    -------
    dict or None
        The arguments of `records.evaluation_record`: `scores`: name -> value; `errors`: standard deviations of some; `per_class`: name ->
        a value for each class; `left_out`: score -> reason; `protocol`: one line; `settings`: the protocol; `n`; `extractor`; `reference`;
        `seconds`.
    """
    began = time.monotonic()
    inputs, protocol, n = plan.inputs, plan.inputs.protocol, plan.inputs.protocol.n
    scores = [score(inputs, reference) for score in plan.scores] if is_main() else []
    keeps_features = is_main() and plan.features
    features = feature_array(plan.features, inputs.widths[0]) if keeps_features else np.empty((0, 0), np.float32)
    collected = Collected(np.zeros(inputs.samples.n, np.int64), features)
    bias = getattr(inputs.extractor.network, "logit_bias", None) if protocol.logit_bias else None
    truth = truth if SCORES["truth"] in plan.scores else None
    with (progress or silent)(n, text) as advance:
        for chunk in features_in_order(images_of, n, inputs.extractor, protocol.to_pixels, truth, batch_size, advance):
            first, last = chunk.start, chunk.start + len(chunk.features)
            chunk = chunk if bias is None else replace(chunk, logits=chunk.logits + bias.to(chunk.logits))
            for score in scores:
                score.update(chunk)
            collected.labels[first:last] = chunk.labels.cpu().numpy()
            if first < plan.features:
                features[first:last] = chunk.features[: plan.features - first].cpu().numpy()
    if not is_main():
        return None
    result: dict[str, dict] = dict(scores={}, errors={}, per_class={}, left_out=dict(plan.left_out))
    with (progress or silent)(len(scores), "scores") as advance:
        for score in scores:
            try:
                for value in score.compute(collected):
                    parts = dict(scores=value.value, errors=value.error, per_class=value.per_class, left_out=value.reason or None)
                    for key, part in parts.items():
                        if part is not None:
                            result[key][value.name] = part
            except (WorkbenchError, RuntimeError) as error:  # such as too little memory; the other scores are kept
                result["left_out"][score.request(inputs.extractor)] = f"{type(error).__name__}: {one_line(error)}"
            advance(1)
    return result | header(reference, inputs.extractor, protocol) | dict(seconds=round(time.monotonic() - began, 1))


def header(reference: Reference | None, extractor: Extractor, protocol: Protocol) -> dict:
    """The entries of a record that say how its scores were computed."""
    real = {key: reference.facts[key] for key in ("data", "fingerprint", "size", "n")} if reference else None
    return dict(
        protocol=f"{protocol.line(real['n'] if real else None, extractor.crops)}; {extractor.label}",
        settings=asdict(protocol),
        n=protocol.n,
        extractor=dict(name=extractor.name, sha256=extractor.digest, reference=extractor.reference),
        reference=real,
    )
