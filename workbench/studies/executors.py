"""What carries out the runs of a sweep: this machine, Slurm, or any executor with a method `submit`.

All of them are given `carry_out`, and show in the run folder what becomes of it.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

from ..config import Config
from ..forkserver import AVAILABLE, ForkServer, train_as_if_new
from ..gpus import visible_gpus
from ..messages import ParameterError, WorkbenchError, short_repr, short_text
from ..parameters import Parameters, parameter
from ..paths import data_dir, outputs_dir
from ..processes import variables_of
from ..runs.liveness import alive
from ..runs.status import error_line
from ..signals import signals_to
from ..training.launcher import Forks, start
from .planned import PlannedRun, in_one_precision

BUSY = "another process trains it"
POLL = 0.1  # seconds
SAVING = 120  # seconds before the time limit of a Slurm job at which its training saves


class Future(Protocol):
    """A training that was submitted."""

    def done(self) -> bool: ...
    def cancel(self) -> object: ...
    def result(self) -> object: ...


def carry_out(
    planned: PlannedRun, folders: dict[str, str], threads: int | None = None, server: Forks | None = None, gpus: str | None = None, stop: Sequence = (),
) -> str:  # fmt: skip
    """Train or resume a run in a process of its own, and wait until it ends. The training saves and stops when this process ends.

    Parameters
    ----------
    folders
        `WORKBENCH_OUTPUTS` and `WORKBENCH_DATA` of the sweep, which may not be those of this process.
    threads, server, gpus
        See `training.launcher.start`.
    stop
        As soon as it has items, the training is let save and stop.

    Returns
    -------
    str
        Why nothing was trained (`BUSY`, or an error); "": the status of the run tells how its training ended.
    """
    if str(outputs_dir()) != folders["WORKBENCH_OUTPUTS"] or str(data_dir()) != folders["WORKBENCH_DATA"]:
        os.environ.update(folders)
    begun = planned.run
    if begun and planned.at_rest:  # another process has finished it
        return ""
    try:
        (planned,) = in_one_precision([planned])
        config = planned.config
        if begun:  # with this sweep's values of what is no part of its name
            config = Config.from_parameters(dict(resume=planned.name)).replace(max_hours=config.max_hours, log_with=config.log_with)
        with _held_back(signal.SIGUSR2):  # else it would end launchers of several processes, which do not know it
            run, process = start(config, attached=True, threads=threads, server=server, gpus=gpus)
    except WorkbenchError as error:
        begun_elsewhere = isinstance(error, ParameterError) and begun is None and planned.run
        return BUSY if begun_elsewhere else str(error)
    if process is None:
        return BUSY
    while alive(process, run.path) or run.active:
        if stop:
            run.stop()
        time.sleep(POLL)
    return ""


@contextmanager
def _held_back(number: int) -> Iterator[None]:
    """Context that delays a signal to its end, and in which processes are started that never receive it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def outcome(future: Future) -> tuple[str, str]:
    """What `carry_out` returned, and the error of the executor if it did not return."""
    try:
        return str(future.result()), ""
    except WorkbenchError as error:
        return "", str(error)
    except (Exception, CancelledError) as error:
        return "", short_text(error_line(f"{type(error).__name__}: {error}".splitlines()), 300)


class GPUs:
    """The GPUs of this machine, for runs that train at the same time: each gets those with the fewest runs."""

    def __init__(self):
        self._lock = threading.Lock()
        self._runs = dict.fromkeys(visible_gpus(), 0)

    @contextmanager
    def lent(self, config: Config) -> Iterator[str | None]:
        """Context with the CUDA_VISIBLE_DEVICES of a run: one for each process; None if it uses no GPU."""
        with self._lock:
            names = sorted(self._runs, key=self._runs.__getitem__)[: config.num_processes if config.device != "cpu" else 0]
            self._runs.update({name: self._runs[name] + 1 for name in names})
        try:
            yield ",".join(names) if names else None
        finally:
            with self._lock:
                self._runs.update({name: self._runs[name] - 1 for name in names})


