"""The checkpoints in a run's folder: complete or absent, and checked when they are read.

`checkpoints/<step>/` holds `<name>.safetensors` for each dict of tensors, `state.json`, and the SHA-256 of them all.
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
from ..paths import numbered
from ..tensors import first_not_finite, load_into, load_tensors, save_tensors, seal, sums, verify

Network = TypeVar("Network", bound=nn.Module)


def checkpoint_steps(run: Path) -> list[int]:
    """The steps that a run's folder has checkpoints of, ascending."""
    return numbered(run / "checkpoints")


def save_checkpoint(run: Path, step: int, tensors: dict[str, dict[str, Tensor]], state: dict, keep: int | None = None) -> None:
    """Write a checkpoint into a run's folder, then delete all but the newest `keep` (None: none)."""
    target = run / "checkpoints" / str(step)
    if not target.exists():
        for file in ("history.jsonl", "spectra.jsonl", "evaluations.jsonl"):  # no power cut leaves gaps before a checkpoint
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
    """Delete all but the newest `keep` checkpoints (None: none)."""
    for step in checkpoint_steps(run)[:-keep] if keep else ():
        delete_folder(run / "checkpoints" / str(step))


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict]:
    """The tensors by file, and the state, of a checkpoint's folder.

    Raises
    ------
    WorkbenchError
        If anything in it is not what was written; the message names the file and the newest good checkpoint.
    """
    with _naming_a_good_one(folder):
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
    """`net` with the weights `name` of a checkpoint's folder, in eval mode and without gradients.

    Raises
    ------
    WorkbenchError
        If the checkpoint has no such weights, is damaged, or is of another network.
    """
    file = f"{name}.safetensors"
    with _naming_a_good_one(folder):
        digests = sums(folder)
        if file not in digests:
            others = ", ".join(other.removesuffix(".safetensors") for other in digests if other.endswith(".safetensors"))
            raise WorkbenchError(
                f"the checkpoint of run {folder.parents[1].name!r} at step {folder.name} keeps no {name}; it has: {others}"
            )
        tensors = load_tensors(folder / file, digests[file])
    load_into(net.state_dict(), tensors, f"{folder}/{file}")
    return net.eval().requires_grad_(False)


@contextmanager
def _naming_a_good_one(folder: Path) -> Iterator[None]:
    """Context in which an UnreadableError also names the newest good checkpoint."""
    try:
        yield
    except UnreadableError as error:
        step = int(folder.name)
        good = newest_good_checkpoint(folder.parents[1], but=step)
        advice = "no other checkpoint is good" if good is None else f"the newest good checkpoint is that of step {good}"
        if good is not None and good < step:
            advice += f": to resume from it, delete {folder}"
        raise WorkbenchError(f"{error}; {advice}") from None


def newest_good_checkpoint(run: Path, but: int | None = None) -> int | None:
    """The step of the newest checkpoint, but for that at `but`, that is what was written and holds no NaN; None if there is none."""
    for step in reversed(checkpoint_steps(run)):
        folder = run / "checkpoints" / str(step)
        with suppress(UnreadableError):
            names = verify(folder) if step != but else {}
            files = [load_tensors(folder / name) for name in names if name.endswith(".safetensors")]
            if files and all(first_not_finite(tensors) is None for tensors in files):
                return step
    return None
