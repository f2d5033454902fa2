"""The content of folders of images, without the files of operating systems and photo tools."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .decode import suffixes
from .errors import DataError, printable
from .splits import is_system, split_order


@dataclass
class Folder:
    """The names directly in a folder."""

    folders: list[str] = field(default_factory=list)
    images: list[tuple[str, int, int]] = field(default_factory=list)  # name, bytes, time of the last change (ns)
    others: list[str] = field(default_factory=list)  # also hidden folders


def scan(path: Path) -> Folder:
    """The content of a folder; a DataError if it cannot be read."""
    folder = Folder()
    for entry in _entries(path):
        if _is_hidden(entry):
            folder.others.append(entry.name)
        elif _is_folder(entry):
            folder.folders.append(entry.name)
        elif not _is_image(entry):
            folder.others.append(entry.name)
        else:
            status = entry.stat(follow_symlinks=os.path.exists(entry.path))  # a broken link is an unreadable file
            folder.images.append((entry.name, status.st_size, status.st_mtime_ns))
    return folder


def walk(root: Path) -> Iterator[tuple[Path, Folder]]:
    """`root` and every folder below it, training splits first, then by name; links are followed, each folder is visited once."""
    seen, stack = set(), [root]
    while stack:
        path = stack.pop()
        if os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            folder = scan(path)
            yield path, folder
            stack += [path / name for name in sorted(folder.folders, key=lambda name: (split_order(name), name), reverse=True)]


def subfolders(root: Path) -> dict[str, str]:
    """Name -> path of the folders in `root`; {} if it cannot be read."""
    with suppress(DataError):
        return {entry.name: entry.path for entry in _entries(root) if not _is_hidden(entry) and _is_folder(entry)}
    return {}


def class_folders(root: Path) -> list[str]:
    """The folders in `root` with images directly in them; unreadable ones are left out."""
    names = []
    for name in scan(root).folders:
        with suppress(DataError):
            if any(_is_image(entry) for entry in _entries(root / name) if not _is_hidden(entry)):
                names.append(name)
    return names


def ignored(folders: Iterable[Folder]) -> dict[str, int]:
    """Counts of other files and folders by extension, name of a system folder, or "hidden"; the most frequent first."""
    return dict(Counter(_kind(name) for folder in folders for name in folder.others).most_common())


def _kind(name: str) -> str:
    if name.startswith("."):
        return "hidden"
    return printable(name if is_system(name) else os.path.splitext(name)[1].lower()) or "without extension"


def _entries(path: str | Path) -> list[os.DirEntry]:
    try:
        with os.scandir(path) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        fixes = ["fix its permissions"] if error.errno in (errno.EACCES, errno.EPERM) else []
        raise DataError(f"the folder {path} cannot be read ({error.strerror})", *fixes) from None


def _is_hidden(entry: os.DirEntry) -> bool:
    """Whether an entry is hidden, or belongs to a system or a photo tool."""
    return entry.name.startswith(".") or is_system(entry.name)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(entry: os.DirEntry) -> bool:
    return os.path.splitext(entry.name)[1].lower() in suffixes()
