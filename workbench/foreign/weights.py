"""The tensors of a file from elsewhere: PyTorch's two formats and safetensors, without running code that the file brings."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..files import UnreadableError, open_regular, reading
from ..messages import one_line, short_text
from ..tensors import digest, first_not_finite, load_tensors

TENSORFLOW = re.compile(r"checkpoint|.*\.(index|meta|data-\d+-of-\d+|pb|h5|hdf5)")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Some files have scores beside the weights, as NumPy's scalars, which hold nothing but a number.
_scalar = np.float64(0).__reduce__()[0]
SCALARS: list = [
    (_scalar, "numpy.core.multiarray.scalar"), (_scalar, "numpy._core.multiarray.scalar"), np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
]  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """A file: its tensors by name, all of them float32 or all float64, the numbers and texts beside them, and its SHA-256."""

    path: Path
    tensors: dict[str, Tensor]
    notes: dict
    sha256: str


def read_weights(path: Path) -> Weights:
    """The tensors of a file: a state dict, alone or as the entry `state_dict` of a dict. The file needs no trust.

    Raises
    ------
    UnreadableError
        In one line, if the file is missing, truncated or damaged, holds other objects, no tensors, or more than its size.
    """
    with reading(path), open_regular(path) as file:
        start, size = file.read(512), os.fstat(file.fileno()).st_size
    if TENSORFLOW.fullmatch(path.name):
        raise UnreadableError(path, "a file of TensorFlow, as the released SAGAN writes them; give one of PyTorch or safetensors")
    content = load_tensors(path) if path.suffix == ".safetensors" else _load_pickle(path, start, size)
    state = content.get("state_dict", content)
    named = state.items() if isinstance(state, Mapping) else ()
    tensors = {name.removeprefix("module."): value for name, value in named if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise UnreadableError(path, f"no named tensors in it, but {short_text(', '.join(map(str, content)), 80) or 'nothing'}")
    _check(path, tensors, size)
    double = all(tensor.dtype == torch.float64 for tensor in tensors.values() if tensor.is_floating_point())
    tensors = {name: tensor.to(torch.float64 if double else torch.float32) for name, tensor in tensors.items()}
    notes = {key: value for key, value in content.items() if key == "meta" or isinstance(value, int | float | str)}
    return Weights(path, tensors, notes, digest(path))


def _load_pickle(path: Path, start: bytes, size: int) -> Mapping:
    """The dict in a file of PyTorch."""
    if start.startswith(b"PK"):
        _check_archive(path, size)
    elif start[:1] != b"\x80":  # how the older format begins: a pickle
        raise UnreadableError(path, "neither a file of PyTorch nor safetensors" if start else "empty")
    try:
        with torch.serialization.safe_globals(SCALARS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes end in whatever they are taken for
        code = re.search(r"GLOBAL ([\w.]+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise UnreadableError(
                path, f"loading its {code[1]} would run code; give a state dict, saved with torch.save(net.state_dict(), ...)"
            ) from None
        raise UnreadableError(path, f"truncated or damaged: {one_line(error, 120)}") from None
    if not isinstance(content, Mapping):
        raise UnreadableError(path, f"a {type(content).__name__}, expected a dict of tensors")
    return content


def _check_archive(path: Path, size: int) -> None:
    """Refuse an archive that is none of PyTorch's, or unpacks to more than its size: PyTorch does not compress."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception as error:
        raise UnreadableError(path, f"truncated or damaged: {one_line(error, 120)}") from None
    if not any(entry.filename.endswith("data.pkl") for entry in entries):
        numpy = entries and all(entry.filename.endswith(".npy") for entry in entries)
        raise UnreadableError(path, f"{'arrays of NumPy' if numpy else 'a zip file'}, not a file of PyTorch")
    if sum(entry.file_size for entry in entries) > size:
        raise UnreadableError(path, "it unpacks to more than its size, which files of PyTorch do not")


def _check(path: Path, tensors: dict[str, Tensor], size: int) -> None:
    """Refuse what is no plain tensor of finite numbers, and views that are larger than the file."""
    for name, tensor in tensors.items():
        integer = not (tensor.is_floating_point() or tensor.is_complex() or tensor.is_quantized)
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and (integer or tensor.dtype in FLOATS)
        if not plain or tensor.numel() * tensor.element_size() > size:
            raise UnreadableError(path, f"{short_text(name, 60)} is no plain tensor in this file: {tensor.dtype}, {tuple(tensor.shape)}")
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > 2 * size:
        raise UnreadableError(path, "its tensors are larger than the file")
    if bad := first_not_finite(tensors):
        raise UnreadableError(path, f"{short_text(bad, 60)} holds NaN or infinity")
