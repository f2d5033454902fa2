"""Decoded images in files, read one by one: memory does not grow with them, and many threads may read at once."""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import UnreadableError, reading
from ..messages import one_line


class StoredImages:
    """Images (N, S, S, 3) uint8 in `.npy` files, one after another; the files stay open.

    They are read, not mapped into memory: an image is one request to a network disk instead of one for every page; a disk that fails is
    an error, where a map would end the process; and what was read does not stay as memory of the process.

    Parameters
    ----------
    paths
        At least one file. All have images of the same shape.

    Raises
    ------
    UnreadableError
        If a file is missing, damaged, or holds other arrays than (n, S, S, 3) uint8.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, paths: Sequence[Path]):
        arrays = [mapped(path) for path in paths]
        for path, array in zip(paths, arrays, strict=True):
            expected = (len(array) if array.ndim else 0, *arrays[0].shape[1:2], *arrays[0].shape[1:2], 3)
            if array.dtype != np.uint8 or array.shape != expected or not array.flags.c_contiguous:
                raise UnreadableError(path, f"{array.dtype} {array.shape}, expected uint8 {expected} in C order")
        self.paths, self._offsets = list(paths), [array.offset for array in arrays]
        self._ends = np.cumsum([len(array) for array in arrays])
        self.shape = (int(self._ends[-1]), *arrays[0].shape[1:])
        self._files: list[int] = []
        weakref.finalize(self, _close, self._files)
        for path in paths:
            with reading(path):
                self._files.append(os.open(path, os.O_RDONLY))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | np.integer | slice | np.ndarray) -> np.ndarray:
        """The images (n, S, S, 3) of a slice or of an array (n,) of indices >= 0; (S, S, 3) of a number."""
        if isinstance(index, int | np.integer):
            return self[np.array([range(len(self))[index]])][0]
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        images = np.empty((len(index), *self.shape[1:]), np.uint8)
        size = int(np.prod(self.shape[1:]))
        files = self._ends.searchsorted(index, side="right")
        starts = np.concatenate([[0], self._ends])[files]
        for image, file, row in zip(images, files.tolist(), (index - starts).tolist(), strict=True):
            with reading(self.paths[file]):
                # A short read is the end of a file that was cut since it was opened.
                if os.preadv(self._files[file], [image], self._offsets[file] + row * size) != size:
                    raise UnreadableError(self.paths[file], f"it ends before image {row}")
        return images

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self[:].astype(dtype or np.uint8, copy=False)


def mapped(path: Path) -> np.memmap:
    """An array as a memory map, so that a wrong header allocates no memory; an UnreadableError if it is none."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, MemoryError, SyntaxError, TypeError) as error:
        raise UnreadableError(path, one_line(error)) from None
    if not isinstance(array, np.memmap):
        raise UnreadableError(path, "an archive, expected one array")
    return array


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)
