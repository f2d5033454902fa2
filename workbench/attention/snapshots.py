"""What a run records of its attention, so that it can be followed through training without checkpoints.

A snapshot holds a few fixed latents, their images, and for every attention layer of G and of D (looking at these images) its queries and
keys in half precision: 160 KB where a map of 64x64 queries is 8 MB. The softmax is taken where it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        If the file is missing, damaged or of another step, or holds anything else: other names, shapes or types, numbers that are not
        finite.
    """
    tensors = load_sealed(path, int(path.stem))
    if "images" not in tensors:
        raise UnreadableError(path, "no snapshot of attention: images are missing")
    images, z, y = tensors.pop("images"), tensors.pop("z", None), tensors.pop("y", None)
    _require(images.ndim == 4 and len(images) and images.shape[1] == 3 and images.shape[2] == images.shape[3] > 0, path, "images", images)
    _require(images.dtype == torch.uint8, path, "images", images)
    count = len(images)
    _require(z is not None and z.ndim == 2 and len(z) == count and z.is_floating_point(), path, "z", z)
    _require(y is None or (y.shape == (count,) and y.dtype == torch.long and bool((y >= 0).all())), path, "y", y)
    bad = first_not_finite(tensors | dict(z=z))
    if bad:
        raise UnreadableError(path, f"{bad} is not finite: the training had diverged")
    names = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    return Snapshot(images, z, y, {name: _layer(path, name, count, tensors) for name in names})


def _layer(path: Path, name: str, count: int, tensors: Mapping[str, Tensor]) -> Projections:
    """The projections of a layer, if its tensors are those of `count` images."""
    parts = {f.name: tensors.get(f"{name}.{f.name}") for f in fields(Projections)}
    for part, tensor in parts.items():
        _require(tensor is not None and tensor.is_floating_point(), path, f"{name}.{part}", tensor)
    query, key = parts["query"], parts["key"]
    for part, tensor in (("query", query), ("key", key)):
        square = tensor.ndim == 3 and tensor.shape[1] > 0 and math.isqrt(tensor.shape[1]) ** 2 == tensor.shape[1]
        _require(square and len(tensor) == count, path, f"{name}.{part}", tensor)
    side, key_side = math.isqrt(query.shape[1]), math.isqrt(key.shape[1])
    _require(query.shape[2] == key.shape[2] > 0 and side % key_side == 0, path, f"{name}.key", key)
    for part, positions in (("value_norm", key.shape[1]), ("strength", query.shape[1]), ("gamma", None)):
        expected = () if positions is None else (count, positions)
        _require(parts[part].shape == expected, path, f"{name}.{part}", parts[part])
    return Projections(**{part: tensor.float() for part, tensor in parts.items()} | dict(gamma=parts["gamma"].item()))


def _require(fits: bool, path: Path, name: str, tensor: Tensor | None) -> None:
    if not fits:
        what = (
            "is missing"
            if tensor is None
            else f"of shape {tuple(tensor.shape)} and {str(tensor.dtype).removeprefix('torch.')} does not fit"
        )
        raise UnreadableError(path, f"no snapshot of attention: {name} {what}")
