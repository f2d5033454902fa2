"""Statistics of real images, computed once and cached in `<data folder>/cache`, which may be deleted.

The SHA-256 of the files are checked before use; damaged statistics are computed again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import StorageError, UnreadableError, delete_folder, locked, new_folder, storing, synced
from ..messages import ParameterError, WorkbenchError, counted, say_once
from ..paths import data_dir
from ..progress import silent
from ..tensors import load_tensors, save_tensors, seal, verify
from .extractors import Extractor
from .fid import square_root_factor
from .moments import Moments
from .stream import everywhere, features_in_order, is_main

VERSION = 2  # of the cache's content; raise it when the content changes
KEPT = 50_000  # number of images, or crops, whose features are kept, unless a score needs all
FILES = {"moments.safetensors", "factor.safetensors", "features.npy", "labels.npy", "indices.npy"}


@dataclass
class Reference:
    """Statistics of N real images, or of all their crops, and the features of M of these."""

    folder: Path
    facts: dict  # data, fingerprint, size, n, extractor

    @cached_property
    def moments(self) -> Moments:
        """The moments of all images or crops."""
        return Moments.from_state(load_tensors(self.folder / "moments.safetensors"))

    @cached_property
    def factor(self) -> Tensor:
        """F (d, r) with F F^T the covariance; see `square_root_factor`."""
        return load_tensors(self.folder / "factor.safetensors")["factor"]

    @cached_property
    def features(self) -> np.ndarray:
        """(M, d) float32, memory-mapped."""
        return np.load(self.folder / "features.npy", mmap_mode="r")

    @cached_property
    def labels(self) -> np.ndarray:
        """(M,) the classes of their images."""
        return np.load(self.folder / "labels.npy")

    @cached_property
    def indices(self) -> np.ndarray:
        """(M,) the indices of their images in the data set."""
        return np.load(self.folder / "indices.npy")


def reference(
    data,
    n: int,
    extractor: Extractor,
    pixels: Callable[[Tensor], Tensor],
    keep_all: bool = False,
    batch_size: int = 64,
    progress: Callable | None = None,
) -> Reference:
    """The statistics of `n` real images: from the cache, or computed now, by all processes together.

    Parameters
    ----------
    data
        A data set: `batch(indices)`, `length`, `name`, `fingerprint`, `size`.
    n
        Drawn by `drawn`; 0: all.
    keep_all
        Keep the features of all images, for scores per class, not only those of 50,000.
    progress
        `progress(total, text)` returns a context manager whose function is called with numbers of images, as `workbench.progress.progress`.

    Raises
    ------
    WorkbenchError
        If there are fewer images than `n`, or the cache cannot be written.
    """
    n = real_number(data, n)
    facts = dict(data=data.name, fingerprint=data.fingerprint, size=data.size, n=n, extractor=extractor.digest)
    rows = n * extractor.crops
    kept = rows if keep_all else min(rows, KEPT)
    probe = pixels(torch.tensor([0, 100, 255], dtype=torch.uint8).view(1, 1, 1, 3)).flatten().tolist()  # differs between conversions
    key = hashlib.sha256(json.dumps([VERSION, facts, probe, kept]).encode()).hexdigest()[:20]
    folder = data_dir() / "cache" / f"reference-{key}"
    main = is_main()
    with locked(folder, f"waiting for the process that measures {data.name}") if main else nullcontext():
        if not everywhere(main and _is_intact(folder, data.name)):  # one process checks, and all do the same
            _compute(folder, data, n, kept, extractor, pixels, batch_size, progress)
    return Reference(folder, facts)


def real_number(data, n: int) -> int:
    """The number of real images; n=0 means all. A WorkbenchError if the data has fewer, fewer than two, or no end."""
    if n == 0 and data.length is None:
        raise WorkbenchError(f"reference_n=0 means all images, but {data.name} has no end: give a number")
    if data.length is not None and n > data.length:
        raise WorkbenchError(
            f"reference_n={n}, but {data.name} has {counted(data.length, 'image')}; give at most that, or 0 for all of them"
        )
    if (n or data.length) < 2:
        raise ParameterError(f"reference_n={n or data.length} of {data.name} is too few; give at least 2 real images")
    return n or data.length


def drawn(data, n: int) -> np.ndarray:
    """Ascending indices (n,) of the images that represent a data set: a fixed random draw; of an endless data set, the first n."""
    if data.length is not None and n < data.length:
        return np.sort(np.random.default_rng(0).permutation(data.length)[:n])
    return np.arange(n)


def fewest(data, n: int) -> int:
    """The number of images of the rarest class among those of `drawn(data, n)`."""
    if data.length is None and n > 100 * len(data.classes):
        return n // (4 * len(data.classes))  # a lower bound: classes of an endless data set are drawn uniformly
    indices = drawn(data, n)
    labels = data.batch(indices)[1].numpy() if data.length is None else data.labels[indices]
    return int(np.bincount(labels, minlength=len(data.classes)).min())


def _is_intact(folder: Path, name: str) -> bool:
    """Whether the statistics exist undamaged. Damaged ones are deleted and reported."""
    if not os.path.lexists(folder):
        return False
    try:
        if folder.is_symlink() or not folder.is_dir():
            with storing(folder):
                folder.unlink()
            raise UnreadableError(folder, "not a folder")
        missing = FILES - set(verify(folder))
        if missing:
            raise UnreadableError(folder / min(missing), "missing")
    except UnreadableError as error:
        say_once(f"{error}: the statistics of {name} are computed again")
        delete_folder(folder)
        return False
    return True


def _compute(folder: Path, data, n: int, kept: int, extractor: Extractor, pixels, batch_size: int, progress) -> None:
    """Compute the statistics with all processes; the main one writes the folder."""
    indices = drawn(data, n)
    count = n * extractor.crops
    rows = np.arange(count) if kept == count else np.sort(np.random.default_rng(1).permutation(count)[:kept])

    def chunks(advance=None):
        return features_in_order(
            lambda start, count: data.batch(indices[start : start + count]), n, extractor, pixels, None, batch_size, advance
        )

    if not is_main():
        for _ in chunks():
            pass
        return
    moments, labels = Moments(), []
    try:
        with new_folder(folder) as new, (progress or silent)(n, f"real images of {data.name}") as advance:
            features = new / "features.npy"
            for chunk in chunks(advance):
                moments.update(chunk.features)
                first, last = np.searchsorted(rows, [chunk.start, chunk.start + len(chunk.features)])
                rows_of_chunk = rows[first:last] - chunk.start
                labels.append(chunk.labels.cpu().numpy()[rows_of_chunk])
                with storing(features), open(features, "ab") as stream:
                    if not stream.tell():
                        shape = (kept, chunk.features.shape[1])
                        np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
                    stream.write(chunk.features.cpu().numpy()[rows_of_chunk])
            for name, array in (("labels.npy", np.concatenate(labels)), ("indices.npy", indices[rows // extractor.crops])):
                with storing(new / name), synced(new / name) as file:
                    np.save(file, array)
            save_tensors(new / "moments.safetensors", moments.state())
            save_tensors(new / "factor.safetensors", {"factor": square_root_factor(moments.covariance)})
            seal(new)
    except StorageError as error:
        raise StorageError(f"{error}, or set WORKBENCH_DATA in the environment to a folder elsewhere") from None
