"""Snapshots of a run's attention, which show its course through training without checkpoints.

A snapshot holds a few fixed latents, their images, and for every attention layer of G and of D (on these images) its queries and keys in
half precision: 160 KB where a map of 64x64 queries is 8 MB. Whoever reads a snapshot takes the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from ..files import UnreadableError, replace_bytes, storing
from ..tensors import first_not_finite, load_sealed, sealed_bytes
from .capture import Projections


@dataclass(frozen=True)
class Snapshot:
    """Images and attention of a training step.

    Attributes
    ----------
    images
        (B, 3, S, S) uint8.
    z, y
        Their latents (B, z_dim) and classes (B,); y is None without classes.
    layers
        "G/attention.16" -> `Projections` of the B images; float32, rounded to half precision.
    """

    images: Tensor
    z: Tensor
    y: Tensor | None
    layers: dict[str, Projections]

    @property
    def labels(self) -> list[int | None]:
        """The class of each image; None without classes."""
        return [None] * len(self.images) if self.y is None else self.y.tolist()


def save_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Write the snapshot of step `path.stem`, complete or not at all.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    tensors = dict(images=snapshot.images, z=snapshot.z) | ({} if snapshot.y is None else dict(y=snapshot.y))
    for name, layer in snapshot.layers.items():
        tensors |= {f"{name}.{f.name}": getattr(layer, f.name).half() for f in fields(Projections) if f.name != "gamma"}
        tensors[f"{name}.gamma"] = torch.tensor(layer.gamma)
    with storing(path):
        path.parent.mkdir(exist_ok=True)
    replace_bytes(path, sealed_bytes(tensors, int(path.stem)))


def load_snapshot(path: Path) -> Snapshot:
    """Read what `save_snapshot` wrote.

    Raises
    ------
    UnreadableError
        If the file is missing, damaged or of another step, or holds other names, shapes or types, or numbers that are not finite.
    """
    tensors = load_sealed(path, int(path.stem))

    def take(name: str, fits: Callable[[Tensor], bool]) -> Tensor:
        if name not in tensors:
            raise UnreadableError(path, f"not a snapshot of attention: {name} is missing")
        tensor = tensors.pop(name)
        if not fits(tensor):
            form = f"of shape {tuple(tensor.shape)} and {str(tensor.dtype).removeprefix('torch.')}"
            raise UnreadableError(path, f"not a snapshot of attention: {name} {form} does not fit")
        return tensor

    images = take(
        "images", lambda x: x.dtype == torch.uint8 and x.ndim == 4 and len(x) > 0 and x.shape[1] == 3 and x.shape[2] == x.shape[3] > 0
    )
    count = len(images)
    z = take("z", lambda x: x.is_floating_point() and x.ndim == 2 and len(x) == count)
    y = take("y", lambda x: x.dtype == torch.long and x.shape == (count,) and bool((x >= 0).all())) if "y" in tensors else None
    bad = first_not_finite(tensors | {"z": z})
    if bad:
        raise UnreadableError(path, f"{bad} is not finite: the training had diverged")
    names = dict.fromkeys(name.rpartition(".")[0] for name in tensors)
    return Snapshot(images, z, y, {name: _take_layer(take, name, count) for name in names})


def _take_layer(take: Callable[[str, Callable[[Tensor], bool]], Tensor], name: str, count: int) -> Projections:
    """The projections of a layer for `count` images."""

    def part(part: str, fits: Callable[[Tensor], bool]) -> Tensor:
        return take(f"{name}.{part}", lambda x: x.is_floating_point() and fits(x)).float()

    def is_square(x: Tensor) -> bool:
        return x.ndim == 3 and len(x) == count and x.shape[1] > 0 and math.isqrt(x.shape[1]) ** 2 == x.shape[1]

    query = part("query", is_square)
    side, width = math.isqrt(query.shape[1]), query.shape[2]
    key = part("key", lambda x: is_square(x) and x.shape[2] == width > 0 and side % math.isqrt(x.shape[1]) == 0)
    value_norm = part("value_norm", lambda x: x.shape == key.shape[:2])
    strength = part("strength", lambda x: x.shape == query.shape[:2])
    return Projections(query, key, value_norm, strength, part("gamma", lambda x: x.ndim == 0).item())
