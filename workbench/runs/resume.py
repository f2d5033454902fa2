"""The rules of resuming and forking: what may change when a run is resumed, and what a fork must keep of its parent."""

from __future__ import annotations

import textwrap
from pathlib import Path

from ..config import Config, read_config
from ..messages import ParameterError, short_repr
from ..parameters import whole
from ..paths import DEMO, checkpoint_steps, run_folder
from ..readers import split_step

# Parameters that may change when a run is resumed: its length, and those that its weights do not depend on. Data may lie in another place: see
# `provenance.require_same_data`.
MAY_CHANGE_ON_RESUME = {
    "steps", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints", "evaluate_every", "evaluate_n", "evaluate_extractor",
    "log_with", "max_hours", "num_processes", "device", "data",
}  # fmt: skip


def resumes(config: Config) -> bool:
    """Whether `config` resumes a run, and is neither a new run nor a fork."""
    return config.resume is not None and split_step(config.resume)[1] is None


def parent_folder(config: Config) -> Path:
    """The folder of the run that `config` resumes or forks.

    Raises
    ------
    ParameterError
        If there is no such run, or it is the demo.
    """
    folder = run_folder("resume", split_step(config.resume or "")[0])
    if folder == DEMO:
        raise ParameterError(f"resume={short_repr(config.resume)}: the demo cannot be trained, it ships without optimiser states")
    return folder


def start_step(config: Config) -> int | None:
    """The step that a fork starts at; None if the run is not a fork.

    A ParameterError if the parent has no checkpoint at that step; the message lists its steps.
    """
    name, text = split_step(config.resume or "")
    if text is None:
        return None
    step, steps = whole(text), checkpoint_steps(parent_folder(config))
    if step not in steps:
        what = f"{short_repr(text)} is not a step" if step is None else f"run {short_repr(name)} has no checkpoint at step {step}"
        known = textwrap.shorten(", ".join(map(str, reversed(steps))), 150, placeholder=" ...") or "none yet"
        raise ParameterError(f"resume={short_repr(config.resume)}: {what}; there are: {known}")
    return step


def require_forkable(config: Config, start: int) -> None:
    """Refuse a fork at step `start` if its parent's weights do not fit its networks, or no step is left to train.

    The number of classes of a folder of images is only known after opening it: check again then.

    Raises
    ------
    ParameterError
        The message names the parameter, with the value of the fork and of its parent.
    """
    base = read_config(parent_folder(config))
    fork, parent = _shapes(config), _shapes(base)
    for name, value in fork.items():
        if value != parent.get(name) and not (name == "num_classes" and None in (value, parent[name])):
            source = f" (of data={short_repr(config.data)})" if name == "num_classes" and config.data != base.data else ""
            raise ParameterError(
                f"{name}={value!r}{source} differs from the {parent[name]!r} of the run that resume={short_repr(config.resume)} forks, "
                f"whose weights do not fit then; keep {name}={parent[name]!r}, or start a new run without resume"
            )
    if config.steps <= start:
        raise ParameterError(
            f"steps={config.steps} is not above {start}, the step that resume={short_repr(config.resume)} starts at; set steps above {start}"
        )


def _shapes(config: Config) -> dict:
    """The parameters that determine the shapes of the networks' tensors."""
    names = (
        "image_size", "num_classes", "width", "z_dim", "d_flat_blocks", "d_narrow", "attention_g", "attention_d", "sn_g", "sn_d", "sn_gains",
    )  # fmt: skip
    shapes = {name: getattr(config, name) for name in names} | dict(
        width_d=config.width_d or config.width,
        max_multiplier=min(config.max_multiplier, config.image_size // 4),
        d_downsamples=len(config.maps_d),
        d_flat_channels=config.last_channels_d,
    )
    if config.sites_g or config.sites_d:
        shapes |= dict(attention_variant=config.attention_variant, attention_block=config.attention_block)
    return shapes


def may_change(base: Config) -> set[str]:
    """The parameters of a run that may change when it is resumed, and those that its first start has not decided yet."""
    undecided = {"mixed_precision": "auto", "num_classes": None}
    return MAY_CHANGE_ON_RESUME | {name for name, value in undecided.items() if getattr(base, name) == value}


def require_resumable(config: Config, folder: Path) -> None:
    """Refuse to resume the run in `folder` with another name, settings that may not change, or fewer steps than it has done.

    Raises
    ------
    ParameterError
        The message names the parameter, with its value and the run's.
    """
    base, steps = read_config(folder), checkpoint_steps(folder)
    fork = f"to change it, fork the run: resume='{folder.name}@{steps[-1] if steps else '<step>'}'"
    # Name, note and tags may be left out (None), but not changed.
    identity = [name for name in ("run", "note", "tags") if getattr(config, name) not in (None, getattr(base, name))]
    for name in [name for name in config.changes(base) if name not in may_change(base)] + identity:
        value, base_value = (short_repr(getattr(c, name)) for c in (config, base))
        raise ParameterError(f"{name}={value} differs from the {base_value} of run {short_repr(folder.name)}, which is resumed; {fork}")
    if steps and config.steps < steps[-1]:
        raise ParameterError(
            f"steps={config.steps} is below {steps[-1]}, the newest checkpoint of run {short_repr(folder.name)}; set steps to {steps[-1]} or more"
        )
