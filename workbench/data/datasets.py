"""Opening data sets, packing them for another machine, and describing them."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..files import open_regular, remove_abandoned, storing
from ..messages import ParameterError, counted
from ..presets import BUILT_IN_DATA, HUGGING_FACE
from .binding import Binding
from .cache import cached
from .decode import open_image
from .errors import DataError, first_of, printable
from .packed import Images, is_packed, open_packed, read_packed
from .packing import pack, unreadable_files
from .sources import list_images
from .twins import Twins

Drawn = Twins | Binding
TRUTH = Twins.TRUTH | Binding.TRUTH  # what is measured in drawn images: name -> whether higher is better

# Data sets that are drawn: name -> the set that a Config describes.
DRAWN: dict[str, Callable[[Config], Drawn]] = {
    "twins": lambda config: Twins(config.image_size, pairs=config.pairs),
    "binding": lambda config: Binding(config.image_size, tiles=config.tiles, patterns=config.patterns),
    "binding-near": lambda config: Binding(config.image_size, tiles=config.tiles, patterns=config.patterns, near=True),
}


def average(name: str) -> Callable[[Tensor], Tensor]:
    """What makes one number of a quantity in `TRUTH` over many images: the mean of shares and agreements, the median of distances."""
    return torch.mean if TRUTH[name] else torch.median


def open_data(config: Config, progress: bool = True) -> Images | Drawn:
    """The data set `config.data` at `config.image_size`, checked.

    The first opening decodes and packs it; later ones only compare the names, sizes and times of the files. If several processes open it
    at the same time, one packs it and the others wait.

    Parameters
    ----------
    config
        Uses `data`, `image_size`, `num_classes` (None: all), `pairs`, `tiles`, `patterns`, `skip_unreadable` and `batch_size`.
    progress
        Report the progress of packing on stderr.

    Raises
    ------
    DataError
        If there is no such data, a folder is not `folder/<class>/*`, a class is empty, a file cannot be read, the size or the number of
        classes differs from the config's, or there is less than one batch.
    """
    size = config.image_size
    data: Images | Drawn
    if config.data in DRAWN:
        data = DRAWN[config.data](config)
    elif is_packed(config.data):
        data = open_packed(Path(config.data), size)
    else:
        listing = list_images(config.data, config.num_classes == 0)
        data = cached(listing, size, progress)
        data.ignored = listing.ignored  # may have changed since the images were packed
        if data.skipped and not config.skip_unreadable:
            raise unreadable_files(listing, data.skipped)

    if config.num_classes not in (None, 0, data.num_classes):
        names = ", ".join(data.classes[:5]) + (", ..." if len(data.classes) > 5 else "")
        classes = f"{counted(data.num_classes, 'class')} ({names})" if data.num_classes else "0 classes"
        fix = "=0" if not data.num_classes else f"={data.num_classes}, or leave it out"
        raise DataError(("data", f"={config.data!r} has {classes}, not num_classes={config.num_classes}"), ("num_classes", fix))
    if data.length is not None and data.length < config.batch_size:
        raise DataError(
            ("data", f"={config.data!r} has {counted(data.length, 'image')}, and at least {config.batch_size} are needed"),
            "add images",
            ("batch_size", f" to at most {data.length}"),
        )
    return data


def prepare(
    source: str | Path, out: str | Path, size: int, skip_unreadable: bool = False, unconditional: bool = False, progress: bool = True,
    processes: int = 1,
) -> Images:  # fmt: skip
    """Pack a data set into a folder that can be used as `data`, here or on another machine.

    A packing that was killed, or failed, goes on where it was when it is started again: finished parts stay in a hidden folder beside `out`.

    Parameters
    ----------
    source
        A folder of images, "cifar10", "imagenet" or "hf:<name or path>".
    out
        A folder that is empty or does not exist yet.
    size
        Height and width of the packed images.
    skip_unreadable, unconditional
        Leave unreadable files out; use all images below `source`, without classes.
    progress
        As for `open_data`.
    processes
        Processes that decode: worth it for millions of tiny images, or with more than 16 cores. A script that asks for more than one
        needs the line `if __name__ == "__main__":`.

    Raises
    ------
    DataError
        As `open_data`; and if `out` is not empty, or `source` needs no packing.
    ParameterError
        If no network has this size, or there are no processes.
    """
    if processes < 1:
        raise ParameterError(f"processes={processes} must be at least 1")
    config = Config.preset("twins32", data=source, image_size=size)
    if not str(out).strip() or "\0" in str(out):
        raise DataError(f"out={str(out)!r} is no folder", "give one that is empty or does not exist yet")
    out = Path(os.path.realpath(os.path.expanduser(out)))
    with storing(out):
        if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} exists and is not empty", "give another folder to pack into")
    if config.data in DRAWN or is_packed(config.data):
        raise DataError(f"{config.data} needs no packing", "use it as data directly")
    if out.is_relative_to(config.data):
        raise DataError(f"{out} lies in the data to pack", f"give a folder outside of {config.data}")
    listing = list_images(config.data, unconditional)
    remove_abandoned(out.parent, out.name)
    pack(listing, size, out, progress, skip_unreadable, "give another folder to pack into", processes)
    return open_packed(out, size)


def describe(data: Images | Drawn) -> str:
    """A data set in a few lines: name, number of images, classes with their counts, skipped and ignored files."""
    length = "endless" if data.length is None else f"{data.length:,}"
    names, spread = data.classes, ""
    if data.counts is not None:
        names = [f"{name} {count:,}" for name, count in zip(data.classes, data.counts, strict=True)]
        spread = f" of {min(data.counts):,} to {max(data.counts):,} images"
    lines = [f"{data.name}: {length} images of {data.size}x{data.size}, fingerprint {data.fingerprint[:12]}"]
    if len(names) <= 20:
        lines.append(f"{counted(len(names), 'class')}: {', '.join(names)}")
    else:
        lines.append(f"{len(names)} classes{spread}: {', '.join(names[:5])}, ...")
    if getattr(data, "skipped", None):
        lines.append(f"left out, because unreadable: {counted(len(data.skipped), 'file')} ({first_of(list(data.skipped))})")
    if getattr(data, "ignored", None):
        lines.append("ignored, because not images: " + ", ".join(f"{count:,} {suffix}" for suffix, count in data.ignored.items()))
    return "\n".join(map(printable, lines))


def is_image_folder(config: Config) -> bool:
    """Whether `config.data` is a folder of image files, neither built in, nor packed, nor of Hugging Face."""
    return not (config.data in BUILT_IN_DATA or config.data.startswith(HUGGING_FACE) or is_packed(config.data))


def has_class_folders(config: Config) -> bool:
    """Whether the data have classes: only folders of images may lack them."""
    if not is_image_folder(config):
        return True
    try:
        list_images(config.data, unconditional=False)
    except DataError:
        return False
    return True


def short_sides(source: str | Path) -> Counter:
    """How many images have which shorter side, in pixels: an `image_size` above it enlarges them.

    It reads only the headers of image files, and leaves out unreadable files, which `open_data` reports.

    Parameters
    ----------
    source
        As `Config.data`. All images of a folder count, or those of its training split.

    Raises
    ------
    DataError
        If there is no such data, or no image in it.
    UnreadableError
        If it is a packed folder that is damaged.
    """
    data = Config.read("data", source)
    if data in DRAWN:
        return Counter({32: 1})  # drawn at any size
    if data == "cifar10":
        return Counter({32: 50_000})  # known without a download
    if is_packed(data):
        packed = read_packed(Path(data))
        return Counter({packed.size: packed.length})
    items, chunk = list_images(data, unconditional=True).items, 256
    if isinstance(items, np.ndarray):  # decoded already, (N, h, w, 3)
        return Counter({min(items.shape[1:3]): len(items)})
    with warnings.catch_warnings(), ThreadPoolExecutor(16) as pool:
        warnings.simplefilter("ignore")
        return sum(pool.map(_sides, (items[start : start + chunk] for start in range(0, len(items), chunk))), Counter())


def _sides(items: Sequence[str | bytes]) -> Counter:
    sides: Counter[int] = Counter()
    for item in items:
        with (
            suppress(Exception),
            BytesIO(item) if isinstance(item, bytes) else open_regular(item) as file,
            open_image(file) as image,
        ):  # Pillow may raise anything
            sides[min(image.size)] += 1
    return sides
