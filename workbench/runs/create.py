"""Creating a run: its name, its folder, the checkpoint it is forked from, and the lock under which it is trained."""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

from ..config import Config, read_config
from ..files import StorageError, claim_text, storing
from ..messages import ParameterError, WorkbenchError, counted
from ..paths import DEMO, outputs_dir, short_name
from ..readers import split_step, words
from .folder import Run
from .liveness import BusyError, RunLock, heart_beats, seconds_until_lost, signature
from .resume import parent_folder, require_forkable, require_resumable, resumes, start_step
from .status import ACTIVE

RESERVED = ".reserved"  # marks a folder from `reserve` in which no run has started


def derived_name(config: Config) -> str:
    """The name of a run that was given none: its preset or parent, and each parameter that differs from it."""
    base, start = Config.preset(config.preset), config.preset
    if config.resume:
        base = read_config(parent_folder(config))
        name, step = split_step(config.resume)
        start = _slug(name) if step is None else f"{_slug(name)}-from{step}"
    changes = [f"{name}={_slug(value)}" for name, value in config.changes(base).items()]
    return short_name("-".join([start.lstrip(".-~") or "run", *changes]).rstrip("-."))


def _slug(value) -> str:
    """A value as part of a folder name: of a path its last part; special characters as '_'."""
    text = str(value)
    if "/" in text or os.sep in text:
        text = Path(text).name or "root"
    return "".join(character if character.isalnum() or character in "._+-" else "_" for character in text)


def _names(config: Config) -> Iterator[str]:
    """The names to try in turn: the given one, or the derived one, alone and with numbers."""
    if config.run:
        yield config.run
        return
    name = derived_name(config)
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _taken(name: str) -> ParameterError:
    return ParameterError(f"run={name!r} exists already; resume it with resume={name!r}, or choose another name")


def require_startable(config: Config) -> None:
    """Refuse a name that is taken, a run that cannot be resumed or forked with these settings, and trackers that are not installed.

    Raises
    ------
    ParameterError, UnreadableError
        The message names the parameter, with its value and what would be right.
    """
    for name in words(config.log_with):
        if name != "none" and find_spec(name) is None:
            raise ParameterError(f"log_with={config.log_with!r}: {name} is not installed; pip install {name}")
    if resumes(config):
        require_resumable(config, parent_folder(config))
        return
    fork_point(config)
    if config.run and (outputs_dir() / config.run / "config.json").exists():
        raise _taken(config.run)


def fork_point(config: Config) -> tuple[Run, int] | None:
    """The parent run and step that a fork starts from; None if the run is not a fork.

    Raises
    ------
    ParameterError
        If there is no such run or checkpoint, the networks differ, or no step is left to train.
    """
    step = start_step(config)
    if step is None:
        return None
    require_forkable(config, step)
    return Run(parent_folder(config)), step


def create_run(config: Config) -> Run:
    """Make the folder of a new run, and write its `config.json`.

    A run without a name is named after its preset and the parameters that differ, with a number if that name is taken. `config.json` is
    created atomically, so that two runs that start at the same time never share a folder.

    Raises
    ------
    ParameterError
        If a run with the given name exists.
    StorageError
        If the folder cannot be written to.
    """
    for name in _names(config):
        path = outputs_dir() / name
        new = _make_folder(path)
        if not (new or config.run):  # a folder from `reserve` is only for a run with that name
            continue
        try:
            if claim_text(path / "config.json", config.replace(run=name).to_json()):
                with suppress(OSError):  # it has no effect beside a config.json
                    (path / RESERVED).unlink(missing_ok=True)
                return Run(path)
        except StorageError:
            if new:
                shutil.rmtree(path, ignore_errors=True)
            raise
    raise _taken(name)


def reserve(config: Config) -> str:
    """Make the folder of a new run before it starts, and return the name.

    Raises
    ------
    ParameterError, UnreadableError
        As `require_startable`.
    """
    require_startable(config)
    if resumes(config):
        return parent_folder(config).name
    name = next(name for name in _names(config) if _make_folder(outputs_dir() / name) or config.run)
    with storing(outputs_dir() / name):
        (outputs_dir() / name / RESERVED).touch()
    return name


def release(name: str) -> None:
    """Delete a folder from `reserve`, with the executed notebook, if no run has started in it; other files stay."""
    if name in ("", "..") or name != Path(name).name:
        raise ParameterError(f"run={name!r} is not the name of a run")
    folder = outputs_dir() / name
    if (folder / RESERVED).exists() and not (folder / "config.json").exists():
        with storing(folder):
            for file in (RESERVED, "train.ipynb"):
                (folder / file).unlink(missing_ok=True)
        with suppress(OSError):  # the folder is not empty
            folder.rmdir()


def _make_folder(path: Path) -> bool:
    """Make a folder; False if it exists."""
    with storing(path):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.is_dir():
                raise
            return False
    return True


def lock_run(run: Run) -> RunLock:
    """The lock of a run, so that no other process trains it, on this machine or another.

    Raises
    ------
    BusyError
        If another process trains it: not this one, nor an ancestor of it, for which `launch` has signed the status.
    """
    if run.path == DEMO:
        raise WorkbenchError(f"run {run.name!r} ships with the package and cannot be trained; start a new run")
    family = {os.getpid(), *(process.pid for process in psutil.Process().parents())}

    def busy(status: dict) -> bool:
        here = status.get("machine") == signature()["machine"]
        lost_elsewhere = status["state"] == "lost" and not here
        return (status["state"] in ACTIVE and not (here and status["pid"] in family)) or (lost_elsewhere and heart_beats(run.path))

    def refuse(status: dict) -> BusyError:
        elsewhere = status.get("machine") != signature()["machine"]
        left = seconds_until_lost(run.path) if elsewhere else 0
        wait = f"; if {status['host']} is down, wait until its run counts as lost: {counted(math.ceil(left), 'second')}" if left > 0 else ""
        return BusyError(
            f"run {run.name!r} is being trained already (process {status['pid']} on {status['host']}); stop it first, or fork it{wait}"
        )

    status = run.status()
    if busy(status):  # before the lock is taken, which renews the heartbeat
        raise refuse(status)
    try:
        lock = RunLock(run.path, patience=10)
    except BusyError:
        raise refuse(run.status()) from None
    if run.status() != status and busy(run.status()):  # another process has signed the status in the meantime
        with lock:
            raise refuse(run.status())
    return lock
