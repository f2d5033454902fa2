"""Data: opening any data set, checking it, packing it once, and the batches of every step.

Whatever the images are, all of them are decoded before training starts, so that mistakes show then and not hours later. What is decoded
is kept in a packed folder: `images.npy` (read through a memory map), `labels.npy` and `meta.json`. Packed folders are in
`<data folder>/cache`, where anything may be deleted at any time, or where `python -m workbench.data prepare SOURCE OUT --size S` puts them.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import glob
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import time
import unicodedata
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from ..config import Config
from ..files import LEFTOVERS, StorageError, UnreadableError, delete_folder, locked, new_folder, open_regular, read_json, storing, synced
from ..messages import command, nearest, say_once, shown, shown_text
from ..parameters import WorkbenchError
from ..places import data_dir
from ..presets import BUILT_IN_DATA
from ..tensors import SUMS, digest, seal, sums
from .decode import decode, open_image, read_file, suffixes
from .twins import Twins

VERSION = 2  # of the packed format and of `decode`: raise it with every change of what they give
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, surrogates, separators of lines and paragraphs
INVISIBLE = {"Cf"}  # what changes the direction or the joining of text: usual in names of some languages, and able to disguise others
# Folder names that are no classes, in any case and with whatever digits, signs and words of PADDING ("val2017", "Test_Set").
TRAINING = {"train", "training", "trn"}
SPLITS = TRAINING | {"val", "valid", "validate", "validation", "dev", "test", "testing", "tst", "eval", "evaluation", "holdout", "trainval"}
PADDING = re.compile(r"[\W\d_]|set|images?|imgs?|data|split")
# Words in names of splits ("trainA", "DIV2K_valid_HR", "minitest"). Classes may have them, too: they count where both kinds occur.
_LEARN = (
    "training|train|treino|treinamento|entrenamiento|entrainement|apprentissage|addestramento|обуч\\w*|тренир\\w*|训练|訓練|学習|훈련|학습"
)
_TEST = (
    "testing|test|validation|validate|valid|validacion|validacao|evaluation|evaluate|eval|holdout|heldout|prueba|"
    "тест\\w*|валид\\w*|провер\\w*|контрол\\w*|测试|測試|验证|驗證|検証|評価|テスト|테스트|검증"
)
LEARN_WORD = re.compile(f"^trn?$|^(?:{_LEARN})|(?:{_LEARN})$")
TEST_WORD = re.compile(f"^(?:te|tst|ts|val|vld|dev|held|query|gallery|probe)$|^(?:{_TEST})|(?:{_TEST}|val)$")
# What systems and photo tools put beside images: thumbnails, deleted files, snapshots.
SYSTEM = {
    "@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "#recycle", "#snapshot", "~snapshot", "$recycle.bin", "$extend", "recycler",
    "recycled", "system volume information", "found.000", "lost+found", "__macosx", "__pycache__", "temporary items", "network trash folder",
    "@appstore", "@database", "@docker", "@synologydrive", "ipod photo cache", "captureone", "adobe bridge cache", "lost.dir", "[originals]",
}  # fmt: skip
THUMBNAILS = re.compile(r"[\W_]*(thumb(nail)?s|previews|caches?)|[\W_]+(thumb(nail)?|preview)|.*\.(lrdata|cocatalogdb|thumbnails)")
PACKED = ("meta.json", "labels.npy", "images.npy")
CHECKED = 2**28  # bytes of images that are compared with their SHA-256 at every opening: a second at most, and CIFAR-10 is less
DAY = 24 * 60 * 60


class DataError(WorkbenchError):
    """Data that cannot be trained on: the message names the path and the cure, in one line whatever the names of the files are."""

    def __init__(self, message: str):
        super().__init__(printable(message))


def printable(text: str) -> str:
    """A text without control and invisible characters and bytes that are not UTF-8, which names of files may have: these as escapes."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in UNPRINTABLE | INVISIBLE else c for c in text)


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
    ignored: dict[str, int] = field(default_factory=dict)  # not images by name: extension, folder of the system or "hidden" -> how many

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
    UnreadableError
        If it is a packed folder that is damaged.
    """
    config = Config.preset("twins32", data=source, num_classes=0)
    if config.data == "twins":
        return Counter({32: 1})  # drawn at any size
    if config.data == "cifar10":
        return Counter({32: 50_000})
    if config.data not in BUILT_IN_DATA and _is_packed(Path(config.data)):
        data = _read_packed(Path(config.data))
        return Counter({data.size: data.length})
    items, chunk = _list(config).items, 256
    with warnings.catch_warnings(), ThreadPoolExecutor(16) as pool:
        warnings.simplefilter("ignore")
        return sum(pool.map(_sides, (items[start : start + chunk] for start in range(0, len(items), chunk))), Counter())


def _sides(paths: Sequence[str]) -> Counter:
    sides = Counter()
    for path in paths:
        with suppress(Exception), open_regular(path) as file, open_image(file) as image:  # anything, as in `_decode_one`
            sides[min(image.size)] += 1
    return sides


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
    return "\n".join(map(printable, lines))


def _unreadable(listing: _Listing, skipped: dict[str, str], lost: Sequence[str] = ()) -> DataError:
    files = _first([f"{path} ({reason})" for path, reason in skipped.items()], "; ")
    return DataError(
        f"{len(skipped)} of {len(listing.paths)} files in {listing.root} cannot be read: {files}; fix or delete them"
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
    """What lies directly in a folder, by name."""

    folders: list[str]
    images: list[tuple[str, int, int]]  # name, bytes, time of the last change (ns)
    others: list[str]  # also hidden folders


def _list(config: Config) -> _Listing:
    """The images that `config.data` names."""
    unconditional = config.num_classes == 0
    if config.data == "cifar10":
        return _list_cifar10(unconditional)
    if config.data == "imagenet":
        return _list_imagenet(unconditional)
    path = Path(config.data)
    if os.path.isdir(path):
        return _list_folder(path, unconditional)
    if os.path.exists(path):
        raise DataError(f"data={config.data!r} is a file: give a folder of images, folder/<class>/* (unpack an archive first)")
    known = {name: name for name in BUILT_IN_DATA}
    for place in filter(os.path.isdir, (data_dir(), path.parent)):
        with suppress(DataError):  # a place that cannot be read offers nothing
            known |= {entry.name.lower(): entry.path for entry in _entries(place) if not _is_hidden(entry) and _is_folder(entry)}
    guess = nearest(path.name.lower(), known)
    guess = next((guess.replace(repr(name), repr(place)) for name, place in known.items() if repr(name) in guess), "")
    raise DataError(f"data={config.data!r}: there is no such folder; {guess}built in: {', '.join(BUILT_IN_DATA)}")


def _list_cifar10(unconditional: bool) -> _Listing:
    """torchvision's 50,000 training images, downloaded where they are absent."""
    from torchvision.datasets import CIFAR10  # here, because torchvision takes long to import

    root = data_dir() / CIFAR10.base_folder
    try:
        with locked(data_dir() / "cache" / "cifar10"):
            dataset = CIFAR10(data_dir(), train=True, download=True)
    except Exception as error:  # no network, a wrong hash, half an archive: torchvision raises almost anything
        raise DataError(
            f"CIFAR-10 is not in {root}, and could not be downloaded ({_reason(error)}): fetch {CIFAR10.url} and put it into {data_dir()}"
        ) from None
    paths = [f"{index:05d}" for index in range(len(dataset.data))]
    classes, labels = (["all"], [0] * len(paths)) if unconditional else (dataset.classes, dataset.targets)
    identity = [CIFAR10.train_list, unconditional]
    return _Listing("cifar10", root, classes, paths, labels, dataset.data, identity, conditional=not unconditional)


