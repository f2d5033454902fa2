"""Scores of sets of features or logits, whatever extractor they come from. All arithmetic is in float64.

Features are (n, d) and logits (n, K): tensors on any device or NumPy arrays, memory-mapped ones too, of any float type.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..parameters import ParameterError, WorkbenchError
from .moments import Moments

EPSILON = sys.float_info.epsilon

# ----------------------------------------------------------------------------------------------------- Fréchet distance


def frechet_distance(
    mean1: Tensor | np.ndarray,
    cov1: Tensor | np.ndarray,
    mean2: Tensor | np.ndarray,
    cov2: Tensor | np.ndarray,
    factor2: Tensor | np.ndarray | None = None,
) -> float:
    """Squared Fréchet distance of two Gaussians, |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). Of Inception features, it is the FID.

    Parameters
    ----------
    mean1, mean2
        (d,).
    cov1, cov2
        (d, d), symmetric.
    factor2
        `square_root_factor(cov2)`, where it is at hand: half the work.

    Returns
    -------
    float
        At least 0, in squared units of the features. Rounding makes less than 1e-9 (tr C1 + tr C2) of it.

    Raises
    ------
    ParameterError
        If shapes do not match, a value is not finite, a covariance is not symmetric, or factor2 belongs to another one.

    Notes
    -----
    Dowson & Landau (1982), Heusel et al. (2017). With C2 = F2 F2^T, the trace of the root is the sum of the roots of the eigenvalues w
    of F2^T C1 F2. Each w is off by about delta = EPSILON max(w), its root by min(delta^(1/2), delta / (2 w^(1/2))); the sum of these
    was at least 4 times the true error wherever that was measured (d = 256 and 2048, full and deficient rank, eigenvalues spanning up
    to 1e-12). It is too much where many w are near 0, as with fewer samples than dimensions. The singular values of F1^T F2 are those
    roots themselves, and right to 1e-15, but cost three times as much.
    """
    mean1, cov1 = _gaussian(mean1, cov1, "1")
    mean2, cov2 = (v.to(cov1.device) for v in _gaussian(mean2, cov2, "2"))  # references are read to the CPU
    if len(mean1) != len(mean2):
        raise ParameterError(f"mean1 has {len(mean1)} dimensions and mean2 {len(mean2)}; they must be equal")
    if factor2 is None:
        factor2 = square_root_factor(cov2)
    else:
        factor2 = _float64(_tensor(factor2), "factor2").to(cov1.device)
        if factor2.ndim != 2 or len(factor2) != len(mean2):
            raise ParameterError(f"factor2 has shape {tuple(factor2.shape)}; square_root_factor(cov2) would be ({len(mean2)}, rank)")
        if (factor2.square().sum() - cov2.trace()).abs() > 1e-6 * cov2.trace():
            raise ParameterError("factor2 is not square_root_factor(cov2) but belongs to another covariance")
    traces = cov1.trace() + cov2.trace()
    w = torch.linalg.eigvalsh(factor2.T @ cov1 @ factor2).clamp(min=0)
    delta = EPSILON * w[-1:]  # empty where cov2 is 0
    doubt = torch.minimum(delta.sqrt(), delta / (2 * w.sqrt())).sum()
    roots = w.sqrt() if doubt <= 1e-9 * traces else torch.linalg.svdvals(square_root_factor(cov1).T @ factor2)
    return _distance(mean1, mean2, traces, roots)


def square_root_factor(cov: Tensor | np.ndarray) -> Tensor:
    """F (d, r) float64 with F F^T = cov (d, d), r its numerical rank: eigenvalues up to d EPSILON times the largest are rounding, dropped.

    Raises
    ------
    ParameterError
        If cov is not square, not symmetric or not finite.
    """
    w, v = torch.linalg.eigh(_symmetric(cov, "cov"))
    keep = w > len(w) * EPSILON * w[-1].clamp(min=0)
    return v[:, keep] * w[keep].sqrt()


def frechet_distance_of_features(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> float:
    """`frechet_distance` of the Gaussians with the means and unbiased covariances of x (n1, d) and y (n2, d).

    Where n1 or n2 is at most d, no covariance of that side is made: its centred features are the factor, and
    tr (C1 C2)^(1/2) = |F1^T F2|_* is the nuclear norm of a matrix no larger than min(n1, d) x min(n2, d).

    Raises
    ------
    ParameterError
        If a side is not (n, d) with n >= 2, the widths differ, or a value is not finite.
    """
    x, y = _pair(x, "x", y, "y", rows=2)
    if min(len(x), len(y)) > x.shape[1]:
        x, y = Moments.of(_float64(x, "x")), Moments.of(_float64(y, "y"))
        return frechet_distance(x.mean, x.covariance, y.mean, y.covariance)
    mean1, factor1 = _factor(_float64(x, "x"))
    mean2, factor2 = _factor(_float64(y, "y"))
    traces = torch.linalg.vector_norm(factor1).square() + torch.linalg.vector_norm(factor2).square()
    return _distance(mean1, mean2, traces, torch.linalg.svdvals(factor1.T @ factor2))


def intra_frechet_distance(
    x: Tensor | np.ndarray,
    x_labels: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    y_labels: Tensor | np.ndarray,
    num_classes: int,
    progress: Callable[[], object] | None = None,
) -> Tensor:
    """Fréchet distance class by class (Miyato & Koyama, 2018, whose intra-FID is the mean over the classes).

    Parameters
    ----------
    x, y
        (n1, d) and (n2, d). Memory-mapped arrays are read one class at a time.
    x_labels, y_labels
        (n1,) and (n2,) integers below num_classes.
    progress
        Called after every class.

    Returns
    -------
    Tensor
        (num_classes,) float64 on the CPU; NaN where a side has fewer than 2 samples. Its bias depends on the number of samples per
        class: compare only where that is the same.

    Raises
    ------
    ParameterError
        If shapes do not match, a label is out of range, or a value is not finite.
    """
    x, y = _pair(x, "x", y, "y")
    classes1 = _by_class(x_labels, "x_labels", len(x), num_classes)
    classes2 = _by_class(y_labels, "y_labels", len(y), num_classes)
    result = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    for k, (index1, index2) in enumerate(zip(classes1, classes2, strict=True)):
        if len(index1) >= 2 and len(index2) >= 2:
            result[k] = frechet_distance_of_features(x[index1.to(x.device)], y[index2.to(y.device)])
        if progress:
            progress()
    return result


def _distance(mean1: Tensor, mean2: Tensor, traces: Tensor, roots: Tensor) -> float:
    return max(((mean1 - mean2).square().sum() + traces - 2 * roots.sum()).item(), 0.0)  # rounding can make it negative


def _factor(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) of x (n, d) and a factor F, (d, n) or smaller, of its covariance F F^T."""
    if len(x) > x.shape[1]:
        moments = Moments.of(x)
        return moments.mean, square_root_factor(moments.covariance)
    mean = x.mean(0)
    return mean, (x - mean).div_((len(x) - 1) ** 0.5).T


