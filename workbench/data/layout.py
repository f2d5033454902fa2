"""Check that a folder has the layout `folder/<class>/*`, without test images. In doubt it is refused."""

from __future__ import annotations

import itertools
import re
import unicodedata
from pathlib import Path

from ..messages import say_once
from .errors import INVISIBLE, UNPRINTABLE, DataError, first_of, printable
from .folders import Folder, class_folders, ignored, scan, walk
from .splits import is_split, is_training_split, kind_of_split, split_order, without_split


def training_split(root: Path, unconditional: bool) -> Path:
    """The folder to train on: `root`, or the training split in it; a DataError in doubt."""
    splits = _splits(root)
    if not splits:
        return root
    classes = [name for name in class_folders(root) if name not in splits]
    if classes:
        if [name.lower() for name in splits] == ["train"] and not class_folders(root / splits[0]):
            say_once(f"{printable(str(root / splits[0]))} is taken as a class: rename it if it is a split")  # trains are a usual class
            return root
        raise DataError(
            f"{root} has class folders ({first_of(classes)}) and what looks like splits ({first_of(splits)})",
            ("data", " to the folder that holds nothing but the images to train on"),
            f"rename {first_of(splits)} if these are classes",
        )
    training = [name for name in splits if is_training_split(name)]
    others = [name for name in splits if not is_split(name) and kind_of_split(name) == "training"]
    if len(training) == 1 and not others:
        return root / training[0]
    training += others
    if len(training) > 1:
        raise DataError(f"{root} has more than one training split ({first_of(training)})", ("data", " to one of them"))
    if unconditional and len(splits) == 1:
        return root
    flat = "" if unconditional or any(class_folders(root / name) for name in training or splits) else ", and num_classes=0"
    fix = f"={str(root / training[0])!r}" if training else " to one of them"
    raise DataError(f"the folders of {root} ({first_of(splits)}) are splits, not classes", ("data", fix + flat))


def _splits(root: Path) -> list[str]:
    """The folders in `root` that are splits, with images in or below them.

    A whole name such as "train" is always that of a split. Words in names ("trainA") count only if they stand for training and for testing,
    and the rest of two names is equal ("trainA", "testA") or most folders have them: "train" and "test tube" may be two of many classes.
    """
    named = [name for name in scan(root).folders if is_split(name) or kind_of_split(name)]
    named = [name for name in named if any(folder.images for _, folder in walk(root / name))]
    rests = {kind: {without_split(name) for name in named if kind_of_split(name) == kind} for kind in ("training", "test")}
    if all(rests.values()):
        others = [name for name in class_folders(root) if name not in named]
        if rests["training"] & rests["test"] or len(named) > len(others):
            return named
        say_once(
            f"in {printable(str(root))}, {printable(first_of(named))} are taken as classes: "
            "set data to the training images if they are splits"
        )
    return [name for name in named if is_split(name)]


def check_layout(root: Path, top: Folder, classes: dict[str, Folder]) -> None:
    """Refuse any layout but `root/<class>/*`, and suggest the right folder; `classes` are the folders in `root`, by name."""
    _check_root(root, top, classes)
    _check_depth(root, classes)
    empty = [name for name, folder in classes.items() if not folder.images]
    if empty:
        raise DataError(
            f"{len(empty)} of the {len(classes)} class folders of {root} have no images in them ({first_of(empty)})",
            "add images",
            "delete these folders",
        )
    _check_names(root, classes)


def no_images(root: Path) -> DataError:
    """The error that a folder has no images, with the kinds of its other files."""
    others = ", ".join(f"{count:,} {suffix}" for suffix, count in ignored(folder for _, folder in walk(root)).items())
    return DataError(f"there are no images in {root} (other files: {others or 'none'})", f"put them there, {root}/<class>/*.png, .jpg, ...")


WITHOUT_CLASSES = ("num_classes", "=0 to train without classes")


def _check_root(root: Path, top: Folder, classes: dict[str, Folder]) -> None:
    """Refuse a class folder, a folder above that of the class folders, and images beside class folders."""
    siblings = class_folders(root.parent) if top.images else []
    if siblings:
        splits = _splits(root.parent)
        siblings = [name for name in siblings if name not in splits and root.name not in splits]
    if len(siblings) > 1:
        raise DataError(
            f"{root} has images directly in it, like the other class folders of {root.parent} ({first_of(siblings)})",
            ("data", f"={str(root.parent)!r}"),
            WITHOUT_CLASSES,
        )
    if top.images:
        raise DataError(
            f"{root} has images directly in it ({first_of([name for name, *_ in top.images])}), where they belong to no class",
            f"put them into class folders, {root}/<class>/*",
            WITHOUT_CLASSES,
        )
    if not any(folder.images for folder in classes.values()):
        candidates = [path for path, _ in walk(root) if class_folders(path)]
        if not candidates:
            raise no_images(root)
        deeper = training_split(min(candidates, key=lambda path: split_order(*path.relative_to(root).parts)), False)
        raise DataError(f"{root} is not the folder of the class folders, {deeper} is", ("data", f"={str(deeper)!r}"), WITHOUT_CLASSES)


def _check_depth(root: Path, classes: dict[str, Folder]) -> None:
    """Refuse images in folders below a class folder: they would be left out."""
    for name, folder in classes.items():
        for inner, content in itertools.chain.from_iterable(walk(root / name / sub) for sub in folder.folders):
            if content.images:
                thumbnails = re.search("thumb|preview|cache", str(inner.relative_to(root / name)).lower())
                raise DataError(
                    f"{inner} has images in it, but {root / name} is the class folder",
                    "move them out of the data if they are thumbnails" if thumbnails else "move them up into it",
                    ("data", " to the folder of the class folders"),
                    WITHOUT_CLASSES,
                )


def _check_names(root: Path, classes: dict[str, Folder]) -> None:
    """Refuse names of classes that are unprintable or look the same."""
    unprintable = [name for name in classes if any(unicodedata.category(c) in UNPRINTABLE for c in name)]
    if unprintable:
        raise DataError(f"the names of the class folders {first_of(unprintable)} of {root} cannot be printed", "rename them")
    seen: dict[str, str] = {}
    for name in classes:
        visible = unicodedata.normalize("NFKC", "".join(c for c in name if unicodedata.category(c) not in INVISIBLE))
        if seen.setdefault(visible, name) != name:
            raise DataError(
                f"the class folders {seen[visible]!a} and {name!a} of {root} have names that look the same",
                "rename one",
                "put their images into one folder",
            )
