"""JSON-lines files, to which a run appends while others read: an object on each line; what cannot be read is left out and reported."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .files import read_bytes, reading, replace_bytes, storing
from .messages import say_once


def append_record(path: Path, record: dict) -> None:
    """Append a complete line to a JSON-lines file, after a newline if the last line has none.

    A StorageError if it cannot be written; the file is then unchanged.
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


def read_records(path: Path, fits: Callable[[dict], bool] = lambda record: True) -> list[dict]:
    """The objects of a JSON-lines file, in order. Invalid lines, and objects for which `fits` is false, are left out and reported once.

    A last line without a newline is still being written: it is left out silently.
    """
    try:
        content = read_bytes(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        say_once(f"{path} cannot be read: {error.strerror or error}")
        return []
    lines = content.split(b"\n")[:-1]
    with suppress(ValueError, RecursionError, TypeError, KeyError, AttributeError):  # nearly always: all lines at once take half the time
        whole = json.loads(b"[%s]" % b",".join(lines))
        if len(whole) == len(lines) and all(isinstance(record, dict) and fits(record) for record in whole):
            return whole
    records, bad = [], []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not fits(record):
                raise ValueError
            records.append(record)
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            bad.append(number)
    if bad:
        which = f"line {bad[0]}" if len(bad) == 1 else f"{len(bad)} lines, the first is line {bad[0]}"
        say_once(f"{path} cannot be read: {which}; left out, the rest is used")
    return records


def drop_records(path: Path, drop: Callable[[dict], bool]) -> None:
    """Delete the objects for which `drop` is true, and a last line without a newline, from a JSON-lines file; invalid lines stay.

    An UnreadableError or StorageError if the file cannot be read or written; it is then unchanged.
    """
    if not path.exists():
        return
    with reading(path):
        content = read_bytes(path)

    def dropped(line: bytes) -> bool:
        try:
            record = json.loads(line)
            return isinstance(record, dict) and drop(record)
        except (ValueError, RecursionError, TypeError, KeyError):
            return False

    rest = b"".join(line + b"\n" for line in content.split(b"\n")[:-1] if not dropped(line))
    if rest != content:
        replace_bytes(path, rest)
