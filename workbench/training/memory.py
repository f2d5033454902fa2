"""The peak memory of a training in bytes, and a refusal in one line if the machine has less.

Parameters and activations are counted in closed form, not from the networks: the answer takes milliseconds also for settings with which
the networks could not be built. A test compares both counts.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import psutil
import torch

from ..config import Config
from ..gpus import gpus, on_cpu
from ..messages import ParameterError
from ..processes import local_processes

# ------------------------------------------------------------------------------------------ parameters and activations


def parameters_g(config: Config) -> int:
    """The number of parameters of `Generator(config)`."""
    classes, last = max(1, config.num_classes or 0), config.channels_g(config.image_size)
    count = (config.z_dim + 1) * 16 * config.channels_g(4)
    for before, after in pairwise((4, *config.maps_g)):
        a, b = config.channels_g(before), config.channels_g(after)
        count += 2 * classes * (a + b) + _conv(a, b, 3) + _conv(b, b, 3) + _conv(a, b, 1)
    return count + sum(_site(config, config.channels_g(size)) for size in config.sites_g) + 2 * last + _conv(last, 3, 3)


def parameters_d(config: Config) -> int:
    """The number of parameters of `Discriminator(config)`."""
    channels = [3, *map(config.channels_d, config.maps_d)]
    count = sum(_conv(a, m, 3) + _conv(m, b, 3) + _conv(a, b, 1) for a, m, b in _blocks_d(channels, config))
    before, last = channels[-1], config.last_channels_d
    count += config.d_flat_blocks * 2 * _conv(last, last, 3)
    if before != last:  # the first flat block
        count += _conv(before, last, 3) - _conv(last, last, 3) + _conv(before, last, 1)
    count += sum(_site(config, config.channels_d(size)) for size in config.sites_d)
    return count + last + 1 + (config.num_classes or 0) * last


def _blocks_d(channels: list[int], config: Config) -> list[tuple[int, int, int]]:
    """Of D's down-sampling blocks: channels of the input, between the convolutions, and of the output."""
    return [(a, a if config.d_narrow and a != 3 else b, b) for a, b in pairwise(channels)]


def _conv(inputs: int, outputs: int, kernel: int) -> int:
    return (inputs * kernel**2 + 1) * outputs


def _site(config: Config, channels: int) -> int:
    """Parameters of the attention, or of the residual block, on a feature map with this number of channels."""
    inner = channels // 8
    weights = 2 * channels * inner + 2 * channels * _values(config, channels)
    if config.attention_block == "attention":
        return weights + 1
    return 10 * channels * max(1, round(weights / (10 * channels)))


def _values(config: Config, channels: int) -> int:
    return channels // 2 if config.attention_variant == "official" else channels // 8


def activations_g(config: Config) -> int:
    """Activations per image that G's forward pass saves for the backward pass."""
    count = 0
    for before, after in pairwise((4, *config.maps_g)):
        # Of each norm: its input, its normalised output, and the input of the next convolution.
        count += 3 * config.channels_g(before) * before**2 + 3 * config.channels_g(after) * after**2
    count += sum(_kept_at_site(config, config.channels_g(size), size) for size in config.sites_g)
    return count + (3 * config.channels_g(config.image_size) + 6) * config.image_size**2


