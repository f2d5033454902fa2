"""The averaged generator: an exponential moving average of G's weights."""

from __future__ import annotations

from copy import deepcopy

import torch

from .networks import Generator


class EMA:
    """Keeps `average`, a generator in eval mode whose weights are the moving average of those of another.

    Only weights are averaged. Buffers (power-iteration vectors, running statistics) are copied, since an average of unit vectors is no unit
    vector. They do not fit the averaged weights exactly: call `sampling.recalibrate` before using the average.

    Parameters
    ----------
    generator
        The generator to follow, not yet wrapped for several processes.
    decay
        Weight of the past in each update, in [0, 1).
    start
        Until this step the average is a copy.
    """

    def __init__(self, generator: Generator, decay: float, start: int = 0):
        self.decay, self.start = decay, start
        self.average = deepcopy(generator).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, generator: Generator, step: int) -> None:
        """Take in the weights that `generator` has after G step number `step` (counted from 1)."""
        average, weights = dict(self.average.named_parameters()), dict(generator.named_parameters())
        decay = self.decay if step > self.start else 0.0
        torch._foreach_lerp_(list(average.values()), [weights[name].detach() for name in average], 1 - decay)
        buffers = dict(generator.named_buffers())
        for name, buffer in self.average.named_buffers():
            buffer.copy_(buffers[name])
