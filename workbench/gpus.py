"""The GPUs that this process may use, asked for without initialising CUDA in it.

torch describes a GPU only after it has initialised CUDA. That takes memory of the GPU until the process ends, keeps a card for exclusive use
from the training, and is lost to forked children. So a short-lived process asks the driver. Only AMD's GPUs are asked for through torch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from .messages import ParameterError, say_once

NO_DEVICE = 100  # CUDA's error
QUESTION = """
import ctypes, json
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError:
    print("[0, 100, []]")
    raise SystemExit
number, memory, text = ctypes.c_int(), ctypes.c_size_t(), ctypes.create_string_buffer(256)
error, cards = cuda.cuInit(0), []
cuda.cuDriverGetVersion(ctypes.byref(number))
version = number.value
error = error or cuda.cuDeviceGetCount(ctypes.byref(number))
for index in range(0 if error else number.value):
    device = ctypes.c_int()
    error = (
        error or cuda.cuDeviceGet(ctypes.byref(device), index) or cuda.cuDeviceGetName(text, 256, device)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device) or cuda.cuDeviceGetAttribute(ctypes.byref(number), 75, device)
    )
    cards.append([text.value.decode(), memory.value, number.value])
print(json.dumps([version, error, cards]))
"""


@dataclass(frozen=True)
class GPU:
    """A GPU: its name, its memory in bytes, and the major number of its compute capability."""

    name: str
    memory: int
    capability: int


def gpus() -> tuple[GPU, ...]:
    """The GPUs that CUDA would show to this process, in its order: CUDA_VISIBLE_DEVICES counts. () also if torch cannot use them."""
    if "rocm" in version("torch"):
        return _amd_gpus()
    return _gpus(os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("CUDA_DEVICE_ORDER"))


@cache
def _amd_gpus() -> tuple[GPU, ...]:
    import torch  # here, because it takes seconds

    cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return tuple(GPU(card.name, card.total_memory, card.major) for card in cards)


@cache
def _gpus(*variables: str | None) -> tuple[GPU, ...]:
    process = subprocess.run([sys.executable, "-I", "-S", "-c", QUESTION], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    try:
        release, error, cards = json.loads(process.stdout)
    except ValueError:
        release, error, cards = 0, f"exit status {process.returncode}", []
    if not error:
        import torch  # here, because it takes seconds

        if torch.version.cuda is None:
            return ()
        if release // 1000 < int(torch.version.cuda.split(".")[0]):
            error = f"the driver supports CUDA {release // 1000}, this torch needs {torch.version.cuda}"
    if error and error != NO_DEVICE:
        say_once(f"the driver of the GPUs does not work ({error}): they are not used")
    return () if error else tuple(GPU(*card) for card in cards)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them: numbers or UUIDs."""
    count = len(gpus())  # CUDA ends the list at the first name that does not exist
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count))))
    return names.split(",")[:count]


def on_cpu(device: str) -> bool:
    """Whether work on `device` (auto, cpu or cuda) is on the CPU.

    Raises
    ------
    ParameterError
        If device is "cuda" and there is no GPU.
    """
    if device == "cuda" and not gpus():
        raise ParameterError("device='cuda', but torch finds no GPU; use 'auto' or 'cpu'")
    return device == "cpu" or not gpus()
