"""The state of a run: `status.json` and `train.log`."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..files import StorageError, UnreadableError, read_json, replace_text, storing
from .liveness import signature

ACTIVE = ("starting", "running", "stopping")
STATES = ("created", *ACTIVE, "stopped", "finished", "failed")
KINDS = dict(
    state=str, message=str, step=int, steps=int, alarms=list, seconds_per_step=int | float | None, pid=int, host=str, machine=str,
)  # fmt: skip


def read_status(folder: Path) -> dict:
    """The content of `status.json`; {} before the first start; an UnreadableError if it is damaged or of another version."""
    path = folder / "status.json"
    try:
        status = read_json(path)
    except FileNotFoundError:
        return {}
    for name, value in status.items():
        if not isinstance(value, KINDS.get(name, object)) or (name == "state" and value not in STATES):
            raise UnreadableError(path, f"{name}={value!r} is of another version")
    return status | dict(alarms=[alarm for alarm in status.get("alarms", []) if isinstance(alarm, str)])


def write_status(folder: Path, **changes) -> None:
    """Merge changes into `status.json`, with the `signature` of this process; a StorageError if it cannot be written."""
    status = {}
    with suppress(UnreadableError):
        status = read_status(folder)
    path, text = folder / "status.json", json.dumps(status | signature() | dict(time=time.time()) | changes)
    try:
        replace_text(path, text)
    except StorageError:
        # A full disk has no room for a new file, but the old file can be overwritten to report how the training ended.
        if changes.get("state") in (None, *ACTIVE) or not path.exists():
            raise
        with storing(path), open(path, "r+b") as file:
            file.write(text.encode())
            file.truncate()


def log_tail(folder: Path, lines: int) -> str:
    """The last lines of `train.log`; empty if there is none."""
    try:
        with open(folder / "train.log", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 65_536))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def last_error(folder: Path) -> str:
    """Why the training died, according to its log."""
    return error_line(log_tail(folder, 400).splitlines())


def error_line(lines: Iterable[str]) -> str:
    """The last error of this package in lines of a log, else any other error, else the last line."""
    lines = [line.strip() for line in lines if any(map(str.isalnum, line))]
    for pattern in (
        r"(Workbench|Parameter|Data|Storage|Unreadable|Busy)Error: .",
        r"[\w.]*(Error|Exception)\b(?<!CalledProcessError)(?<!ChildFailedError)",
    ):
        if errors := [line for line in lines if re.match(pattern, line)]:
            return errors[-1]
    return lines[-1] if lines else ""
