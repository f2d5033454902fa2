"""The features of many images, computed by one or several processes, in the order of the sample index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..messages import WorkbenchError
from .extractors import Extractor

T = TypeVar("T")

CHUNK = 256  # images that one process computes together


@dataclass
class Chunk:
    """Results on rows `start`, `start + 1`, ...: B rows, of at most CHUNK images. A row is an image, or each of its crops."""

    start: int
    features: Tensor  # (B, d) float32
    logits: Tensor  # (B, K) float32; K is 0 if the extractor gives none
    labels: Tensor  # (B,) int64, of the row's image; 0 without classes
    truths: dict[str, Tensor]  # (B,) float32 each: what `truth` returned of the row's image


def features_in_order(
    images_of: Callable[[int, int], tuple[Tensor, Tensor | None]],
    n: int,
    extractor: Extractor,
    pixels: Callable[[Tensor], Tensor],
    truth: Callable[[Tensor, Tensor | None], dict[str, Tensor]] | None = None,
    batch_size: int = 64,
    advance: Callable[[int], None] | None = None,
) -> Iterator[Chunk]:
    """Yield the results on images 0, 1, ..., n - 1 in chunks, on the main process alone.

    The processes of `torch.distributed` compute chunks in turn and send the results to the main one. Chunks and order are the same for
    any number of processes.

    Parameters
    ----------
    images_of
        `images_of(start, count)` returns images (count, 3, H, W), uint8 or floats in [-1, 1], and classes (count,) or None. Each image
        must depend on its index alone.
    pixels
        Converts these images for the extractor.
    truth
        `truth(images, labels)` returns numbers (count,) by name, which need no extractor.
    batch_size
        Images per call of the extractor.
    advance
        Called on the main process with the number of images since the last call.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    crops, chunks = extractor.crops, -(-n // CHUNK)
    for first in range(0, chunks, world):
        index = min(first + rank, chunks - 1)  # a process without a chunk repeats the last one; the result is dropped below
        start, count = index * CHUNK, min(CHUNK, n - index * CHUNK)
        images, labels = images_of(start, count)
        if images.is_floating_point() and not images.isfinite().all():
            raise WorkbenchError(
                f"images {start:,} to {start + count - 1:,} hold NaN or infinity: the weights of the generator have diverged"
            )
        parts = [extractor(pixels(images[k : k + batch_size])) for k in range(0, count, batch_size)]
        features, logits = (torch.cat(values) for values in zip(*parts, strict=True))
        labels = torch.zeros(count) if labels is None else labels
        truths = truth(images, labels) if truth else {}
        columns = [features, logits, *(values[:, None].repeat_interleave(crops, 0) for values in (labels, *truths.values()))]
        results = _gather(torch.cat([column.to(features.device, torch.float32) for column in columns], 1), CHUNK * crops, rank, world)
        for chunk, result in enumerate(results[: chunks - first], first):
            features, logits, *rest = result[: (n - chunk * CHUNK) * crops].split([column.shape[1] for column in columns], 1)
            labels, *numbers = (column[:, 0] for column in rest)
            yield Chunk(chunk * CHUNK * crops, features, logits, labels.long(), dict(zip(truths, numbers, strict=True)))
        if rank == 0 and advance:
            advance(min(n, (first + world) * CHUNK) - first * CHUNK)


def _gather(result: Tensor, rows: int, rank: int, world: int) -> list[Tensor]:
    """The results (rows, w) of all processes by rank, on the main process; elsewhere []."""
    if world == 1:
        return [result]
    padded = result.new_zeros(rows, result.shape[1])
    padded[: len(result)] = result
    results = [torch.empty_like(padded) for _ in range(world)] if rank == 0 else None
    dist.gather(padded, results)
    return results or []


def is_main() -> bool:
    """Whether this is the main or only process."""
    return not dist.is_initialized() or dist.get_rank() == 0


def everywhere(value: T) -> T:
    """The value of the main process, on all processes."""
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box)
    return box[0]
