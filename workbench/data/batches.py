"""Batches: the images of each step, prefetched; and conversion of pixels."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from .packed import Images
from .twins import Twins

# A disk in the network takes 12 ms for a read, whatever its bandwidth: 64 reads at once are 5,300 images/s.
READERS = 64  # threads, which mostly wait
AHEAD = 512  # images that are read or being read before they are needed: enough for all threads, and 25 MB at 128 px


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
    do not depend on the number of processes. Threads prepare the next step; stored images are read by `READERS` threads, at least `AHEAD`
    images before they are needed. Errors of the threads are raised here, in the step of their images. The threads end when the generator is closed.

    Yields
    ------
    step, batches
        `batches[k][a]` are the images (b, 3, S, S) uint8 and labels (b,) int64 of D step k and micro-batch a, with
        b = batch_size / (gradient_accumulation * world).
    """
    micro = config.batch_size // config.gradient_accumulation
    share = micro // world

    per_step = config.d_steps * config.gradient_accumulation
    stored = isinstance(data, Images)
    ahead = max(per_step, -(-AHEAD // share)) if stored else per_step  # batches

    def order() -> Iterator[np.ndarray]:
        """The indices of the batches of this process, for all steps."""
        for position in itertools.count(start_step * config.d_steps * config.batch_size, config.batch_size):
            indices = batch_indices(data.length, config.seed, position, config.batch_size)
            yield from (indices[start : start + share] for start in range(rank * share, config.batch_size, micro))

    # Drawing takes a core, and more threads would take the cores of the training step.
    pool = ThreadPoolExecutor(READERS if stored else 1, thread_name_prefix="loader")
    try:
        begun = (data.begin(indices, pool) if stored else pool.submit(data.batch, indices).result for indices in order())
        upcoming = deque(itertools.islice(begun, ahead))

        def following() -> tuple[Tensor, Tensor]:
            upcoming.append(next(begun))
            return upcoming.popleft()()

        for step in itertools.count(start_step):
            yield step, [[following() for _ in range(config.gradient_accumulation)] for _ in range(config.d_steps)]
    finally:
        pool.shutdown(cancel_futures=True)


def to_unit(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images as floats in [-1, 1]."""
    return x.to(dtype) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Images, clamped to [-1, 1], as uint8: the inverse of `to_unit`."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte()
