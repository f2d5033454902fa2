"""Batches: the images of each step, prefetched; and conversion of pixels."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from .packed import Images
from .twins import Twins


def batch_indices(length: int | None, seed: int, position: int, count: int) -> np.ndarray:
    """The indices (count,) int64 of the next images: a pure function, so that a resumed run sees the same images.

    Every epoch has its own permutation; a batch may begin in one epoch and end in the next.

    Parameters
    ----------
    length
        Images in the data set; None: endless, served in order.
    seed
        Seed of the permutations.
    position
        Images served since the start of training.
    """
    if length is None:
        return np.arange(position, position + count)
    parts = []
    while count:
        epoch, start = divmod(position, length)
        parts.append(_permutation(length, seed, epoch)[start : start + count])
        position, count = position + len(parts[-1]), count - len(parts[-1])
    return np.concatenate(parts)


@lru_cache(maxsize=2)  # a batch may touch two epochs
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    data_order = 0xDA7A  # separates this use of the seed from others
    return np.random.default_rng([seed, epoch, data_order]).permutation(length)


def loader(
    data: Images | Twins, config: Config, start_step: int = 0, rank: int = 0, world: int = 1
) -> Generator[tuple[int, list], None, None]:
    """The batches of process `rank` of `world`, for every G step from `start_step` on.

    The global batch is split into `gradient_accumulation` micro-batches, and each of these into one share per process: the micro-batches
    do not depend on the number of processes. A thread prepares the next step; its errors are raised here, and it ends when the generator is
    closed.

    Yields
    ------
    step, batches
        `batches[k][a]` are the images (b, 3, S, S) uint8 and labels (b,) int64 of D step k and micro-batch a, with
        b = batch_size / (gradient_accumulation * world).
    """
    micro = config.batch_size // config.gradient_accumulation
    share = micro // world

    def batches_of(step: int) -> list[list[tuple[Tensor, Tensor]]]:
        batches = []
        for k in range(config.d_steps):
            position = (step * config.d_steps + k) * config.batch_size
            indices = batch_indices(data.length, config.seed, position, config.batch_size)
            starts = range(rank * share, config.batch_size, micro)
            batches.append([data.batch(indices[start : start + share]) for start in starts])
        return batches

    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        upcoming = pool.submit(batches_of, start_step)
        for step in itertools.count(start_step):
            batches = upcoming.result()
            upcoming = pool.submit(batches_of, step + 1)
            yield step, batches


def to_unit(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images as floats in [-1, 1]."""
    return x.to(dtype) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Images, clamped to [-1, 1], as uint8: the inverse of `to_unit`."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte()
