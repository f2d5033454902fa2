"""Data: opening any data set, checking it, packing it once, and the batches of every step.

Whatever the images are, all of them are decoded before training starts, so that mistakes show then and not hours later. What is decoded
is kept in a packed folder: `images.npy` (read through a memory map), `labels.npy` and `meta.json`. Packed folders are in
`<data folder>/cache`, where anything may be deleted at any time, or where `python -m workbench.data prepare SOURCE OUT --size S` puts them.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import itertools
import json
import os
import shutil
import stat
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from .config import BUILT_IN_DATA, Config, data_dir
from .files import locked, new_folder, read_json, synced
from .parameters import WorkbenchError, command, nearest
from .twins import Twins

VERSION = 1  # of the packed format and of `decode`: raise it with every change of what they give
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # folder names that are no classes
# The only formats that are opened, whatever a file is called. Of the others that Pillow knows, some start programs (EPS: Ghostscript), open
# whatever they contain (IPTC), or hold no picture. TGA is last, because its files have no mark of their own.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "QOI", "PCX", "PSD", "SGI", "SUN", "TGA")


class DataError(WorkbenchError):
    """Data that cannot be trained on: the message names the path and the cure."""


@dataclass
class Images:
    """A packed data set of N images of size S."""

    name: str
    classes: list[str]  # in the order of the labels; ["all"] if unconditional
    size: int  # S, height and width
    fingerprint: str  # SHA-256 of class names, relative paths, file contents and S; wherever the files are
    images: np.ndarray  # (N, S, S, 3) uint8, normally a read-only memory map
    labels: np.ndarray  # (N,) int64
    conditional: bool = True
    skipped: dict[str, str] = field(default_factory=dict)  # unreadable files that were left out: relative path -> reason
    ignored: dict[str, int] = field(default_factory=dict)  # files that are not images by name: extension -> how many

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
        pixels = torch.from_numpy(np.asarray(self.images[indices]))
        return pixels.permute(0, 3, 1, 2), torch.from_numpy(self.labels[indices])


# ----------------------------------------------------------------------------------------------------- opening


def open_data(config: Config, progress: bool = True) -> Images | Twins:
    """The data set that `config.data` names, at `config.image_size`, checked.

    The first opening decodes and packs it, the next ones only compare the names, sizes and times of the files. Any number of processes
    may open the same data at once: one packs it, the others wait.

    Parameters
    ----------
    config
        Read are `data`, `image_size`, `num_classes` (None: as many as there are), `skip_unreadable` and `batch_size`.
    progress
        Tell on stderr that data is being packed, with a bar in a terminal.

    Raises
    ------
    DataError
        If there is no such data, a folder is not `folder/<class>/*`, a class is empty, a file cannot be read, the size or the number of
        classes is not the config's, or there is less than one batch.
    """
    path, size = Path(config.data), config.image_size
    if config.data == "twins":
        data = Twins(size, seed=0, pairs=config.pairs)
    elif config.data not in BUILT_IN_DATA and _is_packed(path):
        data = _open_packed(path, size)
    else:
        listing = _list(config)
        data = _cached(listing, size, progress)
        data.ignored = listing.ignored  # may have changed since the images were packed
        if data.skipped and not config.skip_unreadable:
            raise _unreadable(listing, data.skipped)

    if config.num_classes not in (None, 0, data.num_classes):
        names = ", ".join(data.classes[:5]) + (", ..." if len(data.classes) > 5 else "")
        raise DataError(
            f"num_classes={config.num_classes}, but data={config.data!r} has {data.num_classes} classes"
            + (f" ({names}): set num_classes={data.num_classes}, or leave it out" if data.num_classes else ": set num_classes=0")
        )
    if data.length is not None and data.length < config.batch_size:
        raise DataError(
            f"data={config.data!r} has {data.length} images, fewer than batch_size={config.batch_size}: "
            f"add images, or set batch_size to at most {data.length}"
        )
    return data


def short_sides(source: str | Path) -> Counter:
    """How many images have which shorter side, in pixels: what `image_size` may be without enlarging anything.

    Only the headers of image files are read. Files that cannot be read are left out; they are reported when the images are opened.

    Parameters
    ----------
    source
        As `Config.data`: of a folder of images all below it count, with or without class folders, or those of its training split.

    Raises
    ------
    DataError
        If there is no such data, or no image in it.
    """
    config = Config.preset("twins32", data=source, num_classes=0)
    if config.data == "twins":
        return Counter({32: 1})  # drawn at any size
    if config.data == "cifar10":
        return Counter({32: 50_000})
    if config.data not in BUILT_IN_DATA and _is_packed(Path(config.data)):
        meta = read_json(Path(config.data) / "meta.json")
        return Counter({meta["size"]: meta["count"]})
    with ThreadPoolExecutor(16) as pool:
        sides = pool.map(_short_side, _list(config).items, chunksize=64)
        return Counter(side for side in sides if side)


def _short_side(path: str) -> int | None:
    with suppress(Exception), open_regular(path) as file, open_image(file) as image:  # anything, as in `_decode_one`
        return min(image.size)
    return None


def to_unit(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images as floats in [-1, 1]."""
    return x.to(dtype) / 127.5 - 1


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1], cut off there, as uint8: the inverse of `to_unit`."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().byte()


