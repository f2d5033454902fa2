"""Nearest neighbours and the scores that use them, in float64: precision, recall, density and coverage (PRDC).

Squared distances are |x|^2 + |y|^2 - 2 x.y, because products of matrices are fast. Their rounding error grows with the norms, so where it
could decide, far from the centre, distances are computed again from differences.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..messages import ParameterError
from .checks import float64, pair

EPSILON = torch.finfo(torch.float64).eps

BLOCK = 1000  # rows whose distances to all others are in memory at a time
TIES = 1e-12  # relative difference of squared distances below which they count as equal: a point on the boundary is in the ball


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
        precise += int(_inside(distances, fake[rows], real, real_radii).any(1).sum())
        recalled |= _inside(distances, fake[rows], real, fake_radii[rows, None]).any(0)
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
    for rows, distances in _distances(fake, real):
        inside = _inside(distances, fake[rows], real, radii)
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
    centre = _centre(x)
    x = x - centre
    nearest, indices = x.new_zeros(len(x), 0), torch.zeros(len(x), 0, dtype=torch.long, device=x.device)
    for start in range(0, len(reference), BLOCK):
        part = float64(reference[start : start + BLOCK], "reference") - centre
        distances, columns = _smallest(_squared_distances(x, part), x, part, min(count, len(part)))
        nearest, indices = torch.cat([nearest, distances], 1), torch.cat([indices, start + columns], 1)
        nearest, order = nearest.topk(min(count, nearest.shape[1]), largest=False)
        indices = indices.gather(1, order)
    return indices, nearest.sqrt()


def _centred(real: Tensor | np.ndarray, fake: Tensor | np.ndarray) -> tuple[Tensor, Tensor]:
    real, fake = pair(real, "real", fake, "fake")
    real, fake = float64(real, "real"), float64(fake, "fake")
    centre = _centre(real)
    return real - centre, fake - centre


def _centre(x: Tensor) -> Tensor:
    """About the mean of x (n, d), in float32: differences from it are exact in float64 if x was float32."""
    return x.mean(0).clamp(-1e38, 1e38).float().double()


def _radii(x: Tensor, name: str, k: int) -> Tensor:
    """Squared distance (n,) of each row of x (n, d) to the k-th nearest other one."""
    if not 1 <= k < len(x):
        raise ParameterError(f"k={k} must be at least 1 and below the number of {name} samples, {len(x)}")
    radii = []
    for rows, distances in _distances(x, x):
        distances.diagonal(rows.start).fill_(torch.inf)  # each sample's distance to itself
        radii.append(_smallest(distances, x[rows], x, k)[0].amax(1))
    return torch.cat(radii)


def _inside(distances: Tensor, x: Tensor, y: Tensor, radii: Tensor) -> Tensor:
    """Whether squared distances (n, m) of x (n, d) and y (m, d) are at most the squared radii, (m,) or (n, 1)."""
    radii = radii * (1 + TIES)
    excess = distances - radii
    inside = excess <= 0
    of_x, of_y = _rounding(x, y)
    near = excess.abs_().sub_(of_x) <= of_y
    inside[near] = _from_differences(x, y, near) <= radii.expand_as(near)[near]
    return inside


def _smallest(distances: Tensor, x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of the squared distances (n, m) of x (n, d) and y (m, d), from differences, ascending, and their columns: (n, k)."""
    of_x, of_y = _rounding(x, y)
    bound = distances.add_(of_x).add_(of_y).topk(k, largest=False).values[:, -1:]
    near = distances.sub_(2 * of_y) <= bound + 2 * of_x  # the least that they can be is not above the bound
    distances.fill_(torch.inf)[near] = _from_differences(x, y, near)
    return distances.topk(k, largest=False)


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Squared distances to all rows of y of BLOCK rows of x at a time, with their slice."""
    for start in range(0, len(x), BLOCK):
        part = x[start : start + BLOCK]
        yield slice(start, start + len(part)), _squared_distances(part, y)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(n, m) of x (n, d) and y (m, d); rounding can make them negative, see `_rounding`."""
    return torch.addmm(y.square().sum(1), x, y.T, alpha=-2).add_(x.square().sum(1)[:, None])


def _rounding(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Parts (n, 1) and (m,) whose sum bounds the error of `_squared_distances` (Higham, 2002, Section 3.1)."""
    scale = 2 * (x.shape[1] + 4) * EPSILON
    return scale * x.square().sum(1, keepdim=True), scale * y.square().sum(1)


def _from_differences(x: Tensor, y: Tensor, pairs: Tensor) -> Tensor:
    """Squared distances (p,) of the p pairs of rows of x and y that are true in `pairs` (n, m), in row-major order."""
    size = max(1, 2**22 // x.shape[1])
    return torch.cat([(x[i] - y[j]).square().sum(1) for i, j in (part.T for part in pairs.nonzero().split(size))])
