"""Seeded latents and classes, images of a generator, and recalibration of its buffers."""

from __future__ import annotations

import math
from contextlib import contextmanager

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..messages import ParameterError
from .layers import BatchNorm, converge_sigma
from .networks import Generator

CHUNK = 256  # latents are drawn in fixed chunks of sample indices, so that a latent depends only on its index and the seed


def rng(*key: int) -> torch.Generator:
    """A CPU random generator, seeded by a key of integers >= 0 of any size."""
    if min(key, default=0) < 0:
        raise ParameterError(f"seeds and sample indices are at least 0; given: {', '.join(map(str, key))}")
    entropy = (len(key), *key)  # NumPy ignores trailing zeros
    return torch.Generator().manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1)))


def latents(count: int, z_dim: int, seed: int = 0, start: int = 0, truncation: float = 0.0) -> Tensor:
    """Latents z ~ N(0, I), (count, z_dim) float32: those with global sample index `start`, `start + 1`, ...; see `truncate`.

    Raises
    ------
    ParameterError
        If a number is negative, or so many latents do not fit into memory.
    """
    if count < 0 or start < 0 or seed < 0:
        raise ParameterError(f"count={count}, start={start} and seed={seed} must be at least 0")
    required = 3 * 4 * count * z_dim  # chunks, their concatenation, and truncated latents
    if required > 2**28 and required > (available := psutil.virtual_memory().available):
        raise ParameterError(
            f"{count:,} latents need {required / 1e9:,.1f} GB of memory, and {available / 1e9:,.1f} GB are free: take fewer"
        )
    first, last = start // CHUNK, (start + count - 1) // CHUNK
    chunks = [torch.randn(CHUNK, z_dim, generator=rng(seed, 1, chunk)) for chunk in range(first, last + 1)]
    return truncate(torch.cat([torch.empty(0, z_dim), *chunks])[start - first * CHUNK :][:count], truncation)


def truncate(z: Tensor, threshold: float) -> Tensor:
    """Latents truncated to [-threshold, threshold] (the truncation trick, Brock et al., 2019); 0: no truncation.

    Each number is mapped to the same quantile of the truncated normal distribution, not resampled: latents, and so images, change
    continuously with the threshold.

    Raises
    ------
    ParameterError
        If the threshold is negative or NaN.
    """
    if not threshold >= 0:
        raise ParameterError(f"truncation={threshold} is not a number of at least 0")
    if not threshold:
        return z
    tail = torch.special.ndtr(torch.tensor(-threshold, dtype=torch.float64))
    # Use the lower tail for both signs: in the upper tail, quantiles round to 1 and latents to infinity.
    size = z.double().abs()
    inside = -torch.special.ndtri(tail + torch.special.ndtr(-size) * (1 - 2 * tail))
    return inside.clamp(max=threshold).minimum(size).copysign(z.double()).to(z.dtype)


