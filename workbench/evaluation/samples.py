"""Samples of a generator by index, and the ground truth of drawn data."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..config import Config
from ..data.datasets import DRAWN
from ..metrics.extractors import Extractor
from ..metrics.protocols import Protocol
from ..model import Generator, sampling
from ..model.layers import BatchNorm


class Samples:
    """Images of a generator by global sample index: `samples(start, count)`, for `metrics.measure`.

    Sample i is a function of (i, seed), and with batch statistics also of the 64 samples of its batch.
    """

    def __init__(self, generator: Generator, protocol: Protocol, seed: int, batch_size: int | None = None):
        self.generator, self.protocol, self.seed = generator.to(memory_format=torch.channels_last), protocol, seed
        on_gpu = next(generator.parameters()).is_cuda
        self.batch_size = batch_size or (256 if on_gpu else max(8, 2**18 // generator.image_size**2))  # 256 images of 32 pixels
        if protocol.statistics == "standing":
            sampling.recalibrate(generator, seed, protocol.standing_batches, 64, protocol.truncation)
        if protocol.statistics == "batch":
            self.batch_size = 64
            for norm in generator.modules():
                if isinstance(norm, BatchNorm):
                    norm.group_size = None  # the whole batch

    def __call__(self, start: int, count: int) -> tuple[Tensor, Tensor | None]:
        """Images (count, 3, S, S) in [-1, 1], float32, and classes (count,)."""
        generator = self.generator
        z = sampling.latents(count, generator.z_dim, self.seed, start, self.protocol.truncation)
        if self.protocol.statistics == "batch":  # of classes from the whole range
            y = sampling.shuffled_labels(count, generator.num_classes, self.seed, start)
        else:
            y = sampling.labels(count, generator.num_classes, start)
        return sampling.images(generator, z, y, self.batch_size, self.protocol.statistics == "batch"), y


def suitable_batch(extractor: Extractor, device: torch.device) -> int:
    """Images per call of an extractor: few for Inception on a CPU, where each image needs 20 MB."""
    return 32 if extractor.name == "inception" and device.type == "cpu" else 256


def truth_of(config: Config) -> Callable[[Tensor, Tensor | None], dict[str, Tensor]] | None:
    """The function `truth` for `measure`: that of a drawn data set; None for other data."""
    if config.data not in DRAWN:
        return None
    data = DRAWN[config.data](config)
    return lambda images, labels: data.truth(images, labels if config.num_classes == data.num_classes else None)
