"""Snapshots of a run's attention, which show it through training without checkpoints.

A snapshot holds a few fixed latents, their images, and the queries and keys of every attention layer of G and of D (on these images), in half
precision: 160 KB where the map of 64x64 queries has 8 MB. The reader computes the softmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files import UnreadableError, replace_bytes, storing
from ..tensors import first_not_finite, load_sealed, sealed_bytes
from .capture import TENSORS, Projections


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
        tensors |= {f"{name}.{field}": getattr(layer, field).half() for field in TENSORS}
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

    def take_float(name: str, fits: Callable[[Tensor], bool]) -> Tensor:
        return take(name, lambda x: x.is_floating_point() and fits(x)).float()

    def take_layer(name: str) -> Projections:
        query = take_float(f"{name}.query", is_square)
        side, width = math.isqrt(query.shape[1]), query.shape[2]
        key = take_float(f"{name}.key", lambda x: is_square(x) and x.shape[2] == width > 0 and side % math.isqrt(x.shape[1]) == 0)
        value_norm = take_float(f"{name}.value_norm", lambda x: x.shape == key.shape[:2])
        strength = take_float(f"{name}.strength", lambda x: x.shape == query.shape[:2])
        return Projections(query, key, value_norm, strength, take_float(f"{name}.gamma", lambda x: x.ndim == 0).item())

    def is_square(x: Tensor) -> bool:
        return x.ndim == 3 and len(x) == count and x.shape[1] > 0 and math.isqrt(x.shape[1]) ** 2 == x.shape[1]

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
    return Snapshot(images, z, y, {name: take_layer(name) for name in names})
