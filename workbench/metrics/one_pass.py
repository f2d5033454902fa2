"""One pass over generated images, and every score that was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from tempfile import TemporaryFile

import numpy as np
import torch
from torch import Tensor

from ..config import data_dir
from ..parameters import ParameterError, WorkbenchError, nearest
from ..progress import silent
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
            raise ParameterError(f"scores={name!r} is not known; {nearest(name, known)}any of: {', '.join(known)}")
        if name in SCORES and name not in own and not extractor.reference:
            raise ParameterError(
                f"scores={name!r} is defined by the reference Inception, and the extractor is {extractor.label}: set extractor='inception', "
                f"or ask for {SCORES[name]!r}"
            )
    return {own.get(name, name) for name in names}


def measure(
    images_of: Callable[[int, int], tuple[Tensor, Tensor | None]],
    reference: Reference | None,
    extractor: Extractor,
    protocol: Protocol,
    scores: set[str] | None = None,
    num_classes: int = 0,
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
    scores
        Keys of SCORES; None: all that there are images enough for.
    num_classes
        Of the images; 0: scores per class are left out.
    truth
        Called as `truth(images, labels)`: numbers (B,) by name of which the medians are scores (of "readable": the mean).
    progress, what
        As for `reference`, called with `what` as its text.

    Returns
    -------
    dict or None
        `scores`: name -> value; `errors`: standard deviations of some; `per_class`: name -> a value for each class; `protocol`: one line;
        `settings`: the protocol; `n`; `extractor`; `reference`; `seconds`.
    """
    began = time.monotonic()
    if truth is None and scores and "truth" in scores:
        raise ParameterError("scores='truth' cannot be computed: nothing true is known of such images; it is for twins")
    collected = _Collected(reference, extractor, protocol, scores, num_classes) if is_main() else None
    names: list[str] = []

    def columns(images: Tensor, labels: Tensor | None) -> Tensor:
        values = truth(images, labels)
        names[:] = values
        return torch.stack([value.float() for value in values.values()], 1)

    given = columns if truth and (scores is None or "truth" in scores) else None
    with (progress or silent)(protocol.n, what) as advance:
        for chunk in features_in_order(images_of, protocol.n, extractor, protocol.to_pixels, given, batch_size, advance):
            collected.add(chunk)
    if not collected:
        return None
    with (progress or silent)(len(collected.wanted), "scores") as advance:
        collected.scores(names, advance)
    seconds = round(time.monotonic() - began, 1)
    found = dict(scores=collected.values, errors=collected.errors, per_class=collected.per_class)
    return found | header(reference, extractor, protocol) | dict(seconds=seconds)


def header(reference: Reference | None, extractor: Extractor, protocol: Protocol) -> dict:
    """What a record says of how its scores came about."""
    return dict(
        protocol=f"{protocol}; {extractor.label}",
        settings=asdict(protocol),
        n=protocol.n,
        extractor=dict(name=extractor.name, sha256=extractor.digest, reference=extractor.reference),
        reference={key: reference.facts[key] for key in ("data", "fingerprint", "size", "n")} if reference else None,
    )


