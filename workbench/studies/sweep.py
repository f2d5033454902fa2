"""The runs of a sweep: planned, submitted and scheduled. Each is an ordinary run in a folder named after its settings.

`submit` starts the training of one run and returns a `Job`; `execute` schedules many. The only state is that of the run folders. So a sweep
can be interrupted and repeated, machines that share an outputs folder can share it, and equal settings are trained once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import psutil

from ..config import Config
from ..files import UnreadableError, claim_text, read_json, storing
from ..messages import ParameterError, WorkbenchError, say_once
from ..paths import folder_name, outputs_dir
from ..progress import progress
from ..runs import ACTIVE, Run
from ..runs.liveness import alive, signature
from ..signals import signals_to
from ..training import launch
from ..training.setup import decide_precision

AT_REST = ("finished", "diverged")
POLL = 0.5  # seconds
PATIENCE = 60.0  # seconds until a run that another process trains is submitted again


@dataclass(frozen=True)
class PlannedRun:
    """An arm with a seed, which may not have a run folder yet."""

    arm: str
    name: str  # of its folder
    config: Config

    @classmethod
    def of(cls, base: Config, arm: str, changes: Mapping, seed: int) -> PlannedRun:
        """The run of an arm, named after a hash of the common settings and the settings that differ.

        A run of fewer or more steps has as many evaluations as the others.
        """
        config = Config.from_parameters({**_settings(base), **changes, "seed": seed})
        common = fingerprint(base)
        differs = [f"{name}={value}" for name, value in config.changes(base.replace(seed=seed)).items()] or ["base"]
        name = folder_name("-".join([base.preset, common, *differs, f"seed={seed}"]))
        if config.steps != base.steps and base.evaluate_every:
            every = math.ceil(config.steps / math.ceil(base.steps / base.evaluate_every))
            config = config.replace(evaluate_every=every, sample_every=every, checkpoint_every=min(base.checkpoint_every, config.steps))
        return cls(arm, name, config.replace(run=name, tags=f"ablation,{common}"))

    @property
    def run(self) -> Run | None:
        """The run; None before it begins."""
        return Run(self.name) if (outputs_dir() / self.name / "config.json").exists() else None

    @property
    def state(self) -> str:
        """The state of `Run.status`; "waiting" before the run begins; or "diverged"."""
        run = self.run
        if run is None:
            return "waiting"
        status = run.status()
        return "diverged" if status["state"] == "failed" and status["message"].startswith("training diverged") else status["state"]

    @property
    def collapsed(self) -> bool:
        """Whether the training raised the alarm of a collapse; see `training.status.Status.watch_samples`."""
        run = self.run
        return run is not None and any(alarm.startswith("collapse:") for alarm in run.status()["alarms"])

    @property
    def at_rest(self) -> bool:
        """Whether the run is done; divergence is a result too."""
        return self.state in AT_REST


@lru_cache
def fingerprint(base: Config) -> str:
    """A hash of common settings: a part of the runs' names, and their tag."""
    return hashlib.sha256(json.dumps(_settings(base.replace(seed=0)), sort_keys=True).encode()).hexdigest()[:6]


def _settings(config: Config) -> dict:
    return {name: value for name, value in asdict(config).items() if name not in ("run", "resume", "note", "tags")}


def in_one_precision(planned: Sequence[PlannedRun], base: Config) -> list[PlannedRun]:
    """The runs with `mixed_precision="auto"` decided once for all, since timings differ from run to run.

    The decision is stored beside the runs: a sweep that is resumed, extended or shared by machines keeps it.

    Parameters
    ----------
    base
        The settings that all runs have in common.

    Raises
    ------
    StorageError, UnreadableError
        If the decision cannot be stored or read.
    """
    if all(each.config.mixed_precision != "auto" for each in planned):
        return list(planned)
    path = outputs_dir() / "ablations" / f".precision-{fingerprint(base)}.json"
    if not path.exists():
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        begun = [each.run.config.mixed_precision for each in planned if each.run and each.state != "unreadable"]
        undecided = base.replace(num_processes=1, mixed_precision="auto")
        decided = next((choice for choice in begun if choice != "auto"), None) or decide_precision(undecided).mixed_precision
        claim_text(path, json.dumps(dict(mixed_precision=decided)))
    choice = read_json(path).get("mixed_precision")
    if choice not in ("no", "bf16", "fp16"):
        raise UnreadableError(path, f"mixed_precision={choice!r} is not one of no, bf16, fp16")
    return [replace(each, config=_with_precision(each.config, choice)) for each in planned]