def activations_d(config: Config) -> int:
    """Activations per image that D's forward pass saves for the backward pass."""
    channels, sizes = [3, *map(config.channels_d, config.maps_d)], [config.image_size, *config.maps_d]
    count = 0
    for (a, m, _), size in zip(_blocks_d(channels, config), sizes, strict=False):
        count += (1 if a == 3 else 2) * a * size**2 + m * size**2 + a * (size // 2) ** 2
    before, last = channels[-1], config.last_channels_d
    count += (config.d_flat_blocks * 3 * last + 2 * (before - last) + (before if before != last else 0)) * sizes[-1] ** 2
    return count + sum(_kept_at_site(config, config.channels_d(size), size) for size in config.sites_d)


def _kept_at_site(config: Config, channels: int, size: int) -> int:
    keys = size**2 // (4 if config.attention_variant == "official" else 1)
    values = _values(config, channels)
    if config.attention_block == "residual":
        return 2 * channels * size**2
    return size**2 * (2 * channels + channels // 8 + 3 * values) + keys * (channels // 8 + 3 * values)


# ----------------------------------------------------------------------------------------------------- bytes

PROCESS = 300_000_000  # a Python process with torch, not counting memory shared with other processes
SAMPLES = 64  # images per batch of sample grids and of recalibration
WORKSPACE = 1.5  # times the saved activations: with gradients and the workspace of convolutions; measured 1.4 to 1.8
HALF = 0.6  # times the activations under autocast, which keeps some in full precision
MARGIN = 0.85  # refuse if this share of the estimate is too large; measured runs took 0.9 to 1.1 times the estimate


def host_bytes(config: Config, gpu: bool = False) -> dict[str, float]:
    """The host memory of the processes on this machine, by purpose; with `gpu`, networks and activations are on GPUs."""
    processes, classes = local_processes(config.num_processes), config.num_classes or 0
    image = 3 * config.image_size**2 + 8  # uint8, and a class
    latents = max(256, config.evaluate_n if config.evaluate_every and config.evaluate_n else 0)
    parts: dict[str, float] = {
        "processes": processes * PROCESS,
        # A thread prepares those of the next step.
        "batches of images": 2 * config.d_steps * config.batch_size * processes / config.num_processes * image,
        "noise": processes * config.batch_size * (8 * config.z_dim + 64),  # every process draws the noise of the whole batch
        "latents of samples": 8 * latents * config.z_dim + 8 * classes,
    }
    return parts if gpu else parts | device_bytes(config, processes)


def device_bytes(config: Config, processes: int = 1, gpu: bool = False) -> dict[str, float]:
    """The memory of networks and activations of this number of processes, by purpose."""
    size = 8 if config.dtype == "float64" else 4
    g, d = parameters_g(config), parameters_d(config)
    # Weights, Adam's two moments, the EMA, gradients of the network that learns, and copies of weights during a step: kernels of the
    # convolutions that change resolution, and weights divided by sigma.
    networks = 3 * (g + d) + (g if config.ema_decay else 0) + max(g, d) + g * (1 + config.sn_g) + d * (1 + config.sn_d)
    if config.num_processes > 1:
        networks += g + d  # buffers in which processes average gradients
    share = config.batch_size / (config.gradient_accumulation * config.num_processes)
    training = max(2 * activations_d(config), activations_g(config) + activations_d(config)) * share * WORKSPACE
    sampling = 4 * SAMPLES * max(config.channels_g(side) * side**2 for side in config.maps_g)
    half = HALF if _half_precision(config, gpu) else 1
    return {
        "networks and optimisers": processes * networks * size,
        "activations": max(processes * training * half, sampling) * size,
    }


def _half_precision(config: Config, gpu: bool) -> bool:
    """Whether the training may run in half precision."""
    if config.dtype == "float64" or config.mixed_precision == "no":
        return False
    if config.mixed_precision != "auto" or gpu:
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


# ------------------------------------------------------------------------------------------------ available memory


def host_memory() -> int:
    """The memory of this machine, or less if a container limits it, in bytes."""
    return min([psutil.virtual_memory().total, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    """Limits of the control groups of this process, in bytes."""
    root, limits = Path("/sys/fs/cgroup"), []
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            base, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
            here = base / group.lstrip("/")
            for folder in (here, *here.parents):
                with suppress(OSError, ValueError):  # "max": no limit
                    limits.append(int((folder / name).read_text()))
                if folder == base:
                    break
    return limits


# --------------------------------------------------------------------------------------------------------- refusal

# Parameters that cost memory, with their cheapest values. The message blames the parameter whose cheapest value alone makes the training fit; of
# several, the one that exceeds its value in the preset by the largest factor.
CHEAPEST = dict(
    batch_size=2, width=8, width_d=8, z_dim=1, num_classes=0, num_processes=1, d_steps=1, d_flat_blocks=0, evaluate_n=10, max_multiplier=1,
    image_size=32,
)  # fmt: skip


def require_feasible(config: Config) -> None:
    """Refuse settings that need more memory than this machine has, or more GPUs.

    Raises
    ------
    ParameterError
        The message names the parameter most to blame, with the memory that the training needs and that the machine has.
    """
    gpu = not on_cpu(config.device)
    _require_memory(config, "memory", lambda c: host_bytes(c, gpu), 0.95 * host_memory())
    if gpu:
        here, cards = local_processes(config.num_processes), gpus()
        if here > len(cards):
            where = "" if here == config.num_processes else f", {here} of them on this machine"
            raise ParameterError(
                f"num_processes={config.num_processes}{where}: there is one process per GPU, and torch finds {len(cards)}; "
                f"lower num_processes, or use device='cpu'"
            )
        memory = min(card.memory for card in cards[:here])
        _require_memory(config, "GPU memory", lambda c: device_bytes(c, gpu=True), memory)


def _require_memory(config: Config, kind: str, estimate, available: float) -> None:
    parts = estimate(config)
    needed = sum(parts.values())
    if needed * MARGIN <= available:
        return
    reduced = {name: sum(estimate(_changed(config, name, value)).values()) for name, value in CHEAPEST.items() if getattr(config, name)}
    preset = Config.preset(config.preset)

    def excess(name: str) -> float:
        return getattr(config, name) / max(1, getattr(preset, name) or 0)

    enough = [name for name, size in reduced.items() if size * MARGIN <= available]
    name = max(enough, key=excess) if enough else min(reduced, key=reduced.__getitem__)
    largest = max(parts, key=parts.__getitem__)
    fix = f"lower {name}"
    if name == "batch_size" and largest == "activations":
        fix += ", or split the batch: gradient_accumulation"
    raise ParameterError(
        f"{name}={getattr(config, name)}: this training needs about {readable(needed)} of {kind}, and the machine has {readable(available)} "
        f"({largest}: {readable(parts[largest])}); {fix}"
    )


def _changed(config: Config, name: str, value) -> Config:
    """`config` with another value that is not checked, for estimates only."""
    changed = copy.copy(config)
    object.__setattr__(changed, name, value)
    return changed


def readable(count: float) -> str:
    """A number of bytes as text: "1.2 PB"."""
    for unit in ("MB", "GB", "TB", "PB", "EB"):
        count /= 1000 if unit != "MB" else 1e6
        if count < 1000:
            return f"{count:.1f} {unit}" if count < 10 else f"{count:.0f} {unit}"
    return f"{count:.0e} EB"
