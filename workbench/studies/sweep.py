"""Sweeps: runs that an executor carries out, on this machine or on a cluster.

The only state is that of the run folders. So a sweep can be interrupted and repeated, sweeps that share an outputs folder share the work, and
equal settings are trained once.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from ..config import Config
from ..messages import WorkbenchError, counted, say_once, short_text
from ..paths import outputs_dir
from ..progress import progress
from ..runs import ACTIVE, Run
from ..signals import signals_to
from . import executors
from .executors import BUSY, Future, default_jobs, open_executor, outcome, require_jobs
from .planned import AT_REST, PlannedRun, in_one_precision

PATIENCE = 60.0  # seconds until a run that another process holds is submitted again
LISTED = 5  # failures in the message at the end


def sweep(configs: Iterable[Config], executor: object = "local", *, jobs: int | None = None, **options) -> list[Run]:
    """Train these settings, or resume their runs, and wait until all are done.

    Each training is an ordinary run, named after its settings. Equal settings are trained once, also by sweeps at the same time. Ctrl-C, SIGTERM
    and SIGHUP cancel the sweep: what is queued does not start, what trains saves and stops, and the same sweep goes on with it.

    Parameters
    ----------
    configs
        Without `run` and `resume`.
    executor
        "local": processes of this machine. "slurm": jobs, through submitit. Or an object with a method `submit`, as that of
        `concurrent.futures`, of Dask, ...; its workers need this package and the outputs folder.
    jobs
        Runs at a time on this machine ("local" only), which share its cores; each has GPUs of its own while there are enough. By default as
        many as that, and one without GPUs.
    options
        Of "slurm": partition, gpus, hours, ..., see `executors.SlurmOptions`.

    Returns
    -------
    list of Run
        In the order of `configs`; a run whose training diverged has the state "failed".

    Raises
    ------
    ParameterError
        If a parameter does not fit.
    WorkbenchError
        If runs failed, when the others are done: the message names them.
    """
    planned = [PlannedRun.alone(config) for config in configs]
    execute(in_one_precision(planned, decide=executor == "local"), executor, jobs=jobs, **options)
    return [each.run for each in planned if each.run]


def execute(planned: Sequence[PlannedRun], executor: object = "local", *, jobs: int | None = None, **options) -> None:
    """Train or resume the runs that are not done; parameters and errors as of `sweep`. A run that diverged is done.

    Runs that another process trains are waited for. If this process is killed, the runs that it started on this machine save and stop.
    """
    require_jobs(jobs, executor)
    todo = {each.name: each for each in planned if not each.at_rest}
    if not todo:
        return
    if jobs is None:
        jobs = default_jobs(list(todo.values()))
    with _deferred((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), interrupt=True), open_executor(executor, jobs, **options) as submit:
        work = _Work(submit, todo)
        left = sum(work.left.values())
        with progress(left, f"steps of {counted(len(todo), 'run')}") as advance:
            try:
                while work.todo:
                    with _seldom():
                        for name in list(work.todo):
                            work.look(name)
                        advance(*work.standing())
            finally:
                work.cancel()
    if work.failed:
        listed = "; ".join(f"{name!r}: {_short(name, message)}" for name, message in list(work.failed.items())[:LISTED])
        more = f"; and {len(work.failed) - LISTED} more" if len(work.failed) > LISTED else ""
        raise WorkbenchError(f"{len(work.failed)} of {counted(len(planned), 'run')} failed, in {outputs_dir()}: {listed}{more}")


def _short(name: str, message: str) -> str:
    """A message about a run without its folder and its name, which would leave no room for the reason."""
    return short_text(message.replace(str(outputs_dir() / name), "...").replace(name, "..."))


@contextmanager
def _seldom() -> Iterator[None]:
    """Context that ends with a pause, longer after a longer look at many runs or a slow disk."""
    start = time.monotonic()
    yield
    time.sleep(min(max(executors.POLL, 5 * (time.monotonic() - start)), 5.0))


class _Work:
    """The runs of a sweep that are not done, and what became of the others."""

    def __init__(self, submit: Callable[[PlannedRun], Future], todo: dict[str, PlannedRun]):
        self.submit, self.todo = submit, dict(todo)
        self.left = {name: each.config.steps - (each.run.status()["step"] if each.run else 0) for name, each in todo.items()}  # steps
        self.failed: dict[str, str] = {}
        self._done = self._trained = self._dropped = 0
        self._futures: dict[str, Future] = {}
        self._retry_at: dict[str, float] = {}  # of runs that another process holds
        self._died: dict[str, str] = {}  # jobs whose runs still look active

    def look(self, name: str) -> None:
        """Look at a run: submit it, or note that it is done, stopped or failed."""
        each, future = self.todo[name], self._futures.get(name)
        if future and not future.done():
            return
        state = each.state
        message = self._ended(name, state) if future else ""
        if state == "unreadable":
            message = f"{each.run.status()['message']}; restore the file, or delete the folder"
        elif state == "lost" and name in self._died:
            message = f"{each.run.status()['message']} {self._died[name]}".strip()
        if state in AT_REST or (state == "stopped" and future and not message):
            if state == "stopped":
                status = each.run.status()
                how = status["message"].partition(";")[0] or f"stopped at step {status['step']}"
                say_once(f"run {name!r} was {how}")
            self._done += 1
            self._close(name, state == "finished")
        elif message and message != BUSY:
            say_once(f"run {name!r} failed: {message}")
            self.failed[name] = message
            self._close(name, False)
        elif not future and state not in ACTIVE and self._retry_at.get(name, 0) <= time.monotonic():
            # No signal between the submission and its entry in `_futures`.
            with _deferred((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
                self._futures[name] = self.submit(each)

    def _ended(self, name: str, state: str) -> str:
        """Why the training whose future is done failed; "" if it did not, `BUSY` if another process trains the run."""
        each, future = self.todo[name], self._futures.pop(name)
        if state in AT_REST:
            return ""
        message, error = outcome(future)
        if message == BUSY:
            self._retry_at[name] = time.monotonic() + PATIENCE
        elif state in ACTIVE:  # the job died with its machine, or somebody else goes on with the run
            self._died[name], message = error, ""
        elif state != "stopped":
            message = message or (each.run.status()["message"] if each.run else "") or error or "its folder was deleted"
        return message

    def _close(self, name: str, finished: bool) -> None:
        del self.todo[name]
        left = self.left.pop(name)
        self._trained, self._dropped = self._trained + left * finished, self._dropped + left * (not finished)

    def standing(self) -> tuple[int, str, int]:
        """Steps trained since the last call, how the runs stand in a few words, and steps that will not be trained."""
        steps, dropped, running = self._trained, self._dropped, 0
        self._trained = self._dropped = 0
        for name, before in self.left.items():
            run = self.todo[name].run
            status = run.status() if run else {}
            if status.get("state") in ACTIVE:
                running += 1
                self.left[name] = min(before, status["steps"] - status["step"])
                steps += before - self.left[name]
        counts = dict(done=self._done, running=running, queued=len(self.todo) - running, failed=len(self.failed))
        return steps, ", ".join(f"{count} {state}" for state, count in counts.items() if count), dropped

    def cancel(self) -> None:
        """Cancel what is queued, let what trains save and stop, and wait for it."""
        active = self._active()
        if self._futures:  # an impatient second Ctrl-C would leave runs without a request to stop
            print("stopping: what trains saves first", file=sys.stderr, flush=True)
        for name in self._futures.keys() - active:  # first: else they begin when others stop
            self._futures[name].cancel()
        while self._futures:
            with _seldom():
                for name in active:
                    self.todo[name].run.stop()
                done = {name for name, future in self._futures.items() if future.done()}
                active = self._active()  # also a training that started at this moment
                for name in done - active:
                    del self._futures[name]

    def _active(self) -> set[str]:
        return {name for name in self._futures if (run := self.todo[name].run) and run.active}


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
