"""Features and Gaussians made of normal numbers."""

import torch

from workbench.metrics.moments import Moments


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def features(n, d, seed=0, scale=1.0):
    """Float32 features like Inception's: a mean, correlations, a decaying spectrum, non-negative."""
    mixing = normal(d, d, seed=100) * torch.logspace(0, -1.5, d, dtype=torch.float64)[:, None]
    return (scale * normal(n, d, seed=seed) @ mixing + 0.5).relu().float()


def gaussian(x, size=None, backwards=False):
    """Mean and covariance, merged from batches of this size in this order."""
    moments = Moments()
    parts = x.split(size or len(x))
    for part in parts[::-1] if backwards else parts:
        moments.update(part)
    return moments.mean, moments.covariance


def relative(value, expected):
    return abs(value - expected) / abs(expected)


def rotation(d, seed=0):
    return torch.linalg.qr(normal(d, d, seed=seed))[0]