def _list_imagenet(unconditional: bool) -> _Listing:
    """torchvision's ImageNet, the training images, unpacked where only the archives are there."""
    from torchvision.datasets import ImageNet

    root = data_dir() / "imagenet"
    try:
        with locked(data_dir() / "cache" / "imagenet"):
            dataset = ImageNet(root, split="train")
    except Exception as error:
        raise DataError(
            f"ImageNet cannot be opened in {root} ({_reason(error)}): put ILSVRC2012_img_train.tar and "
            "ILSVRC2012_devkit_t12.tar.gz there (image-net.org gives them to registered users; unpacking needs scipy), "
            "or give a folder of images as data"
        ) from None
    listing = _list_folder(root / "train", unconditional)
    if not unconditional:
        names = [synonyms[0] for synonyms in dataset.classes]
        uses = Counter(names)  # two classes are called "crane"
        listing.classes = [name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, dataset.wnids, strict=True)]
    listing.name, listing.identity = "imagenet", [listing.identity, listing.classes]
    return listing


def _list_folder(root: Path, unconditional: bool) -> _Listing:
    """The images of `root/<class>/*`, or, unconditionally, all images below `root`; of its training split where it has splits."""
    root = training_split(root, unconditional)
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
        name=printable((root.parent.name if is_split(root.name) else root.name) or str(root)),
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


