"""How fast training is, as ratios of one run: full steps against a plain reference step, and what each rewrite is worth.

`python -m workbench.bench` times full training steps (one D step, one G step, both optimisers, the average) of this package and of the
reference step below, in turn, each in a process of its own. Both work on the same weights and the same noise, and a test holds their
losses and gradients together to 1e-9.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from .config import Config
from .data import Images, loader, to_unit
from .evaluation import Samples
from .messages import command
from .metrics.protocols import protocol
from .model import Discriminator, Generator, SelfAttention, layers, networks, sampling
from .model.attention import ResidualBlock
from .model.layers import BatchNorm, DownConv, UpConv
from .parameters import ParameterError, WorkbenchError
from .processes import on_cpu
from .runs import describe_machine
from .training import setup
from .training.setup import Networks
from .training.steps import d_step, draw_noise, g_step

# ----------------------------------------------------------------------------------------------- the reference step
#
# The released formulation, layer by layer, with nothing rewritten for speed: up-sample, then convolve, in both branches; convolve, then
# pool; attention that writes its map out; spectral normalization one layer after the other, its sigma shared by the passes of a step; D on
# real and on fake images in two passes; float32 and contiguous.

Weights = dict[nn.Module, Tensor]


def plain_d_step(nets: Networks, step: int, x_real: Tensor, y_real: Tensor) -> Tensor:
    """One D step on uint8 images (B, 3, S, S) and classes (B,): loss, mean logit on real and on fake images."""
    z, y, _ = draw_noise(nets, step, 0)
    with torch.no_grad():
        x_fake = generate(nets.generator, normalised_weights(nets.generator), z, y)
    weights = normalised_weights(nets.discriminator)
    real = discriminate(nets.discriminator, weights, to_unit(x_real, z.dtype), None if y is None else y_real)
    fake = discriminate(nets.discriminator, weights, x_fake, y)
    loss = F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    loss.backward()
    nets.optimizer_d.step()
    nets.optimizer_d.zero_grad()
    return torch.stack([loss, real.mean(), fake.mean()]).detach()


def plain_g_step(nets: Networks, step: int) -> Tensor:
    """One G step, and the average takes in the new weights: the loss, (1,)."""
    z, y, _ = draw_noise(nets, step, nets.config.d_steps)
    nets.discriminator.requires_grad_(False)
    x = generate(nets.generator, normalised_weights(nets.generator), z, y)
    loss = -discriminate(nets.discriminator, normalised_weights(nets.discriminator, iterate=False), x, y).mean()
    loss.backward()
    nets.discriminator.requires_grad_(True)
    nets.optimizer_g.step()
    nets.optimizer_g.zero_grad()
    if nets.ema:
        nets.ema.update(nets.generator, step + 1)
    return loss.detach()[None]


def normalised_weights(net: nn.Module, iterate: bool = True) -> Weights:
    """The weight of every layer, after one power iteration divided by sigma where it is spectrally normalised."""
    weights = {}
    for layer in net.modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            continue
        if not parametrize.is_parametrized(layer):
            weights[layer] = layer.weight
            continue
        norm, weight = layer.parametrizations.weight[0], layer.parametrizations.weight.original
        matrix = weight.flatten(1)
        if iterate:
            with torch.no_grad():
                norm.v.copy_(F.normalize(matrix.T @ norm.u, dim=0))
                norm.u.copy_(F.normalize(matrix @ norm.v, dim=0))
        weights[layer] = weight / torch.dot(norm.u.clone(), matrix @ norm.v.clone())
    return weights


def generate(net: Generator, weights: Weights, z: Tensor, y: Tensor | None) -> Tensor:
    x = F.linear(z, weights[net.linear], net.linear.bias).view(len(z), -1, 4, 4)
    for size, block in net.blocks.items():
        h = upsample(F.relu(batch_norm(block.norm1, x, y)))
        h = convolve(block.conv1, weights, h)
        h = F.relu(batch_norm(block.norm2, h, y))
        x = convolve(block.conv2, weights, h) + convolve(block.shortcut, weights, upsample(x))
        if size in net.attention:
            x = attend(net.attention[size], weights, x)
    x = F.relu(batch_norm(net.norm, x, None))
    return torch.tanh(convolve(net.output, weights, x))


def discriminate(net: Discriminator, weights: Weights, x: Tensor, y: Tensor | None) -> Tensor:
    for size, block in [*net.blocks.items(), *net.flat.named_children()]:
        h = x if block.first else F.relu(x)
        h = F.relu(convolve(block.conv1, weights, h))
        h = convolve(block.conv2, weights, h)
        if not isinstance(block.shortcut, nn.Identity):
            x = convolve(block.shortcut, weights, x)
        if block.downsample:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        x = x + h
        if block.downsample and size in net.attention:
            x = attend(net.attention[size], weights, x)
    h = F.relu(x).sum((2, 3))
    logits = F.linear(h, weights[net.linear], net.linear.bias).squeeze(1)
    if net.num_classes:
        logits = logits + (weights[net.embedding][y] * h).sum(1)
    return logits


def convolve(layer: nn.Conv2d, weights: Weights, x: Tensor) -> Tensor:
    return F.conv2d(x, weights[layer], layer.bias, padding=layer.padding)


def upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def batch_norm(norm: BatchNorm, x: Tensor, y: Tensor | None) -> Tensor:
    groups = x.split(norm.group_size or len(x))
    x = torch.cat([F.batch_norm(g, norm.running_mean, norm.running_var, training=True, momentum=norm.momentum) for g in groups])
    gain, bias = (norm.gain[y], norm.bias[y]) if norm.num_classes else (norm.gain, norm.bias)
    return x * gain[:, :, None, None] + bias[:, :, None, None]


def attend(layer: SelfAttention | ResidualBlock, weights: Weights, x: Tensor) -> Tensor:
    if isinstance(layer, ResidualBlock):
        return x + convolve(layer.conv2, weights, F.relu(convolve(layer.conv1, weights, F.relu(x))))
    query, key, value = (convolve(projection, weights, x) for projection in (layer.query, layer.key, layer.value))
    if layer.variant == "official":
        key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
    beta = torch.softmax(query.flatten(2).transpose(1, 2) @ key.flatten(2), dim=-1)  # (B, N, M)
    o = (beta @ value.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
    return x + layer.gamma * convolve(layer.output, weights, o)


# ---------------------------------------------------------------------------------------------------- what is timed


def _plain_attention(self: SelfAttention, x: Tensor) -> Tensor:
    return attend(self, {layer: layer.weight for layer in (self.query, self.key, self.value, self.output)}, x)


def _plain_adam(nets: Networks) -> None:
    for name, net in (("optimizer_g", nets.generator), ("optimizer_d", nets.discriminator)):
        settings = {k: v for k, v in getattr(nets, name).param_groups[0].items() if k in ("lr", "betas", "eps")}
        setattr(nets, name, torch.optim.Adam(net.parameters(), **settings))


def _contiguous(nets: Networks) -> None:
    for net in (nets.generator, nets.discriminator):
        net.to(memory_format=torch.contiguous_format)


def _in_two_passes(nets: Networks) -> None:
    once = nets.ddp_discriminator.forward

    def forward(x: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat([once(*half) for half in zip(x.chunk(2), (None, None) if y is None else y.chunk(2), strict=True)])

    nets.ddp_discriminator.forward = forward


# What is taken away from a step, one at a time: by patches that hold while its process lives, by other settings, or by changing the networks.
WITHOUT: dict[str, dict] = {
    "up-sampling inside the convolution": dict(patches=[(UpConv, "forward", lambda self, x: nn.Conv2d.forward(self, upsample(x)))]),
    "pooling inside the convolution": dict(patches=[(DownConv, "forward", lambda self, x: F.avg_pool2d(nn.Conv2d.forward(self, x), 2))]),
    "fused attention": dict(patches=[(SelfAttention, "forward", _plain_attention)]),
    "channels_last": dict(patches=[(networks, "channels_last", lambda x: x), (layers, "channels_last", lambda x: x)], change=_contiguous),
    "real and fake images in one pass": dict(change=_in_two_passes),
    "fused Adam": dict(change=_plain_adam),
    "memory kept between steps": dict(patches=[(setup, "keep_memory", lambda: None)]),
}
PLAIN = dict(patches=WITHOUT["memory kept between steps"]["patches"], change=lambda nets: (_contiguous(nets), _plain_adam(nets)))
# What is not there by default, added: to be judged on a GPU. (On two cores, compiled networks take 1.2 times the seconds of a step.)
WITH: dict[str, dict] = {
    "cuDNN's choice by measurement": dict(change=lambda nets: setattr(torch.backends.cudnn, "benchmark", True)),
    "torch.compile": dict(change=lambda nets: (nets.generator.compile(), nets.discriminator.compile())),
    "torch.compile and CUDA graphs": dict(
        change=lambda nets: (nets.generator.compile(mode="reduce-overhead"), nets.discriminator.compile(mode="reduce-overhead"))
    ),
}


class Contender:
    """A process of its own that takes training steps when asked, so that allocator, precision and peak memory are its own.

    Parameters
    ----------
    config
        All settings of the training.
    name
        "fast", "plain", or a key of `WITHOUT` or `WITH`.
    """

    def __init__(self, config: Config, name: str):
        self.config = config
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, config, name), daemon=True)
        self.process.start()
        theirs.close()

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join()

    def ask(self, what: str) -> float:
        """`step`: the seconds of one; `flops`: floating-point operations of one; `ceiling`: of matrix products a second; `bytes`: the most held."""
        try:
            self.pipe.send(what)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            raise WorkbenchError(
                f"the process that was timed at size {self.config.image_size}, batch {self.config.batch_size} ended: not enough memory?"
            ) from None
        if isinstance(answer, str):
            raise WorkbenchError(answer)
        return answer


def _serve(pipe, config: Config, name: str) -> None:
    how = PLAIN if name == "plain" else WITHOUT.get(name) or WITH.get(name) or {}
    with contextlib.ExitStack() as stack:
        for target, attribute, replacement in how.get("patches", ()):
            stack.enter_context(mock.patch.object(target, attribute, replacement))
        idle = _resident()
        nets = setup.build(config, setup.make_accelerator(config))
        how.get("change", lambda nets: None)(nets)
        x = torch.randint(0, 256, (config.batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8, device=nets.device)
        y = torch.randint(max(1, config.num_classes), (config.batch_size,), device=nets.device)

        def step(number: int) -> None:
            if name == "plain":
                plain_d_step(nets, number, x, y), plain_g_step(nets, number)
            else:
                d_step(nets, number, 0, [(x, y)]), g_step(nets, number)
            if nets.device.type == "cuda":
                torch.cuda.synchronize()

        number = itertools.count()
        while (asked := pipe.recv()) is not None:
            try:
                began = time.perf_counter()
                if asked == "step":
                    step(next(number))
                    pipe.send(time.perf_counter() - began)
                elif asked == "flops":
                    with FlopCounterMode(display=False) as counter:
                        step(next(number))
                    pipe.send(counter.get_total_flops())
                elif asked == "ceiling":
                    pipe.send(_ceiling(nets.device, config.mixed_precision))
                elif asked == "bytes":
                    pipe.send(torch.cuda.max_memory_allocated() if nets.device.type == "cuda" else _resident() - idle)
            except torch.OutOfMemoryError:
                pipe.send(f"{name}: {config.batch_size} images of {config.image_size} px do not fit into the memory of the GPU")
            except Exception as error:  # told where it is asked for: what compiles on one machine does not on another
                pipe.send(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}")


def _resident() -> int:
    """The most memory that this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _ceiling(device: torch.device, mixed_precision: str) -> float:
    """Floating-point operations a second of large matrix products in the precision of the convolutions: the best of some."""
    size = 8192 if device.type == "cuda" else 2048
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision, torch.float32)
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(8):
        began = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


