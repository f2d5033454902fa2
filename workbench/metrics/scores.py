"""The scores of an evaluation: what each needs, and how one pass over the generated images computes it.

To add a score, write a subclass of `Score` and list it in `SCORES`: `missing` says why it cannot be computed, `features` how many samples'
features it needs, `update` takes a chunk of the pass, `compute` yields the values, `directions` says whether higher ones are better.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..data.datasets import TRUTH, average
from . import references
from .class_score import StreamedInceptionScore
from .extractors import Extractor
from .fid import frechet_distance, intra_frechet_distance
from .kid import kernel_distance
from .moments import Moments
from .prdc import density_coverage, precision_recall
from .protocols import Protocol
from .references import Reference
from .stream import Chunk

KID_SUBSET = 1000  # images


@dataclass(frozen=True)
class ImageSet:
    """Number and classes of generated or real images, or of their crops, known before anything is computed."""

    n: int
    classes: Sequence[str] = ()  # names in the order of the labels
    fewest: int = 0  # of the rarest class
    reason: str = "there are no classes"  # why `classes` is empty

    def in_crops(self, crops: int) -> ImageSet:
        """The crops of these images, as many of each."""
        return replace(self, n=self.n * crops, fewest=self.fewest * crops)


@dataclass(frozen=True)
class Inputs:
    """Everything that decides which scores can be computed. Samples and real images count by their crops (`Extractor.crops`)."""

    extractor: Extractor
    protocol: Protocol
    widths: tuple[int, int]  # numbers of features and logits per crop: `Extractor.widths`
    samples: ImageSet
    real: ImageSet | None
    truth: bool = False  # whether there is ground truth
    keep_all: bool = False  # whether the features of all real images are kept

    @cached_property
    def real_classes(self) -> np.ndarray:
        """(C,) the label of samples with the same name, for each label of real images; empty if the names differ."""
        return positions(self.real.classes, self.samples.classes)

    @cached_property
    def class_logits(self) -> np.ndarray:
        """(C,) the logit with the same name, for each label of samples; empty if the names differ."""
        return positions(self.samples.classes, self.extractor.classes or ())

    @property
    def real_features(self) -> int:
        """The number of real images, or crops, whose features are kept."""
        return self.real.n if self.keep_all else min(self.real.n, references.KEPT)


def positions(names: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """The position of each name among the others; empty unless both have the same names, each once."""
    same = len(set(names)) == len(names) and sorted(names) == sorted(others)
    return np.array([others.index(name) for name in names] if same else [], np.int64)


def _difference(owner: str, names: Sequence[str], other_owner: str, others: Sequence[str]) -> str:
    """How two lists of classes differ, in words."""
    parts = []
    for side, classes, other in ((owner, names, set(others)), (other_owner, others, set(names))):
        extra = [name for name in classes if name not in other]
        if extra:
            parts.append(f"{', '.join(map(repr, extra[:3]))}{f' and {len(extra) - 3} more' if len(extra) > 3 else ''} of {side} alone")
    return f"the classes of {owner} and of {other_owner} differ ({'; '.join(parts) or 'names occur twice'})"


@dataclass(frozen=True)
class Value:
    """A value of a score."""

    name: str
    value: float | None
    error: float | None = None  # standard deviation
    per_class: list[float | None] | None = None  # a value is None if the class has too few images
    reason: str = ""  # why there is no value


@dataclass
class Collected:
    """What a pass keeps for all scores."""

    labels: np.ndarray  # (n,) int64
    features: np.ndarray  # (k, d) float32, of the first k samples; k is what the most demanding score needs


class Score:
    """A score; exists on the main process only.

    Attributes
    ----------
    name, general
        Its name with the reference Inception, which defines the names of the field, and with any other extractor.
    directions
        Name of a value, without suffix and extractor -> whether higher is better. A value that is missing here decides nothing.
    """

    name = general = ""
    directions: ClassVar[Mapping[str, bool]] = {}

    def __init__(self, inputs: Inputs, reference: Reference | None):
        self.inputs, self.reference = inputs, reference
        self.n, self.protocol = inputs.samples.n, inputs.protocol

    @classmethod
    def request(cls, extractor: Extractor) -> str:
        """The name by which a user requests this score."""
        return cls.name if extractor.reference else cls.general

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        """Why this score cannot be computed; empty if it can."""
        return ""

    @classmethod
    def features(cls, inputs: Inputs) -> int:
        """The number k: `compute` needs the features of the first k samples."""
        return 0

    def update(self, chunk: Chunk) -> None:
        """Add the next samples, in the order of their index."""

    def compute(self, collected: Collected) -> Iterator[Value]:
        """The values, after the last sample."""
        raise NotImplementedError

    def full_name(self, suffix: str = "", name: str = "") -> str:
        """The name of a value, with the extractor's name and hash unless it is the reference Inception."""
        extractor = self.inputs.extractor
        return (name or self.name) + suffix if extractor.reference else f"{name or self.general}{suffix}_{extractor.label}"

    def per_class(self, values: Tensor, labels: np.ndarray, summary: Callable[[Tensor], Tensor]) -> list[float | None] | None:
        """A summary of the values (n,) of each class; None with fewer than two classes."""
        if len(self.inputs.samples.classes) < 2:
            return None
        classes = [values[torch.as_tensor(labels == k)] for k in range(len(self.inputs.samples.classes))]
        return [summary(part).item() if len(part) else None for part in classes]