def is_image_folder(config: Config) -> bool:
    """Whether its data are image files, neither built in nor packed."""
    return config.data not in BUILT_IN_DATA and not _is_packed(Path(config.data))


def has_class_folders(config: Config) -> bool:
    """Whether its data come with classes: all but folders of another layout than `folder/<class>/*` do."""
    if not is_image_folder(config):
        return True
    try:
        _list(config)
    except DataError:
        return False
    return True


def training_split(root: Path, unconditional: bool) -> Path:
    """The folder to train on: `root`, or the training split in it. What may be trained on by mistake is refused."""
    splits = _splits(root)
    if not splits:
        return root
    classes = [name for name in _class_folders(root) if name not in splits]
    if classes:
        if [name.lower() for name in splits] == ["train"] and not _class_folders(root / splits[0]):
            say_once(f"{printable(str(root / splits[0]))} is taken as a class: rename it if it is a split")  # trains are a usual class
            return root
        raise DataError(
            f"{root} has class folders ({_first(classes)}) and what looks like splits ({_first(splits)}): set data to the folder that holds "
            f"nothing but the images to train on, or rename {_first(splits)} if these are classes"
        )
    training = [name for name in splits if _bare_name(name) in TRAINING]
    others = [name for name in splits if not is_split(name) and _kind_of_split(name) == "training"]
    if len(training) == 1 and not others:
        return root / training[0]
    training += others
    if len(training) > 1:
        raise DataError(f"{root} has more than one training split ({_first(training)}): set data to one of them")
    if unconditional and len(splits) == 1:
        return root
    flat = "" if unconditional or any(_class_folders(root / name) for name in training or splits) else ", and num_classes=0"
    cure = f"set data={str(root / training[0])!r}" if training else "set data to one of them"
    raise DataError(f"the folders of {root} ({_first(splits)}) are splits, not classes: {cure}{flat}")


def _splits(root: Path) -> list[str]:
    """The folders in `root` with images in or below them that are splits: by their whole names, or by words in the names of several.

    Words decide where there are some for training and some for testing, and the rest of two such names is the same ("trainA", "testA")
    or most folders have them: so "train" and "test tube" may be two of many classes.
    """
    named = [name for name in _scan(root).folders if is_split(name) or _kind_of_split(name)]
    named = [name for name in named if any(folder.images for _, folder in _walk(root / name))]
    rests = {kind: {_rest(name) for name in named if _kind_of_split(name) == kind} for kind in ("training", "test")}
    if all(rests.values()):
        others = [name for name in _class_folders(root) if name not in named]
        if rests["training"] & rests["test"] or len(named) > len(others):
            return named
        say_once(
            f"in {printable(str(root))}, {printable(_first(named))} are taken as classes: set data to the training images if they are splits"
        )
    return [name for name in named if is_split(name)]


def _kind_of_split(name: str) -> str:
    """Of which split there is a word in a name: "training", "test" (validation, too) or ""."""
    words = _words(name)
    return "training" if any(map(LEARN_WORD.search, words)) else "test" if any(map(TEST_WORD.search, words)) else ""


def _rest(name: str) -> tuple[str, ...]:
    """What is left of a name without the words of splits."""
    rest = (PADDING.sub("", TEST_WORD.sub("", LEARN_WORD.sub("", word))) for word in _words(name))
    return tuple(filter(None, rest))


