"""Fréchet distances, in float64: of Inception features, the FID; class by class, the intra-FID.

Features are (n, d): tensors on any device, or NumPy arrays, which may be memory-mapped; of any float type.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from ..messages import ParameterError, counted
from .checks import LARGEST, as_tensor, float64, pair
from .moments import Moments

EPSILON = sys.float_info.epsilon


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
        (d, d), symmetric, without negative eigenvalues.
    factor2
        `square_root_factor(cov2)`, if known: this halves the work.

    Returns
    -------
    float
        At least 0, in squared units of the features; its rounding error is below 1e-9 (tr C1 + tr C2).

    Raises
    ------
    ParameterError
        If shapes do not match, a value is not finite or overflows, a matrix is no covariance, or factor2 belongs to another covariance.

    Notes
    -----
    Dowson & Landau (1982), Heusel et al. (2017). With C2 = F2 F2^T, the trace of the root is the sum of the roots of the eigenvalues w
    of F2^T C1 F2. The error of each w is about delta = EPSILON max(w), that of its root min(delta^(1/2), delta / (2 w^(1/2))); the sum of
    these was at least 4 times the true error in every measurement (d = 256 and 2048, full and deficient rank, eigenvalues spanning up
    to 1e-12). It is too large if many w are near 0, as with fewer samples than dimensions. The singular values of F1^T F2 are those
    roots themselves, correct to 1e-15, but cost three times as much.
    """
    mean1, cov1 = _gaussian(mean1, cov1, "1")
    mean2, cov2 = (v.to(cov1.device) for v in _gaussian(mean2, cov2, "2"))  # references are read to the CPU
    if len(mean1) != len(mean2):
        raise ParameterError(f"mean1 has {len(mean1)} dimensions and mean2 {len(mean2)}; they must be equal")
    if factor2 is None:
        factor2 = square_root_factor(cov2)
    else:
        factor2 = float64(as_tensor(factor2), "factor2").to(cov1.device)
        if factor2.ndim != 2 or len(factor2) != len(mean2):
            raise ParameterError(f"factor2 has shape {tuple(factor2.shape)}; square_root_factor(cov2) would be ({len(mean2)}, rank)")
        if (factor2.square().sum() - cov2.trace()).abs() > 1e-6 * cov2.trace():
            raise ParameterError("factor2 is not square_root_factor(cov2) but belongs to another covariance")
    traces = cov1.trace() + cov2.trace()
    w = torch.linalg.eigvalsh(factor2.T @ cov1 @ factor2).clamp(min=0)
    delta = EPSILON * w[-1:]  # empty where cov2 is 0
    error = torch.minimum(delta.sqrt(), delta / (2 * w.sqrt())).sum()
    roots = w.sqrt() if error <= 1e-9 * traces else torch.linalg.svdvals(square_root_factor(cov1).T @ factor2)
    return _distance(mean1, mean2, traces, roots)


def square_root_factor(cov: Tensor | np.ndarray) -> Tensor:
    """F (d, r) float64 with F F^T = cov (d, d), r its numerical rank: eigenvalues up to d EPSILON times the largest are rounding errors.

    A ParameterError if cov is not finite, square and symmetric, or has negative eigenvalues.
    """
    w, v = torch.linalg.eigh(_covariance(cov, "cov"))
    keep = w > len(w) * EPSILON * w[-1].clamp(min=0)
    return v[:, keep] * w[keep].sqrt()


