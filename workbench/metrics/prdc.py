"""Nearest neighbours and the scores that use them, in float64: precision, recall, density and coverage (PRDC)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..parameters import ParameterError
from .checks import float64, pair

BLOCK = 1000  # rows whose distances to all others are in memory at a time


def precision_recall(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al., 2019).

    Precision is the share of fake samples in a closed ball around a real one, recall that of real samples in a ball around a fake one;
    the radius of a ball is the distance to the k-th nearest other sample of its own set.

    Parameters
    ----------
    real, fake
        (n, d) and (m, d).
    k
        Below n and m.

    Returns
    -------
    precision, recall
        In [0, 1].

    Raises
    ------
    ParameterError
        If the widths differ, k is out of range, or a value is not finite.
    """
    real, fake = _centred(real, fake)
    real_radii, fake_radii = _radii(real, "real", k), _radii(fake, "fake", k)
    precise, recalled = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, distances in _distances(fake, real):
        precise += int((distances <= real_radii).any(1).sum())
        recalled |= (distances <= fake_radii[rows, None]).any(0)
    return precise / len(fake), recalled.double().mean().item()


def density_coverage(real: Tensor | np.ndarray, fake: Tensor | np.ndarray, k: int = 5) -> tuple[float, float]:
    """Density and coverage (Naeem et al., 2020).

    With the balls around real samples of `precision_recall`: density is the mean number of balls that hold a fake sample, over k;
    coverage is the share of balls that hold any. The authors' balls are open, which differs only for copies of real samples.

    Parameters
    ----------
    real, fake
        (n, d) and (m, d).
    k
        Below n.

    Returns
    -------
    density, coverage
        At least 0, about 1 for equal distributions; and in [0, 1].

    Raises
    ------
    ParameterError
        If the widths differ, k is out of range, or a value is not finite.
    """
    real, fake = _centred(real, fake)
    radii = _radii(real, "real", k)
    held, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for _, distances in _distances(fake, real):
        inside = distances <= radii
        held += int(inside.sum())
        covered |= inside.any(0)
    return held / (k * len(fake)), covered.double().mean().item()


def nearest_neighbours(x: Tensor | np.ndarray, reference: Tensor | np.ndarray, count: int = 1) -> tuple[Tensor, Tensor]:
    """The nearest rows of reference (n, d), which may be memory-mapped, to each row of x (B, d): by Euclidean distance, nearest first.

    Parameters
    ----------
    count
        How many, at most n.

    Returns
    -------
    indices, distances
        (B, count) int64 and float64; the distance of a copy is exactly 0.

    Raises
    ------
    ParameterError
        If the widths differ, count is out of range, or a value is not finite.
    """
    x, reference = pair(x, "x", reference, "reference")
    if not 1 <= count <= len(reference):
        raise ParameterError(f"count={count} must be at least 1 and at most the {len(reference)} rows of reference")
    x = float64(x, "x")
    centre = x.mean(0)  # rounding grows with the distance from the origin
    nearest, indices = x.new_zeros(len(x), 0), torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
    for start in range(0, len(reference), BLOCK):
        part = float64(reference[start : start + BLOCK], "reference")
        nearest = torch.cat([nearest, _squared_distances(x - centre, part - centre)], 1)
        indices = torch.cat([indices, torch.arange(start, start + len(part), device=x.device).expand(len(x), -1)], 1)
        nearest, order = nearest.topk(min(count, nearest.shape[1]), largest=False)
        indices = indices.gather(1, order)
    # The distances of these few again, from differences: exactly 0 for copies.
    distances = torch.stack([(float64(reference[column], "reference") - x).square().sum(1).sqrt() for column in indices.T], 1)
    distances, order = distances.sort(dim=1, stable=True)
    return indices.gather(1, order), distances


def _centred(real: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    real, fake = pair(real, "real", fake, "fake")
    real, fake = float64(real, "real"), float64(fake, "fake")
    centre = real.mean(0)  # rounding grows with the distance from the origin
    return real - centre, fake - centre


def _radii(x: Tensor, name: str, k: int) -> Tensor:
    """Squared distance (n,) of each row of x (n, d) to the k-th nearest other one, rounded up."""
    if not 1 <= k < len(x):
        raise ParameterError(f"k={k} must be at least 1 and below the number of {name} samples, {len(x)}")
    blocks = []
    for rows, distances in _distances(x, x):
        distances.diagonal(rows.start).fill_(torch.inf)  # each sample's distance to itself
        blocks.append(distances.topk(k, largest=False).values[:, -1])
    radii = torch.cat(blocks)
    # The same distance in another block may differ by some EPSILON of the squared norms; samples on the boundary count as inside.
    return radii + 1e-12 * (radii + x.square().sum(1))


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances to all rows of y of BLOCK rows of x at a time, with their slice."""
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        yield slice(start, start + len(part)), _squared_distances(part, y)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) of x (n, d) and y (m, d); rounding can make them negative."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None])
