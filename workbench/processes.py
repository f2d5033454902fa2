"""Jobs of one or several processes: `accelerate launch` and the process group.

Clusters and launchers leave variables in the environment (`RANK`, `WORLD_SIZE`, `SLURM_PROCID`, ...). Those of another job have no effect:
processes start without them, and a process reads them only if torch's launcher or `srun` started it, or if they agree with the parameters.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from accelerate import PartialState

from .gpus import on_cpu
from .messages import ParameterError, WorkbenchError
from .parameters import whole
from .paths import import_path
from .signals import signals_to


class LostProcessError(WorkbenchError):
    """Another process of the job died while this one needed it."""


EARLY = "ended early (killed, out of memory, or with the error above)"
SUSPENDED: set[int] = set()  # ranks that were suspended when they were to stop


# Variables from which torch and Accelerate read the rank of a process and the size of its job.
PLACEMENT = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
PLACEMENT_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MV2_COMM_WORLD_", "SLURM_")


# `--multi_gpu` also without a GPU: `--cpu` would silently start one process.
LAUNCHER = ["--num_machines", "1", "--multi_gpu", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]


def launch_command(module: str, num_processes: int) -> list[str]:
    """The command that runs `python -m module` in this many processes."""
    if num_processes == 1:  # a launcher would only take seconds and memory
        return [sys.executable, "-m", module]
    return [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(num_processes), *LAUNCHER, "-m", module]


def launch_environment(num_processes: int, threads: int | None = None) -> dict[str, str]:
    """The environment for `launch_command`: finds this package, has no variables of other jobs, limits threads.

    Parameters
    ----------
    threads
        Of each process; by default `OMP_NUM_THREADS`, else a share of this process's.
    """
    environment = {name: value for name, value in os.environ.items() if not _misleads(name, value)}
    environment["PYTHONPATH"] = import_path()
    if threads or "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(threads or max(1, torch.get_num_threads() // num_processes))
    return environment


def _misleads(name: str, value: str) -> bool:
    """Whether a variable is of another job, or a number of threads that Accelerate cannot read: a script's unset variable, or a list."""
    return _is_placement(name) or (name == "OMP_NUM_THREADS" and not whole(value))


def _is_placement(name: str) -> bool:
    return name in PLACEMENT or (name.startswith(PLACEMENT_PREFIXES) and name != "SLURM_CONF")


def rank() -> int:
    """The rank of this process in its job; 0 is the main process."""
    if dist.is_initialized():
        return dist.get_rank()
    return whole(os.environ.get("RANK", "")) or 0 if _launched() else 0


def _launched() -> bool:
    """Whether a launcher of torch or Accelerate started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and not _in_kernel()


def _in_kernel() -> bool:
    """Whether this process runs the cells of a notebook; JupyterLab passes on the variables of a job, but a kernel is no process of it."""
    return hasattr(getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)(), "kernel")


@contextmanager
def process_group(num_processes: int, device: str, module: str) -> Iterator[None]:
    """Context in which `torch.distributed` connects the processes of this job, if there are several.

    Parameters
    ----------
    module
        The module and its arguments, for the command in an error message: "workbench.training --config FILE".

    Raises
    ------
    ParameterError
        If the job does not have `num_processes` processes: `accelerate launch --cpu` silently starts one.
    LostProcessError
        If another process of the job died while this one needed it.
    """
    placement = {name: value for name, value in os.environ.items() if _is_placement(name)}
    job = {} if _in_kernel() else placement if _launched() else _placed_by_hand(num_processes, placement) or _placed_by_srun(num_processes)
    world = whole(job.get("WORLD_SIZE", "")) or 1
    if world != num_processes:
        launcher = f"accelerate launch --num_processes {num_processes} {' '.join(LAUNCHER)}" if num_processes > 1 else "python"
        command = f"{launcher} -m {module}"
        raise ParameterError(f"num_processes={num_processes}, but {world} process(es) were started; use this command: {command}")
    owner = not dist.is_initialized()
    pids: list[int | None] = []
    with variables_of(job if world > 1 else {}):
        try:
            if world > 1:
                with _patiently():
                    PartialState(cpu=on_cpu(device))
                    pids = members()
            yield
            if world > 1 and owner:
                _finish_together(world)
        except RuntimeError as error:
            if world > 1 and _is_lost_connection(error):
                raise LostProcessError(_lost(pids)) from error
            raise
        finally:
            if world > 1 and owner and dist.is_initialized():
                dist.destroy_process_group()


def _placed_by_hand(num_processes: int, placement: dict[str, str]) -> dict[str, str]:
    """The variables of torch's launcher, set by something else; {} unless they agree with the parameters."""
    rank, world = (whole(placement.get(name, "")) for name in ("RANK", "WORLD_SIZE"))
    if num_processes == 1 or world != num_processes or rank is None or "MASTER_ADDR" not in placement:
        return {}
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return dict(LOCAL_RANK="0") | {name: placement[name] for name in names if name in placement}