# ------------------------------------------------------------------------------------------------------- measurements


def in_turn(contenders: dict[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Seconds of `rounds` steps of each, one of each in turn, after two steps to warm up."""
    for contender in contenders.values():
        contender.ask("step"), contender.ask("step")
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(contender.ask("step"))
    return seconds


def against_plain(config: Config, rounds: int) -> dict:
    """Full steps against the plain reference step, in float32, both in turn: images a second of both, and their ratio."""
    plain_config, halved = config.replace(mixed_precision="no"), 0
    with Contender(config, "fast") as fast:
        while True:
            try:
                with Contender(plain_config, "plain") as plain:
                    flops = plain.ask("flops") / plain_config.batch_size
                    seconds = in_turn(dict(fast=fast, plain=plain), rounds)
                    memory = dict(fast=fast.ask("bytes") / config.batch_size, plain=plain.ask("bytes") / plain_config.batch_size)
                break
            except WorkbenchError:
                if plain_config.batch_size < 4 or on_cpu(config.device):
                    raise
                halved += 1  # the map of every image at once: what does not fit is timed on a smaller batch
                plain_config = plain_config.replace(batch_size=plain_config.batch_size // 2, batch_norm_group=None)
        ceiling = fast.ask("ceiling")
    speeds = {name: [c.batch_size / s for s in seconds[name]] for name, c in (("fast", config), ("plain", plain_config))}
    ratios = [a / b for a, b in zip(speeds["fast"], speeds["plain"], strict=True)]
    fast_speed = statistics.median(speeds["fast"])
    return dict(
        ratio=statistics.median(ratios), ratios=ratios, precision=config.mixed_precision, images_per_second=fast_speed,
        plain_images_per_second=statistics.median(speeds["plain"]), plain_batch=plain_config.batch_size, seconds=seconds,
        plain_flops_per_image=flops, ceiling_flops=ceiling, share_of_ceiling=fast_speed * flops / ceiling, bytes_per_image=memory,
    )  # fmt: skip


def switches(config: Config, rounds: int, names: Iterable[str]) -> dict[str, float | None]:
    """The time of a step without each rewrite (or with each of `WITH`) over that of the step as it is: medians of steps in turn.

    1.2 is 20 % longer; None is what this machine cannot do.
    """
    found: dict[str, float | None] = {}
    with Contender(config, "fast") as fast:
        for name in names:
            word = "with" if name in WITH else "without"
            try:
                with Contender(config, name) as other:
                    seconds = in_turn({"fast": fast, name: other}, rounds)
            except WorkbenchError as error:
                found[name] = None
                print(f"  {word} {name}: not possible here ({error})", flush=True)
                continue
            found[name] = statistics.median(b / a for a, b in zip(seconds["fast"], seconds[name], strict=True))
            print(f"  {word} {name}: {found[name]:.2f} times the seconds of a step", flush=True)
    return found


def loading(config: Config, batches: int = 20, length: int = 4096) -> dict:
    """Images a second of the loader alone, from a memory map of images that were decoded once, in the random order of training."""
    shape = (length, config.image_size, config.image_size, 3)
    with TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        pixels = np.load(Path(folder) / "images.npy", mmap_mode="r")
        data = Images("bench", ["all"], config.image_size, "", pixels, np.zeros(length, np.int64))
        with contextlib.closing(loader(data, config)) as source:
            next(source)
            began = time.perf_counter()
            for _ in range(batches):
                next(source)
            seconds = time.perf_counter() - began
    return dict(images_per_second=batches * config.batch_size / seconds, batch=config.batch_size)


def generating(config: Config, count: int, rounds: int) -> dict:
    """Seconds that an evaluation waits for `count` samples, over those of bare forward passes in batches as large; in turn."""
    device = torch.device("cpu" if on_cpu(config.device) else "cuda")
    samples = Samples(Generator(config).to(device).eval(), protocol("workbench"), seed=0)
    generator, size = samples.generator, samples.batch_size
    z, y = sampling.latents(size, config.z_dim).to(device), sampling.labels(size, config.num_classes)
    y = None if y is None else y.to(device)

    @torch.no_grad()
    def bare() -> None:
        with parametrize.cached():
            for _ in range(0, count, size):
                x = generator(z, y)
        x.sum().item()  # wait for the last one

    def ours() -> None:
        for start in range(0, count, sampling.CHUNK):
            samples(start, sampling.CHUNK)

    bare(), ours()
    ratios = [_seconds(ours) / _seconds(bare) for _ in range(rounds)]
    return dict(ratio=statistics.median(ratios), ratios=ratios, images=count, batch=size)


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def growth(config: Config, rounds: int) -> list[dict]:
    """Seconds and bytes an image of a full step, as size, batch and the size of attention's map grow; and without attention.

    The rest is as in `config`; attention at half the image's size unless it is what varies.
    """

    def at(**changes) -> Config:
        changes = {"image_size": config.image_size, "batch_size": config.batch_size} | changes
        site = changes.pop("attention", changes["image_size"] // 2)
        return config.replace(**changes, attention_g=str(site), attention_d=str(site), batch_norm_group=None)

    sizes = [size for size in (32, 64, 128, 256)]
    sites = [2**k for k in range(3, config.image_size.bit_length() - 1)]
    plan = [("size", size, at(image_size=size, attention=site)) for size in sizes for site in (size // 2, "none")]
    plan += [("batch", batch, at(batch_size=batch)) for batch in (2, 4, 8, 16, 32)]
    plan += [("attention", site, at(attention=site)) for site in ["none", *sites]]
    rows = []
    for what, value, settings in plan:
        with Contender(settings, "fast") as contender:
            seconds = min(in_turn({"fast": contender}, rounds)["fast"]) / settings.batch_size
            row = dict(
                what=what, value=value, attention=settings.attention_g, seconds=seconds, bytes=contender.ask("bytes") / settings.batch_size
            )
        rows.append(row)
        said = f"{seconds * 1e3:.3g} ms, {row['bytes'] / 2**20:.3g} MiB an image"
        print(f"  {what} {value}, attention at {settings.attention_g}: {said}", flush=True)
    return rows


def draw_growth(rows: list[dict], path: Path, about: str) -> None:
    """Time and memory an image over size, batch and attention's map, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5.5), layout="constrained")
    panels = figure.subplots(2, 3, sharex="col")
    for column, what in enumerate(("size", "batch", "attention")):
        for with_attention in (True, False):
            mine = [row for row in rows if row["what"] == what and (row["attention"] != "none") == with_attention]
            if what == "attention" and not with_attention:
                for panel, key in zip(panels[:, column], ("seconds", "bytes"), strict=True):
                    panel.axhline(_unit(mine[0], key), color="0.6", linestyle="--")
                continue
            for panel, key in zip(panels[:, column], ("seconds", "bytes"), strict=True):
                values = [_unit(row, key) for row in mine]
                style = dict(color="C0") if with_attention else dict(color="0.6", linestyle="--")
                panel.plot([row["value"] for row in mine], values, marker="o", label="attention" if with_attention else "none", **style)
        for panel in panels[:, column]:
            panel.set_xscale("log", base=2)
            panel.set(yscale="log") if what == "size" else panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
        ticks = sorted({row["value"] for row in rows if row["what"] == what and row["value"] != "none"})
        panels[1, column].set_xticks(ticks, [str(tick) for tick in ticks])
        names = {"size": "image size (attention at half of it)", "batch": "batch", "attention": "size of attention's map"}
        panels[1, column].set_xlabel(names[what])
    panels[0, 0].set_ylabel("ms an image"), panels[1, 0].set_ylabel("MiB an image")
    panels[0, 0].legend(["with attention", "without"], frameon=False)
    figure.suptitle(about, fontsize=10)
    figure.savefig(path, dpi=110)


def _unit(row: dict, key: str) -> float:
    return row[key] * 1e3 if key == "seconds" else row[key] / 2**20


def dominating(rows: list[dict]) -> int | None:
    """The smallest map at which attention takes more than half of a step's time; None where none that was measured does."""
    by_size = {(row["value"], row["attention"]): row["seconds"] for row in rows if row["what"] == "size"}
    shares = {int(site): 1 - by_size[size, "none"] / seconds for (size, site), seconds in by_size.items() if site != "none"}
    return min((site for site, share in shares.items() if share > 0.5), default=None)


PRECISIONS = {"auto": "auto", "fp32": "no", "tf32": "no", "bf16": "bf16", "fp16": "fp16"}
PARTS = ("step", "switches", "loader", "sampling", "growth")


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m workbench.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=128, help="of the images, in pixels [128]")
    parser.add_argument("--width", type=int, default=32, help="channels of both networks at full resolution [32]")
    parser.add_argument("--batch", type=int, default=8, help="images of a step [8]")
    parser.add_argument("--attention", help='size of the maps with attention, or "none" [half the size]')
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of the fast step; the plain one is in float32, or tf32 too [auto]"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="steps of each that are timed in turn, of which the median counts [5]")
    about = f"what to measure, of {', '.join(PARTS)} [all but growth]"
    parser.add_argument("--only", default=",".join(PARTS[:-1]), metavar="PARTS", help=about)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="where growth is drawn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    arguments = parser.parse_args()
    parts = [part.strip() for part in arguments.only.split(",")]
    if wrong := [part for part in parts if part not in PARTS]:
        raise ParameterError(f"--only={wrong[0]!r} is not one of {', '.join(PARTS)}")
    if arguments.rounds < 1:
        raise ParameterError(f"--rounds={arguments.rounds} must be at least 1")
    for file in (arguments.json, arguments.figure):
        if file and not file.resolve().parent.is_dir():
            raise ParameterError(f"{file}: there is no folder {file.resolve().parent}")
    config = _config(arguments)
    if arguments.precision == "tf32":
        os.environ["NVIDIA_TF32_OVERRIDE"] = "1"  # for the processes that are timed, the plain one too
    record = describe_machine() | dict(threads=torch.get_num_threads(), command=sys.orig_argv, config=json.loads(config.to_json()))
    said = f"{config.image_size} px, width {config.width}, batch {config.batch_size}, attention at {config.attention_g}"
    print(f"{said}, {arguments.precision} ({config.mixed_precision}), {'CPU' if on_cpu(config.device) else 'GPU'}", flush=True)
    try:
        if "step" in parts:
            record |= against_plain(config, arguments.rounds)
            print(_told(record), flush=True)
        if "switches" in parts:
            names = [*WITHOUT, *([] if on_cpu(config.device) else WITH)]
            record["switches"] = switches(config, arguments.rounds, names)
        if "loader" in parts:
            record["loader"] = found = loading(config.replace(batch_size=max(256, config.batch_size), batch_norm_group=None))
            print(f"loader alone: {found['images_per_second']:,.0f} images/s", flush=True)
        if "sampling" in parts:
            record["sampling"] = found = generating(config, 256 if on_cpu(config.device) else 8192, arguments.rounds)
            print(f"samples for an evaluation: {found['ratio']:.3f} times the seconds of bare forward passes", flush=True)
        if "growth" in parts:
            record["growth"] = rows = growth(config, arguments.rounds)
            record["attention_dominates_at"] = at = dominating(rows)
            print(
                f"attention takes more than half of a step from maps of {at} on" if at else "attention never takes half of a step",
                flush=True,
            )
            if arguments.figure:
                draw_growth(rows, arguments.figure, f"A full training step: {said} unless it varies, {config.mixed_precision} precision")
    finally:  # what was measured before an error or Ctrl-C is not lost
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=2))


