"""The runs of a sweep: planned, submitted, and scheduled. Each is an ordinary run, in a folder that is named by its settings.

`submit` starts the training of one run and gives a `Job`; `execute` schedules many. All that a sweep knows of a training is in its run
folder. So a sweep can be interrupted and repeated, and several machines with one outputs folder can share it; whoever plans the same settings
again finds them trained.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache

import psutil

from ..config import Config
from ..messages import say_once
from ..parameters import ParameterError, WorkbenchError
from ..places import folder_name, outputs_dir
from ..processes import signals_to
from ..progress import progress
from ..runs import ACTIVE, Run
from ..runs.liveness import alive, signature
from ..training import launch

AT_REST = ("finished", "diverged")
POLL = 0.5  # seconds
PATIENCE = 60.0  # seconds until a run that another process trains is submitted again

# ------------------------------------------------------------------------------------------------------- planning


@dataclass(frozen=True)
class PlannedRun:
    """A run of an experiment, begun or not: an arm with a seed."""

    arm: str
    config: Config

    @classmethod
    def of(cls, base: Config, arm: str, changes: Mapping, seed: int) -> PlannedRun:
        """The run of an arm, named by what its experiments have in common (as a hash) and by what differs in it."""
        config = Config.from_parameters({**_settings(base), **changes, "seed": seed})
        common = fingerprint(base)
        differs = [f"{name}={value}" for name, value in config.changes(base.replace(seed=seed)).items()] or ["base"]
        name = folder_name("-".join([base.preset, common, *differs, f"seed={seed}"]))
        return cls(arm, config.replace(run=name, tags=f"ablation,{common}"))

    @property
    def run(self) -> Run | None:
        """The run, once it was begun."""
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


# ------------------------------------------------------------------------------------------------------ submitting


@dataclass(frozen=True)
class Job:
    """The training of a run, in a process of its own.

    Attributes
    ----------
    signature
        Of the process that was started; see `liveness.signature`.
    """

    run: Run
    signature: dict

    @property
    def active(self) -> bool:
        """Whether it goes on: its process lives, or one that this started."""
        return alive(self.signature, self.run.path) or self.run.active

    def stop(self) -> None:
        """Ask it to save and end at its next step."""
        self.run.stop()

    def wait(self) -> None:
        """Return when it has ended."""
        while self.active:
            time.sleep(POLL)


def submit(planned: PlannedRun, threads: int = 1) -> Job | None:
    """Start a training, or go on with it; it ends with this process.

    Parameters
    ----------
    threads
        For each of its processes.

    Returns
    -------
    Job or None
        None: another process trains this run, or has just trained it.

    Raises
    ------
    WorkbenchError
        If it cannot be started.
    """
    begun = planned.run
    if begun and planned.at_rest:  # since the caller looked
        return None
    config = planned.config if begun is None else Config.from_parameters(dict(resume=planned.config.run))
    try:
        with _environment(OMP_NUM_THREADS=str(threads)):
            run = launch(config, attached=True)
    except WorkbenchError as error:
        if isinstance(error, ParameterError) and begun is None and planned.run:  # another process has just begun it
            return None
        raise _failure(planned, str(error)) from error
    status = run.status()
    # `launch` returns a run that is being trained already as it is.
    started = [signature(child.pid) for child in psutil.Process().children(recursive=True)]
    return next((Job(run, process) for process in started if process.items() <= status.items()), None)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Context with these variables in the environment, which processes inherit that are started in it."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _failure(planned: PlannedRun, reason: str) -> WorkbenchError:
    return WorkbenchError(f"the training of run {planned.config.run!r} failed: {reason}")


# ------------------------------------------------------------------------------------------------------ scheduling


def execute(planned: Sequence[PlannedRun], jobs: int = 1) -> None:
    """Train the runs that are missing, `jobs` at a time, which share the cores; those that were stopped go on.

    An interrupt, SIGTERM or SIGHUP lets trainings save and end before this returns; they also do when this process is killed. Runs that
    another process or machine trains are waited for.

    Raises
    ------
    WorkbenchError
        If a training fails for another reason than that it diverged; or, after all others, if the folder of a run cannot be read.
    """
    todo = {each.config.run: each for each in planned}
    submitted: dict[str, Job] = {}
    retry_at: dict[str, float] = {}  # of runs that another process trains
    unreadable: list[str] = []
    with progress(len(todo), "runs") as advance, _deferred((signal.SIGTERM, signal.SIGHUP), interrupt=True):
        try:
            while todo:
                for name, each in list(todo.items()):
                    job = submitted.get(name)
                    if job.active if job else len(submitted) >= jobs:
                        continue
                    state = each.state
                    if state == "unreadable":
                        unreadable.append(name)
                        say_once(f"{each.run.status()['message']}: this run is left out")
                    if job:
                        del submitted[name]
                        _require_result(each, state)
                    if (job and state == "stopped") or state in (*AT_REST, "unreadable"):
                        del todo[name]
                        advance(1)
                    elif state not in ACTIVE and retry_at.get(name, 0) <= time.monotonic():
                        with _deferred((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):  # a job that was started is known
                            job = submit(each, _threads(each.config, jobs))
                            if job:
                                submitted[name] = job
                            else:
                                retry_at[name] = time.monotonic() + PATIENCE
                time.sleep(POLL if todo else 0)
        finally:
            for job in submitted.values():
                job.stop()
            for job in submitted.values():
                job.wait()
    if unreadable:
        raise WorkbenchError(
            f"{len(unreadable)} of {len(planned)} runs are left out, their folders in {outputs_dir()} cannot be read: {', '.join(unreadable)}; "
            "restore their files or delete these folders, then start the sweep again"
        )


def _require_result(planned: PlannedRun, state: str) -> None:
    """Refuse that a job has ended without a result; one that somebody stopped is reported."""
    if state == "stopped":
        say_once(f"run {planned.config.run!r} was stopped, and is left at step {planned.run.status()['step']}")
    elif state not in (*AT_REST, *ACTIVE, "unreadable"):
        raise _failure(planned, planned.run.status()["message"] if planned.run else "its folder was deleted")


def _threads(config: Config, jobs: int) -> int:
    return max(1, (os.cpu_count() or 1) // (jobs * config.num_processes))


@contextmanager
def _deferred(numbers: Iterable[int], interrupt: bool = False) -> Iterator[None]:
    """Context that is left before signals have their effect; with `interrupt`, the first one ends it as Ctrl-C does."""
    received: list[int] = []

    def note(number, frame):
        received.append(number)
        if interrupt and len(received) == 1:
            raise KeyboardInterrupt

    # One that is ignored (nohup) stays ignored.
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        with signals_to(note, heeded):
            yield
    finally:
        if received:
            signal.raise_signal(received[0])
