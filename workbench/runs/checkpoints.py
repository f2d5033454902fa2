"""The checkpoints of a run: written completely or not at all, and verified when they are read.

`checkpoints/<step>/` holds `<name>.safetensors` for each dict of tensors, `state.json`, and the SHA-256 of each file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from torch import Tensor, nn

from ..files import UnreadableError, delete_folder, flush, new_folder, read_json, storing, synced
from ..messages import WorkbenchError
from ..paths import checkpoint_steps
from ..tensors import first_not_finite, load_into, load_tensors, save_tensors, seal, sums, verify

Network = TypeVar("Network", bound=nn.Module)

# The networks of a checkpoint by file name, and how to request them.
WEIGHTS = {
    "generator": "raw weights of G (weights='raw')",
    "ema": "EMA of G (weights='ema')",
    "discriminator": "weights of D",
}


def save_checkpoint(run: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict, keep: int | None = None) -> None:
    """Write a checkpoint into the folder of a run, then keep only the newest `keep` (None: all)."""
    target = run / "checkpoints" / str(step)
    if not target.exists():
        for file in ("history.jsonl", "spectra.jsonl", "evaluations.jsonl"):  # a power cut must not lose records from before a checkpoint
            if (run / file).exists():
                flush(run / file)
        with new_folder(target) as folder:
            for name, values in tensors.items():
                save_tensors(folder / f"{name}.safetensors", values)
            with storing(target), synced(folder / "state.json") as stream:
                stream.write(json.dumps(state).encode())
            seal(folder)
    prune(run, keep)


def prune(run: Path, keep: int | None) -> None:
    """Keep only the newest `keep` checkpoints (None: all)."""
    for step in checkpoint_steps(run)[:-keep] if keep else ():
        delete_folder(run / "checkpoints" / str(step))


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """The tensors by file name, and the state, of the checkpoint in `folder`.

    A WorkbenchError if a file is missing or damaged; the message names it and the newest good checkpoint.
    """
    with _suggesting_a_good_checkpoint(folder):
        digests = verify(folder)
        tensors = {
            name.removesuffix(".safetensors"): load_tensors(folder / name, digest)
            for name, digest in digests.items() if name.endswith(".safetensors")
        }  # fmt: skip
        state = read_json(folder / "state.json") if "state.json" in digests else {}
        if state.get("step") != int(folder.name):
            raise UnreadableError(folder / "state.json", f"it is of step {state.get('step')}")
    return tensors, state


def load_network(net: Network, folder: Path, name: str) -> Network:
    """`net` with the weights `name` of the checkpoint in `folder`, in eval mode and without gradients.

    A WorkbenchError if the checkpoint does not have these weights, is damaged, or does not fit `net`.
    """
    file = f"{name}.safetensors"
    with _suggesting_a_good_checkpoint(folder):
        digests = sums(folder)
        if file not in digests:
            others = [text for other, text in WEIGHTS.items() if f"{other}.safetensors" in digests]
            raise WorkbenchError(
                f"the checkpoint of run {folder.parents[1].name!r} at step {folder.name} keeps no {WEIGHTS[name]}; it has: {', '.join(others)}"
            )
        tensors = load_tensors(folder / file, digests[file])
    load_into(net.state_dict(), tensors, f"{folder}/{file}")
    return net.eval().requires_grad_(False)


@contextmanager
def _suggesting_a_good_checkpoint(folder: Path) -> Iterator[None]:
    """Context that adds the newest good checkpoint to the message of an UnreadableError."""
    try:
        yield
    except UnreadableError as error:
        step = int(folder.name)
        good = newest_good_checkpoint(folder.parents[1], exclude=step)
        advice = "no other checkpoint is good" if good is None else f"the newest good checkpoint is that of step {good}"
        if good is not None and good < step:
            advice += f": to resume from it, delete {folder}"
        raise WorkbenchError(f"{error}; {advice}") from None


def newest_good_checkpoint(run: Path, exclude: int | None = None) -> int | None:
    """The step of the newest undamaged checkpoint without NaN or infinity, other than `exclude`; None if there is none."""
    for step in reversed(checkpoint_steps(run)):
        folder = run / "checkpoints" / str(step)
        with suppress(UnreadableError):
            names = verify(folder) if step != exclude else {}
            files = [load_tensors(folder / name) for name in names if name.endswith(".safetensors")]
            if files and all(first_not_finite(tensors) is None for tensors in files):
                return step
    return None