def _words(name: str) -> list[str]:
    """The words of a name, in lower case and without accents: "DIV2K_trainHR" has div, k, train, hr."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if unicodedata.category(c) not in {"Mn", *INVISIBLE})
    plain = unicodedata.normalize("NFKC", plain)
    plain = "".join(f" {c}" if c.isupper() and before.islower() else c for before, c in zip(f" {plain}", plain, strict=False))
    return re.findall(r"[^\W\d_]+", plain.lower())


def is_split(name: str) -> bool:
    return _bare_name(name) in SPLITS


def _bare_name(name: str) -> str:
    return PADDING.sub("", name.lower())


def _check_layout(root: Path, top: _Folder, classes: dict[str, _Folder]) -> None:
    """Refuse everything but `root/<class>/*`: what is guessed here is trained on, with wrong labels."""
    unconditionally = "or set num_classes=0 to train without classes"
    siblings = _class_folders(root.parent) if top.images else []
    if siblings:
        splits = _splits(root.parent)
        siblings = [name for name in siblings if name not in splits and root.name not in splits]
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
        places = [path for path, _ in _walk(root) if _class_folders(path)]
        if not places:
            raise _nothing(root)
        deeper = training_split(min(places, key=lambda path: _order(*path.relative_to(root).parts)), False)
        raise DataError(f"{root} is not the folder of the class folders, {deeper} is: set data={str(deeper)!r}, {unconditionally}")
    for name, folder in classes.items():
        for inner, content in itertools.chain.from_iterable(_walk(root / name / sub) for sub in folder.folders):
            if content.images:
                small = re.search("thumb|preview|cache", str(inner.relative_to(root / name)).lower())
                cure = "move them out of the data if they are thumbnails" if small else "move them up into it"
                raise DataError(
                    f"{inner} has images in it, but {root / name} is the class folder: {cure}, "
                    f"or set data to the folder of the class folders, {unconditionally}"
                )
    empty = [name for name, folder in classes.items() if not folder.images]
    if empty:
        raise DataError(
            f"{len(empty)} of the {len(classes)} class folders of {root} have no images in them: {_first(empty)}; "
            "add images, or delete these folders"
        )
    strange = [name for name in classes if any(unicodedata.category(c) in UNPRINTABLE for c in name)]
    if strange:
        raise DataError(f"the names of the class folders {_first(strange)} of {root} cannot be printed: rename them")
    seen = {}
    for name in classes:
        visible = unicodedata.normalize("NFKC", "".join(c for c in name if unicodedata.category(c) not in INVISIBLE))
        if seen.setdefault(visible, name) != name:
            raise DataError(
                f"the class folders {seen[visible]!a} and {name!a} of {root} have names that look the same: "
                "rename one, or put their images into one folder"
            )


def _order(*names: str) -> int:
    """The place of a folder among others, by the names that lead to it: training images first, validation and test images last."""
    kinds = {_kind_of_split(name) for name in names}
    return 2 if "test" in kinds else 0 if "training" in kinds else 1


def _nothing(root: Path) -> DataError:
    others = ", ".join(f"{count:,} {suffix}" for suffix, count in _tally(folder for _, folder in _walk(root)).items())
    return DataError(f"there are no images in {root} (other files: {others or 'none'}): put them there, {root}/<class>/*.png, .jpg, ...")


def _tally(folders: Iterable[_Folder]) -> dict[str, int]:
    """How many files and folders are left out, by extension, name of a system's folder or "hidden", the most frequent first."""
    return dict(Counter(_kind(name) for folder in folders for name in folder.others).most_common())


def _kind(name: str) -> str:
    if name.startswith("."):
        return "hidden"
    if _is_system(name):
        return printable(name)
    return printable(_suffix(name)) or "without extension"


def _walk(root: Path) -> Iterator[tuple[Path, _Folder]]:
    """`root` and every folder below it, by name but training splits first; links are followed, but no folder is entered twice."""
    seen, stack = set(), [root]
    while stack:
        path = stack.pop()
        if os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            folder = _scan(path)
            yield path, folder
            stack += [path / name for name in sorted(folder.folders, key=lambda name: (_order(name), name), reverse=True)]