def frechet_distance_of_features(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> float:
    """`frechet_distance` of the Gaussians with the means and unbiased covariances of x (n1, d) and y (n2, d).

    If n1 or n2 is at most d, the centred features of that side replace its covariance as the factor F, and
    tr (C1 C2)^(1/2) = |F1^T F2|_* is the nuclear norm of a matrix no larger than min(n1, d) x min(n2, d).

    Raises
    ------
    ParameterError
        If a side is not (n, d) with n >= 2, the widths differ, or a value is not finite.
    """
    x, y = pair(x, "x", y, "y", rows=2)
    if min(len(x), len(y)) > x.shape[1]:
        moments1, moments2 = Moments.of(float64(x, "x")), Moments.of(float64(y, "y"))
        return frechet_distance(moments1.mean, moments1.covariance, moments2.mean, moments2.covariance)
    mean1, factor1 = _factor(float64(x, "x"))
    mean2, factor2 = _factor(float64(y, "y"))
    traces = torch.linalg.vector_norm(factor1).square() + torch.linalg.vector_norm(factor2).square()
    return _distance(mean1, mean2, traces, torch.linalg.svdvals(factor1.T @ factor2))


def intra_frechet_distance(
    x: Tensor | np.ndarray,
    x_labels: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    y_labels: Tensor | np.ndarray,
    num_classes: int,
) -> Tensor:
    """Fréchet distance class by class (Miyato & Koyama, 2018, whose intra-FID is the mean over the classes).

    Parameters
    ----------
    x, y
        (n1, d) and (n2, d). Memory-mapped arrays are read one class at a time.
    x_labels, y_labels
        (n1,) and (n2,) integers below num_classes.

    Returns
    -------
    Tensor
        (num_classes,) float64 on the CPU; NaN if a side has fewer than 2 samples. The bias depends on the number of samples per class:
        compare only equal ones.

    Raises
    ------
    ParameterError
        If shapes do not match, a label is out of range, or a value is not finite.
    """
    x, y = pair(x, "x", y, "y")
    classes1 = _by_class(x_labels, "x_labels", len(x), num_classes)
    classes2 = _by_class(y_labels, "y_labels", len(y), num_classes)
    result = torch.full((num_classes,), torch.nan, dtype=torch.float64)
    for k, (index1, index2) in enumerate(zip(classes1, classes2, strict=True)):
        if len(index1) >= 2 and len(index2) >= 2:
            result[k] = frechet_distance_of_features(x[index1.to(x.device)], y[index2.to(y.device)])
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
    mean, cov = float64(as_tensor(mean), f"mean{side}"), _covariance(cov, f"cov{side}")
    if mean.ndim != 1 or len(mean) != len(cov):
        raise ParameterError(f"mean{side} has shape {tuple(mean.shape)} and cov{side} {tuple(cov.shape)}; they must be (d,) and (d, d)")
    return mean, cov


def _covariance(cov: Tensor | np.ndarray, name: str) -> Tensor:
    cov = float64(as_tensor(cov), name, LARGEST**2)
    if cov.ndim != 2 or cov.shape[0] != cov.shape[1] or not len(cov):
        raise ParameterError(f"{name} has shape {tuple(cov.shape)}; a covariance must be (d, d)")
    if (cov - cov.T).abs().amax() > 1e-6 * cov.abs().amax():  # published statistics, computed in float32, deviate by 1e-7
        raise ParameterError(f"{name} differs from its transpose by up to {(cov - cov.T).abs().amax():.3g}; a covariance is symmetric")
    # Negative eigenvalues of published statistics are within 1e-7 of the norm. A Cholesky factor takes a tenth of the time of eigenvalues.
    rounding = 1e-6 * torch.linalg.matrix_norm(cov)
    if rounding > 0 and torch.linalg.cholesky_ex(cov + torch.diag(rounding.expand(len(cov)))).info:
        w = torch.linalg.eigvalsh(cov)
        raise ParameterError(f"{name} has eigenvalues from {w[0]:.3g} to {w[-1]:.3g}; a covariance has no negative ones")
    return cov


def _by_class(labels: Tensor | np.ndarray, name: str, count: int, num_classes: int) -> tuple[Tensor, ...]:
    """The indices of the samples of each class, ascending."""
    labels = as_tensor(labels).cpu()
    if labels.shape != (count,):
        raise ParameterError(f"{name} has shape {tuple(labels.shape)}; {counted(count, 'sample')} need ({count},)")
    if count and not 0 <= labels.amin() <= labels.amax() < num_classes:
        raise ParameterError(f"{name} goes from {labels.amin()} to {labels.amax()}; with num_classes={num_classes}, 0 to {num_classes - 1}")
    return labels.argsort(stable=True).split(labels.long().bincount(minlength=num_classes).tolist())