class InceptionScore(Score):
    """IS of the whole set and of its splits; with another extractor, class score."""

    name, general = "is", "cs"
    directions = MappingProxyType({"is": True, "cs": True})

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        n, splits = inputs.samples.n, inputs.protocol.splits
        return _no_logits(inputs) or (f"n={n} is less than {splits} splits" if n < splits else "")

    def __init__(self, inputs: Inputs, reference: Reference | None):
        super().__init__(inputs, reference)
        self.score = StreamedInceptionScore(self.n, self.protocol.splits, self.protocol.shuffle_seed)

    def update(self, chunk: Chunk) -> None:
        self.score.update(chunk.logits)

    def compute(self, collected: Collected) -> Iterator[Value]:
        yield Value(self.full_name(), self.score.whole())
        yield Value(self.full_name(f"_{self.protocol.splits}splits"), *self.score.splits())


class FID(Score):
    """FID; with another extractor, Fréchet distance."""

    name, general = "fid", "fd"
    directions = MappingProxyType({"fid": False, "fd": False})

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        return _no_real(inputs)

    def __init__(self, inputs: Inputs, reference: Reference | None):
        super().__init__(inputs, reference)
        self.moments = Moments()

    def update(self, chunk: Chunk) -> None:
        self.moments.update(chunk.features)

    def compute(self, collected: Collected) -> Iterator[Value]:
        fake, real = self.moments, self.reference.moments
        yield Value(self.full_name(), frechet_distance(fake.mean, fake.covariance, real.mean, real.covariance, self.reference.factor))


class KID(Score):
    """KID; with another extractor, kernel distance."""

    name, general = "kid", "kd"
    directions = MappingProxyType({"kid": False, "kd": False})

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        if reason := _no_real(inputs):
            return reason
        n = min(cls.features(inputs), inputs.real_features)
        return f"needs {KID_SUBSET:,} images of either side; there are {n:,}" if n < KID_SUBSET else ""

    @classmethod
    def features(cls, inputs: Inputs) -> int:
        return min(inputs.samples.n, inputs.protocol.kid_n or inputs.samples.n)

    def compute(self, collected: Collected) -> Iterator[Value]:
        features = collected.features[: self.features(self.inputs)]
        yield Value(self.full_name(), *kernel_distance(features, self.reference.features, subset_size=KID_SUBSET))


class IntraFID(Score):
    """The FID of each class, and their mean."""

    name, general = "intra_fid", "intra_fd"
    directions = MappingProxyType({"intra_fid": False, "intra_fd": False})

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        samples, real = inputs.samples, inputs.real
        if reason := _no_real(inputs) or _too_few_classes(inputs):
            return reason
        if not real.classes:
            return f"of the real images {real.reason}"
        if not inputs.real_classes.size:
            return _difference("the samples", samples.classes, "the real images", real.classes)
        if min(samples.fewest, real.fewest) < 2:
            rarest = f"the rarest class has {samples.fewest} of {samples.n:,} samples and {real.fewest} of {real.n:,} real images"
            return f"needs two images of each class on either side; {rarest}"
        if inputs.real_features < real.n:
            return f"needs the features of all {real.n:,} real images, which are kept only if it is requested by name"
        return ""

    @classmethod
    def features(cls, inputs: Inputs) -> int:
        return inputs.samples.n

    def compute(self, collected: Collected) -> Iterator[Value]:
        classes = self.inputs.samples.classes
        name = self.full_name(f"_n{self.n // len(classes)}")
        real_labels = self.inputs.real_classes[self.reference.labels]
        distances = intra_frechet_distance(self.reference.features, real_labels, collected.features, collected.labels, len(classes))
        per_class = [value if value == value else None for value in distances.tolist()]  # NaN: too few of a class
        too_few = [classes[k] for k, value in enumerate(per_class) if value is None]
        reason = f"no mean: there are fewer than two images of {len(too_few)} classes, such as {too_few[0]!r}" if too_few else ""
        yield Value(name, None if too_few else distances.mean().item(), per_class=per_class, reason=reason)