def interpolate(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation from latents a (B, z_dim) at t=0 to b at t=1 (White, 2016).

    Linear interpolation passes through latents of smaller norm than the generator was trained on. It is used only where there is no angle:
    between parallel latents, and from or to one of norm 0.

    Raises
    ------
    ParameterError
        If t is not finite, or latents are opposite: then no great circle between them is the shortest.
    """
    if not math.isfinite(t):
        raise ParameterError(f"t={t} is not a finite number")
    x, y = a.double(), b.double()
    norms = x.norm(dim=1, keepdim=True) * y.norm(dim=1, keepdim=True)
    angle = torch.acos(((x * y).sum(1, keepdim=True) / norms).clamp(-1, 1))
    circle = (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)
    straight = (1 - t) * x + t * y
    has_angle = (norms > 0) & (torch.sin(angle) > 1e-6)
    if opposite := (~has_angle & (angle > 1)).flatten().nonzero().flatten().tolist():
        raise ParameterError(
            f"b is opposite to a in row {opposite[0]} of {len(a)}, and no great circle between opposite latents is the shortest; choose another b"
        )
    return torch.where(has_angle, circle, straight).to(a.dtype)


def labels(count: int, num_classes: int | None, start: int = 0) -> Tensor | None:
    """Classes (count,) of the samples with global index `start`, `start + 1`, ...: every class in turn; None without classes."""
    return torch.arange(start, start + count) % num_classes if num_classes else None


def shuffled_labels(count: int, num_classes: int | None, seed: int = 0, start: int = 0) -> Tensor | None:
    """Classes (count,) of the samples with global index `start`, `start + 1`, ...: every class equally often, in random order.

    Each run of `num_classes` samples is a permutation of the classes. A batch then shows classes from the whole range: taken in turn, 64 of
    1,000 classes are neighbours, which in ImageNet look alike. None without classes.
    """
    if not num_classes:
        return None
    first, last = start // num_classes, (start + count - 1) // num_classes
    blocks = [torch.randperm(num_classes, generator=rng(seed, 3, block)) for block in range(first, last + 1)]
    return torch.cat([torch.empty(0, dtype=torch.int64), *blocks])[start - first * num_classes :][:count]


def grid(num_classes: int | None, z_dim: int, seed: int, columns: int = 10, rows: int = 10) -> tuple[Tensor, Tensor | None]:
    """Latents and classes of a sample grid: a row per class (at most `rows`, evenly chosen), the same latents in every row.

    Returns
    -------
    z, y
        (R * columns, z_dim) and (R * columns,), row by row; without classes y is None and all latents differ.
    """
    if not num_classes:
        return latents(rows * columns, z_dim, seed), None
    classes = torch.arange(num_classes) if num_classes <= rows else torch.linspace(0, num_classes - 1, rows).round().long()
    return latents(columns, z_dim, seed).repeat(len(classes), 1), classes.repeat_interleave(columns)


def tile(x: Tensor, columns: int) -> Tensor:
    """A grid (3, H, W) uint8 of images (B, 3, S, S) in [-1, 1], row by row, with 2 black pixels between them."""
    columns = min(columns, len(x))
    x = F.pad((x.clamp(-1, 1) + 1) / 2, (2, 0, 2, 0))  # black above and left of each
    x = torch.cat([x, x.new_zeros(-len(x) % columns, *x.shape[1:])])
    rows = x.unflatten(0, (-1, columns)).permute(2, 0, 3, 1, 4).flatten(1, 2).flatten(2)
    return (F.pad(rows, (0, 2, 0, 2)) * 255).round().byte()


@torch.no_grad()
def images(generator: Generator, z: Tensor, y: Tensor | None = None, batch_size: int = 64, batch_statistics: bool = False) -> Tensor:
    """Images (B, 3, S, S) in [-1, 1], float32 on the CPU, from latents (B, z_dim) and classes (B,), in batches.

    With `batch_statistics`, batch norm normalises as in training and updates its running statistics: an image depends on its batch.
    """
    weight = next(generator.parameters())
    result = []
    # Compute the spectrally normalised weights once for all batches.
    with train_mode(generator, batch_statistics), parametrize.cached():
        for first in range(0, len(z), batch_size):
            part = slice(first, first + batch_size)
            classes = None if y is None else y[part].to(weight.device)
            result.append(generator(z[part].to(weight.device, weight.dtype), classes).float().cpu())
    return torch.cat(result)


@torch.no_grad()
def recalibrate(generator: Generator, seed: int = 0, batches: int | None = None, batch_size: int = 64, truncation: float = 0.0) -> None:
    """Re-estimate the buffers of `generator` after its weights were averaged, or for truncated latents.

    Computes the largest singular value of every spectrally normalised weight, and averages the statistics of batch norm over batches of
    fresh samples ("standing statistics", Brock et al., 2019), with classes in random order.

    Parameters
    ----------
    batches
        Number of batches; by default 8, or as many as show every class twice.
    truncation
        Of the latents that images will be generated from.
    """
    converge_sigma(generator)
    batches = batches or max(8, math.ceil(2 * generator.num_classes / batch_size))
    weight = next(generator.parameters())
    norms = [module for module in generator.modules() if isinstance(module, BatchNorm)]
    before = [(norm.momentum, norm.group_size) for norm in norms]
    try:
        with train_mode(generator):
            for k in range(batches):
                for norm in norms:
                    norm.momentum, norm.group_size = 1 / (k + 1), None
                z = truncate(torch.randn(batch_size, generator.z_dim, generator=rng(seed, 2, k)), truncation)
                y = shuffled_labels(batch_size, generator.num_classes, seed, k * batch_size)
                generator(z.to(weight.device, weight.dtype), None if y is None else y.to(weight.device))
    finally:
        for norm, (momentum, group_size) in zip(norms, before, strict=True):
            norm.momentum, norm.group_size = momentum, group_size


@contextmanager
def train_mode(net: nn.Module, train: bool = True):
    """Context in which `net` is in training mode, or with `train=False` in eval mode; afterwards every module is in its mode of before."""
    before = {module: module.training for module in net.modules()}
    net.train(train)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