def _with_precision(config: Config, choice: str) -> Config:
    if config.mixed_precision != "auto":
        return config
    return config.replace(mixed_precision="no" if config.dtype == "float64" else choice)  # no autocast of float64


@dataclass(frozen=True)
class Job:
    """The training of a run by the process with this `liveness.signature`."""

    run: Run
    signature: dict

    @property
    def active(self) -> bool:
        """Whether the process, or one that it started, is alive."""
        return alive(self.signature, self.run.path) or self.run.active

    def stop(self) -> None:
        """Let it save and end at its next step."""
        self.run.stop()

    def wait(self) -> None:
        """Wait until it has ended."""
        while self.active:
            time.sleep(POLL)


def submit(planned: PlannedRun, threads: int = 1) -> Job | None:
    """Start or resume a training, with `threads` for each of its processes; it ends with this process.

    Returns
    -------
    Job or None
        None: another process trains this run, or has just trained it.

    Raises
    ------
    WorkbenchError
        If the training cannot be started.
    """
    begun = planned.run
    if begun and planned.at_rest:  # another process has finished it
        return None
    config = planned.config if begun is None else Config.from_parameters(dict(resume=planned.name))
    children = psutil.Process().children(recursive=True)
    try:
        with _environment(OMP_NUM_THREADS=str(threads)):
            run = launch(config, attached=True)
    except WorkbenchError as error:
        if isinstance(error, ParameterError) and begun is None and planned.run:  # another process has just begun it
            return None
        raise _failure(planned, str(error)) from error
    status = run.status()
    # If another process trains the run already, `launch` starts none.
    started = [signature(child.pid) for child in psutil.Process().children(recursive=True) if child not in children]
    return next((Job(run, process) for process in started if process.items() <= status.items()), None)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Context with these environment variables, for processes that are started in it."""
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
    return WorkbenchError(f"the training of run {planned.name!r} failed: {reason}")


def execute(planned: Sequence[PlannedRun], jobs: int = 1) -> None:
    """Train or resume the runs that are not done, `jobs` at a time; they share the cores.

    After an interrupt, SIGTERM or SIGHUP, runs save and end before this function returns; they also do if this process is killed. Runs
    that another process or machine trains are waited for.

    Raises
    ------
    WorkbenchError
        If a training fails, except by divergence; or, at the end, if the folder of a run cannot be read.
    """
    todo = {each.name: each for each in planned}
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
                        if state == "stopped":
                            say_once(f"run {name!r} was stopped at step {each.run.status()['step']}")
                        elif state not in (*AT_REST, *ACTIVE, "unreadable"):
                            raise _failure(each, each.run.status()["message"] if each.run else "its folder was deleted")
                    if (job and state == "stopped") or state in (*AT_REST, "unreadable"):
                        del todo[name]
                        advance(1)
                    elif state not in ACTIVE and retry_at.get(name, 0) <= time.monotonic():
                        # No signal between the start of a training and its entry in `submitted`.
                        with _deferred((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
                            job = submit(each, threads=max(1, (os.cpu_count() or 1) // (jobs * each.config.num_processes)))
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


@contextmanager
def _deferred(numbers: Iterable[int], interrupt: bool = False) -> Iterator[None]:
    """Context that delays signals to its end; with `interrupt`, the first one ends the context, like Ctrl-C."""
    received: list[int] = []

    def note(number, frame):
        received.append(number)
        if interrupt and len(received) == 1:
            raise KeyboardInterrupt

    try:
        with signals_to(note, [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]):  # as under nohup
            yield
    finally:
        if received:
            signal.raise_signal(received[0])
