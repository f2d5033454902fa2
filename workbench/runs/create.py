"""Starting a run: its name, its folder, the run it is forked from, and the lock under which it is trained."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from ..config import Config, read_config
from ..files import StorageError, claim_text, storing
from ..parameters import ParameterError, WorkbenchError
from ..places import DEMO, outputs_dir, short_name
from ..readers import split_step
from .folder import Run
from .liveness import BusyError, Hold, hold, moves, signature
from .resume import parent_folder, require_forkable, require_resumable, resumes, start_step
from .status import ACTIVE

RESERVED = ".reserved"  # in a folder that `reserve` made, until a run is begun there


# ------------------------------------------------------------------------------------------------------- names


def derived_name(config: Config) -> str:
    """The name of a run that was given none: what it starts from, and each parameter that differs from that."""
    base, start = Config.preset(config.preset), config.preset
    if config.resume:
        base = read_config(parent_folder(config))
        name, step = split_step(config.resume)
        start = _slug(name) if step is None else f"{_slug(name)}-from{step}"
    changes = [f"{name}={_slug(value)}" for name, value in config.changes(base).items()]
    return short_name("-".join([start.lstrip(".-~") or "run", *changes]).rstrip("-."))


def _slug(value) -> str:
    """A value as part of a folder name: paths give their last part, everything odd becomes '_'."""
    text = str(value)
    if "/" in text or os.sep in text:
        text = Path(text).name or "root"
    return "".join(sign if sign.isalnum() or sign in "._+-" else "_" for sign in text)


def _names(config: Config) -> Iterator[str]:
    """The names to try in turn: the given one, or the derived one with a number where it is taken."""
    if config.run:
        yield config.run
        return
    base, number = derived_name(config), 1
    while True:
        yield base if number == 1 else f"{base}-{number}"
        number += 1


def _taken(name: str) -> ParameterError:
    return ParameterError(f"run={name!r} exists already; go on with it by resume={name!r}, or choose another name")


def require_startable(config: Config) -> None:
    """Refuse what would be refused when the run starts: a name that is taken, or a run that cannot be resumed or forked like this.

    Raises
    ------
    ParameterError, UnreadableError
        The message names the parameter, with its value and what would be right.
    """
    if resumes(config):
        require_resumable(config, parent_folder(config))
        return
    fork_point(config)
    if config.run and (outputs_dir() / config.run / "config.json").exists():
        raise _taken(config.run)


def fork_point(config: Config) -> tuple[Run, int] | None:
    """The parent run and step that a forked run starts from; None for a run that starts from nothing.

    Raises
    ------
    ParameterError, WorkbenchError
        If there is no such run, step or checkpoint, or no step is left to train.
    """
    step = start_step(config)
    if step is None:
        return None
    require_forkable(config)
    return Run(parent_folder(config)), step


# ------------------------------------------------------------------------------------------------------ folders


def create_run(config: Config) -> Run:
    """Claim a run folder for a new run, and write its `config.json`.

    Without a name the run is called after its preset and the parameters that differ, with a number where that exists. `config.json`
    appears whole, and only where there is none: that claims the folder, so runs started at once never collide.

    Raises
    ------
    ParameterError
        If a run with the given name exists.
    StorageError
        If the folder cannot be written to.
    """
    for name in _names(config):
        path = outputs_dir() / name
        # A folder that `reserve` made has no config.json yet: it is for the run of that very name.
        made = _make_folder(path)
        if not (made or config.run):
            continue
        try:
            if claim_text(path / "config.json", config.replace(run=name).to_json()):
                with suppress(OSError):  # it says nothing beside a config.json
                    (path / RESERVED).unlink(missing_ok=True)
                return Run(path)
        except StorageError:
            if made:
                shutil.rmtree(path, ignore_errors=True)
            raise
    raise _taken(name)


def reserve(config: Config) -> str:
    """A free run name for `config`, with its folder made, for a caller that needs the name before the run starts.

    Raises
    ------
    ParameterError, UnreadableError
        If a run with the given name exists, or the run to go on with cannot be.
    """
    require_startable(config)
    if resumes(config):
        return parent_folder(config).name
    name = next(name for name in _names(config) if _make_folder(outputs_dir() / name) or config.run)
    with storing(outputs_dir() / name):
        (outputs_dir() / name / RESERVED).touch()
    return name


def release(name: str) -> None:
    """Give back a name of `reserve` under which no run was begun: deletes the mark, the notebook that was refused, and an empty folder."""
    if name in ("", "..") or name != Path(name).name:
        raise ParameterError(f"run={name!r} is not the name of a run")
    folder = outputs_dir() / name
    if (folder / RESERVED).exists() and not (folder / "config.json").exists():
        with storing(folder):
            for file in (RESERVED, "train.ipynb"):
                (folder / file).unlink(missing_ok=True)
        with suppress(OSError):  # there is something else in it
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


# --------------------------------------------------------------------------------------------------------- lock


@contextmanager
def holding(run: Run) -> Iterator[Hold]:
    """Context in which no other process trains a run, on this machine or another.

    Raises
    ------
    BusyError
        If one does. The process that started this one, and signed the run for it, is no other.
    """
    if run.path == DEMO:
        raise WorkbenchError(f"run {run.name!r} ships with the package, and is only to be looked at; train one of your own")
    mine = {os.getpid(), *(process.pid for process in psutil.Process().parents())}

    def busy(status: dict) -> bool:
        here = status.get("machine") == signature()["machine"]
        lost_elsewhere = status["state"] == "lost" and not here
        return (status["state"] in ACTIVE and not (here and status["pid"] in mine)) or (lost_elsewhere and moves(run.path))

    def refuse(status: dict) -> BusyError:
        return BusyError(
            f"run {run.name!r} is being trained already (process {status['pid']} on {status['host']}); stop it first, or fork it"
        )

    status = run.status()
    if busy(status):  # asked before the lock is taken, which renews the heartbeat
        raise refuse(status)
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(hold(run.path, patience=10))
        except BusyError:
            raise refuse(run.status()) from None
        if run.status() != status and busy(run.status()):  # signed since
            raise refuse(run.status())
        yield lock
