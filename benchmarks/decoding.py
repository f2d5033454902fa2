"""Speed of decoding on a core, as a ratio to plain Pillow in one run: `python -m benchmarks.decoding`.

JPEG files of ImageNet's shape are read, decoded and resized, as `workbench prepare` and the first opening of a folder do, by threads and by
processes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from PIL import Image

from workbench import WorkbenchError
from workbench.data.decode import decode_all
from workbench.machine import describe_machine
from workbench.messages import command

from .timing import in_turn, median_ratio, seconds

SHAPES = ((500, 375), (500, 333), (375, 500), (400, 350), (500, 375), (500, 400), (333, 500))  # width and height, in turn
IMAGENET = 1_281_167


def photo(index: int) -> Image.Image:
    """Clouds whose spectrum falls as that of photographs, with 1/f. As a JPEG of quality 90: 110 kB, as in ImageNet."""
    rng = np.random.default_rng(index)
    width, height = SHAPES[index % len(SHAPES)]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))  # (h, w // 2 + 1)
    frequency[0, 0] = np.inf  # no mean
    waves = rng.standard_normal((2, *frequency.shape, 2)).view(complex)[..., 0] / frequency ** np.array([1, 1.5])[:, None, None]
    light, colour = np.fft.irfft2(waves, (height, width))
    pixels = light[..., None] / light.std() * 55 + colour[..., None] / colour.std() * rng.uniform(-30, 30, 3)  # (h, w, 3)
    return Image.fromarray((pixels + 127.5).clip(0, 255).astype(np.uint8))


def write_photos(folder: Path, count: int) -> list[str]:
    """Write `count` JPEG files, and return their paths."""
    paths = [str(folder / f"{index:05d}.jpg") for index in range(count)]
    for index, path in enumerate(paths):
        photo(index).save(path, quality=90)
    return paths


class Timed(NamedTuple):
    """What decoding took, in seconds."""

    wall: float
    cores: float  # of all threads and processes together


def with_pillow(paths: Sequence[str], size: int) -> None:
    """Decode as anybody would, and as `workbench.data.decode` resizes."""
    for path in paths:
        with Image.open(path) as image:
            short = min(image.size)
            left, top = ((side - short) // 2 for side in image.size)
            box = (left, top, left + short, top + short)
            np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS, box=box))


def with_threads(paths: Sequence[str], size: int, threads: int) -> None:
    """Decode with the function of `prepare`."""
    for image in decode_all(paths, size, threads):
        if image.pixels is None:
            raise WorkbenchError(image.error)


def timed(work: Callable[[], object]) -> Timed:
    """Time work in this process."""
    cores = time.process_time()
    return Timed(seconds(work), time.process_time() - cores)


def _share(paths: Sequence[str], size: int) -> float:
    return timed(lambda: with_threads(paths, size, 1)).cores


def with_processes(pool: ProcessPoolExecutor, paths: Sequence[str], size: int, processes: int) -> Timed:
    """Decode with a thread in each process of a pool, which has started already."""
    cores: list[float] = []
    shares = [paths[start::processes] for start in range(processes)]
    return Timed(seconds(lambda: cores.extend(pool.map(partial(_share, size=size), shares))), sum(cores))


def decoding(paths: Sequence[str], size: int, workers: int, rounds: int) -> dict:
    """Decode all files by each method in turn. Name -> images a second, also of a core's time, and the ratio of the latter to Pillow's."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(_share, [paths[:1]] * 4 * workers, [size] * 4 * workers))  # starts them
        times = in_turn(
            {
                "plain Pillow": lambda: timed(lambda: with_pillow(paths, size)),
                "1 thread": lambda: timed(lambda: with_threads(paths, size, 1)),
                f"{workers} threads": lambda: timed(lambda: with_threads(paths, size, workers)),
                f"{workers} processes": lambda: with_processes(pool, paths, size, workers),
            },
            rounds,
        )
    plain = times["plain Pillow"]
    return {
        name: dict(
            images_per_second=len(paths) / statistics.median(t.wall for t in values),
            images_per_core_second=len(paths) / statistics.median(t.cores for t in values),
            ratio=median_ratio([t.cores for t in plain], [t.cores for t in values]),
            speed_up=median_ratio([t.wall for t in times["1 thread"]], [t.wall for t in values]),
        )
        for name, values in times.items()
    }


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=256, help="files, which are drawn first [256]")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[64, 128, 256], help="height and width that they are resized to [64 128 256]"
    )
    cores = max(2, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=cores, help=f"threads, and processes, that decode at once [{cores}]")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each, in turn; the median counts [3]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record there")
    arguments = parser.parse_args()
    if min(arguments.images, arguments.workers, arguments.rounds, *arguments.sizes) < 1:
        raise WorkbenchError("images, sizes, workers and rounds must be at least 1")
    record = describe_machine() | dict(command=sys.orig_argv, sizes={})
    with TemporaryDirectory() as folder:
        paths = write_photos(Path(folder), arguments.images)
        record["file_bytes"] = statistics.mean(map(os.path.getsize, paths))
        print(f"{len(paths)} JPEG files of {record['file_bytes'] / 1000:.0f} kB; {os.cpu_count()} cores", flush=True)
        for size in arguments.sizes:
            record["sizes"][size] = results = decoding(paths, size, arguments.workers, arguments.rounds)
            print(f"{size} px")
            for name, result in results.items():
                print(
                    f"  {name:<13} {result['images_per_core_second']:5.0f} images/s a core ({result['ratio']:.2f} times plain Pillow), "
                    f"{result['images_per_second']:5.0f} in all ({result['speed_up']:.2f} times one thread)",
                    flush=True,
                )
            minutes = IMAGENET / results[f"{arguments.workers} threads"]["images_per_core_second"] / 60
            print(f"  all of ImageNet: {minutes:.0f} core-minutes", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    sys.exit(main())
