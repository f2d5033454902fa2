"""Files and folders of tensors, checked by SHA-256: a changed or damaged file is an error.

A sealed folder has a file `SHA256SUMS`, as `sha256sum -c SHA256SUMS` reads it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from .files import UnreadableError, open_regular, read_bytes, reading, storing, synced
from .messages import WorkbenchError, one_line

SUMS = "SHA256SUMS"
CHANGED = f"its SHA-256 is not the one in {SUMS}: the file was changed or damaged"


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, from any device and in any memory layout; a StorageError if that fails."""
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    with storing(path), synced(path) as file:  # safetensors would not name a full disk
        file.write(content)


def load_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a safetensors file; an UnreadableError if the file is missing, damaged, or not what was written.

    Parameters
    ----------
    sha256
        The expected SHA-256 of the file.
    """
    with reading(path):
        content = read_bytes(path)
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise UnreadableError(path, CHANGED)
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise UnreadableError(path, f"no safetensors: {one_line(error, 120)}") from None


def sealed_bytes(tensors: Mapping[str, Tensor], step: int) -> bytes:
    """The content of a safetensors file whose header holds the step and the SHA-256 of the tensors."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry: safetensors writes several in random order, and equal tensors must make equal files.
    return save(tensors, dict(seal=f"step {step} sha256 {hashlib.sha256(save(tensors)).hexdigest()}"))


def load_sealed(path: Path, step: int) -> dict[str, Tensor]:
    """The tensors of a file with the content of `sealed_bytes`.

    An UnreadableError if the file is missing, damaged, not what was written, or of another step.
    """
    tensors = load_tensors(path)
    with safe_open(path, "pt") as file:
        words = (file.metadata() or {}).get("seal", "").split()
    if words[2:] != ["sha256", hashlib.sha256(save(tensors)).hexdigest()]:
        raise UnreadableError(path, "its SHA-256 is not the one in its header: the file was changed or damaged")
    if words[:2] != ["step", str(step)]:
        raise UnreadableError(path, f"from {' '.join(words[:2])}")
    return tensors


def seal(folder: Path, without: Collection[Path] = ()) -> None:
    """Write `SHA256SUMS` of all files in a folder, or of all without some."""
    sums = {path.name: digest(path) for path in sorted(folder.iterdir()) if path.name != SUMS and path not in without}
    with storing(folder / SUMS), synced(folder / SUMS) as file:
        file.write("".join(f"{value}  {name}\n" for name, value in sums.items()).encode())


def digest(path: Path) -> str:
    """The SHA-256 of a file, which need not fit into memory; an UnreadableError if it cannot be read."""
    with reading(path), open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file of a sealed folder, by name; an UnreadableError if the list is missing or damaged."""
    path, hashes = folder / SUMS, {}
    with reading(path):
        lines = read_bytes(path).decode(errors="replace").splitlines()
    for line in lines:
        match = re.fullmatch(r"([0-9a-f]{64})  ([\w.-]+)", line)
        if not match:
            raise UnreadableError(path, f"{line[:40]!r} is no line of sha256sum")
        hashes[match[2]] = match[1]
    if not hashes:
        raise UnreadableError(path, "empty")
    return hashes


def verify(folder: Path) -> dict[str, str]:
    """Check every file of a sealed folder against its SHA-256: the list, as `sums` gives it, or an UnreadableError for the first that differs."""
    expected = sums(folder)
    for name, sha256 in expected.items():
        if digest(folder / name) != sha256:
            raise UnreadableError(folder / name, CHANGED)
    return expected


@torch.no_grad()
def load_into(target: dict[str, Tensor], saved: dict[str, Tensor], where: str) -> None:
    """Copy saved tensors into those of `target`, whose memory layout stays; a WorkbenchError if names or shapes differ."""
    wrong = sorted(set(target) ^ set(saved)) or [k for k in target if target[k].shape != saved[k].shape]
    if wrong:
        raise WorkbenchError(f"{where} does not fit the configuration: {wrong[0]!r} differs ({len(wrong)} in all)")
    for name, tensor in target.items():
        tensor.copy_(saved[name])


def first_not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first floating-point tensor that holds a NaN or an infinity; None if all are finite."""
    return next((name for name, value in tensors.items() if value.is_floating_point() and not torch.isfinite(value).all()), None)
