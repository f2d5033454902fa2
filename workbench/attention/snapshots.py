"""What a training writes down of its attention, so that it can be watched through training without checkpoints.

A snapshot holds a few fixed latents, their images, and for every attention layer of G and of D (looking at these images) its queries and
keys in half precision: 160 KB where a map of 64x64 queries is 8 MB. The softmax is taken where it is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..parameters import WorkbenchError
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
    """Write a snapshot, complete or not at all."""
    tensors = dict(images=snapshot.images, z=snapshot.z) | ({} if snapshot.y is None else dict(y=snapshot.y))
    for name, layer in snapshot.layers.items():
        tensors |= {f"{name}.{f.name}": getattr(layer, f.name).half() for f in fields(Projections) if f.name != "gamma"}
        tensors[f"{name}.gamma"] = torch.tensor(layer.gamma)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, partial)
    os.replace(partial, path)


def load_snapshot(path: Path) -> Snapshot:
    """Read what `save_snapshot` wrote.

    Raises
    ------
    WorkbenchError
        If the file holds something else.
    """
    tensors: Mapping[str, Tensor] = load_file(path)
    if "images" not in tensors:
        raise WorkbenchError(f"{path} holds no images: it is of an earlier version, and cannot be looked at")
    layers = {}
    for name in (name.removesuffix(".gamma") for name in tensors if name.endswith(".gamma")):
        values = {f.name: tensors[f"{name}.{f.name}"].float() for f in fields(Projections)}
        layers[name] = Projections(**values | dict(gamma=values["gamma"].item()))
    return Snapshot(tensors["images"], tensors["z"], tensors.get("y"), layers)