def _gaussian(mean: Tensor | np.ndarray, cov: Tensor | np.ndarray, side: str) -> tuple[Tensor, Tensor]:
    mean, cov = _float64(_tensor(mean), f"mean{side}"), _symmetric(cov, f"cov{side}")
    if mean.ndim != 1 or len(mean) != len(cov):
        raise ParameterError(f"mean{side} has shape {tuple(mean.shape)} and cov{side} {tuple(cov.shape)}; they must be (d,) and (d, d)")
    return mean, cov


def _symmetric(cov: Tensor | np.ndarray, name: str) -> Tensor:
    cov = _float64(_tensor(cov), name)
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1] or not len(cov):
        raise ParameterError(f"{name} has shape {tuple(cov.shape)}; a covariance must be (d, d)")
    if (cov - cov.T).abs().amax() > 1e-6 * cov.abs().amax():  # computed in float32, as published statistics are, it is off by 1e-7
        raise ParameterError(f"{name} differs from its transpose by up to {(cov - cov.T).abs().amax():.3g}; a covariance is symmetric")
    return cov


def _by_class(labels: Tensor | np.ndarray, name: str, count: int, num_classes: int) -> tuple[Tensor, ...]:
    """The indices of the samples of each class, ascending."""
    labels = _tensor(labels).cpu()
    if labels.shape != (count,):
        raise ParameterError(f"{name} has shape {tuple(labels.shape)}; {count} samples need ({count},)")
    if count and not 0 <= labels.amin() <= labels.amax() < num_classes:
        raise ParameterError(f"{name} goes from {labels.amin()} to {labels.amax()}; with num_classes={num_classes}, 0 to {num_classes - 1}")
    return labels.argsort(stable=True).split(labels.long().bincount(minlength=num_classes).tolist())


