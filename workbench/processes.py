"""Starting work in processes of its own, one or many, by `accelerate launch`."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

from .parameters import ParameterError


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
    """The environment for it: this package can be found, and the processes share the cores."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
    environment.setdefault("OMP_NUM_THREADS", str(max(1, torch.get_num_threads() // num_processes)))
    return environment


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