def describe(data: Images | Twins) -> str:
    """A data set in a few lines: name, number of images, classes with their counts, what was left out."""
    length = "endless" if data.length is None else f"{data.length:,}"
    names, spread = data.classes, ""
    if data.counts is not None:
        names = [f"{name} {count:,}" for name, count in zip(data.classes, data.counts, strict=True)]
        spread = f" of {min(data.counts):,} to {max(data.counts):,} images"
    lines = [f"{data.name}: {length} images of {data.size}x{data.size}, fingerprint {data.fingerprint[:12]}"]
    if len(names) <= 20:
        lines.append(f"{len(names)} {'class' if len(names) == 1 else 'classes'}: {', '.join(names)}")
    else:
        lines.append(f"{len(names)} classes{spread}: {', '.join(names[:5])}, ...")
    if getattr(data, "skipped", None):
        lines.append(f"left out, because unreadable: {len(data.skipped)} files ({_first(list(data.skipped))})")
    if getattr(data, "ignored", None):
        lines.append("ignored, because not images: " + ", ".join(f"{count:,} {suffix}" for suffix, count in data.ignored.items()))
    return "\n".join(lines)


def _unreadable(listing: _Listing, skipped: dict[str, str], lost: Sequence[str] = ()) -> DataError:
    files = _first([f"{path} ({reason})" for path, reason in skipped.items()], "; ")
    return DataError(
        f"{len(skipped)} of {len(listing.paths)} files in {listing.root} cannot be read: {files}; mend or delete them"
        + (f" (no image is left of {_first(lost)})" if lost else ", or set skip_unreadable=True to leave them out")
    )


def _first(names: Sequence[str], separator: str = ", ") -> str:
    """The first ten of some names, and how many more there are."""
    return separator.join(names[:10]) + (f"{separator}and {len(names) - 10} more" if len(names) > 10 else "")


# ----------------------------------------------------------------------------------------------------- batches


def batch_indices(length: int | None, seed: int, position: int, count: int) -> np.ndarray:
    """Which images are served next: a pure function, so that a resumed run is served what it would have been.

    Every epoch is a permutation of its own; a batch may begin in one epoch and end in the next.

    Parameters
    ----------
    length
        Images in the data set. None: endless, and served in its own order.
    seed, position, count
        Of the order; images served since the start of training; images to serve.

    Returns
    -------
    np.ndarray
        (count,) int64.
    """
    if length is None:
        return np.arange(position, position + count)
    parts = []
    while count:
        epoch, start = divmod(position, length)
        parts.append(_permutation(length, seed, epoch)[start : start + count])
        position, count = position + len(parts[-1]), count - len(parts[-1])
    return np.concatenate(parts)


@lru_cache(maxsize=2)  # a batch that crosses a border touches two epochs
def _permutation(length: int, seed: int, epoch: int) -> np.ndarray:
    data_order = 0xDA7A  # sets this use of the seed apart from all others
    return np.random.default_rng([seed, epoch, data_order]).permutation(length)


