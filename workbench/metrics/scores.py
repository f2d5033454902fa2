"""The scores of an evaluation: what each takes, and how it comes out of one pass over generated images.

A score of your own is one more class here, listed in `SCORES`: `missing` says why it cannot be computed, `features` how many it needs,
`update` takes in a chunk of the pass, `compute` yields the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

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

# ------------------------------------------------------------------------------------- what is known beforehand


@dataclass(frozen=True)
class ImageSet:
    """Generated or real images, as far as they are known before anything of them is computed."""

    n: int
    classes: Sequence[str] = ()  # by name, in the order of the labels; empty: none
    fewest: int = 0  # images of the rarest class
    reason: str = "there are no classes"  # why, where there are none


@dataclass(frozen=True)
class Inputs:
    """What is to be scored, and by what."""

    extractor: Extractor
    protocol: Protocol
    widths: tuple[int, int]  # features and logits of an image, as of `Extractor.widths`
    samples: ImageSet
    real: ImageSet | None
    truth: bool = False  # whether there is ground truth
    keep_all: bool = False  # whether the features of all real images are kept

    @cached_property
    def real_classes(self) -> np.ndarray | None:
        """(C,) the samples' label that each label of a real image stands for. Classes are matched by name."""
        return _positions(self.real.classes, self.samples.classes)

    @cached_property
    def class_logits(self) -> np.ndarray | None:
        """(C,) the logit that stands for each label of a sample."""
        return _positions(self.samples.classes, self.extractor.classes or ())

    @property
    def real_features(self) -> int:
        """Of how many real images the features are kept."""
        return self.real.n if self.keep_all else min(self.real.n, references.KEPT)


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


# ------------------------------------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class Value:
    """A value of a score."""

    name: str
    value: float | None
    error: float | None = None  # its standard deviation
    per_class: list[float | None] | None = None  # None: too few images of a class
    reason: str = ""  # why there is no value


@dataclass
class Collected:
    """What a pass leaves behind for all scores."""

    labels: np.ndarray  # (n,) int64
    features: np.ndarray | None = None  # (k, d) float32, of the first k samples, k the most that a score needs
    truths: Sequence[str] = ()  # names of the columns of `Chunk.truths`


class Score:
    """A score of one pass; on the main process only.

    Attributes
    ----------
    name, general
        What it is called where the reference Inception computes it, and where another extractor does: the names of the field are defined
        by that Inception alone.
    """

    name = general = ""

    def __init__(self, inputs: Inputs, reference: Reference | None):
        self.inputs, self.reference = inputs, reference
        self.n, self.protocol = inputs.protocol.n, inputs.protocol

    @classmethod
    def request(cls, extractor: Extractor) -> str:
        """The name to request it by."""
        return cls.name if extractor.reference else cls.general

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        """Why it cannot be computed; empty: it can."""
        return ""

    @classmethod
    def features(cls, inputs: Inputs) -> int:
        """Of how many samples, the first ones, the features are needed again."""
        return 0

    def update(self, chunk: Chunk) -> None:
        """Take in the next samples, in the order of their index."""

    def compute(self, collected: Collected) -> Iterator[Value]:
        """The values, after the last sample."""
        raise NotImplementedError

    def full_name(self, suffix: str = "", name: str = "") -> str:
        """What a value is called: with the extractor's name and hash, but for the reference Inception."""
        extractor = self.inputs.extractor
        return (name or self.name) + suffix if extractor.reference else f"{name or self.general}{suffix}_{extractor.label}"

    def per_class(self, values: Tensor, labels: np.ndarray, summary: Callable[[Tensor], Tensor]) -> list[float | None] | None:
        """A summary of the values (n,) of each class; None where there is only one."""
        if len(self.inputs.samples.classes) < 2:
            return None
        classes = [values[torch.as_tensor(labels == k)] for k in range(len(self.inputs.samples.classes))]
        return [summary(part).item() if len(part) else None for part in classes]


class InceptionScore(Score):
    """IS, of the whole set and of its splits."""

    name, general = "is", "cs"  # class score

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        n, splits = inputs.protocol.n, inputs.protocol.splits
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
    name, general = "fid", "fd"  # Fréchet distance

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
    name, general = "kid", "kd"  # kernel distance

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        if reason := _no_real(inputs):
            return reason
        n = min(cls.features(inputs), inputs.real_features)
        return f"it takes {KID_SUBSET:,} images of either side, and there are {n:,}" if n < KID_SUBSET else ""

    @classmethod
    def features(cls, inputs: Inputs) -> int:
        return min(inputs.protocol.n, inputs.protocol.kid_n or inputs.protocol.n)

    def compute(self, collected: Collected) -> Iterator[Value]:
        features = collected.features[: self.features(self.inputs)]
        yield Value(self.full_name(), *kernel_distance(features, self.reference.features, subset_size=KID_SUBSET))


