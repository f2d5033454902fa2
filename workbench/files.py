"""Writing files so that nobody ever sees half of one, whatever is killed when."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import BinaryIO


def replace_text(path: Path, text: str) -> None:
    """Replace a file at once."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which is at `path` once all is done, and gone after an error.

    What a killed process left behind is removed by the next one that is `alone` (see `locked`).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=f"{path.name}.part-") as temporary:
        folder = Path(temporary) / "folder"  # not the temporary folder itself, which only its owner may read
        folder.mkdir()
        yield folder
        try:
            folder.rename(path)
        except OSError:
            if not path.is_dir():  # else, where there are no locks, another process was first
                raise


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[bool]:
    """Keep other processes from making the folder `path` until done or dead; whoever has to wait prints `waiting` on stderr.

    False where there are no locks: then work may be done twice, but not wrongly.
    """
    with ExitStack() as stack:
        alone = False
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path.with_name(f"{path.name}.lock"), "w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    print(waiting, file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            alone = True
        for unfinished in path.parent.glob(f"{path.name}.part-*") if alone else ():  # left by a process that died
            rmtree(unfinished, ignore_errors=True)
        yield alone


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file that is on the disk in the end, so that no power cut keeps the name of its folder and loses the content."""
    with open(path, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """Force a file or folder onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
