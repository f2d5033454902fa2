"""One pass over many images: their features, in the order of the sample index, whoever computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..parameters import WorkbenchError
from .extractors import Extractor

CHUNK = 256  # images with indices k * CHUNK, ... are worked on together, in one process


@dataclass
class Chunk:
    """Results on images `start`, `start + 1`, ...: B of them, at most CHUNK."""

    start: int
    features: Tensor  # (B, d) float32
    logits: Tensor  # (B, K) float32; K is 0 where the extractor gives none
    labels: Tensor  # (B,) int64; 0 where there are no classes
    truths: Tensor  # (B, t) float32: what `truth` gave


def features_in_order(
    images_of: Callable[[int, int], tuple[Tensor, Tensor | None]],
    n: int,
    extractor: Extractor,
    pixels: Callable[[Tensor], Tensor],
    truth: Callable[[Tensor, Tensor | None], Tensor] | None = None,
    batch_size: int = 64,
    advance: Callable[[int], None] | None = None,
) -> Iterator[Chunk]:
    """Chunks of results on images 0, 1, ..., n - 1, in this order, on the main process; the other processes get none.

    Each of the processes of `torch.distributed`, where there are several, works on every so many-th chunk, and hands its results to the
    main one. What is accumulated there goes through the same chunks in the same order for any number of processes.

    Parameters
    ----------
    images_of
        Called as `images_of(start, count)`: images (count, 3, H, W), uint8, or floats in [-1, 1], and classes (count,) or None. Every
        image must be a function of its index.
    pixels
        Turns such images into what the extractor takes.
    truth
        Called as `truth(images, labels)`, gives (count, t) numbers that need no extractor.
    batch_size
        Images that the extractor takes at once.
    advance
        Called with the number of images done since it was called last, on the main process.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    chunks = -(-n // CHUNK)
    for first in range(0, chunks, world):
        mine = min(first + rank, chunks - 1)  # with nothing left to do, do something over again: its result is left out below
        start, count = mine * CHUNK, min(CHUNK, n - mine * CHUNK)
        images, labels = images_of(start, count)
        if images.is_floating_point() and not images.isfinite().all():
            raise WorkbenchError(
                f"images {start:,} to {start + count - 1:,} hold NaN or infinity: the weights that generate them have diverged"
            )
        parts = [extractor(pixels(images[k : k + batch_size])) for k in range(0, count, batch_size)]
        features, logits = (torch.cat(values) for values in zip(*parts, strict=True))
        labels = torch.zeros(count) if labels is None else labels
        truths = torch.zeros(count, 0) if truth is None else truth(images, labels)
        widths = [features.shape[1], logits.shape[1], 1, truths.shape[1]]
        columns = [value.to(features.device, torch.float32) for value in (features, logits, labels[:, None], truths)]
        results = _gather(torch.cat(columns, 1), rank, world)
        for chunk, result in enumerate(results[: chunks - first], first):
            features, logits, labels, truths = result[: n - chunk * CHUNK].split(widths, 1)
            yield Chunk(chunk * CHUNK, features, logits, labels[:, 0].long(), truths)
        if rank == 0 and advance:
            advance(min(n, (first + world) * CHUNK) - first * CHUNK)


def _gather(result: Tensor, rank: int, world: int) -> list[Tensor]:
    """The results (CHUNK, w) of all processes, in the order of their ranks, on the main one; [] on the others."""
    if world == 1:
        return [result]
    padded = result.new_zeros(CHUNK, result.shape[1])
    padded[: len(result)] = result
    results = [torch.empty_like(padded) for _ in range(world)] if rank == 0 else None
    dist.gather(padded, results)
    return results or []


def is_main() -> bool:
    """Whether this is the main process, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


def everywhere(value):
    """The main process's value, on all processes."""
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]
