"""List the images of a folder, cifar10, imagenet or a data set of Hugging Face. A new data set is a function here, and an entry of `SOURCES`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from ..files import locked
from ..messages import nearest, one_line
from ..paths import data_dir
from ..presets import BUILT_IN_DATA, HUGGING_FACE
from .errors import DataError, printable
from .folders import ignored, scan, subfolders, walk
from .hugging_face import list_hugging_face
from .layout import check_layout, no_images, training_split
from .listing import Listing
from .splits import is_split


def list_images(data: str, unconditional: bool) -> Listing:
    """The images of `Config.data`."""
    if data in SOURCES:
        return SOURCES[data](unconditional)
    if data.startswith(HUGGING_FACE):
        return list_hugging_face(data, unconditional)
    path = Path(data)
    if os.path.isdir(path):
        return _folder(path, unconditional)
    if os.path.exists(path):
        raise DataError(("data", f"={data!r} is a file"), "give a folder of images, folder/<class>/* (unpack an archive first)")
    candidates = {name: name for name in BUILT_IN_DATA}
    for parent in (data_dir(), path.parent):
        candidates |= {name.lower(): folder for name, folder in subfolders(parent).items()}
    guess = nearest(path.name.lower(), candidates)
    guess = next((guess.replace(repr(name), repr(value)) for name, value in candidates.items() if repr(name) in guess), "")
    raise DataError(("data", f"={data!r}: there is no such folder; {guess}built in: {', '.join(BUILT_IN_DATA)}"))


def _folder(root: Path, unconditional: bool) -> Listing:
    """The images `root/<class>/*`, or, without classes, all images below `root`; of the training split if `root` has splits."""
    root = training_split(root, unconditional)
    if unconditional:
        classes = ["all"]
        folders = {str(path.relative_to(root)): folder for path, folder in walk(root)}
        if not any(folder.images for folder in folders.values()):
            raise no_images(root)
    else:
        top = scan(root)
        classes = top.folders
        folders = {name: scan(root / name) for name in classes}
        check_layout(root, top, folders)
        folders["."] = top  # for its other files
    # Sorted by the whole path, as torch-fidelity does.
    files = sorted(
        (os.path.normpath(f"{parent}/{name}"), size, time) for parent, folder in folders.items() for name, size, time in folder.images
    )
    paths = [path for path, *_ in files]
    label = {name: index for index, name in enumerate(classes)}
    return Listing(
        name=printable((root.parent.name if is_split(root.name) else root.name) or str(root)),
        root=root,
        classes=classes,
        paths=paths,
        labels=[0 if unconditional else label[path.partition("/")[0]] for path in paths],
        items=[f"{root}/{path}" for path in paths],
        # Includes the path: two folders may have files of the same names, sizes and times with other content.
        identity=[str(root), unconditional, files],
        conditional=not unconditional,
        ignored=ignored(folders.values()),
    )


def _cifar10(unconditional: bool) -> Listing:
    """torchvision's 50,000 training images, downloaded if missing."""
    from torchvision.datasets import CIFAR10  # here, because torchvision takes long to import

    root = data_dir() / CIFAR10.base_folder
    try:
        with locked(data_dir() / "cache" / "cifar10"):
            dataset = CIFAR10(data_dir(), train=True, download=True)
    except Exception as error:  # no network, a wrong hash, half an archive: torchvision may raise anything
        raise DataError(
            f"CIFAR-10 is not in {root}, and could not be downloaded ({one_line(error)})",
            f"fetch {CIFAR10.url} and put it into {data_dir()}",
        ) from None
    paths = [f"{index:05d}" for index in range(len(dataset.data))]
    classes, labels = (["all"], [0] * len(paths)) if unconditional else (dataset.classes, dataset.targets)
    identity = [CIFAR10.train_list, unconditional]
    return Listing("cifar10", root, classes, paths, labels, dataset.data, identity, conditional=not unconditional)


def _imagenet(unconditional: bool) -> Listing:
    """torchvision's ImageNet, the training images, unpacked if only the archives exist."""
    from torchvision.datasets import ImageNet

    root = data_dir() / "imagenet"
    try:
        with locked(data_dir() / "cache" / "imagenet"):
            dataset = ImageNet(root, split="train")
    except Exception as error:
        raise DataError(
            f"ImageNet cannot be opened in {root} ({one_line(error)})",
            "put ILSVRC2012_img_train.tar and ILSVRC2012_devkit_t12.tar.gz there (image-net.org gives them to registered users; unpacking "
            "needs scipy)",
            ("data", " to a folder of images"),
        ) from None
    listing = _folder(root / "train", unconditional)
    if not unconditional:
        names = [synonyms[0] for synonyms in dataset.classes]
        uses = Counter(names)  # two classes are called "crane"
        listing.classes = [name if uses[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, dataset.wnids, strict=True)]
    listing.name, listing.identity = "imagenet", [listing.identity, listing.classes]
    return listing


# Built-in data set -> lists its images, with classes or (True) without. Those that are drawn are in `datasets.DRAWN`.
SOURCES: dict[str, Callable[[bool], Listing]] = {"cifar10": _cifar10, "imagenet": _imagenet}
