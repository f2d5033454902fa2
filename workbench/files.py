"""Files: written completely or not at all, checked when read, with errors that name path, reason and disk.

A killed process leaves only temporary files `.<name>.tmp-<random>`, unfinished folders `.<name>.part-<random>` and half-deleted folders
`.<name>.old-<random>`, which `remove_leftovers` and `remove_abandoned` delete, and folders to be continued, `.<name>.unfinished-<key>`.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from .messages import WorkbenchError

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LEFTOVERS = (".tmp-", ".part-", ".old-")
UNFINISHED = ".unfinished-"  # part of the names of folders that are to be continued
DAY = 24 * 60 * 60


class StorageError(WorkbenchError):
    """A file or folder cannot be written; the message names the path, the reason and the disk."""


class UnreadableError(WorkbenchError):
    """A file is missing, damaged or from another version; the message is `<path> cannot be read: <reason>`."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} cannot be read: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self):  # pickle would pass the message as the only argument
        return type(self), (self.path, self.reason)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Context in which an OSError ends as a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        path = Path(os.fsdecode(error.filename)) if error.filename and not isinstance(error.filename, int) else path
        folder = next((p for p in (path, *path.parents) if os.path.isdir(p)), Path("/"))
        fix = f"check the permissions of {folder} and that its disk can be written to"
        if error.errno in NO_ROOM:
            with suppress(OSError):
                fix = f"the disk of {folder} has {shutil.disk_usage(folder).free / 1e6:,.1f} MB left: make room, then go on"
        raise StorageError(f"{path} cannot be written: {error.strerror or error}; {fix}") from error


def replace_text(path: Path, text: str) -> None:
    """Replace a file atomically: readers, also after a power cut, see all of the old text or all of the new text.

    A StorageError if it cannot be written; the old file is then unchanged.
    """
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Replace a file by bytes, as `replace_text` does by text."""
    with replacing(path) as temporary, synced(temporary) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Context with the path of a new file beside `path`, which replaces it at the end, or is deleted after an error or an interrupt."""
    with _beside(path) as temporary:
        yield temporary
        os.replace(temporary, path)