def _class_folders(root: Path) -> list[str]:
    """The folders in `root` that have images in them."""
    names = []
    for name in _scan(root).folders:
        with suppress(DataError):  # a folder that cannot be read
            names += [name] if any(_suffix(entry.name) in suffixes() for entry in _entries(root / name) if not _is_hidden(entry)) else []
    return names


def _scan(path: Path) -> _Folder:
    found = _Folder([], [], [])
    for entry in _entries(path):
        if _is_hidden(entry):
            found.others.append(entry.name)
        elif _is_folder(entry):
            found.folders.append(entry.name)
        elif _suffix(entry.name) not in suffixes():
            found.others.append(entry.name)
        else:
            status = entry.stat(follow_symlinks=os.path.exists(entry.path))  # a broken link will be told as an unreadable file
            found.images.append((entry.name, status.st_size, status.st_mtime_ns))
    return found


def _entries(path: str | Path) -> list[os.DirEntry]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        cure = ": fix its permissions" if error.errno in (errno.EACCES, errno.EPERM) else ""
        raise DataError(f"the folder {path} cannot be read ({error.strerror}){cure}") from None


def _is_hidden(entry: os.DirEntry) -> bool:
    """Whether people do not see this: hidden, or put there by a system."""
    return entry.name.startswith(".") or _is_system(entry.name)


def _is_system(name: str) -> bool:
    return name.lower() in SYSTEM or bool(THUMBNAILS.fullmatch(name.lower()))


