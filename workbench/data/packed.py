"""The packed format: decoded images in a folder, which training reads while it runs.

All images are decoded before training starts, so that errors show at once and not hours later. A packed folder holds `images.npy`
(N, S, S, 3) uint8, `labels.npy` (N,) int64 and `meta.json`, with their SHA-256 in `SHA256SUMS`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import StorageError, UnreadableError, new_folder, read_json, reading, storing, synced
from ..messages import short_repr
from ..presets import BUILT_IN_DATA
from ..progress import progress as show_progress
from ..progress import silent
from ..tensors import CHANGED, SUMS, digest, seal, sums
from .decode import decode_all
from .errors import DataError, first_of, printable
from .sources import Listing
from .stored import StoredImages, mapped

VERSION = 2  # of the packed format and of `decode`: raise it when their results change
FILES = ("meta.json", "labels.npy", "images.npy")
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
    return data not in BUILT_IN_DATA and sum(os.path.isfile(f"{data}/{name}") for name in FILES) >= 2


def pack(listing: Listing, size: int, out: Path, progress: bool, skip_unreadable: bool, elsewhere: str) -> None:
    """Decode images into the folder `out`, complete or not at all.

    Parameters
    ----------
    elsewhere
        The fix for a full disk: how to pack to another one.

    Raises
    ------
    DataError
        If the disk is full, a file cannot be read (without `skip_unreadable`), or a class has no readable image.
    """
    count = len(listing.paths)
    required = count * size * size * 3
    try:
        with storing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            available = shutil.disk_usage(out.parent).free
        if required > available:
            raise DataError(
                f"{listing.name} at {size}x{size} needs {required / 1e9:.2f} GB in {out.parent}, where {available / 1e9:.2f} GB are available",
                "make room",
                elsewhere,
            )
        if progress:
            print(f"packing {count:,} images of {listing.name} at {size}x{size} into {printable(str(out))}", file=sys.stderr)
        with new_folder(out) as folder, storing(out):
            _write(listing, size, folder, progress, skip_unreadable)
    except StorageError as error:
        raise DataError(f"{error}, or {elsewhere}") from None


def _write(listing: Listing, size: int, folder: Path, progress: bool, skip_unreadable: bool) -> None:
    shape = (len(listing.paths), size, size, 3)
    content = hashlib.sha256(json.dumps([listing.classes, size]).encode())
    labels: list[int] = []
    skipped: dict[str, str] = {}
    bar = (show_progress if progress else silent)(len(listing.paths), f"images of {listing.name} decoded")
    with synced(folder / "images.npy") as file, closing(decode_all(listing.items, size)) as decoded, bar as advance:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        end = file.tell() + int(np.prod(shape))
        for path, label, image in zip(listing.paths, listing.labels, decoded, strict=True):
            advance(1)
            if image.pixels is None:
                skipped[path] = image.error
                continue
            file.write(image.pixels.data)  # not through a memory map, where a full disk would kill the process
            labels.append(label)
            content.update(json.dumps([path, image.sha256]).encode())
        file.truncate(end)  # the header counts skipped files too: their rows, at the end, are unused
    present = set(labels)
    lost = [name for index, name in enumerate(listing.classes) if index not in present]
    if lost or (skipped and not skip_unreadable):
        raise unreadable_files(listing, skipped, lost)
    with synced(folder / "labels.npy") as file:
        np.save(file, np.array(labels, dtype=np.int64))
    meta = dict(
        version=VERSION, name=listing.name, classes=listing.classes, size=size, fingerprint=content.hexdigest(),
        conditional=listing.conditional, skipped=skipped, ignored=listing.ignored,
    )  # fmt: skip
    with synced(folder / "meta.json") as file:
        file.write(json.dumps(meta).encode())
    seal(folder)


def unreadable_files(listing: Listing, skipped: dict[str, str], lost: Sequence[str] = ()) -> DataError:
    """The error that files cannot be read; `lost` are classes without any readable image."""
    files = first_of([f"{path} ({error})" for path, error in skipped.items()])
    classes = f" (no image is left of {first_of(lost)})" if lost else ""
    fixes = ["fix or delete them"] if lost else ["fix or delete them", ("skip_unreadable", "=True to leave them out")]
    return DataError(f"{len(skipped)} of {len(listing.paths)} files in {listing.root} cannot be read{classes}, {files}", *fixes)


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

    Raises
    ------
    UnreadableError
        If a file is missing, changed or damaged (for large images only the shape is checked), or does not fit the others.
    """
    with reading(folder):
        for name in (SUMS, *FILES):
            if not os.path.isfile(folder / name):
                raise UnreadableError(folder / name, "missing")
        checksums = sums(folder)
        for name in FILES:
            large = os.path.getsize(folder / name) > CHECKED
            if large and name != "images.npy":
                raise UnreadableError(folder / name, f"more than {CHECKED / 1e6:.0f} MB")
            if not large and digest(folder / name) != checksums.get(name):
                raise UnreadableError(folder / name, CHANGED)
        meta = read_json(folder / "meta.json")
        if meta.pop("version", None) != VERSION:
            raise UnreadableError(folder / "meta.json", "from another version of the workbench")
        _check_meta(folder / "meta.json", meta)
        data = Images(images=StoredImages([folder / "images.npy"]), labels=np.array(mapped(folder / "labels.npy")), **meta)
        _check_arrays(folder, data)
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


def _check_arrays(folder: Path, data: Images) -> None:
    """Raise an UnreadableError unless images and labels fit the rest."""
    images, labels, count = data.images, data.labels, len(data.classes)
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise UnreadableError(folder / "labels.npy", f"{labels.dtype} {labels.shape}, expected int64 (N,)")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= count:
        values = f"{labels.min()} to {labels.max()}" if len(labels) else "none"
        raise UnreadableError(folder / "labels.npy", f"labels {values}, expected 0 to {count - 1}")
    if len(np.unique(labels)) < count:
        raise UnreadableError(folder / "labels.npy", f"labels of {len(np.unique(labels))} classes, and there are {count}")
    expected = (len(labels) + len(data.skipped), data.size, data.size, 3)
    if images.shape != expected:
        raise UnreadableError(folder / "images.npy", f"{images.dtype} {images.shape}, expected uint8 {expected}")
    images.shape = (len(labels), *expected[1:])  # rows of skipped files, at the end, are unused
