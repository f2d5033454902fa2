"""One pass over generated images, and every score that was asked for."""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import psutil
import torch
from torch import Tensor

from ..files import storing
from ..messages import nearest, shown
from ..parameters import ParameterError, WorkbenchError
from ..places import data_dir
from ..progress import silent
from . import references
from .extractors import Extractor
from .moments import Moments
from .protocols import Protocol
from .references import Reference
from .scores import (
    StreamedInceptionScore,
    density_coverage,
    frechet_distance,
    intra_frechet_distance,
    kernel_distance,
    precision_recall,
)
from .stream import Chunk, features_in_order, is_main

# What can be asked for -> what it is called when another extractor than Inception computes it.
SCORES = {
    "is": "cs",  # class score: the formula of the inception score
    "fid": "fd",  # Fréchet distance
    "kid": "kd",  # kernel distance
    "intra_fid": "intra_fd",
    "precision_recall": "precision_recall",
    "density_coverage": "density_coverage",
    "accuracy": "accuracy",
    "truth": "truth",
}
KID_SUBSET = 1000
IN_MEMORY = 2**30  # bytes of features that are held in memory; more go to the disk
LONGEST = 30 * 86400  # seconds of work that are begun


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
    own = {other: name for name, other in SCORES.items()}
    for name in names:
        if name not in SCORES and name not in own:
            known = sorted({*SCORES, *own})
            raise ParameterError(f"scores={shown(name)} is not known; {nearest(name, known)}any of: {', '.join(known)}")
        if name in SCORES and name not in own and not extractor.reference:
            raise ParameterError(
                f"scores={name!r} is defined by the reference Inception, and the extractor is {extractor.label}: set extractor='inception', "
                f"or ask for {SCORES[name]!r}"
            )
    return {own.get(name, name) for name in names}


# ------------------------------------------------------------------------------------------------------- before


@dataclass(frozen=True)
class Side:
    """Images of one side, generated or real, as far as they are known before anything of them is computed."""

    n: int
    classes: Sequence[str] = ()  # by name, in the order of the labels; empty: none
    fewest: int = 0  # images of the rarest class
    reason: str = "there are no classes"  # why, where there are none


@dataclass(frozen=True)
class Plan:
    """Which scores are computed, and which are not and why. Classes are matched by name: positions of labels mean nothing."""

    wanted: frozenset[str]  # keys of SCORES
    left_out: dict[str, str]  # what a score is asked for as -> why it cannot be computed
    classes: Sequence[str] = ()  # of the samples
    of_real: np.ndarray | None = None  # (C,) the sample's label that each label of a real image stands for
    logits: np.ndarray | None = None  # (C,) the logit that stands for each label of a sample
    keep_all: bool = False  # the features of all real images are needed


def plan(
    scores: set[str] | None,
    extractor: Extractor,
    protocol: Protocol,
    samples: Side,
    real: Side | None,
    widths: tuple[int, int],
    truth: bool = False,
    among: Iterable[str] = SCORES,
) -> Plan:
    """What can be computed of these images; nothing is computed yet.

    Parameters
    ----------
    scores
        Keys of SCORES that are asked for; None: all of `among` that can be computed.
    samples, real
        The generated images, and the real ones that they are scored against.
    widths
        Features and logits of an image, as of `Extractor.widths`.
    truth
        Whether there is ground truth.

    Raises
    ------
    ParameterError
        If a score that is asked for cannot be computed; the message says why.
    """
    n, keep_all = samples.n, bool(scores and "intra_fid" in scores)
    missing = {}
    if not widths[1]:
        missing["is"] = missing["accuracy"] = f"extractor {extractor.name!r} gives no logits"
    elif n < protocol.splits:
        missing["is"] = f"n={n} is less than {protocol.splits} splits"
    if not truth:
        missing["truth"] = "it takes ground truth, which only runs on twins have"
    of_real = logits = None
    if len(samples.classes) < 2:
        missing["intra_fid"] = "there is only one class" if samples.classes else samples.reason
        missing.setdefault("accuracy", missing["intra_fid"])
    elif "accuracy" not in missing:
        logits = _positions(samples.classes, extractor.classes or ())
        if extractor.classes is None:
            missing["accuracy"] = (
                f"extractor {extractor.name!r} does not tell which classes its logits stand for (a list of names, `classes`, of its network)"
            )
        elif logits is None:
            missing["accuracy"] = _differ("the samples", samples.classes, f"extractor {extractor.name!r}", extractor.classes)
    if real is None:
        missing |= dict.fromkeys(("fid", "kid", "intra_fid", "precision_recall", "density_coverage"), "there are no real images")
    else:
        kept = real.n if keep_all else min(real.n, references.KEPT)
        few = min(_kid_n(protocol, n), kept)
        if few < KID_SUBSET:
            missing["kid"] = f"it takes {KID_SUBSET:,} images of either side, and there are {few:,}"
        for score, k in (("precision_recall", protocol.k_precision), ("density_coverage", protocol.k_density)):
            if min(n, kept) <= k:
                missing[score] = f"it takes more than {k} images of either side"
        if "intra_fid" not in missing:
            of_real = _positions(real.classes, samples.classes)
            if not real.classes:
                missing["intra_fid"] = f"of the real images {real.reason}"
            elif of_real is None:
                missing["intra_fid"] = _differ("the samples", samples.classes, "the real images", real.classes)
            elif min(samples.fewest, real.fewest) < 2:
                least = f"the rarest class has {samples.fewest} of {n:,} samples and {real.fewest} of {real.n:,} real images"
                missing["intra_fid"] = f"it takes two images of each class on either side, and {least}"
            elif kept < real.n:
                missing["intra_fid"] = f"it takes the features of all {real.n:,} real images, which are kept where it is asked for by name"
    for score in scores or ():
        if score in missing:
            raise ParameterError(f"scores={own_name(score, extractor)!r} cannot be computed: {missing[score]}")
    considered = scores or set(among)
    left_out = {own_name(score, extractor): reason for score, reason in missing.items() if score in considered}
    return Plan(frozenset(considered - set(missing)), left_out, list(samples.classes), of_real, logits, keep_all)


