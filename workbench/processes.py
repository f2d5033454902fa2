"""Jobs of one or several processes: `accelerate launch`, the process group and devices.

Clusters and launchers leave variables in the environment (`RANK`, `WORLD_SIZE`, `LOCAL_RANK`, ...). Those of another job have no effect:
processes start without them, and a process reads them only if a launcher started it.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import PartialState

from .messages import ParameterError, WorkbenchError
from .parameters import whole


class LostProcessError(WorkbenchError):
    """Another process of the job died while this one needed it."""


# Variables from which torch and Accelerate read the rank of a process and the size of its job.
PLACEMENT = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_NAME", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip
PLACEMENT_PREFIXES = ("TORCHELASTIC_", "ACCELERATE_", "FSDP_", "OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MV2_COMM_WORLD_")


# `--multi_gpu` also without a GPU: `--cpu` would silently start one process.
LAUNCHER = ["--num_machines", "1", "--multi_gpu", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]


def launch_command(module: str, num_processes: int) -> list[str]:
    """The command that runs `python -m module` in this many processes."""
    if num_processes == 1:  # a launcher would only take seconds and memory
        return [sys.executable, "-m", module]
    return [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(num_processes), *LAUNCHER, "-m", module]


def launch_environment(num_processes: int) -> dict[str, str]:
    """The environment for `launch_command`: finds this package, limits threads to a share of the cores, has no variables of other jobs."""
    environment = {name: value for name, value in os.environ.items() if not _is_placement(name)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // num_processes)))
    return environment


def _is_placement(name: str) -> bool:
    return name in PLACEMENT or name.startswith(PLACEMENT_PREFIXES)


def rank() -> int:
    """The rank of this process in its job; 0 is the main process."""
    if dist.is_initialized():
        return dist.get_rank()
    return whole(os.environ.get("RANK", "")) or 0 if _launched() else 0


def _launched() -> bool:
    """Whether a launcher of torch or Accelerate started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


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
    world_size, has_rank = whole(placement.get("WORLD_SIZE", "")), whole(placement.get("RANK", "")) is not None
    # Processes may also be started by hand, or by `srun` with these variables; they count only if they agree with the parameters.
    by_hand = num_processes > 1 and world_size == num_processes and has_rank and "MASTER_ADDR" in placement
    world = (world_size or 1) if _launched() or by_hand else 1
    if world != num_processes:
        launcher = f"accelerate launch --num_processes {num_processes} {' '.join(LAUNCHER)}" if num_processes > 1 else "python"
        command = f"{launcher} -m {module}"
        raise ParameterError(f"num_processes={num_processes}, but {world} process(es) were started; use this command: {command}")
    if world == 1:
        for name in placement:
            del os.environ[name]
    owner = not dist.is_initialized()
    try:
        if world > 1:
            PartialState(cpu=on_cpu(device))
        yield
        if world > 1 and owner:
            dist.barrier()  # no process leaves while another still needs it
    except RuntimeError as error:
        if world > 1 and _is_lost_connection(error):
            cause = "killed, out of memory, or with the error above"
            raise LostProcessError(f"another of the {world} processes ended early ({cause})") from error
        raise
    finally:
        if world > 1 and owner and dist.is_initialized():
            dist.destroy_process_group()
        if world == 1:
            os.environ.update(placement)


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether gloo or NCCL raise this error when a process of the group is gone."""
    causes = ("gloo", "nccl", "connection closed by peer", "connection reset")
    return isinstance(error, dist.DistError) or any(cause in str(error).lower() for cause in causes)


def on_cpu(device: str) -> bool:
    """Whether work on `device` (auto, cpu or cuda) is on the CPU.

    Raises
    ------
    ParameterError
        If device is "cuda" and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device='cuda', but torch finds no GPU; use 'auto' or 'cpu'")
    return device == "cpu" or not torch.cuda.is_available()


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