def _config(arguments: argparse.Namespace) -> Config:
    """The settings of `imagenet128` (1000 classes), with what the command line says."""
    site = arguments.attention or str(arguments.size // 2)
    config = Config.preset(
        "imagenet128", image_size=arguments.size, width=arguments.width, batch_size=arguments.batch, attention_g=site, attention_d=site,
        batch_norm_group=64 if arguments.batch % 64 == 0 else None, device=arguments.device, mixed_precision=PRECISIONS[arguments.precision],
    )  # fmt: skip
    return setup.decide_precision(config)


def _told(record: dict) -> str:
    memory = {name: value / 2**20 for name, value in record["bytes_per_image"].items()}
    lines = [
        f"full step: {record['images_per_second']:.2f} images/s, plain reference {record['plain_images_per_second']:.2f} (in float32, batch "
        f"{record['plain_batch']}): {record['ratio']:.2f} times as fast",
        f"  {record['plain_flops_per_image'] / 1e9:.0f} GFLOP an image, counted on the plain step: {record['share_of_ceiling']:.0%} of the "
        f"{record['ceiling_flops'] / 1e12:.2f} TFLOP/s of matrix products in this precision",
        f"  memory: {memory['fast']:.0f} MiB an image, plain {memory['plain']:.0f}",
    ]
    if not on_cpu(record["config"]["device"]):
        lines.append(f"  one million steps of 256: {256e6 / record['images_per_second'] / 3600:.1f} hours")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