def _placed_by_srun(num_processes: int) -> dict[str, str]:
    """The variables of torch's launcher, if `srun` has started this process as one of `num_processes`; else {}.

    A batch script and everything started in it has variables of Slurm, too, but it is not a task of a step.
    """
    slurm = {name.removeprefix("SLURM_"): value for name, value in os.environ.items() if name.startswith("SLURM_")}
    rank, local, tasks, task = (whole(slurm.get(name, "")) for name in ("PROCID", "LOCALID", "STEP_NUM_TASKS", "TASK_PID"))
    # A shell between `srun` and this process is the task, and this process its child.
    if num_processes == 1 or tasks != num_processes or rank is None or local is None or task not in (os.getpid(), os.getppid()):
        return {}
    node = re.match(r"([^\[,]+)(?:\[(\d+)[^]]*\]([^,]*))?", slurm.get("STEP_NODELIST", ""))  # "gpu[07-09,11],cpu1": the first is gpu07
    per_node = re.match(r"\d+", slurm.get("STEP_TASKS_PER_NODE", ""))  # "4(x2),1": 4
    job, step = (whole(slurm.get(name, "")) or 0 for name in ("JOB_ID", "STEP_ID"))
    return dict(
        RANK=str(rank), WORLD_SIZE=str(tasks), LOCAL_RANK=str(local), LOCAL_WORLD_SIZE=per_node[0] if per_node else str(tasks),
        MASTER_ADDR=os.environ.get("MASTER_ADDR") or ("".join(filter(None, node.groups())) if node else "localhost"),
        MASTER_PORT=os.environ.get("MASTER_PORT") or str(15_000 + (100 * job + step) % 17_000),  # below the ports that systems hand out
    )  # fmt: skip


@contextmanager
def variables_of(job: dict[str, str]) -> Iterator[None]:
    """Context in which the environment has the variables of this job, {} for one process, instead of those that it came with."""
    aside = {name: value for name, value in os.environ.items() if _misleads(name, value)}
    for name in aside:
        del os.environ[name]
    os.environ.update(job)
    try:
        yield
    finally:
        for name in [name for name in os.environ if _is_placement(name)]:  # Accelerate has set some, too
            del os.environ[name]
        os.environ.update(aside)


def members() -> list[int | None]:
    """The process of each rank of this job, within `process_group`; None if it runs on another machine. All of them call this."""
    if not dist.is_initialized():
        return [os.getpid()]
    store = dist.distributed_c10d._get_default_store()
    store.set(f"workbench/{dist.get_rank()}", f"{socket.gethostname()} {os.getpid()}")
    values = (store.get(f"workbench/{k}").decode().split() for k in range(dist.get_world_size()))
    return [int(pid) if host == socket.gethostname() else None for host, pid in values]


def _finish_together(world: int, patience: timedelta = timedelta(seconds=30)) -> None:
    """Wait for the others, so that no process leaves while another still needs it; a LostProcessError's cause if one of them died.

    A process that is the first to leave the barrier closes connections on which others may still wait for its end. So each says that it has
    passed, and the one that holds the store leaves last.
    """
    dist.barrier()
    store, rank = dist.distributed_c10d._get_default_store(), dist.get_rank()
    with suppress(RuntimeError):  # all work is done: whoever does not answer is not waited for
        store.set(f"workbench/passed/{rank}", "")
        store.wait([f"workbench/passed/{k}" for k in range(world)], patience)
        if rank:
            store.set(f"workbench/left/{rank}", "")
        else:
            store.wait([f"workbench/left/{k}" for k in range(1, world)], patience)


def _lost(pids: list[int | None], seconds: float = 5.0) -> str:
    """Which process ended early, as text; a process that dies closes its connections a little before it is gone."""
    until = time.monotonic() + seconds
    with signals_to(lambda *_: None, (signal.SIGTERM,)):  # from the launcher, which ends the others
        while time.monotonic() < until:
            gone = [k for k, pid in enumerate(pids) if pid and not _runs(pid)]
            if gone:
                how = "was suspended, and did not answer the request to stop" if gone[0] in SUSPENDED else EARLY
                return f"process {gone[0]} of {len(pids)} (counted from 0) {how}"
            time.sleep(0.05)
    return f"another of the {len(pids)} processes {EARLY}" if pids else f"the other processes did not come to {_meeting_point()}"


def _meeting_point() -> str:
    return f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')} (MASTER_ADDR and MASTER_PORT)"


@contextmanager
def _patiently(seconds: float = 30.0) -> Iterator[None]:
    """Context in which this process waits for the others; if it waits for long, it says so, since torch waits for half an hour."""
    place = f"process {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} (counted from 0)"
    timer = threading.Timer(seconds, print, (f"{place} waits for the others at {_meeting_point()}",), dict(file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def local_processes(num_processes: int) -> int:
    """How many processes of this job run on this machine: LOCAL_WORLD_SIZE within `process_group`, if there are several; else all."""
    local = whole(os.environ.get("LOCAL_WORLD_SIZE", "")) if dist.is_initialized() else None
    return min(local or num_processes, num_processes)


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether gloo or NCCL raise this error when a process of the group is gone."""
    causes = ("gloo", "nccl", "connection closed by peer", "connection reset")
    return isinstance(error, dist.DistError) or any(cause in str(error).lower() for cause in causes)


def keep_memory() -> None:
    """Make this process keep the memory that it frees, if its C library is glibc.

    A training step allocates and frees the same large blocks again and again. If they went back to the system, each of their pages would
    cost a fault and a zeroing in the next step: a fifth of a step on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(-1, -1)  # M_TRIM_THRESHOLD: never give back the top of the heap
    mallopt(-4, 0)  # M_MMAP_MAX: no blocks outside of it