def _is_folder(entry: os.DirEntry) -> bool:
    """False also for a link that leads to itself."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


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
    if not str(out).strip() or "\0" in str(out):
        raise DataError(f"out={str(out)!r} is no folder: give one that is empty or does not exist yet")
    out = Path(os.path.realpath(os.path.expanduser(out)))
    with storing(out):
        if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
            raise DataError(f"{out} exists and is not empty: give another folder to pack into")
    if config.data == "twins" or _is_packed(Path(config.data)):
        raise DataError(f"{config.data} needs no packing: give it as data as it is")
    if out.is_relative_to(config.data):
        raise DataError(f"{out} lies in the data that is to be packed: give a folder outside of {config.data}")
    _pack(_list(config), size, out, progress, skip_unreadable, "give another folder to pack into")
    return _open_packed(out, size)


def _cached(listing: _Listing, size: int, progress: bool) -> Images:
    """These images from the cache, packed now if they are not in it, or damaged there."""
    key = hashlib.sha256(json.dumps([VERSION, size, listing.identity]).encode()).hexdigest()[:20]
    folder = data_dir() / "cache" / key
    if data := _usable(folder, listing, size):
        return data
    with locked(folder, f"waiting for the process that packs {listing.name}" if progress else ""):
        if data := _usable(folder, listing, size):  # another process has packed it
            return data
        if folder.exists():
            delete_folder(folder)
        # Unreadable files are left out, and refused later: decoding need not be repeated.
        _pack(listing, size, folder, progress, True, "set WORKBENCH_DATA in the environment to a folder on another disk")
    return _open_packed(folder, size)


def _usable(folder: Path, listing: _Listing, size: int) -> Images | None:
    """A packed folder of the cache, which anybody may delete or damage: it is packed again where it is not whole, or no longer right."""
    if not folder.exists():
        return None
    try:
        data = _read_packed(folder)
    except UnreadableError as error:
        say_once(f"{error}: {listing.name} is packed again")
        return None
    facts = (data.size, data.classes, data.conditional, data.length + len(data.skipped))
    if facts != (size, listing.classes, listing.conditional, len(listing.paths)):
        say_once(f"unreadable: {folder} (of other images): {listing.name} is packed again")
        return None
    again = _decode_all([f"{listing.root}/{path}" for path in data.skipped], size)
    if any(pixels is not None for pixels, _ in again):  # a file can be read after all: its permissions were fixed, or the disk
        return None
    return data


def _pack(listing: _Listing, size: int, out: Path, progress: bool, skip_unreadable: bool, cure: str) -> None:
    """Decode the images into the folder `out`, which appears when it is complete; `cure` is what to do where there is no room."""
    start, count = time.monotonic(), len(listing.paths)
    required = count * size * size * 3
    try:
        with storing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            available = shutil.disk_usage(out.parent).free
        if required > available:
            raise DataError(
                f"{listing.name} at {size}x{size} needs {required / 1e9:.2f} GB in {out.parent}, where {available / 1e9:.2f} GB are "
                f"available: make room, or {cure}"
            )
        _remove_abandoned(out)
        if progress:
            print(f"packing {count:,} images of {listing.name} at {size}x{size} into {printable(str(out))}", file=sys.stderr)
        with new_folder(out) as folder, ExitStack() as stack:
            with suppress(OSError):  # no locks on this file system
                stack.enter_context(_held(folder))
            with storing(out):
                _write_packed(listing, size, folder, progress, skip_unreadable)
    except StorageError as error:
        raise DataError(f"{error}, or {cure}") from None
    if progress:
        print(f"packed in {time.monotonic() - start:.0f} s", file=sys.stderr)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, which ends with this process however that ends; an OSError where another process holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _remove_abandoned(out: Path) -> None:
    """Delete what killed processes left of packing `out` and, where that is in the cache, of packing anything."""
    name = "*" if out.parent == data_dir() / "cache" else glob.escape(out.name)
    for mark in LEFTOVERS:
        for path in out.parent.glob(f".{name}{mark}*"):
            with suppress(OSError):
                unused = time.time() - path.stat().st_mtime
                with _held(path) if unused < DAY else nullcontext():  # the lock is still to come where nothing is in it yet
                    if unused > 60 or any(path.iterdir()):
                        shutil.rmtree(path, ignore_errors=True)


def _write_packed(listing: _Listing, size: int, folder: Path, progress: bool, skip_unreadable: bool) -> None:
    shape = (len(listing.paths), size, size, 3)
    content = hashlib.sha256(json.dumps([listing.classes, size]).encode())
    labels, skipped = [], {}
    with synced(folder / "images.npy") as file, closing(_decode_all(listing.items, size)) as decoded:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        end = file.tell() + int(np.prod(shape))
        bar = tqdm(decoded, total=shape[0], unit="image", disable=not (progress and sys.stderr.isatty()))
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
        conditional=listing.conditional, skipped=skipped, ignored=listing.ignored,
    )  # fmt: skip
    with synced(folder / "meta.json") as file:
        file.write(json.dumps(meta).encode())
    seal(folder)


def _decode_all(items: Sequence, size: int) -> Iterator[tuple[np.ndarray | None, str]]:
    """For each image, in order: pixels and the SHA-256 of its content, or None and the reason.

    By threads: Pillow lets go of the interpreter while it decodes. Processes would be faster only where images are tiny (CIFAR-10 as
    JPEG files, on two cores: 3 s instead of 8 s), and cannot be started safely from everywhere.
    """
    workers, chunk = min(os.cpu_count() or 1, 16), 16
    Image.init()  # here, because plugins must not be loaded by several threads
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # about odd metadata, and images that are large but still opened
        pending: deque = deque()  # never many: the decoded images of a large data set do not fit into memory
        try:
            for start in range(0, len(items), chunk):
                pending.append(pool.submit(lambda part: [_decode_one(item, size) for item in part], items[start : start + chunk]))
                if len(pending) > 2 * workers:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # after an interrupt


def _decode_one(item: str | np.ndarray, size: int) -> tuple[np.ndarray | None, str]:
    try:
        if isinstance(item, np.ndarray):
            return decode(item, size), hashlib.sha256(item.tobytes()).hexdigest()
        content = read_file(item)
        return decode(content, size), hashlib.sha256(content).hexdigest()
    except UnidentifiedImageError:
        return None, "not an image" if content else "empty file"
    except Exception as error:  # Pillow raises almost anything on a broken file
        return None, _reason(error)


def _reason(error: Exception) -> str:
    """What a library says of its failure, in one short line."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return shown_text(text) or type(error).__name__


def _is_packed(folder: Path) -> bool:
    return sum(os.path.isfile(folder / name) for name in PACKED) >= 2  # damaged where one is missing, but no folder of images