# ----------------------------------------------------------------------------------------------------- Inception score


class StreamedInceptionScore:
    """The Inception score (Salimans et al., 2016), exp of the mean of KL(p(y|x) || p(y)), of logits that are not kept.

    Parameters
    ----------
    n
        Number of samples that will come, in order of sample index.
    splits
        Number of parts: part i of the order holds the positions from i n // splits to before (i + 1) n // splits.
    shuffle_seed
        None for the order in which samples come, which must then mix the classes: the score of few classes is low. With a seed, the
        order is `numpy.random.RandomState(shuffle_seed).permutation(n)`, as in torch-fidelity (2020 there).

    Raises
    ------
    ParameterError
        If n < splits or splits < 1.
    """

    def __init__(self, n: int, splits: int = 10, shuffle_seed: int | None = None):
        if not 1 <= splits <= n:
            raise ParameterError(f"splits={splits} cannot be filled with n={n} samples; at least 1 and at most {n}")
        self.n, self.seen = n, 0
        self._counts = np.diff([i * n // splits for i in range(splits + 1)])
        self._split = np.repeat(np.arange(splits), self._counts)  # of each sample
        if shuffle_seed is not None:
            self._split[np.random.RandomState(shuffle_seed).permutation(n)] = self._split.copy()
        self._p = self._negentropy = None  # sums over the samples of each split of p, (splits, K), and of sum_y p log p, (splits,)

    def update(self, logits: Tensor | np.ndarray) -> StreamedInceptionScore:
        """Take in the logits (B, K) of the next samples. Returns itself.

        Raises
        ------
        ParameterError
            If logits are not (B, K), K changes, more than n samples come, or a value is not finite.
        """
        logits = _float64(_rows(logits, "logits", 0), "logits")
        if self._p is None:
            self._p = logits.new_zeros(len(self._counts), logits.shape[1])
            self._negentropy = logits.new_zeros(len(self._counts))
        if logits.shape[1] != self._p.shape[1]:
            raise ParameterError(f"logits have {logits.shape[1]} classes; those before had {self._p.shape[1]}")
        if self.seen + len(logits) > self.n:
            raise ParameterError(f"logits of {self.seen + len(logits)} samples came; n={self.n}")
        split = torch.from_numpy(self._split[self.seen : self.seen + len(logits)]).to(logits.device)
        member = (split == torch.arange(len(self._counts), device=logits.device)[:, None]).double()  # (splits, B)
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        self._p += member @ p
        self._negentropy += member @ (p * log_p).sum(1)
        self.seen += len(logits)
        return self

    def whole(self) -> float:
        """The score of all n as one set, as in the official evaluation of SAGAN. Raises WorkbenchError before n samples came."""
        self._check_complete()
        return self._score(self._p.sum(0), self._negentropy.sum(), self.n)

    def splits(self) -> tuple[float, float]:
        """Mean and (population) standard deviation of the scores of the splits. Raises WorkbenchError before n samples came."""
        self._check_complete()
        scores = [self._score(*sums) for sums in zip(self._p, self._negentropy, self._counts.tolist(), strict=True)]
        return float(np.mean(scores)), float(np.std(scores))

    def _check_complete(self) -> None:
        if self.seen < self.n:
            raise WorkbenchError(f"the Inception score of n={self.n} samples was asked for after {self.seen}; update with the others first")

    @staticmethod
    def _score(p: Tensor, negentropy: Tensor, count: int) -> float:
        q = p / count  # the mean of KL(p || q) is that of sum_y p log p, less sum_y q log q
        return (negentropy / count - torch.special.xlogy(q, q).sum()).exp().item()


def inception_score(logits: Tensor | np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Mean and standard deviation of the Inception score over `splits` parts of logits (n, K), in the order given.

    Raises
    ------
    ParameterError
        If logits are not (n, K) with n >= splits, or a value is not finite.
    """
    logits = _rows(logits, "logits")
    score = StreamedInceptionScore(len(logits), splits)
    for part in logits.split(1000):
        score.update(part)
    return score.splits()


# ----------------------------------------------------------------------------------------------------- kernel distance


def kernel_distance(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
    progress: Callable[[], object] | None = None,
) -> tuple[float, float]:
    """Kernel distance (Bińkowski et al., 2018): squared maximum mean discrepancy for the kernel (a.b / d + 1)^3. The KID, of Inception features.

    Parameters
    ----------
    x, y
        (n1, d) and (n2, d).
    subsets, subset_size, seed
        The unbiased estimate is averaged over random subsets of both sides, drawn as torch-fidelity does: without replacement, from
        `numpy.random.RandomState(seed)`, first of x, then of y.
    progress
        Called after every subset.

    Returns
    -------
    mean, std
        Mean and population standard deviation over the subsets; torch-fidelity reports the same two. The mean can be negative. The
        second tells how one subset varies; what drawing the subsets adds to the error of the mean is std / subsets^(1/2), the
        standard error.

    Raises
    ------
    ParameterError
        If a side has fewer than subset_size samples, the widths differ, a value is not finite, subsets < 1, or subset_size < 2.
    """
    x, y = _pair(x, "x", y, "y")
    if subsets < 1:
        raise ParameterError(f"subsets={subsets} is not at least 1")
    if not 2 <= subset_size <= min(len(x), len(y)):
        raise ParameterError(
            f"subset_size={subset_size} must be at least 2 and at most the number of samples: {len(x)} of x, {len(y)} of y"
        )
    random = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        a, b = (_float64(side[_draw(random, side, subset_size)], name) for side, name in ((x, "x"), (y, "y")))
        within = sum(kernel.sum() - kernel.trace() for kernel in (_cubic(a, a), _cubic(b, b)))
        values.append((within / (subset_size * (subset_size - 1)) - 2 * _cubic(a, b).mean()).item())
        if progress:
            progress()
    return float(np.mean(values)), float(np.std(values))


def _draw(random: np.random.RandomState, x: Tensor, count: int) -> Tensor:
    return torch.from_numpy(random.choice(len(x), count, replace=False)).to(x.device)


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    inner = (a @ b.T).div_(a.shape[1]).add_(1)
    return inner.square().mul_(inner)


# ----------------------------------------------------------------------------------------------------- nearest neighbours


def precision_recall(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 3, block: int = 1000) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., 2019).

    Precision is the share of fake samples that lie in a ball around a real one, recall that of real samples in a ball around a fake
    one; the radius of a ball is the distance to the k-th nearest other sample of its own set, and its boundary belongs to it.

    Parameters
    ----------
    real, fake
        (n, d) and (m, d).
    k
        Below n and m.
    block
        Distances of this many samples at a time are in memory: block (n + m) numbers.

    Returns
    -------
    precision, recall
        In [0, 1].

    Raises
    ------
    ParameterError
        If the widths differ, k or block is out of range, or a value is not finite.
    """
    real, fake = _balls_input(real, fake, block)
    real_radii, fake_radii = _radii(real, "real", k, block), _radii(fake, "fake", k, block)
    precise, recalled = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, distances in _distances(fake, real, block):
        precise += (distances <= real_radii).any(1).sum().item()
        recalled |= (distances <= fake_radii[rows, None]).any(0)
    return precise / len(fake), recalled.double().mean().item()


def density_coverage(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 5, block: int = 1000) -> tuple[float, float]:
    """Density and coverage (Naeem et al., 2020).

    With the balls around the real samples of `precision_recall`: density is the mean number of balls that hold a fake sample, over k;
    coverage is the share of balls that hold any. The authors' code leaves boundaries out, where only copies of real samples can lie.

    Parameters
    ----------
    real, fake
        (n, d) and (m, d).
    k
        Below n.
    block
        Distances of this many samples at a time are in memory: block n numbers.

    Returns
    -------
    density, coverage
        At least 0, about 1 for equal distributions; and in [0, 1].

    Raises
    ------
    ParameterError
        If the widths differ, k or block is out of range, or a value is not finite.
    """
    real, fake = _balls_input(real, fake, block)
    radii = _radii(real, "real", k, block)
    held, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for _, distances in _distances(fake, real, block):
        inside = distances <= radii
        held += inside.sum().item()
        covered |= inside.any(0)
    return held / (k * len(fake)), covered.double().mean().item()


def nearest_neighbours(x: Tensor | np.ndarray, reference: Tensor | np.ndarray, count: int = 1, block: int = 1000) -> tuple[Tensor, Tensor]:
    """The nearest rows of reference (n, d) to each row of x (B, d), by Euclidean distance, nearest first.

    Parameters
    ----------
    count
        How many, at most n.
    block
        This many rows of reference, which may be memory-mapped, are in memory at a time.

    Returns
    -------
    indices, distances
        (B, count) int64 and float64; the distance of a copy is exactly 0.

    Raises
    ------
    ParameterError
        If the widths differ, count or block is out of range, or a value is not finite.
    """
    x, reference = _pair(x, "x", reference, "reference")
    if not 1 <= count <= len(reference):
        raise ParameterError(f"count={count} must be at least 1 and at most the {len(reference)} rows of reference")
    if block < 1:
        raise ParameterError(f"block={block} is not at least 1")
    x = _float64(x, "x")
    centre = x.mean(0)  # rounding grows with the distance from the origin
    nearest, indices = x.new_zeros(len(x), 0), torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
    for start in range(0, len(reference), block):
        part = _float64(reference[start : start + block], "reference")
        nearest = torch.cat([nearest, _squared_distances(x - centre, part - centre)], 1)
        indices = torch.cat([indices, torch.arange(start, start + len(part), device=x.device).expand(len(x), -1)], 1)
        nearest, kept = nearest.topk(min(count, nearest.shape[1]), largest=False)
        indices = indices.gather(1, kept)
    # Those few again from the differences, which cancel exactly.
    distances = torch.stack([(_float64(reference[column], "reference") - x).square().sum(1).sqrt() for column in indices.T], 1)
    distances, order = distances.sort(dim=1, stable=True)
    return indices.gather(1, order), distances


def _balls_input(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, block: int) -> tuple[Tensor, Tensor]:
    real, fake = _pair(real, "real", fake, "fake")
    if block < 1:
        raise ParameterError(f"block={block} is not at least 1")
    real, fake = _float64(real, "real"), _float64(fake, "fake")
    centre = real.mean(0)  # rounding grows with the distance from the origin
    return real - centre, fake - centre


def _radii(x: Tensor, name: str, k: int, block: int) -> Tensor:
    """Squared distance (n,) of each row of x (n, d) to the k-th nearest other one, more by what makes up for rounding."""
    if not 1 <= k < len(x):
        raise ParameterError(f"k={k} must be at least 1 and below the number of {name} samples, {len(x)}")
    radii = []
    for rows, distances in _distances(x, x, block):
        distances.diagonal(rows.start).fill_(torch.inf)  # each sample's distance to itself
        radii.append(distances.topk(k, largest=False).values[:, -1])
    radii = torch.cat(radii)
    # The same distance computed in another block may differ by some EPSILON of the squared norms; what is on the boundary is to be inside.
    return radii + 1e-12 * (radii + x.square().sum(1))


def _distances(x: Tensor, y: Tensor, block: int) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances to all rows of y of `block` rows of x at a time, with the slice of these rows."""
    for start in range(0, len(x), block):
        part = x[start : start + block]
        yield slice(start, start + len(part)), _squared_distances(part, y)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) of x (n, d) and y (m, d); rounding can make them negative."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None])


# ----------------------------------------------------------------------------------------------------- input


def _pair(x: Tensor | np.ndarray, x_name: str, y: Tensor | np.ndarray, y_name: str, rows: int = 1) -> tuple[Tensor, Tensor]:
    x, y = _rows(x, x_name, rows), _rows(y, y_name, rows)
    if x.shape[1] != y.shape[1]:
        raise ParameterError(f"{x_name} has {x.shape[1]} features per sample and {y_name} {y.shape[1]}; they must be equal")
    return x, y


def _rows(x: Tensor | np.ndarray, name: str, least: int = 1) -> Tensor:
    x = _tensor(x)
    if x.ndim != 2 or len(x) < least or not x.shape[1]:
        raise ParameterError(f"{name} has shape {tuple(x.shape)}; it must be a matrix with a row per sample, at least {least}")
    return x


def _tensor(x: Tensor | np.ndarray) -> Tensor:
    """x as a tensor that shares its memory: only what is indexed later is read from a file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing here writes into its input
        return torch.as_tensor(x)


def _float64(x: Tensor, name: str) -> Tensor:
    x = x.to(torch.float64)
    if not x.sum().isfinite():  # without a temporary of the size of x
        raise ParameterError(f"{name} holds NaN or infinity; all values must be finite")
    return x