def require_jobs(jobs: object, executor: object) -> None:
    """Refuse numbers of runs at a time that are none, and such a number for another executor than this machine."""
    if jobs is not None and (not isinstance(jobs, int) or isinstance(jobs, bool) or jobs < 1):
        raise ParameterError(f"jobs={short_repr(jobs)} is not a whole number of 1 or more")
    if jobs is not None and executor != "local":
        raise ParameterError(f"jobs={jobs} goes with executor='local', not with executor={short_repr(executor)}")


def default_jobs(planned: Sequence[PlannedRun]) -> int:
    """How many of these runs train at a time on this machine: as many as have GPUs of their own, without GPUs one."""
    needed = [each.config.num_processes for each in planned if each.config.device != "cpu"]
    return max(1, min(len(planned), len(visible_gpus()) // max(needed, default=1))) if needed else 1


@contextmanager
def open_executor(executor: Any, jobs: int, **options) -> Iterator[Callable[[PlannedRun], Future]]:
    """Context in which a function submits runs; parameters as of `sweep.sweep`."""
    if options and executor != "slurm":
        raise ParameterError(f"{', '.join(options)} go with executor='slurm', not with executor={short_repr(executor)}")
    folders = dict(WORKBENCH_OUTPUTS=str(outputs_dir()), WORKBENCH_DATA=str(data_dir()))
    if executor == "local":
        cores = os.cpu_count() or 1
        gpus = GPUs()

        def train(each: PlannedRun) -> str:
            with gpus.lent(each.config) as names:
                return carry_out(each, folders, max(1, cores // (jobs * each.config.num_processes)), server, names)

        with ForkServer() if AVAILABLE else nullcontext() as server, ThreadPoolExecutor(jobs) as pool:
            yield lambda each: pool.submit(train, each)
    elif executor == "slurm":
        settings = SlurmOptions.from_parameters(options)
        slurm = settings.executor()

        def submit(each: PlannedRun) -> Future:
            slurm.update_parameters(job_name=each.name)
            try:
                with variables_of({}):  # a sweep may run in a job of its own, whose memory and tasks these jobs would inherit
                    return slurm.submit(Preemptible(), each, folders, settings.cpus)
            except Exception as error:  # submitit's own errors, and those of subprocess
                raise WorkbenchError(f"Slurm takes no job: {short_text(str(error), 300)}") from None

        yield submit
    elif callable(getattr(executor, "submit", None)):
        yield lambda each: executor.submit(carry_out, each, folders)
    else:
        raise ParameterError(f"executor={short_repr(executor)} is not local, slurm, or an object with a method submit")


# --------------------------------------------------------------------------------------------------------- Slurm


@dataclass(frozen=True)
class SlurmOptions(Parameters):
    """What each training of a sweep asks of Slurm. Its job saves before its time is up, goes back into the queue, and goes on."""

    partition: str | None = parameter(None, "partition", none="the cluster's")
    account: str | None = parameter(None, "account", none="the user's")
    qos: str | None = parameter(None, "quality of service", none="the user's")
    constraint: str | None = parameter(None, "features that nodes must have", none="none")
    gpus: int | None = parameter(None, "GPUs", none="the cluster's default", low=0)
    cpus: int | None = parameter(None, "CPU cores", none="the cluster's default", low=1)
    memory: int | None = parameter(None, "GB of memory", none="the cluster's default", low=1)
    hours: float = parameter(24.0, "time limit of a job; a training may take many times as long", low=0.1)

    def executor(self):
        """The executor of submitit.

        Raises
        ------
        ParameterError
            If submitit or Slurm is not installed.
        """
        try:
            import submitit
            from submitit.slurm.slurm import SlurmInfoWatcher
        except ImportError:
            raise ParameterError("executor='slurm' needs submitit: pip install 'sagan-workbench[slurm]'") from None
        if not shutil.which("sbatch"):
            raise ParameterError("executor='slurm': there is no Slurm on this machine (sbatch is not on the PATH)")

        class Queue(SlurmInfoWatcher):  # submitit asks `sacct`, which clusters without an accounting database do not have
            def _make_command(self) -> list[str]:
                return ["squeue", "--me", "--noheader", "--format=%i|%T"]

            def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
                lines = (string if isinstance(string, str) else string.decode()).splitlines()
                states = dict(line.strip().split("|") for line in lines)
                return {job: dict(State=states.get(job, "ENDED")) for job in self._registered}

        class Job(submitit.SlurmJob):
            watcher = Queue(delay_s=15)
            _results_timeout_s = 3

            def cancel(self, check: bool = False) -> None:
                super().cancel(check)  # no error for a job that has just ended

            def result(self) -> str:
                try:
                    return super().result()
                except submitit.core.utils.UncompletedJobError:
                    cause = error_line((self.stderr() or "").splitlines())
                    cause = f" ({short_text(cause)})" if cause else ""
                    raise WorkbenchError(f"job {self.job_id} was cancelled or killed{cause}; its log is {self.paths.stderr}") from None

        class SlurmExecutor(submitit.SlurmExecutor):
            job_class = Job

        # Until submitit handles it, the signal to save would end the process: a preempted job that still imports would fail, not be requeued.
        # It may come before `sh`, too, in the tenths of a second in which Slurm starts it: then the job starts it again.
        python = f"""sh -c 'trap "" USR2; exec "$0" "$@"' {shlex.quote(sys.executable)}"""
        again = (
            f'srun() {{ for _ in 1 2 3 4 5; do command srun "$@"; local s=$?; [ $s = {128 + signal.SIGUSR2} ] || break; done; return $s; }}'
        )
        executor = SlurmExecutor(outputs_dir() / ".slurm", max_num_timeout=10**6, python=python)
        given = dict(
            partition=self.partition, account=self.account, qos=self.qos, constraint=self.constraint, gpus_per_node=self.gpus,
            cpus_per_task=self.cpus, mem=self.memory and f"{self.memory}G",
        )  # fmt: skip
        executor.update_parameters(
            time=math.ceil(60 * self.hours), signal_delay_s=SAVING, setup=[again], additional_parameters=dict(requeue=True),
            **{name: value for name, value in given.items() if value is not None},
        )  # fmt: skip
        return executor


class OneFork:
    """A fork of this process, made before it computes anything, in which a run trains; so its job imports torch once."""

    def __init__(self):
        context = get_context("fork")
        reader, self._writer = context.Pipe(duplex=False)
        self._process = context.Process(target=self._wait, args=(reader,))
        with _held_back(signal.SIGUSR2):  # of which the run learns by its `stop` file
            self._process.start()
        reader.close()

    def _wait(self, reader) -> None:
        self._writer.close()
        try:
            request = reader.recv()
        except EOFError:  # no training, or the process that was to start it has died
            return
        sys.exit(train_as_if_new(*request))

    def fork(self, folder: Path, environment: dict[str, str]) -> int:
        """As `ForkServer.fork`."""
        self._writer.send((str(folder), environment, os.getcwd()))
        return self._process.pid or 0

    def close(self) -> None:
        """End the process, or wait for its training."""
        self._writer.close()
        self._process.join()


@dataclass
class Preemptible:
    """`carry_out` as a job of submitit: it saves when Slurm says that it will end the job, and goes on when Slurm starts the job again."""

    def __call__(self, planned: PlannedRun, folders: dict[str, str], threads: int | None) -> str:
        received: list[int] = []
        with (
            closing(OneFork()) if planned.config.num_processes == 1 else nullcontext() as server,
            signals_to(lambda number, frame: received.append(number), (signal.SIGUSR2, signal.SIGTERM)),
        ):
            result = carry_out(planned, folders, threads, server, stop=received)
        if received and not planned.at_rest:
            if signal.SIGUSR2 in received:  # the time is up: submitit's handler puts the job back into the queue
                signal.raise_signal(signal.SIGUSR2)
            sys.exit(143)  # preempted, requeued or cancelled: not a result
        return result

    def checkpoint(self, *arguments):
        """What submitit starts next time: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *arguments)
