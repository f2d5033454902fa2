"""Data sets of the library Hugging Face `datasets`: on its Hub, saved to a disk, or files that it reads.

They are named `hf:<name or path>`, with options where the columns or the split are not clear: `hf:cifar100?label=fine_label&split=train`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np

from ..messages import counted, one_line
from ..presets import HUGGING_FACE
from .errors import DataError, first_of, printable
from .listing import Listing

OPTIONS = ("image", "label", "split", "config")
SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes


class Items(Sequence):
    """The files of a column of images, read when they are needed: contents (bytes), or paths of files beside the data set."""

    def __init__(self, dataset, column: str, rows: range):
        self.dataset, self.column, self.rows = dataset, column, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return Items(self.dataset, self.column, self.rows[index]) if isinstance(index, slice) else next(iter(self[index : index + 1]))

    def __iter__(self) -> Iterator[bytes | str]:
        for image in self.dataset[self.rows.start : self.rows.stop][self.column] if self.rows else ():
            image = image or {}
            yield image.get("bytes") or image.get("path") or b""  # nothing: an empty file, which is reported


def list_hugging_face(data: str, unconditional: bool) -> Listing:
    """The images of `Config.data`, "hf:...": the column of images and, if there is one, that of classes are found or named.

    A DataError if the library or the data set is missing, or columns, split or labels are not clear.
    """
    try:
        import datasets  # here, because it is optional, and takes long to import
    except ImportError:
        raise DataError(("data", f"={data!r} needs Hugging Face's library datasets"), "pip install datasets") from None
    name, options = _options(data)
    try:
        dataset = _split(data, _load(datasets, name, options), options)
        features = dataset.features
        image = _column(data, "image", options, features, datasets.Image)
        label = None if unconditional else _column(data, "label", options, features, datasets.ClassLabel)
        files = _files(data, dataset, str(image), datasets.Image(decode=False))
        classes, labels = (["all"], [0] * len(dataset)) if label is None else _labels(data, dataset, label)
    except DataError:
        raise
    except Exception as error:  # no network, no such name, a damaged file: the library may raise anything
        raise DataError(
            ("data", f"={data!r} cannot be opened ({one_line(error)})"), "check its name, or the network if it is on the Hub"
        ) from None
    stored = [(file["filename"], os.path.getsize(file["filename"]), os.stat(file["filename"]).st_mtime_ns) for file in dataset.cache_files]
    return Listing(
        name=printable(os.path.basename(name) or name),
        root=Path(data),
        classes=classes,
        paths=[f"{index:08d}" for index in range(len(dataset))],
        labels=labels,
        items=Items(files, str(image), range(len(dataset))),
        identity=["hf", dataset._fingerprint, stored, image, label],
        conditional=label is not None,
    )


def _options(data: str) -> tuple[str, dict[str, str]]:
    name, _, text = data.removeprefix(HUGGING_FACE).partition("?")
    options = dict(parse_qsl(text, keep_blank_values=True))
    unknown = [option for option in options if option not in OPTIONS or not options[option]]
    if unknown or (text and not options):
        raise DataError(
            ("data", f"={data!r}: {first_of(unknown) or text} is no option"), f"use {', '.join(OPTIONS)}, as in ?image=img&label=kind"
        )
    return name, options


def _load(datasets, name: str, options: dict[str, str]):
    """What the library makes of a name: a data set, or several splits."""
    if any(os.path.isfile(os.path.join(name, file)) for file in SAVED):
        return datasets.load_from_disk(name)
    if os.path.isfile(name):
        return datasets.load_dataset(Path(name).suffix.lstrip("."), data_files=name)
    return datasets.load_dataset(name, options.get("config"))


def _split(data: str, loaded, options: dict[str, str]):
    if not isinstance(loaded, dict):
        return loaded
    split = options.get("split") or ("train" if "train" in loaded or len(loaded) > 1 else next(iter(loaded)))
    if split not in loaded:
        raise DataError(("data", f"={data!r} has no split {split!r}"), f"add ?split=..., one of {first_of(list(loaded))}")
    return loaded[split]


def _column(data: str, option: str, options: dict[str, str], features: dict, kind: type) -> str | None:
    """The column that an option names, or the only one of its kind; None if there is no class."""
    named = options.get(option)
    if named is not None and named not in features:
        raise DataError(("data", f"={data!r} has no column {named!r}"), f"use one of {first_of(list(features))}")
    columns = [named] if named is not None else [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(columns) == 1:
        return columns[0]
    if not columns and option == "label":
        return None
    what = f"several columns that may be the {option} ({first_of(columns)})" if columns else "no column of images"
    raise DataError(("data", f"={data!r} has {what}"), f"name it: ?{option}=..., one of {first_of(columns or list(features))}")


def _files(data: str, dataset, column: str, kind):
    """The column of images alone, as the kind of feature that gives files; a DataError if it holds anything else."""
    try:
        files = dataset.select_columns([column]).cast_column(column, kind)
        _ = files[0]  # a cast may fail as late as this
    except Exception:  # the library may raise anything
        raise DataError(("data", f"={data!r}: the column {column!r} holds no images"), "name another: ?image=...") from None
    return files


def _labels(data: str, dataset, column: str) -> tuple[list[str], list[int]]:
    """Names of the classes, and the class of every image."""
    values = dataset.select_columns([column])[:][column]
    names = getattr(dataset.features[column], "names", None)
    if names is None:
        if not all(isinstance(value, str | int) for value in values):
            raise DataError(
                ("data", f"={data!r}: the column {column!r} holds no classes, which are texts or whole numbers"), "name another"
            )
        names, inverse = np.unique(np.array(values), return_inverse=True)
        return [printable(str(name)) for name in names], inverse.tolist()
    missing = sum(value is None or value < 0 for value in values)
    if missing:
        raise DataError(
            ("data", f"={data!r} has {counted(missing, 'image')} without a class"), "choose another split", ("num_classes", "=0")
        )
    empty = sorted(set(range(len(names))) - set(values))
    if empty:
        fix = ("num_classes", "=0 to train without classes")
        raise DataError(("data", f"={data!r} has no image of {first_of([names[k] for k in empty])}"), "choose another split", fix)
    return list(names), values
