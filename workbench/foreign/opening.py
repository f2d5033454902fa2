"""`open_checkpoint`: a run from the files of another code base."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from torch import Tensor

from ..config import Config
from ..files import UnreadableError, replace_text
from ..machine import describe_machine, git_state
from ..messages import ParameterError
from ..paths import DEMO, data_dir, outputs_dir, short_name
from ..readers import words
from ..runs import Run, command_line, create_run
from ..runs.checkpoints import save_checkpoint
from ..runs.resume import may_change
from .recognise import Network, recognise
from .translate import MisfitError, require_shapes, settings_d, settings_g, swap_input, swap_output, tensors_d, tensors_g
from .weights import read_weights

WHAT = dict(generator="a generator", ema="the EMA of a generator", discriminator="a discriminator")
DATA = {(32, 10): "cifar10", (128, 1000): "imagenet"}  # image size and classes: the data that files of this kind are from


def open_checkpoint(
    path: str | os.PathLike | Iterable[str | os.PathLike],
    layout: str = "auto",
    *,
    name: str | None = None,
    channel_order: str = "auto",
    **settings,
) -> Run:
    """Make a run of the networks in a checkpoint of another code base.

    Parameters
    ----------
    path
        A file of PyTorch or safetensors, or several: some code bases write generator, EMA (with "ema" in the name of the file) and
        discriminator into files of their own.
    layout
        "biggan-pytorch", "mmgeneration", "studiogan", or "auto": by the names of the tensors.
    name
        The run's name, by default the file's. Opening the same files once more returns the same run.
    channel_order
        The networks' order of colours: "rgb", "bgr", or "auto": as the file tells. The run's networks are RGB.
    settings
        Parameters of `Config` that files do not tell, such as `data`, or that this function takes wrongly, such as `batch_norm_eps`.

    Returns
    -------
    Run
        Its `provenance["opened"]` has the files with their SHA-256. `resume="name@step"` goes on training, with fresh optimisers.

    Raises
    ------
    UnreadableError
        If a file is damaged, or its networks do not fit; lists the tensors that are unknown, missing or of another shape.
    ParameterError
        If the file has another layout, which the message names, or a setting does not fit.
    """
    if channel_order not in ("auto", "rgb", "bgr"):
        raise ParameterError(f"channel_order={channel_order!r} is not one of auto, rgb, bgr")
    if fixed := settings.keys() & {"run", "resume", "preset"}:
        raise ParameterError(f"{min(fixed)}={settings[min(fixed)]!r} is not for open_checkpoint; the run's name is name=...")
    paths = [path] if isinstance(path, str | os.PathLike) else list(path)
    files = [read_weights(Path(os.path.abspath(os.path.expanduser(one)))) for one in paths]
    networks: dict[str, Network] = {}
    for network in (network for file in files for network in recognise(file, layout)):
        other = networks.setdefault(network.role, network)
        if other is not network:
            both = f"{other.weights.path.name} and {network.weights.path.name}"
            raise ParameterError(f"{both} both hold {WHAT[network.role]}; give one, and the EMA with 'ema' in its name")
    main = networks.get("generator") or networks.get("ema")
    if main is None:
        raise ParameterError(f"path={[str(one) for one in paths]} holds no generator; give the file of G too")
    stem = name or short_name(re.sub(r"[^\w.+=-]+", "_", main.weights.path.stem).strip("_.-~") or "opened")
    if stem == DEMO.name:
        raise ParameterError(f"name={stem!r} is the run that ships with the package; give another name")
    bgr = main.facts.bgr if channel_order == "auto" else channel_order == "bgr"
    try:
        config = _config(networks, main, stem, settings)
        tensors = {role: _tensors(network, config, bgr) for role, network in networks.items()}
    except MisfitError as error:
        raise UnreadableError(main.weights.path, f"its networks do not fit: {error}") from None
    step = max(network.facts.step for network in networks.values())
    opened = dict(
        layout=main.layout.name,
        files=[dict(name=file.path.name, sha256=file.sha256) for file in files],
        networks={role: network.weights.path.name for role, network in networks.items()},
        channel_order="bgr" if bgr else "rgb",
        step=step,
    )
    return _run(config.replace(steps=max(config.steps, step)), name, stem, tensors, opened)


def _config(networks: dict[str, Network], main: Network, name: str, settings: dict) -> Config:
    """What tensors and files show, what the user gives, and for the rest, above all the rates, the preset of this image size."""
    layout = main.layout
    if others := [network.layout.title for network in networks.values() if network.layout is not layout]:
        raise MisfitError(f"G is from {layout.title}, and another file from {others[0]}")
    for network in networks.values():
        require_shapes(network)
    shown = settings_g(main.layers, layout, main.facts)
    if discriminator := networks.get("discriminator"):
        shown |= settings_d(discriminator.layers, layout, shown)
    else:
        shown["attention_d"] = "none"  # a run without D has no layers of D to look at
    shown |= main.facts.settings | dict(
        batch_norm_momentum=0.1,  # torch's default, which all of them leave
        data=DATA.get((shown["image_size"], shown["num_classes"]), str(data_dir() / name)),
        ema_decay=layout.ema_decay if "ema" in networks else 0.0,
        dtype=str(next(iter(main.weights.tensors.values())).dtype).removeprefix("torch."),
    )
    return Config.preset("cifar10" if shown["image_size"] == 32 else "imagenet128-biggan", **shown | settings)


def _tensors(network: Network, config: Config, bgr: bool) -> dict[str, Tensor]:
    """The state dict of a network here."""
    if network.role == "discriminator":
        tensors = tensors_d(network, config)
        return swap_input(tensors, config) if bgr else tensors
    tensors = tensors_g(network, config)
    return swap_output(tensors) if bgr else tensors


def _run(config: Config, name: str | None, stem: str, tensors: dict[str, dict[str, Tensor]], opened: dict) -> Run:
    """The run of these networks, which is made unless an earlier call has made it."""
    for number in count(1):
        config = config.replace(run=name or (stem if number == 1 else f"{stem}-{number}"))
        if not (outputs_dir() / config.run / "config.json").exists():
            break
        run = Run(outputs_dir() / config.run)
        same = not run.config.changes(config).keys() - may_change(config)  # it may have been trained since
        if same and run.provenance.get("opened") == opened and run.checkpoint_steps():
            return run
        if name:
            raise ParameterError(f"name={name!r}: there is a run of this name, of other files or settings; choose another name")
    run = create_run(config)
    state = dict(step=opened["step"], seconds=0.0, logged=opened["step"], scaler=None, opened=True)
    try:
        save_checkpoint(run.path, opened["step"], tensors, state)
        record = dict(
            command=command_line(), git=git_state(), **describe_machine(), opened=opened, parent=None, note=config.note or "",
            tags=words(config.tags or ""), started=[],
        )  # fmt: skip
        replace_text(run.path / "provenance.json", json.dumps(record, indent=2))
        missing = " and ".join(name for name in ("generator", "discriminator") if name not in tensors)
        message = f"opened from {', '.join(file['name'] for file in opened['files'])}" + (f", without {missing}" if missing else "")
        run.set_status(state="stopped", step=opened["step"], steps=config.steps, message=message)
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run