class PrecisionRecall(Score):
    """Precision and recall by k nearest neighbours, on `neighbours_n` generated and as many real images."""

    name = general = "precision_recall"
    values = ("precision", "recall")
    directions = MappingProxyType({"precision": True, "recall": True})
    k = "k_precision"  # of the protocol
    pair = staticmethod(precision_recall)

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        if reason := _no_real(inputs):
            return reason
        k = getattr(inputs.protocol, cls.k)
        return f"needs more than {k} images of either side" if min(inputs.samples.n, inputs.real_features) <= k else ""

    @classmethod
    def features(cls, inputs: Inputs) -> int:
        n, protocol = inputs.samples.n, inputs.protocol
        sorted_by_class = protocol.shuffle_seed is not None  # perhaps: folders then keep the order of their files
        return n if sorted_by_class else min(n, protocol.neighbours_n or n)

    def compute(self, collected: Collected) -> Iterator[Value]:
        n = min(self.n, self.protocol.neighbours_n or self.n)
        real, fake = (
            _draw(values, n, seed) for values, seed in ((self.reference.features, 2), (collected.features[: self.features(self.inputs)], 3))
        )
        for name, value in zip(self.values, self.pair(real, fake, getattr(self.protocol, self.k)), strict=True):
            yield Value(self.full_name(name=name), value)


class DensityCoverage(PrecisionRecall):
    """Density and coverage, by the nearest neighbours of real images, on the same images."""

    name = general = "density_coverage"
    values = ("density", "coverage")
    directions = MappingProxyType({"density": True, "coverage": True})
    k = "k_density"
    pair = staticmethod(density_coverage)


class Accuracy(Score):
    """The share of samples whose class the extractor recognises."""

    name = general = "accuracy"
    directions = MappingProxyType({"accuracy": True})

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        samples, extractor = inputs.samples, inputs.extractor
        if reason := _no_logits(inputs) or _too_few_classes(inputs):
            return reason
        if extractor.classes is None:
            return f"extractor {extractor.name!r} does not name the classes of its logits (set `classes` of its network to a list of names)"
        if not inputs.class_logits.size:
            return _difference("the samples", samples.classes, f"extractor {extractor.name!r}", extractor.classes)
        return ""

    def __init__(self, inputs: Inputs, reference: Reference | None):
        super().__init__(inputs, reference)
        self.correct: list[Tensor] = []

    def update(self, chunk: Chunk) -> None:
        self.correct.append((chunk.logits[:, self.inputs.class_logits].argmax(1) == chunk.labels).cpu())

    def compute(self, collected: Collected) -> Iterator[Value]:
        correct = torch.cat(self.correct).double()
        yield Value(self.full_name(), correct.mean().item(), per_class=self.per_class(correct, collected.labels, torch.mean))


class Truth(Score):
    """What drawn data sets measure in the samples, over all of them: see `data.datasets.average`."""

    name = general = "truth"
    directions = MappingProxyType(TRUTH)

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        return "" if inputs.truth else "needs ground truth, which only runs on twins and binding have"

    def __init__(self, inputs: Inputs, reference: Reference | None):
        super().__init__(inputs, reference)
        self.truths: dict[str, list[Tensor]] = {}

    def update(self, chunk: Chunk) -> None:
        for name, values in chunk.truths.items():
            self.truths.setdefault(name, []).append(values.double().cpu())

    def compute(self, collected: Collected) -> Iterator[Value]:
        for name, parts in self.truths.items():
            values = torch.cat(parts)
            yield Value(name, average(name)(values).item(), per_class=self.per_class(values, collected.labels, average(name)))


def _draw(features: np.ndarray, n: int, seed: int) -> Tensor:
    """At most n of the features (m, d), drawn without replacement, in their order."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(features))[:n])
    return torch.as_tensor(np.asarray(features[rows]))


def _no_real(inputs: Inputs) -> str:
    return "" if inputs.real else "there are no real images"


def _no_logits(inputs: Inputs) -> str:
    return "" if inputs.widths[1] else f"extractor {inputs.extractor.name!r} gives no logits"


def _too_few_classes(inputs: Inputs) -> str:
    samples = inputs.samples
    return "" if len(samples.classes) > 1 else "there is only one class" if samples.classes else samples.reason


SCORES: dict[str, type[Score]] = {
    score.name: score for score in (InceptionScore, FID, KID, IntraFID, PrecisionRecall, DensityCoverage, Accuracy, Truth)
}


def higher_is_better(name: str) -> bool | None:
    """Whether a higher value of a score is better, by its full name, such as `fd_twins@3d2861b8` or `is_10splits`; None if unknown."""
    directions = {value: higher for score in SCORES.values() for value, higher in score.directions.items()}
    return next((higher for value, higher in directions.items() if re.match(rf"{re.escape(value)}(_|@|$)", name)), None)
