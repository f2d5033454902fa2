"""The content of a checkpoint: everything that the next step depends on, so that a resumed run is bit-exact."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..messages import WorkbenchError, say_once
from ..runs import Run
from ..runs.checkpoints import newest_good_checkpoint, read_checkpoint, save_checkpoint
from ..tensors import first_not_finite, load_into
from .history import Window
from .setup import Networks


@dataclass
class Progress:
    """How far a training has come."""

    step: int = 0  # G steps done
    seconds: float = 0.0  # of training
    logged: int = 0  # step of the last line of history
    window: Window = field(default_factory=Window)  # reports of the steps since that line


class DivergedError(WorkbenchError):
    """Losses or weights are not finite; the message names the newest good checkpoint to fork from."""

    def __init__(self, values: str, step: int, run: Run):
        good = newest_good_checkpoint(run.path)
        fix = "nothing was saved before it" if good is None else f"fork from before it, with lower rates: resume='{run.reference}@{good}'"
        super().__init__(
            f"training diverged: {values} became NaN or infinite by step {step}; {fix}; check lr_d, lr_g, sn_g, sn_d and mixed_precision"
        )


def save(nets: Networks, run: Run, progress: Progress) -> None:
    """Write a checkpoint. The caller has recalibrated the EMA.

    Raises
    ------
    DivergedError
        If it would contain NaN or infinity.
    StorageError
        If it cannot be written.
    """
    tensors = dict(
        generator=nets.generator.state_dict(),
        discriminator=nets.discriminator.state_dict(),
        optimizer_g=_optimizer_tensors(nets.generator, nets.optimizer_g),
        optimizer_d=_optimizer_tensors(nets.discriminator, nets.optimizer_d),
        window=progress.window.state,
    )
    if nets.ema:
        tensors["ema"] = nets.ema.average.state_dict()
    for file, values in tensors.items():
        if name := first_not_finite(values):
            raise DivergedError(f"{CONTENT[file]} ({name})", progress.step, run)
    scaler = nets.accelerator.scaler
    state = dict(step=progress.step, seconds=progress.seconds, logged=progress.logged, scaler=scaler.state_dict() if scaler else None)
    save_checkpoint(run.path, progress.step, tensors, state, nets.config.keep_checkpoints)


CONTENT = {  # file of a checkpoint -> what it holds
    "generator": "weights of G", "discriminator": "weights of D", "ema": "EMA of G",
    "optimizer_g": "Adam's state of G", "optimizer_d": "Adam's state of D", "window": "reports since the last line of history",
}  # fmt: skip


def load(nets: Networks, run: Run, step: int | None = None) -> Progress:
    """Restore the networks, optimisers and progress from a checkpoint of a run, by default the newest.

    From a checkpoint of another code base, which has no optimisers (see `foreign.open_checkpoint`), they start fresh, and stderr says so.

    A WorkbenchError if the checkpoint is damaged or incomplete, or does not fit the networks.
    """
    folder = run.checkpoint_path(step)
    files, state = read_checkpoint(folder)
    optional = set() if nets.ema and run.config.ema_decay else {"ema"}  # a parent may have no EMA
    if state.get("opened"):
        optional |= {"optimizer_g", "optimizer_d", "window", *(["generator"] if "ema" in files else [])}
        from_ema = "" if "generator" in files else ", and G from its EMA"
        if nets.accelerator.is_main_process:
            say_once(f"{folder} is from another code base: the optimisers start fresh{from_ema}")
    if missing := [name for name in CONTENT if name not in files and name not in optional]:
        raise WorkbenchError(f"training cannot resume from {folder}: it has no {', '.join(missing)}, only what it takes to look at the run")
    files.setdefault("generator", files.get("ema", {}))
    load_into(nets.generator.state_dict(), files["generator"], f"{folder}/generator.safetensors")
    load_into(nets.discriminator.state_dict(), files["discriminator"], f"{folder}/discriminator.safetensors")
    if nets.ema:
        load_into(nets.ema.average.state_dict(), files.get("ema", files["generator"]), f"{folder}/ema.safetensors")
    _restore_optimizer(nets.generator, nets.optimizer_g, files.get("optimizer_g", {}))
    _restore_optimizer(nets.discriminator, nets.optimizer_d, files.get("optimizer_d", {}))
    if nets.accelerator.scaler and state["scaler"]:
        nets.accelerator.scaler.load_state_dict(state["scaler"])
    return Progress(state["step"], state["seconds"], state["logged"], Window(files.get("window")))


def _optimizer_tensors(net: nn.Module, optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    names = [name for name, _ in net.named_parameters()]
    return {f"{names[index]}.{key}": value for index, values in state.items() for key, value in values.items()}


def _restore_optimizer(net: nn.Module, optimizer, saved: dict[str, Tensor]) -> None:
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for name, value in saved.items():
        parameter_name, _, key = name.rpartition(".")
        by_parameter.setdefault(parameter_name, {})[key] = value
    state = {}
    for index, (name, parameter) in enumerate(net.named_parameters()):
        if values := by_parameter.get(name):
            # Fused Adam needs its moments in the memory layout of the parameter.
            state[index] = {
                key: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape and key != "step" else value
                for key, value in values.items()
            }
    optimizer.load_state_dict(dict(state=state, param_groups=optimizer.state_dict()["param_groups"]))
