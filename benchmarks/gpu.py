"""The parts of `gpu.sh` that no command of the package does."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from workbench import Config, Run, WorkbenchError
from workbench.gpus import on_cpu
from workbench.machine import describe_machine
from workbench.messages import command
from workbench.metrics import inception
from workbench.runs.checkpoints import read_checkpoint
from workbench.training import plan as planning

from .metrics import random_inception


def write_images(folder: Path, per_class: int) -> None:
    """Write coloured waves in the shape of CIFAR-10: ten classes, 32 x 32 pixels."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(32), np.arange(32))
    for label in range(10):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(per_class):
            phase, colour = rng.uniform(0, 6.3), rng.uniform(0, 127, 3)
            wave = np.sin((x * np.cos(label / 3) + y * np.sin(label / 3)) * (0.2 + label / 20) + phase)  # (32, 32)
            Image.fromarray((127 + wave[..., None] * colour).astype(np.uint8)).save(folder / f"class{label}" / f"{index}.png")


def row(config: Config) -> dict[str, dict[str, float]]:
    """A row of `gpus.json`: the card, and for each precision the floating-point operations per second of a training step."""
    card = describe_machine()["machine"]["processor"] if on_cpu(config.device) else torch.cuda.get_device_name(0)
    speeds = {}
    for precision in ("no", "bf16"):
        plan = planning.plan(config.replace(mixed_precision=precision))
        if plan.seconds is None or plan.operations is None:
            raise WorkbenchError(f"not measured in precision {precision!r}: {plan.problem or 'not even a few images fit'}")
        speeds[precision] = plan.operations / plan.seconds
        print(
            f"{card}, {precision.replace('no', 'fp32')}: {speeds[precision] / 1e12:.3g} TFLOP/s, {plan.seconds:.3g} s a step of {config.batch_size}",
            flush=True,
        )
    return {card: speeds}


def print_losses(run: Run) -> None:
    """Print whether the steps of a resumed run are complete, its last losses, and the state of its scaler."""
    history = run.history()
    steps = [line["step"] for line in history]
    if sorted(set(steps)) != steps or steps[-1] != run.config.steps:
        raise WorkbenchError(f"run {run.name!r} has lines of steps {steps}, not up to {run.config.steps}")
    scaler = read_checkpoint(run.checkpoint_path(None))[1]["scaler"]
    last = {name: round(value, 4) for name, value in history[-1].items() if isinstance(value, float)}
    print(f"{run.name} ({run.config.mixed_precision}): {steps[-1]} steps, {last}; scaler: {scaler}", flush=True)
    if run.config.mixed_precision == "fp16" and not (scaler and scaler["scale"] > 1):
        raise WorkbenchError(f"run {run.name!r} has no gradient scaler, or one that fell to {scaler and scaler['scale']}")


def random_inception_network() -> torch.nn.Module:
    """Inception with random weights, an extractor whose time is that of the real one."""
    with TemporaryDirectory() as folder:
        return inception(random_inception(Path(folder) / "random.pth"), verify=False).network


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    images = parts.add_parser("images", help="write images like those of CIFAR-10")
    images.add_argument("folder", type=Path)
    images.add_argument("--per-class", type=int, default=500)
    table = parts.add_parser("row", help="measure a row of gpus.json, and write the table with it")
    table.add_argument("file", type=Path)
    table.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parts.add_parser("losses", help="check the runs that were resumed").add_argument("runs", nargs="+")
    arguments = parser.parse_args()
    if arguments.part == "images":
        write_images(arguments.folder, arguments.per_class)
    elif arguments.part == "row":
        rows = json.loads(planning.GPUS.read_text()) | row(Config.from_parameters(dict(arguments.p)))
        arguments.file.write_text(json.dumps(rows, indent=2) + "\n")
    else:
        for name in arguments.runs:
            print_losses(Run(name))


if __name__ == "__main__":
    sys.exit(main())
