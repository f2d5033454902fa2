"""Memory, disk and time of an evaluation: one that is too large for this machine is refused before it begins."""

from __future__ import annotations

import os
import shutil
import time
from tempfile import TemporaryFile

import numpy as np
import psutil
import torch

from ..files import storing
from ..messages import ParameterError
from ..paths import data_dir
from .extractors import Extractor

IN_MEMORY = 2**30  # bytes of features in memory; more go to the disk
LONGEST = 30 * 86400  # seconds of computing features


def require_room(names: tuple[str, str], n: int, reference_n: int, kept: int, extractor: Extractor, size: int) -> None:
    """Refuse an evaluation that needs more memory, disk or time than there is; the ParameterError gives the estimate.

    Parameters
    ----------
    names
        The parameters that set `n` and `reference_n`, the numbers of generated and of real images.
    kept
        Number of generated images, or crops, whose features are kept: `Plan.features`.
    size
        Height and width of the images in pixels.
    """
    images = f"{names[0]}={n:,} and {names[1]}={reference_n:,}"
    width = extractor.widths(size)[0]
    features = 4 * width * kept
    # For each sample its label, split, position and ground truth; for each real image its index and label.
    memory = (120 * n + 48 * reference_n) * extractor.crops + (features if features <= IN_MEMORY else 0)
    available = psutil.virtual_memory().available
    covariances = 5 * 8 * width**2  # of generated and real images, and their roots
    if covariances > available:
        raise ParameterError(
            f"extractor {extractor.name!r} gives {width:,} features per image, whose covariances need {covariances / 1e9:,.1f} GB of memory; "
            f"{available / 1e9:,.1f} GB are free: use an extractor with fewer features"
        )
    if memory + covariances > available:
        raise ParameterError(f"{images} need {memory / 1e9:,.1f} GB of memory; {available / 1e9:,.1f} GB are free: set lower numbers")
    disk = next(folder for folder in (data_dir() / "cache", *(data_dir() / "cache").parents) if folder.is_dir())
    free = shutil.disk_usage(disk).free
    if features > IN_MEMORY and free < features:
        raise ParameterError(
            f"{images} need {features / 1e9:,.1f} GB in {disk}; {free / 1e9:,.1f} GB are free: make room, or set a lower {names[0]}"
        )
    if n + reference_n > 10**6:
        began = time.monotonic()
        extractor(torch.full((8, 3, size, size), 128.0))
        seconds = (time.monotonic() - began) / 8 * (n + reference_n)
        if seconds > LONGEST:
            raise ParameterError(f"{images} take {seconds / 86400:,.0f} days for their features alone: set lower numbers")


def feature_array(rows: int, columns: int) -> np.ndarray:
    """An array (rows, columns) float32, in memory or, if it is large, in a temporary file; a StorageError if the disk has no room."""
    size = rows * columns * 4
    if size <= IN_MEMORY:
        return np.empty((rows, columns), np.float32)
    folder = data_dir() / "cache"
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = TemporaryFile(dir=folder)  # noqa: SIM115 (the array keeps it open)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # now: later, a full disk would end the process by a signal
        return np.memmap(file, np.float32, "r+", shape=(rows, columns))