class IntraFID(Score):
    """The FID of each class, and their mean."""

    name, general = "intra_fid", "intra_fd"

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        samples, real = inputs.samples, inputs.real
        if reason := _no_real(inputs) or _too_few_classes(inputs):
            return reason
        if not real.classes:
            return f"of the real images {real.reason}"
        if inputs.real_classes is None:
            return _differ("the samples", samples.classes, "the real images", real.classes)
        if min(samples.fewest, real.fewest) < 2:
            least = f"the rarest class has {samples.fewest} of {samples.n:,} samples and {real.fewest} of {real.n:,} real images"
            return f"it takes two images of each class on either side, and {least}"
        if inputs.real_features < real.n:
            return f"it takes the features of all {real.n:,} real images, which are kept where it is requested by name"
        return ""

    @classmethod
    def features(cls, inputs: Inputs) -> int:
        return inputs.protocol.n

    def compute(self, collected: Collected) -> Iterator[Value]:
        classes = self.inputs.samples.classes
        name = self.full_name(f"_n{self.n // len(classes)}")
        real_labels = self.inputs.real_classes[self.reference.labels]
        distances = intra_frechet_distance(self.reference.features, real_labels, collected.features, collected.labels, len(classes))
        per_class = [value if value == value else None for value in distances.tolist()]  # NaN: too few of a class
        lacking = [classes[k] for k, value in enumerate(per_class) if value is None]
        if not lacking:
            yield Value(name, distances.mean().item(), per_class=per_class)
        else:
            reason = f"no mean, because there are fewer than two images of {len(lacking)} classes, such as {lacking[0]!r}"
            yield Value(name, None, per_class=per_class, reason=reason)


class PrecisionRecall(Score):
    """Two scores of the k nearest neighbours, on as many images of either side as the protocol says."""

    name = general = "precision_recall"
    values = ("precision", "recall")
    k = "k_precision"  # of the protocol
    pair = staticmethod(precision_recall)

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        if reason := _no_real(inputs):
            return reason
        k = getattr(inputs.protocol, cls.k)
        return f"it takes more than {k} images of either side" if min(inputs.protocol.n, inputs.real_features) <= k else ""

    @classmethod
    def features(cls, inputs: Inputs) -> int:
        return min(inputs.protocol.n, inputs.protocol.neighbours_n or inputs.protocol.n)

    def compute(self, collected: Collected) -> Iterator[Value]:
        real, n = self.reference.features, self.features(self.inputs)
        some = np.sort(np.random.default_rng(2).permutation(len(real))[:n])
        real, fake = torch.as_tensor(np.asarray(real[some])), torch.as_tensor(collected.features[:n])
        for name, value in zip(self.values, self.pair(real, fake, getattr(self.protocol, self.k)), strict=True):
            yield Value(self.full_name(name=name), value)


class DensityCoverage(PrecisionRecall):
    """The same of the neighbours of real images alone."""

    name = general = "density_coverage"
    values = ("density", "coverage")
    k = "k_density"
    pair = staticmethod(density_coverage)


class Accuracy(Score):
    """The share of samples that the extractor takes for their class."""

    name = general = "accuracy"

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        samples, extractor = inputs.samples, inputs.extractor
        if reason := _no_logits(inputs) or _too_few_classes(inputs):
            return reason
        if extractor.classes is None:
            return f"extractor {extractor.name!r} does not name the classes of its logits (set `classes` of its network to a list of names)"
        if inputs.class_logits is None:
            return _differ("the samples", samples.classes, f"extractor {extractor.name!r}", extractor.classes)
        return ""

    def __init__(self, inputs: Inputs, reference: Reference | None):
        super().__init__(inputs, reference)
        self.correct = []

    def update(self, chunk: Chunk) -> None:
        self.correct.append((chunk.logits[:, self.inputs.class_logits].argmax(1) == chunk.labels).cpu())

    def compute(self, collected: Collected) -> Iterator[Value]:
        correct = torch.cat(self.correct).double()
        yield Value(self.full_name(), correct.mean().item(), per_class=self.per_class(correct, collected.labels, torch.mean))


class Truth(Score):
    """Medians of what the ground truth says of each sample; of "readable", the mean."""

    name = general = "truth"

    @classmethod
    def missing(cls, inputs: Inputs) -> str:
        return "" if inputs.truth else "it takes ground truth, which only runs on twins have"

    def __init__(self, inputs: Inputs, reference: Reference | None):
        super().__init__(inputs, reference)
        self.truths = []

    def update(self, chunk: Chunk) -> None:
        self.truths.append(chunk.truths.double().cpu())

    def compute(self, collected: Collected) -> Iterator[Value]:
        for name, column in zip(collected.truths, torch.cat(self.truths).unbind(1), strict=True):
            summary = torch.mean if name.endswith("readable") else torch.median
            yield Value(name, summary(column).item(), per_class=self.per_class(column, collected.labels, summary))


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