def _open_packed(folder: Path, size: int) -> Images:
    """A packed folder of the user's, which must be of this size."""
    try:
        data = _read_packed(folder)
    except UnreadableError as error:
        raise DataError(f"{error}: the packed data in {folder} cannot be used: delete the folder, and pack it again") from None
    if data.size != size:
        raise DataError(
            f"{folder} was packed at {data.size}x{data.size}, and image_size is {size}: set image_size={data.size}, "
            f"or pack it again, `python -m workbench.data prepare SOURCE OUT --size {size}`"
        )
    return data


def _read_packed(folder: Path) -> Images:
    """A packed folder, checked.

    Raises
    ------
    UnreadableError
        That names the first file that is missing, not what was written (of large images, the size alone is compared), or does not fit.
    """
    try:
        for name in (SUMS, *PACKED):
            if not os.path.isfile(folder / name):
                raise UnreadableError(folder / name, "missing")
        checksums = sums(folder)
        for name in PACKED:
            large = os.path.getsize(folder / name) > CHECKED
            if large and name != "images.npy":
                raise UnreadableError(folder / name, f"more than {CHECKED / 1e6:.0f} MB")
            if not large and digest(folder / name) != checksums.get(name):
                raise UnreadableError(folder / name, f"its SHA-256 is not the one in {SUMS}: the file was changed or damaged")
        meta = read_json(folder / "meta.json")
        if meta.pop("version", None) != VERSION:
            raise UnreadableError(folder / "meta.json", "from another version of the workbench")
        _check_meta(folder / "meta.json", meta)
        data = Images(images=_array(folder / "images.npy"), labels=np.array(_array(folder / "labels.npy")), **meta)
        _check_arrays(folder, data)
    except OSError as error:
        raise UnreadableError(folder, error.strerror or str(error)) from None
    data.images = data.images[: len(data.labels)]
    return data


def _array(path: Path) -> np.ndarray:
    """An array as a memory map, which is neither read nor allocated, however large its header says it is."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, MemoryError, SyntaxError, TypeError) as error:
        raise UnreadableError(path, _reason(error)) from None
    if not isinstance(array, np.ndarray):
        raise UnreadableError(path, "an archive, expected one array")
    return array


def _check_meta(path: Path, meta: dict) -> None:
    """Raise an UnreadableError unless every entry is there, and of its type."""

    def texts(value) -> bool:
        return all(isinstance(item, str) for item in value)

    fits = {
        "name": lambda value: isinstance(value, str),
        "classes": lambda value: isinstance(value, list) and value and texts(value) and len(set(value)) == len(value),
        "size": lambda value: type(value) is int and value > 0,
        "fingerprint": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value),
        "conditional": lambda value: isinstance(value, bool),
        "skipped": lambda value: isinstance(value, dict) and texts(value.values()),
        "ignored": lambda value: isinstance(value, dict) and all(type(count) is int for count in value.values()),
    }
    if meta.keys() != fits.keys():
        wrong = ", ".join(sorted(meta.keys() ^ fits.keys()))
        raise UnreadableError(path, f"missing or unknown: {wrong}")
    for name, fit in fits.items():
        if not fit(meta[name]):
            raise UnreadableError(path, f"{name} is {shown(meta[name])}")
    if not meta["conditional"] and meta["classes"] != ["all"]:
        raise UnreadableError(path, f"classes is {shown(meta['classes'])}, of images without classes")


def _check_arrays(folder: Path, data: Images) -> None:
    """Raise an UnreadableError unless images and labels are what the rest says they are."""
    images, labels, count = data.images, data.labels, len(data.classes)
    if labels.dtype != np.int64 or labels.ndim != 1:
        raise UnreadableError(folder / "labels.npy", f"{labels.dtype} {labels.shape}, expected int64 (N,)")
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= count:
        values = f"{labels.min()} to {labels.max()}" if len(labels) else "none"
        raise UnreadableError(folder / "labels.npy", f"labels {values}, expected 0 to {count - 1}")
    if len(np.unique(labels)) < count:
        raise UnreadableError(folder / "labels.npy", f"labels of {len(np.unique(labels))} classes, and there are {count}")
    expected = (len(labels) + len(data.skipped), data.size, data.size, 3)
    if images.dtype != np.uint8 or images.shape != expected:
        raise UnreadableError(folder / "images.npy", f"{images.dtype} {images.shape}, expected uint8 {expected}")


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