def loader(data: Images | Twins, config: Config, start_step: int = 0, rank: int = 0, world: int = 1) -> Iterator[tuple[int, list]]:
    """The batches of process `rank` of `world` for every G step from `start_step` on, without end.

    The global batch is cut into `gradient_accumulation` micro-batches, each of these into one share per process: what is worked on at
    once is then the same images for any number of processes. A thread prepares one step ahead; its errors surface here, and it ends
    when the generator is closed.

    Yields
    ------
    step, batches
        `batches[k][a]` are the images (b, 3, S, S) uint8 and labels (b,) int64 of D step k and micro-batch a, with
        b = batch_size / (gradient_accumulation * world).
    """
    micro = config.batch_size // config.gradient_accumulation
    share = micro // world

    def batches_of(step: int) -> list[list[tuple[Tensor, Tensor]]]:
        batches = []
        for k in range(config.d_steps):
            position = (step * config.d_steps + k) * config.batch_size
            indices = batch_indices(data.length, config.seed, position, config.batch_size)
            starts = range(rank * share, config.batch_size, micro)
            batches.append([data.batch(indices[start : start + share]) for start in starts])
        return batches

    with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
        upcoming = pool.submit(batches_of, start_step)
        for step in itertools.count(start_step):
            batches = upcoming.result()
            upcoming = pool.submit(batches_of, step + 1)
            yield step, batches


# ----------------------------------------------------------------------------------------------------- decoding


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file for reading; an OSError for pipes, devices and the like, which would block or never end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return open(path, "rb", opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK))  # it may have changed since


def open_image(source: str | Path | BinaryIO) -> Image.Image:
    """Pillow's `Image.open`, which goes by content and not by name, for the formats in `FORMATS` alone: no file starts a program."""
    return Image.open(source, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)  # not every Pillow has AVIF


def decode(source: str | Path | BinaryIO | np.ndarray, size: int) -> np.ndarray:
    """An image file, or the pixels of one, as (size, size, 3) uint8.

    Turned upright (EXIF), made 8-bit RGB on white, resized until the shorter side is `size` (antialiased; untouched where it is that
    already), cropped at the centre. Of an animation: the first frame.

    Raises
    ------
    Exception
        Whatever Pillow raises on a broken file, which may be anything.
    """
    with Image.fromarray(source) if isinstance(source, np.ndarray) else open_image(source) as image:
        image = _to_rgb(ImageOps.exif_transpose(image))
    short = min(image.size)
    left, top = ((side - short) // 2 for side in image.size)  # whole pixels: where nothing is resized, nothing is interpolated
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + short, top + short)))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB; Pillow's own conversion clips deep greys to white, and uncovers what alpha hides."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image, dtype=np.float32))
        if image.mode != "F":
            values = values / 257  # 16-bit grey, which Pillow opens as "I;16" or, from some formats, as "I"
        elif values.min() >= 0 and values.max() <= 1:
            values = values * 255
        image = Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


# ----------------------------------------------------------------------------------------------------- finding images


@dataclass
class _Listing:
    """The images of a data set before they are packed."""

    name: str
    root: Path
    classes: list[str]
    paths: list[str]  # relative to the root
    labels: Sequence[int]
    items: Sequence  # what `decode` reads: (N,) paths, or (N, h, w, 3) uint8
    identity: list  # whatever the images depend on, without reading them
    conditional: bool = True
    ignored: dict[str, int] = field(default_factory=dict)


@dataclass
class _Folder:
    """What lies directly in a folder, by name; hidden things do not count."""

    folders: list[str]
    images: list[tuple[str, int, int]]  # name, bytes, time of the last change (ns)
    others: list[str]