class _Collected:
    """What a pass over generated images leaves to compute scores from: no more than those that are wanted need."""

    def __init__(self, reference: Reference | None, extractor: Extractor, protocol: Protocol, scores: set[str] | None, num_classes: int):
        self.reference, self.extractor, self.protocol, self.num_classes = reference, extractor, protocol, num_classes
        self.asked, self.wanted = scores, self._wanted(scores)
        self.moments = Moments()
        self.inception_score = StreamedInceptionScore(protocol.n, protocol.splits, protocol.shuffle_seed) if "is" in self.wanted else None
        self.bias = getattr(extractor.network, "logit_bias", None) if protocol.logit_bias else None
        self.features: np.ndarray | None = None
        self.labels = np.zeros(protocol.n, np.int64)
        self.correct = np.zeros(protocol.n, bool)
        self.truths: list[Tensor] = []
        self.values, self.errors, self.per_class = {}, {}, {}

    def _wanted(self, asked: set[str] | None) -> set[str]:
        """The scores to compute: those asked for, or all that there are images enough for."""
        n, real, c = self.protocol.n, self.reference, self.num_classes
        missing = {"is": f"n={n} is less than {self.protocol.splits} splits"} if n < self.protocol.splits else {}
        if c < 2:
            missing |= dict.fromkeys(("intra_fid", "accuracy"), "there are no classes")
        if real is None:
            missing |= dict.fromkeys(("fid", "kid", "intra_fid", "precision_recall", "density_coverage"), "there are no real images")
        else:
            few = min(n, real.facts["kept"])
            if min(self._kid_n, few) < KID_SUBSET:
                missing["kid"] = f"it takes {KID_SUBSET} images of either side, and there are {min(self._kid_n, few)}"
            for score, k in (("precision_recall", self.protocol.k_precision), ("density_coverage", self.protocol.k_density)):
                if few <= k:
                    missing[score] = f"it takes more than {k} images of either side"
            if c > 1 and (n < 2 * c or np.bincount(real.labels, minlength=c).min() < 2):
                missing["intra_fid"] = f"it takes two images of each class on either side, and n={n} for {c} classes"
            elif real.facts["kept"] < real.facts["n"]:
                missing["intra_fid"] = "it takes the features of all real images"
        for score in asked or ():
            if score in missing:
                raise ParameterError(f"scores={score!r} cannot be computed: {missing[score]}")
        return (asked or set(SCORES)) - set(missing)

    @property
    def _kid_n(self) -> int:
        return min(self.protocol.n, self.protocol.kid_n or self.protocol.n)

    @property
    def _neighbours_n(self) -> int:
        return min(self.protocol.n, self.protocol.neighbours_n or self.protocol.n)

    @property
    def _kept(self) -> int:
        """How many of the first features are needed again."""
        needs = {
            "kid": self._kid_n,
            "intra_fid": self.protocol.n,
            "precision_recall": self._neighbours_n,
            "density_coverage": self._neighbours_n,
        }
        return max((n for score, n in needs.items() if score in self.wanted), default=0)

    def add(self, chunk: Chunk) -> None:
        first, last = chunk.start, chunk.start + len(chunk.features)
        if "fid" in self.wanted:
            self.moments.update(chunk.features)
        logits = chunk.logits if self.bias is None else chunk.logits + self.bias.to(chunk.logits)
        if not logits.shape[1]:
            if self.asked and "is" in self.asked:
                raise WorkbenchError(f"scores='is' cannot be computed: extractor {self.extractor.name!r} gives no logits")
            self.wanted -= {"is"}
        if logits.shape[1] != self.num_classes:
            self.wanted -= {"accuracy"}
        if "is" in self.wanted:
            self.inception_score.update(logits)
        self.labels[first:last] = chunk.labels.cpu().numpy()
        if "accuracy" in self.wanted:
            self.correct[first:last] = (logits.argmax(1) == chunk.labels).cpu().numpy()
        if first < self._kept:
            if self.features is None:
                self.features = _room(self._kept, chunk.features.shape[1])
            self.features[first:last] = chunk.features[: self._kept - first].cpu().numpy()
        self.truths.append(chunk.truths.double().cpu())

    def scores(self, truth_names: list[str], advance: Callable[[int], None]) -> None:
        """Fill `values`, `errors` (standard deviations of some) and `per_class`."""
        self.truth_names = truth_names
        for score in SCORES:
            if score in self.wanted:
                getattr(self, f"_{score}")()
                advance(1)

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
        features = self.features[: self._kid_n]
        self.values[name], self.errors[name] = kernel_distance(features, self.reference.features, subset_size=KID_SUBSET)

    def _intra_fid(self) -> None:
        name = self._name("intra_fid", f"_n{self.protocol.n // self.num_classes}")
        each = intra_frechet_distance(self.reference.features, self.reference.labels, self.features, self.labels, self.num_classes)
        self.per_class[name] = [value if value == value else None for value in each.tolist()]  # NaN: too few of a class
        if each.isfinite().all():
            self.values[name] = each.mean().item()

    def _precision_recall(self) -> None:
        both = precision_recall(*self._neighbours(), self.protocol.k_precision)
        self.values[self._name("precision")], self.values[self._name("recall")] = both

    def _density_coverage(self) -> None:
        both = density_coverage(*self._neighbours(), self.protocol.k_density)
        self.values[self._name("density")], self.values[self._name("coverage")] = both

    def _neighbours(self) -> tuple[Tensor, Tensor]:
        """Features of as many real and generated images as the protocol says."""
        real, n = self.reference.features, self._neighbours_n
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
    """An array (rows, columns) float32, in memory or, if it is large, in a file that vanishes with it."""
    if rows * columns * 4 <= IN_MEMORY:
        return np.empty((rows, columns), np.float32)
    (data_dir() / "cache").mkdir(parents=True, exist_ok=True)
    return np.memmap(TemporaryFile(dir=data_dir() / "cache"), np.float32, "w+", shape=(rows, columns))
