"""Kernel distance, in float64: of Inception features, the KID."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..messages import ParameterError
from .checks import float64, pair


def kernel_distance(
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> tuple[float, float]:
    """Kernel distance (Bińkowski et al., 2018): squared maximum mean discrepancy for the kernel (a.b / d + 1)^3. The KID, of Inception features.

    Parameters
    ----------
    x, y
        (n1, d) and (n2, d).
    subsets, subset_size, seed
        The unbiased estimate is averaged over random subsets of both sides, drawn as torch-fidelity does: without replacement, from
        `numpy.random.RandomState(seed)`, first of x, then of y.

    Returns
    -------
    mean, std
        Mean and population standard deviation over the subsets, as in torch-fidelity. The mean can be negative; drawing the subsets adds
        the standard error std / subsets^(1/2) to it.

    Raises
    ------
    ParameterError
        If a side has fewer than subset_size samples, the widths differ, a value is not finite, subsets < 1, or subset_size < 2.
    """
    x, y = pair(x, "x", y, "y")
    if subsets < 1:
        raise ParameterError(f"subsets={subsets} is not at least 1")
    if not 2 <= subset_size <= min(len(x), len(y)):
        raise ParameterError(
            f"subset_size={subset_size} must be at least 2 and at most the number of samples: {len(x)} of x, {len(y)} of y"
        )
    random = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        draws = [torch.from_numpy(random.choice(len(side), subset_size, replace=False)).to(side.device) for side in (x, y)]
        a, b = float64(x[draws[0]], "x"), float64(y[draws[1]], "y")
        within = sum(kernel.sum() - kernel.trace() for kernel in (_cubic(a, a), _cubic(b, b)))
        values.append((within / (subset_size * (subset_size - 1)) - 2 * _cubic(a, b).mean()).item())
    return float(np.mean(values)), float(np.std(values))


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    inner = (a @ b.T).div_(a.shape[1]).add_(1)
    return inner.square().mul_(inner)
