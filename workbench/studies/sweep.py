"""Doing many runs, each an ordinary run of `train.ipynb` in a folder that is named by its settings.

So they can be stopped and gone on with, be shared by several machines with one outputs folder, and be looked at meanwhile; and whoever
asks for the same settings again finds them done.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from ..config import Config
from ..files import storing
from ..messages import say_once
from ..parameters import WorkbenchError
from ..places import folder_name, outputs_dir
from ..processes import launch_environment, signals_to
from ..progress import progress
from ..runs import ACTIVE, Run

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "train.ipynb"
AT_REST = ("finished", "diverged")
POLL = 0.5  # seconds
PATIENCE = 60.0  # seconds until a training that somebody else holds is tried again
TAKEN = ("is being trained already", "exists already")  # how a training says that another process has the run
NOT_BEGUN = "Kernel died before replying"  # Jupyter's, where two kernels that start at once pick the same port


@dataclass(frozen=True)
class Trial:
    """One training of an experiment: an arm with a seed."""

    label: str
    config: Config

    @classmethod
    def of(cls, base: Config, label: str, changes: dict, seed: int) -> Trial:
        """The training of an arm, named by what its experiments have in common (as a hash) and by what differs in it."""
        config = Config.from_parameters({**_settings(base), **changes, "seed": seed})
        common = fingerprint(base)
        differs = [f"{name}={value}" for name, value in config.changes(base.replace(seed=seed)).items()] or ["base"]
        name = folder_name("-".join([base.preset, common, *differs, f"seed={seed}"]))
        return cls(label, config.replace(run=name, tags=f"ablation,{common}"))

    @property
    def run(self) -> Run | None:
        """Its run, once it was begun."""
        return Run(self.config.run) if (outputs_dir() / self.config.run / "config.json").exists() else None

    @property
    def state(self) -> str:
        """As of `Run.status`, "unreadable" included; "waiting" before it was begun, "diverged" where that ended it."""
        run = self.run
        if run is None:
            return "waiting"
        status = run.status()
        return "diverged" if status["state"] == "failed" and status["message"].startswith("training diverged") else status["state"]

    @property
    def at_rest(self) -> bool:
        """Whether there is nothing left to do. That it diverged is a result."""
        return self.state in AT_REST


@lru_cache
def fingerprint(base: Config) -> str:
    """What runs of these common settings are found by: part of their names, and a tag of theirs."""
    return hashlib.sha256(json.dumps(_settings(base.replace(seed=0)), sort_keys=True).encode()).hexdigest()[:6]


def _settings(config: Config) -> dict:
    return {name: value for name, value in asdict(config).items() if name not in ("run", "resume", "note", "tags")}


def carry_out(trials: Sequence[Trial], jobs: int = 1) -> None:
    """Do the runs that are missing, `jobs` at a time; those that were stopped go on.

    An interrupt, SIGTERM or SIGHUP lets those that are under way save, and ends; so they do when this process is killed. Those that another
    process or machine works on are waited for.

    Raises
    ------
    WorkbenchError
        If a training could not be done for another reason than that it diverged; or, after all others, if the folder of one cannot be read.
    """
    todo = {trial.config.run: trial for trial in trials}
    under_way: dict[str, tuple[subprocess.Popen, TextIO]] = {}
    held: dict[str, float] = {}  # by somebody else, and when to try again
    unreadable: list[str] = []
    begun: Counter = Counter()
    with progress(len(todo), "runs") as advance, _ended_by_signals():
        try:
            while todo:
                for name, trial in list(todo.items()):
                    if name in under_way:
                        process, log = under_way[name]
                        if process.poll() is None:
                            continue
                        del under_way[name]
                        over = _require_done(trial, process, log, again=begun[name] < 3)
                        held[name] = time.monotonic() + PATIENCE
                    elif len(under_way) < jobs:
                        over = False
                    else:
                        continue
                    state = trial.state
                    if state == "unreadable":
                        unreadable.append(name)
                        say_once(f"{trial.run.status()['message']}: this training is left out")
                    if over or state in (*AT_REST, "unreadable"):
                        del todo[name]
                        advance(1)
                    elif state not in ACTIVE and held.get(name, 0) <= time.monotonic():
                        under_way[name] = _start(trial, jobs)
                        begun[name] += 1
                time.sleep(POLL if todo else 0)
        finally:
            for process, _ in under_way.values():
                process.send_signal(signal.SIGINT)
            for name, (process, log) in under_way.items():
                process.wait()
                log.close()
                while todo[name].state in ACTIVE:  # papermill does not wait until its training has saved
                    time.sleep(POLL)
    if unreadable:
        raise WorkbenchError(
            f"{len(unreadable)} of {len(trials)} runs are left, their folders in {outputs_dir()} cannot be read: {', '.join(unreadable)}; "
            "restore their files or delete these folders, then do the same again"
        )


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Context that SIGTERM and SIGHUP (a closed terminal) interrupt as Ctrl-C does; they end this process once it has been left."""
    received: list[int] = []

    def note(number, frame):
        received.append(number)
        if len(received) == 1:
            raise KeyboardInterrupt

    # One that is ignored (nohup) stays ignored.
    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        with signals_to(note, numbers):
            yield
    finally:
        if received:
            signal.raise_signal(received[0])


def _start(trial: Trial, jobs: int) -> tuple[subprocess.Popen, TextIO]:
    if not NOTEBOOK.exists():
        raise WorkbenchError(
            f"there is no {NOTEBOOK}, which does the runs: they need a checkout with its notebooks, installed by pip install -e ."
        )
    config, folder = trial.config, outputs_dir() / trial.config.run
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if trial.run:
        values = dict(resume=config.run)
    else:
        preset = asdict(Config.preset(config.preset))
        values = {name: value for name, value in asdict(config).items() if value != preset[name]} | dict(preset=config.preset)
    words = [word for name, value in values.items() for word in ("-r" if isinstance(value, str) else "-p", name, str(value))]
    environment = launch_environment(1) | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    # The training saves and stops when one of these is gone, and papermill ends after it.
    environment["WORKBENCH_WAITING"] = ",".join(filter(None, [os.environ.get("WORKBENCH_WAITING"), str(os.getpid())]))
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(folder / "train.ipynb"), "--no-progress-bar", *words]
    log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (it is read when the process has ended)
    # In a session of its own: an interrupt of this process is handed on once, by `carry_out`.
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True), log


def _require_done(trial: Trial, process: subprocess.Popen, log: TextIO, again: bool = False) -> bool:
    """Whether a training whose process has ended is over: at rest, or stopped by somebody. Else somebody else has it.

    Parameters
    ----------
    again
        Whether one whose kernel did not come up may be tried again.

    Raises
    ------
    WorkbenchError
        If it failed, with the last line that it said.
    """
    with log:
        log.seek(0)
        said = log.read().strip().splitlines()
    state, name = trial.state, trial.config.run
    later = (*TAKEN, NOT_BEGUN) if again else TAKEN
    if state in (*ACTIVE, "unreadable") or (state not in AT_REST and any(words in line for line in said for words in later)):
        return False
    if state == "stopped" and not process.returncode:
        say_once(f"the training {name!r} was stopped by somebody, and is left at step {trial.run.status()['step']}")
    elif state not in AT_REST:
        reason = said[-1] if said and process.returncode else trial.run.status()["message"] if trial.run else process.returncode
        raise WorkbenchError(f"the training {name!r} could not be done: {reason}")
    return True