def _list(config: Config) -> _Listing:
    """The images that `config.data` names."""
    if config.data == "cifar10":
        return _list_cifar10()
    if config.data == "imagenet":
        return _list_imagenet()
    path = Path(config.data)
    if os.path.isdir(path):
        return _list_folder(path, unconditional=config.num_classes == 0)
    if os.path.exists(path):
        raise DataError(f"data={config.data!r} is a file: give a folder of images, folder/<class>/* (unpack an archive first)")
    known = {name: name for name in BUILT_IN_DATA}
    for place in filter(os.path.isdir, (data_dir(), path.parent)):
        with suppress(DataError):  # a place that cannot be read offers nothing
            known |= {entry.name.lower(): entry.path for entry in _entries(place) if _is_folder(entry)}
    guess = nearest(path.name.lower(), known)
    guess = next((guess.replace(repr(name), repr(place)) for name, place in known.items() if repr(name) in guess), "")
    raise DataError(f"data={config.data!r}: there is no such folder; {guess}built in: {', '.join(BUILT_IN_DATA)}")


def _list_cifar10() -> _Listing:
    """torchvision's 50,000 training images, downloaded where they are absent."""
    from torchvision.datasets import CIFAR10  # here, because torchvision takes long to import

    root = data_dir() / CIFAR10.base_folder
    try:
        with locked(data_dir() / "cache" / "cifar10"):
            dataset = CIFAR10(data_dir(), train=True, download=True)
    except (OSError, RuntimeError, EOFError) as error:  # no network, a wrong hash, half an archive
        raise DataError(
            f"CIFAR-10 is not in {root}, and could not be downloaded ({error}): fetch {CIFAR10.url} and put it into {data_dir()}"
        ) from None
    paths = [f"{index:05d}" for index in range(len(dataset.data))]
    return _Listing("cifar10", root, dataset.classes, paths, dataset.targets, dataset.data, identity=[CIFAR10.train_list])


def _list_imagenet() -> _Listing:
    """torchvision's ImageNet, the training images, unpacked where only the archives are there."""
    from torchvision.datasets import ImageNet

    root = data_dir() / "imagenet"
    try:
        with locked(data_dir() / "cache" / "imagenet"):
            dataset = ImageNet(root, split="train")
    except (OSError, RuntimeError, ImportError) as error:
        raise DataError(
            f"ImageNet cannot be opened in {root} ({str(error).splitlines()[0]}): put ILSVRC2012_img_train.tar and "
            "ILSVRC2012_devkit_t12.tar.gz there (image-net.org gives them to registered users; unpacking needs scipy), "
            "or give a folder of images as data"
        ) from None
    listing = _list_folder(root / "train", unconditional=False)
    names = [synonyms[0] for synonyms in dataset.classes]
    uses = Counter(names)  # two classes are called "crane"
    listing.classes = [name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, dataset.wnids, strict=True)]
    listing.name, listing.identity = "imagenet", [listing.identity, listing.classes]
    return listing


def _list_folder(root: Path, unconditional: bool) -> _Listing:
    """The images of `root/<class>/*`, or, unconditionally, all images below `root`; of `root/train` where that is a split."""
    train = root / "train"
    if train.is_dir() and (_class_folders(train) or set(_scan(root).folders) <= SPLITS):  # neither is true of a class called train
        root = train
    if unconditional:
        found = {str(path.relative_to(root)): folder for path, folder in _walk(root)}
        if not any(folder.images for folder in found.values()):
            raise _nothing(root)
    else:
        top = _scan(root)
        found = {name: _scan(root / name) for name in top.folders}
        _check_layout(root, top, found)
        found["."] = top  # which has no images, and may have other files
    files = [(os.path.normpath(f"{place}/{name}"), *status) for place, folder in found.items() for name, *status in folder.images]
    paths = [path for path, *_ in files]
    classes = ["all"] if unconditional else top.folders
    label = {name: index for index, name in enumerate(classes)}
    return _Listing(
        name=root.parent.name if root.name in SPLITS else root.name,
        root=root,
        classes=classes,
        paths=paths,
        labels=[0 if unconditional else label[path.partition("/")[0]] for path in paths],
        items=[f"{root}/{path}" for path in paths],
        # the place too: two folders may agree in the names, sizes and times of their files, and yet not in content
        identity=[str(root), unconditional, files],
        conditional=not unconditional,
        ignored=_tally(found.values()),
    )


