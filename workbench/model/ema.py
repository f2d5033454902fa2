"""Exponential moving average (EMA) of the generator's weights."""

from __future__ import annotations

from copy import deepcopy

import torch

from .networks import Generator


class EMA:
    """`average`, a generator in eval mode, holds the moving average of the weights of another generator.

    Buffers (power-iteration vectors, running statistics) are copied: an average of unit vectors is not a unit vector. They do not fit the
    averaged weights exactly, so call `sampling.recalibrate` before using the average.

    Parameters
    ----------
    generator
        The generator to follow, not wrapped in DistributedDataParallel.
    decay
        Weight of the past in each update, in [0, 1).
    start
        Up to this G step, the average is a copy of the weights.
    """

    def __init__(self, generator: Generator, decay: float, start: int = 0):
        self.decay, self.start = decay, start
        self.average = deepcopy(generator).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, generator: Generator, step: int) -> None:
        """Update the average with the weights of `generator` after G step `step` (counted from 1)."""
        decay = self.decay if step > self.start else 0.0
        torch._foreach_lerp_([*self.average.parameters()], [*generator.parameters()], 1 - decay)
        torch._foreach_copy_([*self.average.buffers()], [*generator.buffers()])
