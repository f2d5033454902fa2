"""Files: written whole or not at all, checked when read, with errors that name the disk.

This module needs no torch. Temporary files are called `.<name>.tmp-<random>`, folders that are being made `.<name>.part-<random>`, and
what is being deleted `.<name>.old-<random>`: a killed process leaves nothing else, and `remove_leftovers` deletes it.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from .messages import WorkbenchError, say_once

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LEFTOVERS = (".tmp-", ".part-", ".old-")
DAY = 24 * 60 * 60


class StorageError(WorkbenchError):
    """A file or folder cannot be written; the message names the path, the reason and the disk."""


class UnreadableError(WorkbenchError):
    """A file whose content is damaged or of another version; the message begins with `unreadable: <path>`."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"unreadable: {path} ({reason})")
        self.path, self.reason = path, reason

    def __reduce__(self):  # an exception of two arguments crosses processes by them, not by its text
        return type(self), (self.path, self.reason)


# ----------------------------------------------------------------------------------------------------- writing


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Context in which an OSError ends as a StorageError about `path`."""
    try:
        yield
    except OSError as error:
        raise StorageError(_cannot_write(path, error)) from error


def _cannot_write(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    path = Path(os.fsdecode(error.filename)) if error.filename and not isinstance(error.filename, int) else path
    place = next((p for p in (path, *path.parents) if os.path.isdir(p)), Path("/"))
    if error.errno in NO_ROOM:
        with suppress(OSError):
            free = shutil.disk_usage(place).free
            return f"{path} cannot be written: {reason}; the disk of {place} has {free / 1e6:,.1f} MB left: make room, then go on"
    return f"{path} cannot be written: {reason}; check the permissions of {place} and that its disk can be written to"


def replace_text(path: Path, text: str) -> None:
    """Replace a file at once: whoever reads it, also after a power cut, sees all of the old text or all of the new one.

    Raises
    ------
    StorageError
        If it cannot be written; the old file is then as it was.
    """
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """As `replace_text`, for bytes."""
    with _beside(path, content) as temporary:
        os.replace(temporary, path)


def claim_text(path: Path, text: str) -> bool:
    """Write a new file at once, with all of its text; False, and nothing written, if there is one already."""
    with _beside(path, text.encode()) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            if path.exists():  # a file system without hard links: a gap of microseconds is left
                return False
            os.replace(temporary, path)
    return True


@contextmanager
def _beside(path: Path, content: bytes) -> Iterator[Path]:
    """A temporary file beside `path` with this content, on the disk; it is gone afterwards."""
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    with storing(path):
        try:
            with synced(temporary) as file:
                file.write(content)
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def append_record(path: Path, record: dict) -> None:
    """Append a line to a JSON-lines file, in one piece; a torn last line is ended first, so that it costs nothing but itself.

    Raises
    ------
    StorageError
        If it cannot be written; the file then ends where it ended before.
    """
    line = json.dumps(record).encode() + b"\n"
    with storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line
            written = 0
            try:
                while written < len(line):
                    written += os.write(handle, line[written:])
            except OSError:
                if written and os.fstat(handle).st_size == size + written:
                    os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which is at `path` once all is done, and gone after an error.

    If two processes make the same folder, the first one to finish wins, and the folder of the other is deleted. A lock tells
    `remove_abandoned` that a process is still making it.
    """
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = path.with_name(f".{path.name}.part-{secrets.token_hex(4)}")
        folder.mkdir()
    lock = ExitStack()
    try:
        with suppress(OSError):  # no locks on this file system
            lock.enter_context(_held(folder, fcntl.LOCK_EX))
        yield folder
        with storing(path):
            for file in folder.iterdir():
                flush(file)
            try:
                folder.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
            flush(path.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def delete_folder(path: Path) -> None:
    """Delete a folder so that it is whole or gone at any time: renamed first, then deleted. A missing folder is no error."""
    old = path.with_name(f".{path.name}.old-{secrets.token_hex(4)}")
    try:
        os.replace(path, old)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(_cannot_write(path, error)) from error
    shutil.rmtree(old, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed processes left half-written or half-deleted directly in `folder`, which no other process may be writing to."""
    for path in folder.glob(".*") if folder.is_dir() else ():
        if any(mark in path.name for mark in LEFTOVERS):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def remove_abandoned(folder: Path, name: str | None = None) -> None:
    """Delete what killed processes left of making or deleting the folder `name` (None: any) in `folder`, where others may be at work.

    What another process is making stays, as its lock shows; where there are no locks, what has changed within a day.
    """
    pattern = "*" if name is None else glob.escape(name)
    for path in (path for mark in LEFTOVERS for path in folder.glob(f".{pattern}{mark}*")):
        with suppress(OSError):
            unused = time.time() - path.stat().st_mtime
            with _held(path, fcntl.LOCK_EX | fcntl.LOCK_NB) if unused < DAY else nullcontext():
                if unused > 60 or any(path.iterdir()):  # else its lock may be still to come
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def synced(path: Path) -> Iterator[BinaryIO]:
    """A new file that is flushed to the disk in the end, so that no power cut keeps its name and loses its content."""
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


# ----------------------------------------------------------------------------------------------------- reading


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A regular file, opened for reading: a pipe or a device, which may have no end, is an OSError."""
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
        If the file holds anything else; a file that is not there is a FileNotFoundError.
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


def read_records(path: Path, fits: Callable[[dict], bool] = lambda record: True) -> list[dict]:
    """The objects of a JSON-lines file, in order. Invalid lines, and those that do not fit, are left out and reported once.

    A last line without an end is still being written: left out without a report.
    """
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        say_once(f"unreadable: {path} ({error.strerror or error})")
        return []
    records, bad = [], []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not fits(record):
                raise ValueError
            records.append(record)
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            bad.append(number)
    if bad:
        lines = f"line {bad[0]}" if len(bad) == 1 else f"{len(bad)} lines, the first is line {bad[0]}"
        say_once(f"unreadable: {path} ({lines}): left out, the rest is used")
    return records


def drop_records(path: Path, drop: Callable[[dict], bool]) -> None:
    """Delete the records for which `drop` is true, and a last line without an end, from a JSON-lines file; invalid lines stay.

    Raises
    ------
    UnreadableError, StorageError
        If it cannot be read or written; it is then as it was.
    """
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UnreadableError(path, error.strerror or str(error)) from None

    def dropped(line: bytes) -> bool:
        try:
            record = json.loads(line)
            return isinstance(record, dict) and drop(record)
        except (ValueError, RecursionError, TypeError, KeyError):
            return False

    kept = b"".join(line + b"\n" for line in content.split(b"\n")[:-1] if not dropped(line))
    if kept != content:
        replace_bytes(path, kept)


# ----------------------------------------------------------------------------------------------------- locks


@contextmanager
def _held(path: Path, operation: int) -> Iterator[None]:
    """Hold a lock on a folder, which ends with this process however that ends; an OSError where there are none, or another has it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, operation)
        yield
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, waiting: str = "") -> Iterator[bool]:
    """Context in which no other process makes the folder `path`; a process that has to wait prints `waiting` on stderr.

    Yields False where the file system has no locks: then work may be done twice, but not wrongly.
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
        for unfinished in path.parent.glob(f".{path.name}.part-*") if alone else ():  # left by a process that died
            shutil.rmtree(unfinished, ignore_errors=True)
        yield alone