def _check_layout(root: Path, top: _Folder, classes: dict[str, _Folder]) -> None:
    """Refuse everything but `root/<class>/*`: what is guessed here is trained on, with wrong labels."""
    unconditionally = "or set num_classes=0 to train without classes"
    siblings = [name for name in _class_folders(root.parent) if name not in SPLITS] if top.images else []
    if len(siblings) > 1:
        raise DataError(
            f"{root} has images directly in it, like the other class folders of {root.parent} ({_first(siblings)}): "
            f"set data={str(root.parent)!r}, {unconditionally}"
        )
    if top.images:
        raise DataError(
            f"{root} has images directly in it ({_first([name for name, *_ in top.images])}), where they belong to no class: "
            f"put them into class folders, {root}/<class>/*, {unconditionally}"
        )
    if not any(folder.images for folder in classes.values()):
        deeper = next((path for path, _ in _walk(root) if _class_folders(path)), None)
        if not deeper:
            raise _nothing(root)
        raise DataError(f"{root} is not the folder of the class folders, {deeper} is: set data={str(deeper)!r}, {unconditionally}")
    for name, folder in classes.items():
        for inner, content in itertools.chain.from_iterable(_walk(root / name / sub) for sub in folder.folders):
            if content.images:
                raise DataError(
                    f"{inner} has images in it, but {root / name} is the class folder: move them up into it, "
                    f"or set data to the folder of the class folders, {unconditionally}"
                )
    empty = [name for name, folder in classes.items() if not folder.images]
    if empty:
        raise DataError(
            f"{len(empty)} of the {len(classes)} class folders of {root} have no images in them: {_first(empty)}; "
            "add images, or delete these folders"
        )
    if set(classes) <= SPLITS:
        raise DataError(f"the folders of {root} ({', '.join(classes)}) are splits, not classes: set data to one of them, and num_classes=0")


def _nothing(root: Path) -> DataError:
    others = ", ".join(f"{count:,} {suffix}" for suffix, count in _tally(folder for _, folder in _walk(root)).items())
    return DataError(f"there are no images in {root} (other files: {others or 'none'}): put them there, {root}/<class>/*.png, .jpg, ...")


def _tally(folders: Iterable[_Folder]) -> dict[str, int]:
    """How many files are not images, by extension, the most frequent first."""
    return dict(Counter(_suffix(name) or "without extension" for folder in folders for name in folder.others).most_common())


def _walk(root: Path) -> Iterator[tuple[Path, _Folder]]:
    """`root` and every folder below it, by name but `train` first; links are followed, but no folder is entered twice."""
    seen, stack = set(), [root]
    while stack:
        path = stack.pop()
        if path.resolve() not in seen:
            seen.add(path.resolve())
            folder = _scan(path)
            yield path, folder
            stack += [path / name for name in sorted(folder.folders, key=lambda name: (name != "train", name), reverse=True)]


def _class_folders(root: Path) -> list[str]:
    """The folders in `root` that have images in them."""
    folders = [entry for entry in _entries(root) if _is_folder(entry) and os.access(entry.path, os.R_OK)]
    return [folder.name for folder in folders if any(_suffix(entry.name) in _image_suffixes() for entry in _entries(folder.path))]