def claim_text(path: Path, text: str) -> bool:
    """Write a new file atomically, and return True; if the file exists, write nothing and return False."""
    with _beside(path) as temporary:
        with synced(temporary) as file:
            file.write(text.encode())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            if path.exists():  # a file system without hard links: a race of microseconds remains
                return False
            os.replace(temporary, path)
    return True


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The path of a temporary file beside `path`, deleted afterwards."""
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    with storing(path):
        try:
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Context with a folder to write into. It is moved to `path` at the end, or deleted after an error.

    If two processes make the same folder, the first to finish wins. The folder is locked, so that `remove_abandoned` leaves it alone.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
        folder.mkdir()
    lock = ExitStack()
    try:
        with suppress(OSError):  # a file system without locks
            lock.enter_context(_held(folder, fcntl.LOCK_EX))
        yield folder
        _move(folder, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


@contextmanager
def continued_folder(path: Path, key: str, waiting: str = "") -> Iterator[Path | None]:
    """As `new_folder`, but what a killed process or an error has left in the folder is there again for the same `key`; other keys' is deleted.

    A process that finds another one at work prints `waiting` on stderr, and waits for it. Yields None if that one has made the folder.

    A StorageError if another process works with another key, or `path` got content meanwhile. What is in the folder then stays.
    """
    folder = path.with_name(f".{path.name}{UNFINISHED}{key}")
    with ExitStack() as lock, storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        locks = True
        try:
            while not (working := _lock_new(folder, lock, waiting)) and not _has_content(path):
                pass
        except OSError:  # a file system without locks: nobody knows who else writes there
            locks = False
        if not locks:
            with suppress(OSError):
                folder.rmdir()
            with new_folder(path) as new:
                yield new
        elif not working:
            yield None
        else:
            try:
                _refuse_others(folder, path)
                yield folder
                if not _move(folder, path):
                    _refuse_others(folder, path)
            finally:
                with suppress(OSError):
                    folder.rmdir()  # if nothing is in it


def _lock_new(folder: Path, lock: ExitStack, waiting: str) -> bool:
    """Make a folder, and lock it for as long as `lock` lasts. False if a process that worked there has moved or deleted it since."""
    folder.mkdir(exist_ok=True)
    with ExitStack() as held, suppress(FileNotFoundError):
        try:
            handle = held.enter_context(_held(folder, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError:
            if waiting:
                print(waiting, file=sys.stderr)
            handle = held.enter_context(_held(folder, fcntl.LOCK_EX))
        if os.path.samestat(os.fstat(handle), folder.stat()):
            lock.push(held.pop_all())
            return True
    return False


def _refuse_others(folder: Path, path: Path) -> None:
    """Delete the folders of other keys; a StorageError if a process works in one, or has moved one to `path`."""
    for other in path.parent.glob(f".{glob.escape(path.name)}{UNFINISHED}*"):
        if other != folder:
            try:
                with _held(other, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    shutil.rmtree(other, ignore_errors=True)
            except BlockingIOError:
                raise StorageError(f"another process makes {path}, with other content: wait for it") from None
            except FileNotFoundError:
                pass
    if _has_content(path):
        raise StorageError(f"{path} is not empty any more: make it so, then go on")


def _has_content(path: Path) -> bool:
    return path.is_dir() and any(path.iterdir())


def _move(folder: Path, path: Path) -> bool:
    """Move a complete folder to its place. False if a folder is there already, which stays."""
    with storing(path):
        for file in folder.iterdir():
            flush(file)
        try:
            folder.rename(path)
        except OSError:
            if not path.is_dir():
                raise
            return False
        flush(path.parent)
        return True


def delete_folder(path: Path) -> None:
    """Delete a folder, if there is one. It is renamed first, so that nobody sees half of it."""
    old = path.with_name(f".{path.name}.old-{secrets.token_hex(4)}")
    with storing(path), suppress(FileNotFoundError):
        os.replace(path, old)
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left in `folder` itself; no other process may be writing to it."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        if any(mark in path.name for mark in LEFTOVERS):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left of the folder `name` (None: any) in `folder`; other processes may be writing to it.

    Folders that another process has locked stay; without locks, those that changed within a day. Folders to be continued stay a month.
    """
    pattern = "*" if name is None else glob.escape(name)
    for path in (path for mark in (*LEFTOVERS, UNFINISHED) for path in folder.glob(f".{pattern}{mark}*")):
        with suppress(OSError):
            age = time.time() - path.stat().st_mtime
            if UNFINISHED in path.name and age < 30 * DAY:
                continue
            with _held(path, fcntl.LOCK_EX | fcntl.LOCK_NB) if age < DAY else nullcontext():
                if age > 60 or any(path.iterdir()):  # a new, empty folder may be about to be locked
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file, flushed to the disk at the end: after a power cut, a file that is there has its content."""
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


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Context in which an OSError ends as an UnreadableError about `path`."""
    try:
        yield
    except FileNotFoundError:
        raise UnreadableError(path, "missing") from None
    except OSError as error:
        raise UnreadableError(path, error.strerror or str(error)) from None


@contextmanager
def open_regular(path: str | Path) -> Iterator[BufferedReader]:
    """A regular file, opened for reading; an OSError for a pipe or a device, where reading may never end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def read_bytes(path: Path) -> bytes:
    """The content of a regular file."""
    with open_regular(path) as file:
        return file.read()


def read_json(path: Path) -> dict:
    """The JSON object in a file.

    Raises
    ------
    UnreadableError
        If the file holds anything else.
    FileNotFoundError
        If there is no such file.
    """
    try:
        value = json.loads(content := read_bytes(path))
    except FileNotFoundError:
        raise
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, numbers of thousands of digits, nested without end
        raise UnreadableError(path, f"not JSON: {error}" if content.strip(b"\0 \n") else "empty") from None
    except OSError as error:
        raise UnreadableError(path, error.strerror or str(error)) from None
    if not isinstance(value, dict):
        raise UnreadableError(path, f"a JSON {type(value).__name__}, expected an object")
    return value


@contextmanager
def _held(path: Path, operation: int) -> Iterator[int]:
    """Context with a lock on a folder, its handle, which also ends with the process; an OSError if it is not to be had."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, operation)
        yield handle
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[bool]:
    """Context in which no other process makes the folder `path`; a process that has to wait prints `waiting` on stderr.

    Yields False on a file system without locks: two processes may then do the same work, which does no harm.
    """
    with ExitStack() as stack:
        exclusive = False
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path.with_name(f"{path.name}.lock"), "w"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    print(waiting, file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            exclusive = True
        for unfinished in path.parent.glob(f".{path.name}.part-*") if exclusive else ():  # left by a killed process
            shutil.rmtree(unfinished, ignore_errors=True)
        yield exclusive
