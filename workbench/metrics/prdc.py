"""Nearest neighbours, and the scores by them: precision, recall, density and coverage (PRDC). All arithmetic is in float64."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..parameters import ParameterError
from .features import float64, pair


def precision_recall(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 3, block: int = 1000) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., 2019).

    Precision is the share of fake samples in a closed ball around a real one, recall that of real samples in a ball around a fake one;
    the radius of a ball is the distance to the k-th nearest other sample of its own set.

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
        precise += int((distances <= real_radii).any(1).sum())
        recalled |= (distances <= fake_radii[rows, None]).any(0)
    return precise / len(fake), recalled.double().mean().item()


def density_coverage(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 5, block: int = 1000) -> tuple[float, float]:
    """Density and coverage (Naeem et al., 2020).

    With the balls around real samples of `precision_recall`: density is the mean number of balls that hold a fake sample, over k;
    coverage is the share of balls that hold any. The authors' balls are open, which differs only for copies of real samples.

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
        held += int(inside.sum())
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
    x, reference = pair(x, "x", reference, "reference")
    if not 1 <= count <= len(reference):
        raise ParameterError(f"count={count} must be at least 1 and at most the {len(reference)} rows of reference")
    if block < 1:
        raise ParameterError(f"block={block} is not at least 1")
    x = float64(x, "x")
    centre = x.mean(0)  # rounding grows with the distance from the origin
    nearest, indices = x.new_zeros(len(x), 0), torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
    for start in range(0, len(reference), block):
        part = float64(reference[start : start + block], "reference")
        nearest = torch.cat([nearest, _squared_distances(x - centre, part - centre)], 1)
        indices = torch.cat([indices, torch.arange(start, start + len(part), device=x.device).expand(len(x), -1)], 1)
        nearest, order = nearest.topk(min(count, nearest.shape[1]), largest=False)
        indices = indices.gather(1, order)
    # The distances of these few again, from differences: exactly 0 for copies.
    distances = torch.stack([(float64(reference[column], "reference") - x).square().sum(1).sqrt() for column in indices.T], 1)
    distances, order = distances.sort(dim=1, stable=True)
    return indices.gather(1, order), distances


def _balls_input(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, block: int) -> tuple[Tensor, Tensor]:
    real, fake = pair(real, "real", fake, "fake")
    if block < 1:
        raise ParameterError(f"block={block} is not at least 1")
    real, fake = float64(real, "real"), float64(fake, "fake")
    centre = real.mean(0)  # rounding grows with the distance from the origin
    return real - centre, fake - centre


def _radii(x: Tensor, name: str, k: int, block: int) -> Tensor:
    """Squared distance (n,) of each row of x (n, d) to the k-th nearest other one, rounded up."""
    if not 1 <= k < len(x):
        raise ParameterError(f"k={k} must be at least 1 and below the number of {name} samples, {len(x)}")
    blocks = []
    for rows, distances in _distances(x, x, block):
        distances.diagonal(rows.start).fill_(torch.inf)  # each sample's distance to itself
        blocks.append(distances.topk(k, largest=False).values[:, -1])
    radii = torch.cat(blocks)
    # The same distance in another block may differ by some EPSILON of the squared norms; samples on the boundary count as inside.
    return radii + 1e-12 * (radii + x.square().sum(1))


def _distances(x: Tensor, y: Tensor, block: int) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances to all rows of y of `block` rows of x at a time, with the slice of these rows."""
    for start in range(0, len(x), block):
        part = x[start : start + block]
        yield slice(start, start + len(part)), _squared_distances(part, y)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) of x (n, d) and y (m, d); rounding can make them negative."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None])