def _is_folder(entry: os.DirEntry) -> bool:
    """False also for a link that leads to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _scan(path: Path) -> _Folder:
    found = _Folder([], [], [])
    for entry in _entries(path):
        if _is_folder(entry):
            found.folders.append(entry.name)
        elif _suffix(entry.name) not in _image_suffixes():
            found.others.append(entry.name)
        else:
            status = entry.stat(follow_symlinks=os.path.exists(entry.path))  # a broken link will be told as an unreadable file
            found.images.append((entry.name, status.st_size, status.st_mtime_ns))
    return found


def _entries(path: str | Path) -> list[os.DirEntry]:
    try:
        return sorted((entry for entry in os.scandir(path) if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {path} cannot be read ({error.strerror}): mend its permissions") from None


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


@cache
def _image_suffixes() -> frozenset[str]:
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in _formats())


# ----------------------------------------------------------------------------------------------------- packing


def prepare(
    source: str | Path, out: str | Path, size: int, skip_unreadable: bool = False, unconditional: bool = False, progress: bool = True
) -> Images:
    """Pack a data set into a folder of its own, to be given as `data`, here or on another machine.

    Parameters
    ----------
    source
        A folder of images, "cifar10" or "imagenet".
    out
        A folder that is empty or does not exist yet.
    size
        Height and width of the packed images.
    skip_unreadable, unconditional
        Leave unreadable files out; take all images below `source`, without classes.
    progress
        As for `open_data`.

    Raises
    ------
    DataError
        As `open_data`; and if `out` is in use, or there is nothing to pack.
    ParameterError
        If no network can have this size.
    """
    num_classes = {"num_classes": 0} if unconditional else {}
    config = Config.preset("twins32", data=source, image_size=size, **num_classes)
    out = Path(out).expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty: give another folder to pack into")
    if config.data == "twins" or _is_packed(Path(config.data)):
        raise DataError(f"{config.data} needs no packing: give it as data as it is")
    if out.is_relative_to(config.data):
        raise DataError(f"{out} lies in the data that is to be packed: give a folder outside of {config.data}")
    _pack(_list(config), size, out, progress, skip_unreadable)
    return _open_packed(out, size)


def _cached(listing: _Listing, size: int, progress: bool) -> Images:
    """These images from the cache, packed now if they are not in it."""
    key = hashlib.sha256(json.dumps([VERSION, size, listing.identity]).encode()).hexdigest()[:20]
    folder = data_dir() / "cache" / key
    if folder.is_dir():
        data = _open_packed(folder, size)
        again = _decode_all([f"{listing.root}/{path}" for path in data.skipped], size)
        if all(pixels is None for pixels, _ in again):
            return data
        shutil.rmtree(folder, ignore_errors=True)  # a file can be read after all: its permissions were mended, or the disk
    with locked(folder, f"waiting for the process that packs {listing.name}" if progress else ""):
        if not folder.is_dir():
            _pack(listing, size, folder, progress)  # unreadable files are left out, and refused later: decoding need not be repeated
    return _open_packed(folder, size)


def _pack(listing: _Listing, size: int, out: Path, progress: bool, skip_unreadable: bool = True) -> None:
    """Decode the images into the folder `out`, which appears when it is complete."""
    start, count = time.monotonic(), len(listing.paths)
    required = count * size * size * 3
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        available = shutil.disk_usage(out.parent).free
        if required > available:
            raise DataError(
                f"{listing.name} at {size}x{size} needs {required / 1e9:.2f} GB in {out.parent}, where {available / 1e9:.2f} GB are "
                "available: make room, or set WORKBENCH_DATA in the environment to a folder on a larger disk"
            )
        if progress:
            print(f"packing {count:,} images of {listing.name} at {size}x{size} into {out}", file=sys.stderr)
        with new_folder(out) as folder:
            _write_packed(listing, size, folder, progress, skip_unreadable)
    except OSError as error:
        raise DataError(
            f"packed images cannot be written to {out.parent} ({error.strerror or error}): "
            "make room, or set WORKBENCH_DATA in the environment to a folder that can be written to"
        ) from None
    if progress:
        print(f"packed in {time.monotonic() - start:.0f} s", file=sys.stderr)


def _write_packed(listing: _Listing, size: int, folder: Path, progress: bool, skip_unreadable: bool) -> None:
    shape = (len(listing.paths), size, size, 3)
    content = hashlib.sha256(json.dumps([listing.classes, size]).encode())
    labels, skipped = [], {}
    with synced(folder / "images.npy") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        end = file.tell() + int(np.prod(shape))
        bar = tqdm(_decode_all(listing.items, size), total=shape[0], unit="image", disable=not (progress and sys.stderr.isatty()))
        for path, label, (pixels, told) in zip(listing.paths, listing.labels, bar, strict=True):
            if pixels is None:
                skipped[path] = told
            else:
                file.write(pixels)  # not through a memory map: there, a full disk kills the process
                labels.append(label)
                content.update(json.dumps([path, told]).encode())
        file.truncate(end)  # the header counts what was skipped, too: that many rows at the end are not used
    left = set(labels)
    lost = [name for index, name in enumerate(listing.classes) if index not in left]
    if lost or (skipped and not skip_unreadable):
        raise _unreadable(listing, skipped, lost)
    with synced(folder / "labels.npy") as file:
        np.save(file, np.array(labels, dtype=np.int64))
    meta = dict(
        version=VERSION, name=listing.name, classes=listing.classes, size=size, fingerprint=content.hexdigest(),
        conditional=listing.conditional, skipped=skipped, ignored=listing.ignored, count=len(labels),
    )  # fmt: skip
    with synced(folder / "meta.json") as file:
        file.write(json.dumps(meta).encode())


def _decode_all(items: Sequence, size: int) -> Iterator[tuple[np.ndarray | None, str]]:
    """For each image, in order: pixels and the SHA-256 of its content, or None and the reason.

    By threads: Pillow lets go of the interpreter while it decodes. Processes would be faster only where images are tiny (CIFAR-10 as
    JPEG files, on two cores: 3 s instead of 8 s), and cannot be started safely from everywhere.
    """
    workers, chunk = min(os.cpu_count() or 1, 16), 16
    Image.init()  # here, because plugins must not be loaded by several threads
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # about odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        pending: deque = deque()  # never many: the decoded images of a large data set do not fit into memory
        for start in range(0, len(items), chunk):
            pending.append(pool.submit(lambda part: [_decode_one(item, size) for item in part], items[start : start + chunk]))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


def _decode_one(item: str | np.ndarray, size: int) -> tuple[np.ndarray | None, str]:
    try:
        if isinstance(item, np.ndarray):
            return decode(item, size), hashlib.sha256(item.tobytes()).hexdigest()
        content = Path(item).read_bytes()
        return decode(BytesIO(content), size), hashlib.sha256(content).hexdigest()
    except UnidentifiedImageError:
        return None, "not an image" if content else "empty file"
    except Exception as error:  # Pillow raises almost anything on a broken file
        return None, getattr(error, "strerror", None) or str(error) or type(error).__name__


def _is_packed(folder: Path) -> bool:
    return os.path.isfile(folder / "meta.json") and os.path.isfile(folder / "images.npy")


def _open_packed(folder: Path, size: int) -> Images:
    """A packed folder, which must be of this size."""
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta.pop("version") != VERSION:
            raise ValueError("it is from another version of the workbench")
        meta.pop("count")
        labels = np.load(folder / "labels.npy")
        images = np.load(folder / "images.npy", mmap_mode="r")[: len(labels)]
        data = Images(images=images, labels=labels, **meta)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the packed data in {folder} cannot be used ({error}): delete the folder, and pack it again") from None
    if data.size != size:
        raise DataError(
            f"{folder} was packed at {data.size}x{data.size}, and image_size is {size}: set image_size={data.size}, "
            f"or pack it again, `python -m workbench.data prepare SOURCE OUT --size {size}`"
        )
    return data


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """The command line, `python -m workbench.data`."""
    parser = argparse.ArgumentParser(prog="python -m workbench.data", description="Data sets of the SAGAN workbench.")
    prepares = parser.add_subparsers(required=True, metavar="prepare").add_parser(
        "prepare",
        help="decode a data set once, into a folder that training reads directly",
        description="Decode a data set once, into a folder to be given as data=OUT, here or on another machine.",
    )
    prepares.add_argument(
        "source", metavar="SOURCE", help="folder of images, SOURCE/<class>/* or SOURCE/train/<class>/*; cifar10; imagenet"
    )
    prepares.add_argument("out", metavar="OUT", help="folder to make; it must be empty or not exist yet")
    prepares.add_argument("--size", type=int, required=True, help="height and width of the images, the image_size of the training")
    prepares.add_argument("--skip-unreadable", action="store_true", help="leave unreadable files out instead of refusing")
    prepares.add_argument("--unconditional", action="store_true", help="take all images below SOURCE, without classes")
    print(describe(prepare(**vars(parser.parse_args(arguments)))))


if __name__ == "__main__":
    sys.exit(main())
