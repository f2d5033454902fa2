"""The packed format: decoded images in a folder, which training reads while it runs.

A packed folder holds `images.npy` (N, S, S, 3) uint8, or several such files `images-000.npy`, `labels.npy` (N,) int64 and `meta.json`, with their
SHA-256 in `SHA256SUMS`. `packing` writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import UnreadableError, read_json, reading
from ..messages import counted, short_repr
from ..presets import BUILT_IN_DATA
from ..tensors import CHANGED, digest, sums
from .errors import DataError
from .stored import StoredImages, mapped

VERSION = 2  # of the packed format and of `decode`: raise it when their results change
FILES = ("meta.json", "labels.npy")
CHECKED = 2**28  # bytes: smaller files, also CIFAR-10, are compared with their SHA-256 at every opening, in a second at most

PART = 4  # images that a thread reads one after another: fewer cost more time to hand out than to read from a fast disk


@dataclass
class Images:
    """A packed data set of N images of size S."""

    name: str
    classes: list[str]  # in the order of the labels; ["all"] if unconditional
    size: int  # S, height and width
    fingerprint: str  # SHA-256 of class names, relative paths, file contents and S
    images: np.ndarray | StoredImages  # (N, S, S, 3) uint8, normally in files
    labels: np.ndarray  # (N,) int64
    conditional: bool = True
    skipped: dict[str, str] = field(default_factory=dict)  # unreadable files: relative path -> reason
    ignored: dict[str, int] = field(default_factory=dict)  # other files: kind (see `folders.ignored`) -> count

    @property
    def num_classes(self) -> int:
        """Classes to condition on; 0 if unconditional."""
        return len(self.classes) if self.conditional else 0

    @property
    def counts(self) -> list[int]:
        """Images per class."""
        return np.bincount(self.labels, minlength=len(self.classes)).tolist()

    @property
    def length(self) -> int:
        """Number of images N."""
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) uint8, channels last in memory, and labels (B,) int64 of these indices (B,)."""
        return self._tensors(np.asarray(self.images[indices]), indices)

    def begin(self, indices: np.ndarray, pool: ThreadPoolExecutor) -> Callable[[], tuple[Tensor, Tensor]]:
        """Begin to read a batch with the threads of a pool, `PART` images with each. The function returned waits for it: see `batch`."""
        pixels = np.empty((len(indices), *self.images.shape[1:]), np.uint8)

        def read(part: slice) -> None:
            pixels[part] = self.images[indices[part]]

        reads = [pool.submit(read, slice(start, start + PART)) for start in range(0, len(indices), PART)]

        def wait() -> tuple[Tensor, Tensor]:
            for future in reads:
                future.result()
            return self._tensors(pixels, indices)

        return wait

    def _tensors(self, pixels: np.ndarray, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(self.labels[indices])


def is_packed(data: str) -> bool:
    """Whether `Config.data` is a packed folder, perhaps a damaged one."""
    names = (*FILES, "images.npy", "images-000.npy")
    return data not in BUILT_IN_DATA and sum(os.path.isfile(f"{data}/{name}") for name in names) >= 2


def open_packed(folder: Path, size: int) -> Images:
    """A packed folder; a DataError if it has another size, or is damaged."""
    try:
        data = read_packed(folder)
    except UnreadableError as error:
        raise DataError(f"{error}; the packed data in {folder} cannot be used", "delete the folder, and pack it again") from None
    if data.size != size:
        raise DataError(
            f"{folder} was packed at {data.size}x{data.size}, not at {size}x{size}",
            ("image_size", f"={data.size}"),
            f"pack it again, `workbench prepare SOURCE OUT --size {size}`",
        )
    return data


def read_packed(folder: Path) -> Images:
    """A packed folder, checked.

    An UnreadableError if a file is missing, changed or damaged (for large images only the shape is checked), or does not fit the others.
    """
    with reading(folder):
        checksums = sums(folder)
        images = sorted(folder / name for name in checksums if name.startswith("images")) or [folder / "images.npy"]
        for path in (*(folder / name for name in FILES), *images):
            if not path.is_file():
                raise UnreadableError(path, "missing")
        for path in (folder / name for name in FILES):
            if os.path.getsize(path) > CHECKED:
                raise UnreadableError(path, f"more than {CHECKED / 1e6:.0f} MB")
        large = sum(map(os.path.getsize, images)) > CHECKED
        for path in (*(folder / name for name in FILES), *([] if large else images)):
            if digest(path) != checksums.get(path.name):
                raise UnreadableError(path, CHANGED)
        meta = read_json(folder / "meta.json")
        if meta.pop("version", None) != VERSION:
            raise UnreadableError(folder / "meta.json", "from another version of the workbench")
        _check_meta(folder / "meta.json", meta)
        stored = StoredImages(images)
        data = Images(images=stored, labels=np.array(mapped(folder / "labels.npy")), **meta)
        _check_arrays(folder, data, stored)
    return data


def _check_meta(path: Path, meta: dict) -> None:
    """Raise an UnreadableError unless every entry exists and is valid."""

    def are_texts(values) -> bool:
        return all(isinstance(value, str) for value in values)

    valid = {
        "name": lambda name: isinstance(name, str),
        "classes": lambda names: isinstance(names, list) and names and are_texts(names) and len(set(names)) == len(names),
        "size": lambda size: type(size) is int and size > 0,
        "fingerprint": lambda digits: isinstance(digits, str) and re.fullmatch("[0-9a-f]{64}", digits),
        "conditional": lambda value: isinstance(value, bool),
        "skipped": lambda reasons: isinstance(reasons, dict) and are_texts(reasons.values()),
        "ignored": lambda counts: isinstance(counts, dict) and all(type(count) is int for count in counts.values()),
    }
    if meta.keys() != valid.keys():
        raise UnreadableError(path, f"missing or unknown: {', '.join(sorted(meta.keys() ^ valid.keys()))}")
    for name, is_valid in valid.items():
        if not is_valid(meta[name]):
            raise UnreadableError(path, f"{name} is {short_repr(meta[name])}")
    if not meta["conditional"] and meta["classes"] != ["all"]:
        raise UnreadableError(path, f"classes is {short_repr(meta['classes'])}, of images without classes")


def _check_arrays(folder: Path, data: Images, images: StoredImages) -> None:
    """Raise an UnreadableError unless images and labels fit the rest."""
    labels, count = data.labels, len(data.classes)
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise UnreadableError(folder / "labels.npy", f"{labels.dtype} {labels.shape}, expected int64 (N,)")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= count:
        values = f"{labels.min()} to {labels.max()}" if len(labels) else "none"
        raise UnreadableError(folder / "labels.npy", f"labels {values}, expected 0 to {count - 1}")
    if len(np.unique(labels)) < count:
        raise UnreadableError(folder / "labels.npy", f"labels of {counted(len(np.unique(labels)), 'class')}, and there are {count}")
    expected = (len(labels), data.size, data.size, 3)
    if images.shape not in (expected, (len(labels) + len(data.skipped), *expected[1:])):  # once, skipped files had unused rows at the end
        raise UnreadableError(images.paths[0], f"{images.dtype} {images.shape}, expected uint8 {expected}")
    images.shape = expected