def own_name(score: str, extractor: Extractor) -> str:
    """What a key of SCORES is asked for as: the names of the field belong to the reference Inception."""
    return score if extractor.reference else SCORES[score]


def _positions(names: Sequence[str], others: Sequence[str]) -> np.ndarray | None:
    """Where each name stands among the others; None unless both have the same names, each once."""
    if len(set(names)) < len(names) or sorted(names) != sorted(others):
        return None
    place = {name: k for k, name in enumerate(others)}
    return np.array([place[name] for name in names], np.int64)


def _differ(who: str, names: Sequence[str], whom: str, others: Sequence[str]) -> str:
    """How two lists of classes differ, in words."""
    parts = []
    for side, here, there in ((who, names, others), (whom, others, names)):
        alone = [name for name in here if name not in set(there)]
        if alone:
            parts.append(f"{', '.join(map(repr, alone[:3]))}{f' and {len(alone) - 3} more' if len(alone) > 3 else ''} of {side} alone")
    return f"the classes of {who} and of {whom} differ ({'; '.join(parts) or 'names occur twice'})"


def _kid_n(protocol: Protocol, n: int) -> int:
    return min(n, protocol.kid_n or n)


def require_room(
    names: tuple[str, str], n: int, reference_n: int, extractor: Extractor, size: int, chosen: Plan, protocol: Protocol
) -> None:
    """Refuse what cannot be done: more memory, disk or time than there is.

    Parameters
    ----------
    names
        Of the parameters that decide `n`, the generated, and `reference_n`, the real images.
    size
        Height and width of the images.

    Raises
    ------
    ParameterError
        With the estimate.
    """
    asked = f"{names[0]}={n:,} and {names[1]}={reference_n:,}"
    width = extractor.widths(size)[0]
    features = 4 * width * _kept(chosen.wanted, protocol, n)
    # Labels, the splits and their order, and what ground truth says, of every sample; places and labels of real images.
    memory = 120 * n + 48 * reference_n + (features if features <= IN_MEMORY else 0)
    available = psutil.virtual_memory().available
    covariances = 5 * 8 * width**2  # of both sides, and what is needed for their roots
    if covariances > available:
        raise ParameterError(
            f"extractor {extractor.name!r} gives {width:,} features of an image, whose covariances need {covariances / 1e9:,.1f} GB of memory, "
            f"and {available / 1e9:,.1f} GB are free: use one with fewer"
        )
    if memory + covariances > available:
        raise ParameterError(f"{asked} need {memory / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are free: set lower ones")
    place = next(folder for folder in (data_dir() / "cache", *(data_dir() / "cache").parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    if features > IN_MEMORY and free < features:
        raise ParameterError(
            f"{asked} need {features / 1e9:,.1f} GB in {place}, and {free / 1e9:,.1f} GB are free: make room, or set a lower {names[0]}"
        )
    if n + reference_n > 10**6:
        began = time.monotonic()
        extractor(torch.full((8, 3, size, size), 128.0))
        seconds = (time.monotonic() - began) / 8 * (n + reference_n)
        if seconds > LONGEST:
            raise ParameterError(f"{asked} take {seconds / 86400:,.0f} days for their features alone: set lower ones")


def _kept(wanted: Iterable[str], protocol: Protocol, n: int) -> int:
    """Of how many samples, the first ones, the features are needed again."""
    neighbours = min(n, protocol.neighbours_n or n)
    needs = {"kid": _kid_n(protocol, n), "intra_fid": n, "precision_recall": neighbours, "density_coverage": neighbours}
    return max((count for score, count in needs.items() if score in wanted), default=0)


# ------------------------------------------------------------------------------------------------------- measuring


def measure(
    images_of: Callable[[int, int], tuple[Tensor, Tensor | None]],
    reference: Reference | None,
    extractor: Extractor,
    protocol: Protocol,
    chosen: Plan,
    truth: Callable[[Tensor, Tensor | None], dict[str, Tensor]] | None = None,
    batch_size: int = 64,
    progress: Callable | None = None,
    what: str = "images",
) -> dict | None:
    """Score `protocol.n` images in one pass: a record of `evaluations.jsonl`. All processes take part; only the main one gets it.

    Parameters
    ----------
    images_of
        As for `features_in_order`.
    reference
        Of the real images; without it, only what needs none is computed.
    chosen
        From `plan`.
    truth
        Called as `truth(images, labels)`: numbers (B,) by name of which the medians are scores (of "readable": the mean).
    progress, what
        As for `reference`, called with `what` as its text.

    Returns
    -------
    dict or None
        `scores`: name -> value; `errors`: standard deviations of some; `per_class`: name -> a value for each class; `left_out`: score ->
        why it is not there; `protocol`: one line; `settings`: the protocol; `n`; `extractor`; `reference`; `seconds`.
    """
    began = time.monotonic()
    collected = _Collected(reference, extractor, protocol, chosen) if is_main() else None
    names: list[str] = []

    def columns(images: Tensor, labels: Tensor | None) -> Tensor:
        values = truth(images, labels)
        names[:] = values
        return torch.stack([value.float() for value in values.values()], 1)

    given = columns if "truth" in chosen.wanted else None
    with (progress or silent)(protocol.n, what) as advance:
        for chunk in features_in_order(images_of, protocol.n, extractor, protocol.to_pixels, given, batch_size, advance):
            collected.add(chunk)
    if not collected:
        return None
    with (progress or silent)(len(collected.wanted), "scores") as advance:
        collected.scores(names, advance)
    seconds = round(time.monotonic() - began, 1)
    found = dict(scores=collected.values, errors=collected.errors, per_class=collected.per_class, left_out=collected.left_out)
    return found | header(reference, extractor, protocol) | dict(seconds=seconds)


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


class _Collected:
    """What a pass over generated images leaves to compute scores from: no more than those that are wanted need."""

    def __init__(self, reference: Reference | None, extractor: Extractor, protocol: Protocol, chosen: Plan):
        self.reference, self.extractor, self.protocol, self.plan = reference, extractor, protocol, chosen
        self.wanted, self.left_out, self.num_classes = chosen.wanted, dict(chosen.left_out), len(chosen.classes)
        self.moments = Moments()
        self.inception_score = StreamedInceptionScore(protocol.n, protocol.splits, protocol.shuffle_seed) if "is" in self.wanted else None
        self.bias = getattr(extractor.network, "logit_bias", None) if protocol.logit_bias else None
        self.kept = _kept(self.wanted, protocol, protocol.n)
        self.features: np.ndarray | None = None
        self.labels = np.zeros(protocol.n, np.int64)
        self.correct = np.zeros(protocol.n, bool)
        self.truths: list[Tensor] = []
        self.values, self.errors, self.per_class = {}, {}, {}

    def add(self, chunk: Chunk) -> None:
        first, last = chunk.start, chunk.start + len(chunk.features)
        if "fid" in self.wanted:
            self.moments.update(chunk.features)
        logits = chunk.logits if self.bias is None else chunk.logits + self.bias.to(chunk.logits)
        if "is" in self.wanted:
            self.inception_score.update(logits)
        self.labels[first:last] = chunk.labels.cpu().numpy()
        if "accuracy" in self.wanted:
            self.correct[first:last] = (logits[:, self.plan.logits].argmax(1) == chunk.labels).cpu().numpy()
        if first < self.kept:
            if self.features is None:
                self.features = _room(self.kept, chunk.features.shape[1])
            self.features[first:last] = chunk.features[: self.kept - first].cpu().numpy()
        self.truths.append(chunk.truths.double().cpu())

    def scores(self, truth_names: list[str], advance: Callable[[int], None]) -> None:
        """Fill `values`, `errors` (standard deviations of some) and `per_class`; what fails is left out, and the others are kept."""
        self.truth_names = truth_names
        for score in SCORES:
            if score in self.wanted:
                try:
                    getattr(self, f"_{score}")()
                except (WorkbenchError, RuntimeError) as error:  # no memory, an eigenvalue that does not converge
                    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                    self.left_out[own_name(score, self.extractor)] = reason
                advance(1)
        for name in [name for name, value in self.values.items() if not math.isfinite(value)]:
            self.left_out[name] = f"it came out as {self.values.pop(name)}"
            self.errors.pop(name, None)

    def _is(self) -> None:
        self.values[self._name("is")] = self.inception_score.whole()
        name = self._name("is", f"_{self.protocol.splits}splits")
        self.values[name], self.errors[name] = self.inception_score.splits()

    def _fid(self) -> None:
        own, real = self.moments, self.reference
        distance = frechet_distance(own.mean, own.covariance, real.moments.mean, real.moments.covariance, real.factor)
        self.values[self._name("fid")] = distance

    def _kid(self) -> None:
        name = self._name("kid")
        features = self.features[: _kid_n(self.protocol, self.protocol.n)]
        self.values[name], self.errors[name] = kernel_distance(features, self.reference.features, subset_size=KID_SUBSET)

    def _intra_fid(self) -> None:
        name = self._name("intra_fid", f"_n{self.protocol.n // self.num_classes}")
        real_labels = self.plan.of_real[self.reference.labels]
        each = intra_frechet_distance(self.reference.features, real_labels, self.features, self.labels, self.num_classes)
        self.per_class[name] = [value if value == value else None for value in each.tolist()]  # NaN: too few of a class
        if each.isfinite().all():
            self.values[name] = each.mean().item()
        else:
            lacking = [self.plan.classes[k] for k in (~each.isfinite()).nonzero().flatten().tolist()]
            self.left_out[name] = f"no mean, because there are fewer than two images of {len(lacking)} classes, such as {lacking[0]!r}"

    def _precision_recall(self) -> None:
        both = precision_recall(*self._neighbours(), self.protocol.k_precision)
        self.values[self._name("precision")], self.values[self._name("recall")] = both

    def _density_coverage(self) -> None:
        both = density_coverage(*self._neighbours(), self.protocol.k_density)
        self.values[self._name("density")], self.values[self._name("coverage")] = both

    def _neighbours(self) -> tuple[Tensor, Tensor]:
        """Features of as many real and generated images as the protocol says."""
        real, n = self.reference.features, min(self.protocol.n, self.protocol.neighbours_n or self.protocol.n)
        some = np.sort(np.random.default_rng(2).permutation(len(real))[:n])
        return torch.as_tensor(np.asarray(real[some])), torch.as_tensor(self.features[:n])

    def _accuracy(self) -> None:
        self._keep_summary(self._name("accuracy"), torch.as_tensor(self.correct).double(), torch.mean)

    def _truth(self) -> None:
        table = torch.cat(self.truths)
        for name, column in zip(self.truth_names, table.unbind(1), strict=True):
            self._keep_summary(name, column, torch.mean if name.endswith("readable") else torch.median)

    def _keep_summary(self, name: str, column: Tensor, summary: Callable[[Tensor], Tensor]) -> None:
        self.values[name] = summary(column).item()
        if self.num_classes > 1:
            of_class = [column[torch.as_tensor(self.labels == k)] for k in range(self.num_classes)]
            self.per_class[name] = [summary(part).item() if len(part) else None for part in of_class]

    def _name(self, score: str, suffix: str = "") -> str:
        """What a score is called: names of the field for the reference Inception alone, else with the extractor's name and hash."""
        if self.extractor.reference:
            return score + suffix
        return f"{SCORES.get(score, score)}{suffix}_{self.extractor.label}"


def _room(rows: int, columns: int) -> np.ndarray:
    """An array (rows, columns) float32, in memory or, if it is large, in a file that vanishes with it.

    Raises
    ------
    StorageError
        If the disk has no room for it: now, and not by a signal that ends the process when the last page is written.
    """
    size = rows * columns * 4
    if size <= IN_MEMORY:
        return np.empty((rows, columns), np.float32)
    folder: Path = data_dir() / "cache"
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = TemporaryFile(dir=folder)  # noqa: SIM115 (the array keeps it open)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, np.float32, "r+", shape=(rows, columns))
