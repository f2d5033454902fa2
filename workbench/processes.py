"""Work in processes of its own, one or many: starting them by `accelerate launch`, and the group that they form.

Clusters and launchers leave variables in the environment (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, ...). Those that were not set for this job
change nothing: a job starts its processes without them, and a process believes them only where a launcher started it.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState

from .parameters import ParameterError, WorkbenchError, whole


class LostProcessError(WorkbenchError):
    """Another process of the job is gone, without which this one cannot go on."""


# What torch and Accelerate read in the environment of a process to find its place in a job.
PLACE = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
PLACE_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MV2_COMM_WORLD_")


def launch_words(num_processes: int, device: str) -> list[str]:
    """The arguments of `accelerate` that start as many processes as asked for, on CPUs too."""
    words = f"launch --num_processes {num_processes} --num_machines 1 --mixed_precision no --dynamo_backend no".split()
    if num_processes > 1:
        words += ["--multi_gpu", "--main_process_port", "0"]  # also without a GPU: `--cpu` would quietly start one process
    elif on_cpu(device):
        words += ["--cpu"]
    return words


def launch_command(module: str, num_processes: int, device: str) -> list[str]:
    """The command that runs `python -m module` in that many processes."""
    return [sys.executable, "-m", "accelerate.commands.launch", *launch_words(num_processes, device)[1:], "-m", module]


def launch_environment(num_processes: int) -> dict[str, str]:
    """The environment for it: this package can be found, the processes share the cores, and no other job's variables are in it."""
    environment = {name: value for name, value in os.environ.items() if not _tells_place(name)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // num_processes)))
    return environment


def _tells_place(name: str) -> bool:
    return name in PLACE or name.startswith(PLACE_PREFIXES)


def rank() -> int:
    """The number of this process in its job; 0 is the main one."""
    return dist.get_rank() if dist.is_initialized() else whole(os.environ.get("RANK", "")) or 0 if _launched() else 0


def _launched() -> bool:
    """Whether a launcher of torch or Accelerate started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def process_group(num_processes: int, device: str, what: str) -> Iterator[None]:
    """Context in which `torch.distributed` connects the processes of this job, where there are several; it ends in order.

    Parameters
    ----------
    what
        The module to be started, for the message that says how: "workbench.training --config FILE".

    Raises
    ------
    ParameterError
        If another number of processes was started than asked for: `accelerate launch --cpu` quietly starts one.
    LostProcessError
        If another process of the job ended while this one needed it.
    """
    place = {name: value for name, value in os.environ.items() if _tells_place(name)}
    known = {name: whole(place.get(name, "")) for name in ("RANK", "WORLD_SIZE")}
    # By hand too, as `srun` with these variables does it, but only where they agree with what is asked for.
    by_hand = num_processes > 1 and known["WORLD_SIZE"] == num_processes and None not in known.values() and "MASTER_ADDR" in place
    world = (known["WORLD_SIZE"] or 1) if _launched() or by_hand else 1
    if world != num_processes:
        cure = shlex.join(["accelerate", *launch_words(num_processes, device), "-m"]) + f" {what}"
        raise ParameterError(f"num_processes={num_processes}, but {world} process(es) were started; use this command: {cure}")
    if world == 1:
        for name in place:
            del os.environ[name]
    begun = not dist.is_initialized()
    try:
        if world > 1:
            PartialState(cpu=on_cpu(device))
        yield
        if world > 1 and begun:
            dist.barrier()  # nobody leaves while another still needs it
    except RuntimeError as error:
        if world > 1 and _lost_another(error):
            raise LostProcessError(
                f"another of the {world} processes ended before its time (killed, out of memory, or with an error of its own above)"
            ) from error
        raise
    finally:
        if world > 1 and begun and dist.is_initialized():
            dist.destroy_process_group()
        if world == 1:
            os.environ.update(place)


@contextmanager
def signals_to(handler: Callable, numbers: Iterable[int]) -> Iterator[None]:
    """Context in which `handler` takes these signals, unless this is not the main thread: there they are somebody else's."""
    try:
        before = {number: signal.signal(number, handler) for number in numbers}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


def _lost_another(error: RuntimeError) -> bool:
    """Whether an error is what gloo or NCCL raise when a process of the group is gone."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "nccl", "connection closed by peer", "connection reset")
    )


# ------------------------------------------------------------------------------------------- devices and memory


def on_cpu(device: str) -> bool:
    """Whether work on `device` (auto, cpu or cuda) is on the CPU.

    Raises
    ------
    ParameterError
        If a GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device='cuda', but torch finds no GPU; use 'auto' or 'cpu'")
    return device == "cpu" or not torch.cuda.is_available()


def keep_memory() -> None:
    """Let this process keep the memory it frees, where its C library is glibc.

    A training step takes and frees the same large blocks again and again. Given back to the system, each of their pages is a fault and
    a zeroing when the next step touches it: a fifth of a step on a CPU.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(-1, -1)  # M_TRIM_THRESHOLD: never give back the top of the heap
    mallopt(-4, 0)  # M_MMAP_MAX: no blocks outside of it
