"""What a training will cost, before it starts: parameters, memory, and time on this machine and on GPUs that have been measured."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..config import Config
from ..gpus import gpus, on_cpu
from ..messages import ParameterError, WorkbenchError, command, counted, short_text
from ..processes import launch_environment, variables_of
from ..runs.status import error_line
from .memory import device_bytes, host_bytes, host_memory, parameters_d, parameters_g, readable, require_feasible
from .setup import build, decide_precision, make_accelerator
from .steps import d_step, g_step

GPUS = (
    Path(__file__).parent / "gpus.json"
)  # card -> precision -> operations per second of a training step, as `benchmarks/gpu.sh` measures it
FIRST = 4  # images of the first batch
ENOUGH = 2.0  # seconds of a step that is long enough to be scaled to the whole batch


@dataclass(frozen=True)
class Plan:
    """The cost of a training.

    Attributes
    ----------
    parameters_g, parameters_d
        Numbers of parameters.
    memory, available
        Bytes that it needs on this machine (on each of its GPUs, if it has some), and that there are.
    gpu_memory
        Bytes that it needs on each GPU.
    problem
        Why it cannot run here; "": it can.
    seconds
        Of a step here; None: not even a few images fit.
    probe
        Images of the measured batch, which was scaled to that of the training.
    operations
        Floating-point operations of a step; None: not measured.
    """

    config: Config
    parameters_g: int
    parameters_d: int
    memory: float
    available: float
    gpu_memory: float
    problem: str = ""
    seconds: float | None = None
    probe: int = 0
    operations: float | None = None

    @property
    def hours_on(self) -> dict[str, float]:
        """Hours on one GPU of each kind that has been measured; empty until one has been."""
        table = json.loads(GPUS.read_text())
        precision = "no" if self.config.mixed_precision == "no" else "bf16"
        speeds = {card: speed[precision] for card, speed in table.items() if precision in speed}
        return {card: self.config.steps * self.operations / speed / 3600 for card, speed in speeds.items()} if self.operations else {}

    def __repr__(self) -> str:
        c = self.config
        rows = [
            (
                "preset",
                f"{c.preset}: {c.image_size}x{c.image_size}, batch {c.batch_size}, {counted(c.steps, 'step')}, num_processes={c.num_processes}",
            ),
            ("parameters", f"G {self.parameters_g / 1e6:.2f} million, D {self.parameters_d / 1e6:.2f} million"),
            (
                "memory",
                f"about {readable(self.memory)} here, which has {readable(self.available)}; {readable(self.gpu_memory)} on each GPU",
            ),
        ]
        if self.problem:
            rows.append(("does not fit", self.problem))
        if self.seconds is not None and self.operations is not None:
            scaled = "" if self.probe == _share(c) else f", measured with {counted(self.probe, 'image')} and scaled to {_share(c)}"
            rows.append(
                ("time here", f"{_duration(c.steps * self.seconds / 3600)}: {self.seconds:.3g} s a step{scaled}; evaluations not counted")
            )
            rows.append(("operations", f"{self.operations / 1e12:.3g} TFLOP a step"))
        rows += [(card, f"{_duration(hours)} on one") for card, hours in self.hours_on.items()]
        rows += [] if self.hours_on else [("other GPUs", "none has been measured yet")]
        return "\n".join(f"{name:<14} {text}" for name, text in rows)


def plan(config: Config) -> Plan:
    """Measure a few steps on this machine, and scale them to the whole training.

    Steps are those of one process on random images, with batches that double until a step takes two seconds or has the whole batch. Above,
    time grows with the batch.
    """
    config = config.replace(num_classes=config.num_classes or 0)  # unknown before the data is opened
    gpu = not on_cpu(config.device)
    per_gpu = sum(device_bytes(config, gpu=True).values())
    memory = per_gpu if gpu else sum(host_bytes(config).values())
    available = gpus()[0].memory if gpu else host_memory()
    known = Plan(config, parameters_g(config), parameters_d(config), memory, available, per_gpu, _problem(config))
    probe = config.replace(num_processes=1, gradient_accumulation=1, batch_norm_group=None, batch_size=min(FIRST, _share(config)))
    if _problem(probe):
        return known
    images, seconds, operations = (_measured_elsewhere if gpu else _measured)(probe, _share(config))
    return replace(
        known, probe=images, operations=operations / images * config.batch_size,
        seconds=seconds / images * _share(config) * config.gradient_accumulation,
    )  # fmt: skip


def _problem(config: Config) -> str:
    try:
        require_feasible(config)
    except ParameterError as error:
        return str(error)
    return ""


def _share(config: Config) -> int:
    """Images of a micro-batch in one process."""
    return config.batch_size // (config.num_processes * config.gradient_accumulation)


def _measured_elsewhere(config: Config, most: int) -> tuple[int, float, int]:
    """As `_measured`, by a process that gives the memory of the GPU back."""
    words = [sys.executable, "-m", __name__, config.to_json(), str(most)]
    process = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=launch_environment(1))
    if process.returncode:
        raise WorkbenchError(f"the steps that were to be measured failed: {short_text(error_line(process.stderr.splitlines()), 300)}")
    return tuple(json.loads(process.stdout.splitlines()[-1]))


def _measured(config: Config, most: int) -> tuple[int, float, int]:
    """Double the batch until a step is long enough, has `most` images, or would not fit; that batch, its seconds and operations."""
    with variables_of({}):  # one process, whatever started it
        return _measure(decide_precision(config), most)


def _measure(config: Config, most: int) -> tuple[int, float, int]:
    while True:
        step = _stepper(config)
        durations = [_timed(step) for _ in range(4)]  # the first one warms up, and other work may disturb some
        larger = config.replace(batch_size=min(2 * config.batch_size, most))
        if min(durations) > ENOUGH or config.batch_size == most or _problem(larger):
            break
        config = larger
    with FlopCounterMode(display=False) as counter:
        step()
    return config.batch_size, min(durations), counter.get_total_flops()


def _timed(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _stepper(config: Config) -> Callable[[], None]:
    """A function that runs the next step, D's and G's, on random images, and waits for it."""
    nets = build(config, make_accelerator(config))
    x = torch.randint(0, 256, (config.batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8, device=nets.device)
    y = torch.randint(config.num_classes or 1, (config.batch_size,), device=nets.device)
    numbers = itertools.count()

    def step() -> None:
        number = next(numbers)
        for k in range(config.d_steps):
            d_step(nets, number, k, [(x, y)])
        g_step(nets, number)
        if nets.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def _duration(hours: float) -> str:
    """Hours as text: "5 minutes", "3.2 hours", "21 days"."""
    if hours < 1:
        return f"{60 * hours:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


@command
def _main() -> None:
    print(json.dumps(_measured(Config.from_json(sys.argv[1]), int(sys.argv[2]))))


if __name__ == "__main__":
    sys.exit(_main())
