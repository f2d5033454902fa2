"""Speed of training: full steps against the plain reference step, and the effect of each optimisation.

`python -m workbench.bench` times full training steps (one D step, one G step, both optimisers, the EMA) of the package and of the reference
step, in turn, each in its own process. On the same weights and noise their losses and gradients agree to 1e-9 (by a test).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import numpy as np
import torch
from torch.nn.utils import parametrize

from workbench import Config, Generator, ParameterError, WorkbenchError, sampling
from workbench.data import Images, loader
from workbench.data.stored import StoredImages
from workbench.evaluation import Samples
from workbench.gpus import on_cpu
from workbench.machine import describe_machine
from workbench.messages import command
from workbench.metrics import protocol
from workbench.training.setup import decide_precision

from .growth import dominating, draw_growth, growth
from .timing import in_turn, median_ratio, seconds
from .variants import WITH, WITHOUT, StepProcess


def against_reference(config: Config, rounds: int) -> dict:
    """Full steps against the reference step in float32, in turn: images per second of both, and their ratio."""
    plain_config = config.replace(mixed_precision="no")
    with StepProcess(config, "fast") as fast:
        while True:
            try:
                with StepProcess(plain_config, "plain") as plain:
                    flops = plain.flops() / plain_config.batch_size
                    times = in_turn(dict(fast=fast.seconds, plain=plain.seconds), rounds, warmup=2)
                    memory = dict(fast=fast.peak_bytes() / config.batch_size, plain=plain.peak_bytes() / plain_config.batch_size)
                break
            except WorkbenchError:
                if plain_config.batch_size < 4 or on_cpu(config.device):
                    raise
                # The reference stores the maps of all images: if they do not fit, a smaller batch is timed.
                plain_config = plain_config.replace(batch_size=plain_config.batch_size // 2, batch_norm_group=None)
        ceiling = fast.peak_flops()
    speeds = {name: [c.batch_size / s for s in times[name]] for name, c in (("fast", config), ("plain", plain_config))}
    ratios = [a / b for a, b in zip(speeds["fast"], speeds["plain"], strict=True)]
    fast_speed = statistics.median(speeds["fast"])
    return dict(
        ratio=statistics.median(ratios), ratios=ratios, precision=config.mixed_precision, images_per_second=fast_speed,
        plain_images_per_second=statistics.median(speeds["plain"]), plain_batch=plain_config.batch_size, seconds=times,
        plain_flops_per_image=flops, ceiling_flops=ceiling, share_of_ceiling=fast_speed * flops / ceiling, bytes_per_image=memory,
    )  # fmt: skip


def ablate(config: Config, rounds: int, variants: Iterable[str]) -> dict[str, float | None]:
    """Time of a step without each optimisation (or with each of `WITH`) over that of the fast step, the median of steps in turn.

    1.2: 20 % longer. None: not possible on this machine.
    """
    ratios: dict[str, float | None] = {}
    with StepProcess(config, "fast") as fast:
        for variant in variants:
            about = f"  {'with' if variant in WITH else 'without'} {variant}"
            try:
                with StepProcess(config, variant) as other:
                    times = in_turn({"fast": fast.seconds, variant: other.seconds}, rounds, warmup=2)
            except WorkbenchError as error:
                ratios[variant] = None
                print(f"{about}: not possible here ({error})", flush=True)
                continue
            ratios[variant] = median_ratio(times[variant], times["fast"])
            print(f"{about}: {ratios[variant]:.2f} times the seconds of a step", flush=True)
    return ratios


SLOW_READ = 0.012  # seconds that a read takes on a disk in the network
_preadv = os.preadv


def _slow_read(*where) -> int:
    time.sleep(SLOW_READ)
    return _preadv(*where)


def loading(config: Config) -> dict:
    """Images per second of the loader alone, from decoded images in a file in random order, as in training; also if each read takes 12 ms."""
    length, batches = 4096, 20
    shape = (length, config.image_size, config.image_size, 3)
    speeds = []
    with TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        data = Images("bench", ["all"], config.image_size, "", StoredImages([Path(folder) / "images.npy"]), np.zeros(length, np.int64))
        for read in (os.preadv, _slow_read):
            with patch.object(os, "preadv", read), contextlib.closing(loader(data, config)) as source:
                next(source)
                speeds.append(batches * config.batch_size / seconds(lambda: [next(source) for _ in range(batches)]))
    return dict(images_per_second=speeds[0], images_per_second_slow=speeds[1], slow_read=SLOW_READ, batch=config.batch_size)


def generating(config: Config, count: int, rounds: int) -> dict:
    """Time of `count` samples of an evaluation over that of bare forward passes in batches of the same size."""
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
        x.sum().item()  # waits for the last one

    def evaluation() -> None:
        for start in range(0, count, sampling.CHUNK):
            samples(start, sampling.CHUNK)

    times = in_turn(dict(bare=lambda: seconds(bare), evaluation=lambda: seconds(evaluation)), rounds)
    ratios = [a / b for a, b in zip(times["evaluation"], times["bare"], strict=True)]
    return dict(ratio=statistics.median(ratios), ratios=ratios, images=count, batch=size)


PRECISIONS = {"auto": "auto", "fp32": "no", "tf32": "no", "bf16": "bf16", "fp16": "fp16"}
PARTS = ("step", "switches", "options", "loader", "sampling", "growth")


@command
def main() -> None:
    """Measure the selected parts, print the results, and write the record."""
    arguments = _arguments()
    config = _config(arguments)
    if arguments.precision == "tf32":
        os.environ["NVIDIA_TF32_OVERRIDE"] = "1"  # for all timed processes
    record = describe_machine() | dict(threads=torch.get_num_threads(), command=sys.orig_argv, config=json.loads(config.to_json()))
    about = f"{config.image_size} px, width {config.width}, batch {config.batch_size}, attention at {config.attention_g}"
    precision = f"auto: {config.mixed_precision.replace('no', 'fp32')}" if arguments.precision == "auto" else arguments.precision
    print(f"{about}, {precision}, {'CPU' if on_cpu(config.device) else 'GPU'}", flush=True)
    try:
        if "step" in arguments.only:
            record |= against_reference(config, arguments.rounds)
            print(_summary(record), flush=True)
        if "switches" in arguments.only:
            record["switches"] = ablate(config, arguments.rounds, WITHOUT)
        if "options" in arguments.only and not on_cpu(config.device):
            record["options"] = ablate(config, arguments.rounds, WITH)
        if "loader" in arguments.only:
            record["loader"] = loading(config.replace(batch_size=max(256, config.batch_size), batch_norm_group=None))
            speeds = record["loader"]
            print(
                f"loader alone: {speeds['images_per_second']:,.0f} images/s; with {1000 * SLOW_READ:.0f} ms for each read: "
                f"{speeds['images_per_second_slow']:,.0f}",
                flush=True,
            )
        if "sampling" in arguments.only:
            record["sampling"] = generating(config, 256 if on_cpu(config.device) else 8192, arguments.rounds)
            print(f"samples for an evaluation: {record['sampling']['ratio']:.3f} times the seconds of bare forward passes", flush=True)
        if "growth" in arguments.only:
            record["growth"] = growth(config, arguments.rounds)
            record["attention_dominates_at"] = size = dominating(record["growth"])
            print(f"attention takes more than half of a step {f'from maps of {size} on' if size else 'nowhere'}", flush=True)
            if arguments.figure:
                title = f"A full training step: {about} unless it varies, {config.mixed_precision} precision"
                draw_growth(record["growth"], arguments.figure, title)
    finally:  # keeps measurements after an error or Ctrl-C
        if arguments.json:
            arguments.json.write_text(json.dumps(record, indent=2))


def _arguments() -> argparse.Namespace:
    """The checked command line; `only` becomes a list."""
    parser = argparse.ArgumentParser(prog="python -m workbench.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=128, help="of the images, in pixels [128]")
    parser.add_argument("--width", type=int, default=32, help="channels of both networks at full resolution [32]")
    parser.add_argument("--batch", type=int, default=8, help="images of a step [8]")
    parser.add_argument("--attention", help='size of the maps with attention, or "none" [half the size]')
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="of the fast step; the plain one is in float32, or tf32 too [auto]"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each, in turn; the median counts [5]")
    about = f"what to measure, of {', '.join(PARTS)} [all but growth]"
    parser.add_argument("--only", default=",".join(PARTS[:-1]), metavar="PARTS", help=about)
    parser.add_argument("--figure", type=Path, metavar="FILE", help="where growth is drawn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    arguments = parser.parse_args()
    arguments.only = [part.strip() for part in arguments.only.split(",")]
    if unknown := [part for part in arguments.only if part not in PARTS]:
        raise ParameterError(f"--only={unknown[0]!r} is not one of {', '.join(PARTS)}")
    if arguments.rounds < 1:
        raise ParameterError(f"--rounds={arguments.rounds} must be at least 1")
    for file in (arguments.json, arguments.figure):
        if file and not file.resolve().parent.is_dir():
            raise ParameterError(f"{file}: there is no folder {file.resolve().parent}")
    return arguments


def _config(arguments: argparse.Namespace) -> Config:
    """The settings of `imagenet128` (1000 classes), with those of the command line."""
    site = arguments.attention or str(arguments.size // 2)
    config = Config.preset(
        "imagenet128", image_size=arguments.size, width=arguments.width, batch_size=arguments.batch, attention_g=site, attention_d=site,
        batch_norm_group=64 if arguments.batch % 64 == 0 else None, device=arguments.device, mixed_precision=PRECISIONS[arguments.precision],
    )  # fmt: skip
    return decide_precision(config)


def _summary(record: dict) -> str:
    memory = {name: value / 2**20 for name, value in record["bytes_per_image"].items()}
    lines = [
        f"full step: {record['images_per_second']:.2f} images/s, plain reference {record['plain_images_per_second']:.2f} (in float32, batch "
        f"{record['plain_batch']}): {record['ratio']:.2f} times as fast",
        f"  {record['plain_flops_per_image'] / 1e9:.0f} GFLOP an image, counted on the plain step: {record['share_of_ceiling']:.0%} of the "
        f"{record['ceiling_flops'] / 1e12:.2f} TFLOP/s that this machine reaches in this precision (the better of a matrix product and a convolution)",
        f"  memory: {memory['fast']:.0f} MiB an image, plain {memory['plain']:.0f}",
    ]
    if not on_cpu(record["config"]["device"]):
        lines.append(f"  one million steps of 256: {256e6 / record['images_per_second'] / 3600:.1f} hours")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
