"""Training: one D step, one G step, the loop around them, and starting it in a process of its own.

`train(config)` trains in this process; `launch(config)` starts `accelerate launch -m workbench.training` for one process or many, and
returns at once. All randomness is a function of (seed, step, index in the global batch): nothing of it needs saving, and neither the
number of processes nor gradient accumulation changes it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from ..attention import capture_projections
from ..attention.snapshots import Snapshot, save_snapshot
from ..config import MAY_CHANGE_ON_RESUME, Config, require_resumable, split_resume
from ..data import augment, loader, open_data, to_uint8, to_unit, twins
from ..files import StorageError, read_bytes, storing
from ..model import Discriminator, Generator, sampling
from ..model.ema import EMA
from ..model.layers import power_iteration, span_processes
from ..model.losses import hinge_discriminator, hinge_generator
from ..parameters import ParameterError, WorkbenchError, command, whole
from ..processes import LostProcessError, keep_memory, launch_command, launch_environment, on_cpu, process_group, rank, signals_to
from ..runs import BY_TRAINING, Run, command_line, create_run, fork_point, holding, load_into, write_provenance
from ..runs.liveness import BusyError, Hold, signature
from ..tensors import first_not_finite
from . import diagnostics
from .estimate import require_feasible

# ------------------------------------------------------------------------------------------------ what is trained


@dataclass
class Networks:
    """What a training changes: both networks and their optimisers, and the averaged generator.

    `generator` and `discriminator` are the plain modules; `ddp_generator` and `ddp_discriminator` the same ones wrapped for several
    processes: the network that learns is called through its wrapper, the other one plainly.
    """

    config: Config
    accelerator: Accelerator
    generator: Generator
    discriminator: Discriminator
    ddp_generator: nn.Module
    ddp_discriminator: nn.Module
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    ema: EMA | None

    @property
    def device(self) -> torch.device:
        return self.accelerator.device


def build(config: Config, accelerator: Accelerator) -> Networks:
    """Networks with fresh weights, a function of `config.seed`, on the accelerator's device."""
    keep_memory()
    torch.manual_seed(config.seed)
    dtype = getattr(torch, config.dtype)
    generator, discriminator = Generator(config), Discriminator(config)
    generator, discriminator = (net.to(accelerator.device, dtype, memory_format=torch.channels_last) for net in (generator, discriminator))
    ema = EMA(generator, config.ema_decay, config.ema_start) if config.ema_decay else None
    betas = (float(config.beta1), float(config.beta2))  # torch refuses a mixture of int and float
    adam = [
        torch.optim.Adam(net.parameters(), lr=lr, betas=betas, fused=True)
        for net, lr in ((generator, config.lr_g), (discriminator, config.lr_d))
    ]
    if accelerator.num_processes > 1:
        span_processes(generator, config.batch_size // config.gradient_accumulation // accelerator.num_processes)
    with warnings.catch_warnings():  # `broadcast_buffers`, which torch renames and older releases know by no other name
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        wrapped = accelerator.prepare(generator, discriminator, *adam)
    return Networks(config, accelerator, generator, discriminator, *wrapped, ema)


# ------------------------------------------------------------------------------------------------------ the steps


def d_step(nets: Networks, step: int, k: int, real: list[tuple[Tensor, Tensor]]) -> Tensor:
    """One step of D: its hinge loss on real and fake images. G's weights and optimiser stay as they are.

    G runs in training mode, as in the released code: its power-iteration vectors and running statistics move.

    Parameters
    ----------
    step, k
        Number of the G step, and of this D step within it; what the noise is a function of.
    real
        This process's share of each part of the batch: (uint8 images (b, 3, S, S), classes (b,)), `gradient_accumulation` of them.

    Returns
    -------
    Tensor
        (7,): loss, mean logit on real and on fake images, share of real and of fake ones that teach D nothing, all of this process; the
        norm of the gradient, and whether it is finite.
    """
    config, accelerator = nets.config, nets.accelerator
    power_iteration(nets.generator)
    power_iteration(nets.discriminator)
    z, y, u = draw_noise(nets, step, k)
    report = torch.zeros(5, device=nets.device, dtype=z.dtype)
    for part, (x_real, y_real) in enumerate(real):
        mine = _share(nets, part)
        x_real = augment.apply(config.augment, to_unit(x_real.to(nets.device), z.dtype), u[0][mine], real=True)
        y_real = y_real.to(nets.device) if y is not None else None
        y_fake = None if y is None else y[mine]
        with torch.no_grad(), accelerator.autocast():
            fake = nets.generator(z[mine], y_fake)
        fake = augment.apply(config.augment, fake.to(z.dtype), u[1][mine], real=False)
        with _synchronised(nets, nets.ddp_discriminator, part):
            with accelerator.autocast():  # one pass over both
                x = torch.cat([x_real, fake])
                logits = nets.ddp_discriminator(x, None if y is None else torch.cat([y_real, y_fake]))
            logits_real, logits_fake = logits.to(z.dtype).split([len(x_real), len(fake)])
            loss = hinge_discriminator(logits_real, logits_fake) / config.gradient_accumulation
            accelerator.backward(loss)
        means = torch.cat([torch.stack([logits_real.mean(), logits_fake.mean()]), diagnostics.saturation(logits_real, logits_fake)])
        report += torch.cat([loss.detach()[None], means.detach() / config.gradient_accumulation])
    norm = diagnostics.gradient_norm(nets.optimizer_d, accelerator.scaler)
    nets.optimizer_d.step()
    nets.optimizer_d.zero_grad(set_to_none=True)
    return torch.cat([report, norm])


def g_step(nets: Networks, step: int) -> Tensor:
    """One step of G: its hinge loss, then the average takes in the new weights. D's weights and optimiser stay as they are.

    Returns
    -------
    Tensor
        (3,): loss of this process; the norm of the gradient, and whether it is finite.
    """
    config, accelerator = nets.config, nets.accelerator
    power_iteration(nets.generator)
    z, y, u = draw_noise(nets, step, config.d_steps)
    report = torch.zeros(1, device=nets.device, dtype=z.dtype)
    nets.discriminator.requires_grad_(False)  # no gradients for weights that do not learn here
    for part in range(config.gradient_accumulation):
        mine = _share(nets, part)
        y_fake = None if y is None else y[mine]
        with _synchronised(nets, nets.ddp_generator, part):
            with accelerator.autocast():
                fake = nets.ddp_generator(z[mine], y_fake)
                fake = augment.apply(config.augment, fake, u[1][mine], real=False)
                logits = nets.discriminator(fake, y_fake)
            loss = hinge_generator(logits.to(z.dtype)) / config.gradient_accumulation
            accelerator.backward(loss)
        report += loss.detach()
    nets.discriminator.requires_grad_(True)
    norm = diagnostics.gradient_norm(nets.optimizer_g, accelerator.scaler)
    nets.optimizer_g.step()
    nets.optimizer_g.zero_grad(set_to_none=True)
    if nets.ema:
        nets.ema.update(nets.generator, step + 1)
    return torch.cat([report, norm])


def draw_noise(nets: Networks, step: int, k: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Latents, uniform and independent classes, and numbers for augmentation (real, fake), of the whole batch of this (step, k)."""
    config, count = nets.config, nets.config.batch_size
    source = sampling.generator_for(config.seed, 0, step, k)
    z = torch.randn(count, config.z_dim, generator=source)
    y = torch.randint(config.num_classes, (count,), generator=source) if config.num_classes else None
    u = torch.rand(2, count, augment.NUMBERS, generator=source)
    return z.to(nets.device, getattr(torch, config.dtype)), None if y is None else y.to(nets.device), u.to(nets.device)


def _share(nets: Networks, part: int) -> slice:
    """Where this process's images of a part of the batch lie in the global batch (see `data.loader`)."""
    micro = nets.config.batch_size // nets.config.gradient_accumulation
    share = micro // nets.accelerator.num_processes
    first = part * micro + nets.accelerator.process_index * share
    return slice(first, first + share)


def _synchronised(nets: Networks, net: nn.Module, part: int):
    """Context in which gradients are averaged over the processes after the last part of a batch only."""
    last = part == nets.config.gradient_accumulation - 1
    return contextlib.nullcontext() if last else nets.accelerator.no_sync(net)


# --------------------------------------------------------------------------------------------------- checkpoints


def save(nets: Networks, run: Run, progress: Progress) -> None:
    """Write a checkpoint of everything that the next step depends on, the average settled (see `_averaged`).

    Raises
    ------
    WorkbenchError
        If a number in it is not finite: such a checkpoint is of no use, and would push a good one out.
    StorageError
        If it cannot be written.
    """
    tensors = dict(
        generator=nets.generator.state_dict(),
        discriminator=nets.discriminator.state_dict(),
        optimizer_g=_optimizer_tensors(nets.generator, nets.optimizer_g),
        optimizer_d=_optimizer_tensors(nets.discriminator, nets.optimizer_d),
        window=dict(sums=progress.sums, largest=progress.largest),
    )
    if nets.ema:
        tensors["ema"] = nets.ema.average.state_dict()
    _require_finite(tensors, progress.step, run)
    scaler = nets.accelerator.scaler
    state = dict(step=progress.step, seconds=progress.seconds, logged=progress.logged, scaler=scaler.state_dict() if scaler else None)
    run.save_checkpoint(progress.step, tensors, state, nets.config.keep_checkpoints)


def load(nets: Networks, run: Run, step: int | None, progress: Progress) -> None:
    """Restore what `save` wrote, by default from the newest checkpoint.

    Raises
    ------
    WorkbenchError
        If the checkpoint is damaged, or of other networks.
    """
    number, files, state = run.read_checkpoint(step)
    folder = run.checkpoint_path(number)
    needed = ["generator", "discriminator", "optimizer_g", "optimizer_d", "window"]
    needed += ["ema"] if nets.ema and run.config.ema_decay else []  # a parent without an average has none to give
    if missing := [name for name in needed if name not in files]:
        raise WorkbenchError(
            f"training cannot go on from {folder}: it keeps no {', '.join(missing)}, only what it takes to look at the run"
        )
    load_into(nets.generator.state_dict(), files["generator"], f"{folder}/generator.safetensors")
    load_into(nets.discriminator.state_dict(), files["discriminator"], f"{folder}/discriminator.safetensors")
    if nets.ema:
        load_into(nets.ema.average.state_dict(), files.get("ema", files["generator"]), f"{folder}/ema.safetensors")
    _restore_optimizer(nets.generator, nets.optimizer_g, files["optimizer_g"])
    _restore_optimizer(nets.discriminator, nets.optimizer_d, files["optimizer_d"])
    if nets.accelerator.scaler and state["scaler"]:
        nets.accelerator.scaler.load_state_dict(state["scaler"])
    progress.step, progress.seconds, progress.logged = state["step"], state["seconds"], state["logged"]
    progress.sums.copy_(files["window"]["sums"])
    progress.largest.copy_(files["window"]["largest"])


def _optimizer_tensors(net: nn.Module, optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    names = [name for name, _ in net.named_parameters()]
    return {f"{names[index]}.{key}": value for index, values in state.items() for key, value in values.items()}


def _restore_optimizer(net: nn.Module, optimizer, saved: dict[str, Tensor]) -> None:
    state = {}
    for index, (name, parameter) in enumerate(net.named_parameters()):
        values = {key: saved[f"{name}.{key}"] for key in ("exp_avg", "exp_avg_sq") if f"{name}.{key}" in saved}
        if values:
            # In the parameter's own memory layout: fused Adam walks over both as they lie in memory.
            state[index] = {key: torch.empty_like(parameter).copy_(value) for key, value in values.items()}
            state[index]["step"] = saved[f"{name}.step"]
    optimizer.load_state_dict(dict(state=state, param_groups=optimizer.state_dict()["param_groups"]))


def _require_finite(tensors: dict[str, dict[str, Tensor]], step: int, run: Run) -> None:
    kinds = dict(generator="weights of G", discriminator="weights of D", ema="EMA of G", optimizer_g="Adam's state of G",
                 optimizer_d="Adam's state of D", window="what is to be logged")  # fmt: skip
    for file, values in tensors.items():
        if name := first_not_finite(values):
            raise WorkbenchError(_diverged(f"{kinds[file]} ({name})", step, run))


def _diverged(what: str, step: int, run: Run) -> str:
    good = run.newest_good_checkpoint()
    cure = "nothing was saved before it" if good is None else f"fork from before it, with lower rates: resume='{run.reference}@{good}'"
    return f"training diverged: {what} became NaN or infinite by step {step}; {cure}; lr_d, lr_g, sn_g, sn_d and mixed_precision are what to look at"


# ------------------------------------------------------------------------------------------------------- the loop


# What `d_step` reports, then what `g_step` does; `taken_...`: the steps whose gradient is finite.
SUMS = ("loss_d", "d_real", "d_fake", "saturated_real", "saturated_fake", "grad_norm_d", "taken_d", "loss_g", "grad_norm_g", "taken_g")


@dataclass
class Progress:
    """How far a training is, and what it has gathered since its last line of history: the window."""

    sums: Tensor  # (len(SUMS),) float64, on the device: what the steps report, of D steps the mean over those of a step, summed over steps
    largest: Tensor  # (2,) float64, on the device: the largest norms of D's and of G's gradient
    step: int = 0
    seconds: float = 0.0
    logged: int = 0  # step of the last line of history
    alarms: list[str] = field(default_factory=list)
    clock: float = field(default_factory=time.monotonic)

    def tick(self) -> None:
        """Count the time since the last call as time of training."""
        now = time.monotonic()
        self.seconds, self.clock = self.seconds + now - self.clock, now

    def gather(self, reports_d: Tensor, report_g: Tensor) -> None:
        """Take in what the D steps (K, 7) and the G step (3,) of a step report."""
        self.sums += torch.cat([reports_d.mean(0), report_g])
        self.largest = torch.maximum(self.largest, torch.stack([reports_d[:, 5].amax(), report_g[1]]))


def train(config: Config, evaluate: Callable[[Generator, int], dict] | None = None, run: Run | None = None) -> Run:
    """Train in this process (or, under `accelerate launch`, in all of its processes) until done or asked to stop.

    Ctrl-C, SIGTERM and `Run.stop` save a checkpoint and return.

    Parameters
    ----------
    config
        All settings. `resume` continues or forks a run.
    evaluate
        Called as `evaluate(generator, step)` every `evaluate_every` steps, in all processes, with the averaged generator (G itself when
        there is no average); what it returns on the main one is a record of `evaluations.jsonl`. By default the disagreement of twins,
        where these are the data; the command line, and so `launch`, gives `evaluation.during_training(config)`.
    run
        A claimed run folder to train in, by default a new one; one that has checkpoints is continued.

    Returns
    -------
    Run
        Its `status()` tells whether it finished or was stopped.

    Raises
    ------
    ParameterError, WorkbenchError
        For settings that do not fit, data that cannot be used, or a training that diverged.
    """
    claimed: list[tuple[Run, Hold]] = []
    with contextlib.ExitStack() as stack:  # a run is held until its status tells how its training ended
        try:
            with _interrupts(), process_group(config.num_processes, config.device, "workbench.training --config FILE"):
                return _train(config, evaluate, run, stack, claimed)
        except BaseException as error:
            for run, lock in claimed:
                if not lock.lost:
                    _report_end(run, error)
            raise


def _train(config: Config, evaluate, run: Run | None, stack: contextlib.ExitStack, claimed: list) -> Run:
    """Claim a run on the main process (and append it, with its lock, to `claimed`), and train in all of them."""
    main = rank() == 0

    def claim(run: Run) -> Hold:
        lock = stack.enter_context(holding(run))
        claimed.append((run, lock))
        if not run.active:  # else `launch` has cleaned up, and a `stop` file is a wish that came since
            run.clean()
        return lock

    if main:
        if run is None and _continues(config):
            run = Run(config.resume)
        if run:
            require_resumable(config, run.path)
            claim(run)
        else:
            fork_point(config)  # before anything long
    evaluate = evaluate or (partial(evaluate_twins, pairs=config.pairs) if config.data == "twins" else None)
    if config.evaluate_every and evaluate is None:
        raise ParameterError(
            f"evaluate_every={config.evaluate_every}: train() has no evaluation for data={config.data!r} by itself; give it "
            "evaluate=evaluation.during_training(config), or use launch(), or evaluate_every=0"
        )
    require_feasible(config)
    asked, config = config, resolve(config)
    accelerator = make_accelerator(config)

    # The data first: its check is what most often ends a run before it starts. One process packs it, the others find it packed.
    with accelerator.main_process_first():
        data = open_data(config, progress=main)
    if config.num_classes is None:
        config = config.replace(num_classes=data.num_classes)

    if main:
        if run is None:
            fork_point(config)  # again, now that the number of classes is known
            run = create_run(asked)
            claim(run)
        config = run.update_config(config)
        run.set_status(state="starting", step=0, steps=config.steps, message="", alarms=[])
    path, settings = broadcast_object_list([run and str(run.path), config.to_json()])
    return _train_in(Run(Path(path)), Config.from_json(settings), accelerator, data, evaluate, claimed)


def _continues(config: Config) -> bool:
    """Whether a run goes on, and no new one is made."""
    return bool(config.resume) and split_resume(config.resume)[1] is None


def _report_end(run: Run, error: BaseException) -> None:
    """Write into the status why a training ended before its time."""
    if isinstance(error, KeyboardInterrupt):
        state, message = "stopped", f"interrupted; {run.how_to_go_on()}"
    else:
        state = "failed"
        message = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
        message += f"; {run.how_to_go_on()}" if isinstance(error, StorageError | LostProcessError) else ""
    # A disk that takes nothing: whoever looks sees that the process is gone.
    with contextlib.suppress(WorkbenchError):
        run.clean()
    with contextlib.suppress(WorkbenchError):
        run.set_status(state=state, message=" ".join(message.split()))


def _train_in(run: Run, config: Config, accelerator: Accelerator, data, evaluate, claimed: list) -> Run:
    main = accelerator.is_main_process
    nets = build(config, accelerator)
    zeros = [torch.zeros(count, dtype=torch.float64, device=accelerator.device) for count in (len(SUMS), 2)]
    progress = Progress(sums=zeros[0], largest=zeros[1])
    origin = (run, None) if run.checkpoint_steps() else fork_point(config)
    if origin:
        load(nets, *origin, progress)
    if main:
        with storing(run.path):
            run.begin_records(origin and origin[0], progress.step)
            run.prune(config.keep_checkpoints)  # whoever was killed before may have saved, and not deleted yet
            write_provenance(run, config, data, progress.step)
    accelerator.wait_for_everyone()

    fixed = _fixed_samples(nets, data)
    batches = loader(data, config, progress.step, accelerator.process_index, accelerator.num_processes)
    show = _Display(run, config, progress.step) if main else None
    if main and progress.step == 0:
        _write_samples(nets, _averaged(nets), run, progress, fixed)
    progress.clock = time.monotonic()
    with _stop_signals() as signals, contextlib.closing(batches), storing(run.path):
        while progress.step < config.steps:
            if _asked_to_stop(accelerator, run, signals):
                break
            if any(lock.lost for _, lock in claimed):
                raise BusyError(f"another process trains run {run.name!r} by now: this one was not heard of for too long, and ends")

            # One step: D learns `d_steps` times, then G once.
            step, real = next(batches)
            reports = torch.stack([d_step(nets, step, k, real[k]) for k in range(config.d_steps)])
            progress.gather(reports.double(), g_step(nets, step).double())
            progress.step += 1
            progress.tick()

            def due(every, last=progress.step == config.steps):
                return every and (progress.step % every == 0 or last)

            if due(config.log_every):
                _log(nets, run, progress)
            # An evaluation is the work of all processes, which have the same average.
            if due(config.evaluate_every) or (main and (due(config.sample_every) or due(config.checkpoint_every))):
                shown = _averaged(nets)
            if main and due(config.sample_every):
                _write_samples(nets, shown, run, progress, fixed)
            if due(config.evaluate_every):
                try:
                    _evaluate(shown, run, progress, evaluate)
                except BaseException as error:
                    if main:  # whatever an evaluation dies of costs no step of the training
                        save(nets, run, progress)
                    if isinstance(error, OSError):
                        raise WorkbenchError(f"the evaluation at step {progress.step} failed: {error}; {run.how_to_go_on()}") from error
                    raise
            if main:
                if due(config.checkpoint_every):
                    save(nets, run, progress)
                show.update(progress)

        finished = progress.step >= config.steps
        if main and not finished:
            _averaged(nets)
            save(nets, run, progress)
    if main:
        show.close()
        run.clean()
        message = f"finished after {progress.step} steps" if finished else f"stopped at step {progress.step}; {run.how_to_go_on()}"
        run.set_status(state="finished" if finished else "stopped", step=progress.step, message=message)
        _say(message)
    accelerator.wait_for_everyone()
    return run


def _say(text: str) -> None:
    """Print a line; that nobody reads it any more, or the log's disk is full, ends no training."""
    with contextlib.suppress(OSError):
        print(text, flush=True)


def resolve(config: Config) -> Config:
    """Settings with every "auto" that results depend on decided, once, on the main process: the run folder keeps what was chosen."""
    if config.mixed_precision != "auto":
        return config
    if config.dtype != "float32":
        choice = "no"
    elif on_cpu(config.device):
        choice = "bf16" if _faster_in_bf16() else "no"
    else:
        choice = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if config.num_processes > 1:
        PartialState(cpu=on_cpu(config.device))
        choice = broadcast_object_list([choice])[0]
    return config.replace(mixed_precision=choice)


def _faster_in_bf16(repeats: int = 5) -> bool:
    """Whether a convolution takes less than nine tenths of its time on this CPU in bf16; some that have the instructions are slower."""
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    seconds = {torch.float32: [], torch.bfloat16: []}
    for _ in range(repeats + 1):
        for dtype, measured in seconds.items():
            x = torch.ones(8, 64, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
            weight = torch.ones(64, 64, 3, 3, dtype=dtype, requires_grad=True)
            began = time.perf_counter()
            F.conv2d(x, weight, padding=1).sum().backward()
            measured.append(time.perf_counter() - began)
    return min(seconds[torch.bfloat16][1:]) < 0.9 * min(seconds[torch.float32][1:])


def make_accelerator(config: Config) -> Accelerator:
    """The devices, processes and precision that `config` asks for."""
    cpu = on_cpu(config.device)
    if cpu and config.mixed_precision == "fp16":
        raise ParameterError("mixed_precision='fp16' needs a GPU, and torch finds none; use 'bf16' or 'no'")
    if not cpu and config.num_processes > torch.cuda.device_count():
        raise ParameterError(
            f"num_processes={config.num_processes}, but there are {torch.cuda.device_count()} GPUs; use at most that, or device='cpu'"
        )
    # Buffers are the same in all processes by construction; broadcasting them from rank 0 in every forward would only cost.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    # Accelerate keeps the settings of the first Accelerator of a process for all later ones: start afresh.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=cpu, mixed_precision=config.mixed_precision, kwargs_handlers=[ddp])


def _fixed_samples(nets: Networks, data) -> dict:
    """The latents and classes of the sample grids, and the diversity of real images that samples are held against."""
    z, y = sampling.grid(nets.config.num_classes, nets.config.z_dim, nets.config.seed)
    real = to_unit(data.batch(np.arange(min(64, data.length or 64)))[0])
    return dict(z=z, y=y, columns=10, real_spread=real.std(0).mean().item())


def _averaged(nets: Networks) -> Generator:
    """The generator to show: the settled average, or G itself where there is no average."""
    if not nets.ema:
        return nets.generator
    sampling.settle(nets.ema.average, nets.config.seed)
    return nets.ema.average


def _write_samples(nets: Networks, generator: Generator, run: Run, progress: Progress, fixed: dict) -> None:
    """The grid of fixed samples, the queries and keys of a few of them, the layers' spectra; an alarm when all samples look the same."""
    x = sampling.images(generator, fixed["z"], fixed["y"])
    picture = io.BytesIO()
    Image.fromarray(sampling.tile(x, fixed["columns"]).permute(1, 2, 0).numpy()).save(picture, "PNG")
    run.save_sample(progress.step, picture.getvalue())

    few = torch.linspace(0, len(x) - 1, 4).long()
    z, y = fixed["z"][few], None if fixed["y"] is None else fixed["y"][few]
    layers = {}
    with capture_projections(generator) as found:
        shown = sampling.images(generator, z, y)
    layers |= {f"G/{path}": projections for path, projections in found.items()}
    with capture_projections(nets.discriminator) as found, torch.no_grad():
        weight = next(nets.discriminator.parameters())
        nets.discriminator(shown.to(weight), None if y is None else y.to(weight.device))
    layers |= {f"D/{path}": projections for path, projections in found.items()}
    save_snapshot(run.attention_path(progress.step), Snapshot(to_uint8(shown), z, y, layers))
    run.append("spectra.jsonl", dict(step=progress.step, layers=diagnostics.spectra(nets.generator, nets.discriminator)))

    spread = x.std(0).mean().item()
    if progress.step > 0 and spread < 0.05 * fixed["real_spread"]:
        _alarm(
            run,
            progress,
            f"collapse: at step {progress.step} all samples look nearly the same (pixel spread {spread:.3g}, real images {fixed['real_spread']:.3g})",
        )


def _log(nets: Networks, run: Run, progress: Progress) -> None:
    """A line of history: means since the last one, over all processes."""
    config, accelerator = nets.config, nets.accelerator
    steps = progress.step - progress.logged
    means = dict(zip(SUMS, (accelerator.reduce(progress.sums.clone(), "mean") / steps).tolist(), strict=True))
    largest = dict(zip("dg", progress.largest.tolist(), strict=True))  # the same in all processes, as the gradients are
    progress.sums.zero_()
    progress.largest.zero_()
    progress.logged = progress.step
    loss_d, d_real, d_fake, loss_g = (means[name] for name in ("loss_d", "d_real", "d_fake", "loss_g"))
    if not all(map(math.isfinite, (loss_d, d_real, d_fake, loss_g))):
        raise WorkbenchError(_diverged("losses", progress.step, run))
    if not accelerator.is_main_process:
        return
    row = dict(step=progress.step, images=progress.step * config.batch_size, seconds=round(progress.seconds, 3))
    row |= dict(loss_d=loss_d, loss_g=loss_g, d_real=d_real, d_fake=d_fake)
    for letter, norm in largest.items():
        if means[f"taken_{letter}"] > 0:  # over the steps that were taken; NaN after an older checkpoint
            row |= {f"grad_norm_{letter}": means[f"grad_norm_{letter}"] / means[f"taken_{letter}"], f"grad_norm_{letter}_max": norm}
    row |= {name: means[name] for name in ("saturated_real", "saturated_fake") if math.isfinite(means[name])}
    for letter, net in (("g", nets.generator), ("d", nets.discriminator)):
        for size, layer in net.attention.items():
            if config.attention_block == "attention":
                row[f"gamma_{letter}{size}"] = layer.gamma.item()
    row |= dict(lr_g=config.lr_g, lr_d=config.lr_d)
    run.append("history.jsonl", row)
    if loss_d < 1e-3 and d_real - d_fake > 2 and progress.step >= 100:
        _alarm(
            run, progress, f"D wins: at step {progress.step} its loss is {loss_d:.2g}, so it no longer learns; lower lr_d, or set sn_d=True"
        )


def _alarm(run: Run, progress: Progress, text: str) -> None:
    """Tell of something that training goes on after; once per kind."""
    if not any(alarm.split(":")[0] == text.split(":")[0] for alarm in progress.alarms):
        progress.alarms.append(text)
        run.set_status(alarms=progress.alarms)
        with contextlib.suppress(OSError):
            print(f"ALARM: {text}", file=sys.stderr, flush=True)


def _evaluate(generator: Generator, run: Run, progress: Progress, evaluate) -> None:
    with sampling.evaluating(generator):
        record = evaluate(generator, progress.step)
    if record and rank() == 0:
        run.append("evaluations.jsonl", dict(step=progress.step) | record | {BY_TRAINING: True})


class _Display:
    """Tells how far training is: status.json, and a progress bar on a terminal or a line now and then elsewhere."""

    def __init__(self, run: Run, config: Config, step: int):
        self.run, self.config = run, config
        self.bar = tqdm(total=config.steps, initial=step, unit="step", desc=run.name, disable=not sys.stderr.isatty())
        self.first = (time.monotonic(), step)
        self.status_at = self.line_at = 0.0
        self.status_every = 1.0  # seconds
        run.set_status(state="running", step=step, steps=config.steps, message="", seconds_per_step=None)

    def update(self, progress: Progress) -> None:
        self.bar.update(progress.step - self.bar.n)
        now = time.monotonic()
        if now - self.status_at > self.status_every:
            since, step = self.first
            pace = (now - since) / (progress.step - step)
            self.run.set_status(step=progress.step, seconds_per_step=pace)
            self.status_at = now
            self.status_every = max(1.0, 50 * (time.monotonic() - now))  # where a disk is slow, at most 2 % of the time
            if self.bar.disable and now - self.line_at > 30:
                left = pace * (self.config.steps - progress.step)
                speed = self.config.batch_size / pace
                _say(f"step {progress.step}/{self.config.steps}  {speed:.0f} images/s  {left / 60:.1f} minutes left")
                self.line_at = now

    def close(self) -> None:
        self.bar.close()


# -------------------------------------------------------------------------------------------------------- stopping


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupts():
    """Context in which each of them is an interrupt: before there is anything to save."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    return signals_to(interrupt, SIGNALS)


@contextlib.contextmanager
def _stop_signals():
    """Context giving a list that they are appended to, so that training ends at a step's border and saves."""
    received: list[int] = []

    def note(number, frame):
        if not received:
            with contextlib.suppress(OSError):
                print("\nsaving, then stopping ...", file=sys.stderr, flush=True)
        received.append(number)

    with signals_to(note, SIGNALS):
        yield received


def _asked_to_stop(accelerator: Accelerator, run: Run, signals: list) -> bool:
    """Whether any process was signalled, the `stop` file exists, or a process that this one is to end with is gone."""
    stop = bool(signals) or (run.path / "stop").exists() or any(not psutil.pid_exists(pid) for pid in _waited_for_by())
    if accelerator.num_processes > 1:  # all stop at the same step
        flag = torch.tensor(float(stop), device=accelerator.device)
        stop = accelerator.reduce(flag, "sum").item() > 0
    return stop


def _waited_for_by() -> list[int]:
    """The processes that a training ends with: the notebook that waits for it, and the sweep that started that."""
    numbers = (whole(pid) for pid in os.environ.get("WORKBENCH_WAITING", "").split(","))
    return [pid for pid in numbers if pid]


# ------------------------------------------------------------------------------------------ in a process of its own


def launch(config: Config, attached: bool = False) -> Run:
    """Start training in a process (or several) of its own, and return at once.

    The process has a session of its own: an interrupt of this one does not reach it, and it outlives it. What it prints is in
    `train.log` of the run folder. A run that is being trained already is returned as it is.

    Parameters
    ----------
    config
        All settings; `resume` continues or forks a run.
    attached
        The caller is going to wait: the training is to save and stop when this process goes away.

    Raises
    ------
    ParameterError, WorkbenchError
        If the run cannot be made or continued.
    """
    fork_point(config)
    require_feasible(config)
    if _continues(config):
        run = Run(config.resume)
        require_resumable(config, run.path)
    else:
        if config.resume and config.num_classes is None:
            fork_point(config.replace(num_classes=open_data(config).num_classes))
        run = create_run(config)
    try:
        with holding(run):
            return _start(run, run.update_config(config), attached)
    except BusyError:
        given, own = asdict(config), asdict(run.config)
        ignored = [f"{name}={given[name]!r}" for name in sorted(MAY_CHANGE_ON_RESUME) if given[name] != own[name]]
        if ignored:
            print(
                f"run {run.name!r} is being trained already: {', '.join(ignored)} is not applied; stop it and resume it for that",
                flush=True,
            )
        return run


def _start(run: Run, config: Config, attached: bool) -> Run:
    run.clean()
    words = [*launch_command("workbench.training", config.num_processes, config.device), "--config", str(run.path / "config.json")]
    environment = launch_environment(config.num_processes) | {"WORKBENCH_COMMAND": json.dumps(command_line())}
    if attached:
        environment["WORKBENCH_WAITING"] = ",".join(map(str, [*_waited_for_by(), os.getpid()]))
    with storing(run.path / "train.log"), open(run.path / "train.log", "ab") as log:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)
    # In its name: until it speaks for itself, whether it lives is what tells a slow start from a failed one.
    run.set_status(
        state="starting",
        step=0,
        steps=config.steps,
        message="",
        alarms=[],
        seconds_per_step=None,
        time=time.time(),
        **signature(process.pid),
    )
    return run


def evaluate_twins(generator: Generator, step: int, count: int = 500, pairs: int = 1) -> dict:
    """The medians of the twins' disagreement over `count` samples of all classes: a record of `evaluations.jsonl`."""
    y = sampling.labels(count, generator.num_classes)
    x = sampling.images(generator, sampling.latents(count, generator.z_dim, seed=1), y)
    values = twins.disagreement(x, y if generator.num_classes == len(twins.CLASSES) else None, pairs)
    scores = {f"twins_{name}": value.mean().item() if name == "readable" else value.median().item() for name, value in values.items()}
    return dict(scores=scores, protocol=f"medians over n={count}, of readable the share, saved statistics, seed 1", n=count)


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m workbench.training",
        description="Train a SAGAN. For several processes: accelerate launch --multi_gpu --num_processes N -m workbench.training ...",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON object of parameters; the config.json of a run goes on with it")
    about = "a parameter; `python -m workbench parameters` lists them"
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=about)
    arguments = parser.parse_args()
    given, run = dict(arguments.p), None
    if not arguments.config:
        config = Config.from_parameters(given)
    else:
        try:
            config = Config.from_json(read_bytes(arguments.config))
        except OSError as error:
            raise ParameterError(f"--config: {arguments.config} cannot be read: {error.strerror or error}") from None
        config = config.replace(**given)
        if config.run and arguments.config.resolve().parent.name == config.run and arguments.config.name == "config.json":
            run = Run(arguments.config.resolve().parent)
    evaluate = None
    if config.evaluate_every:
        from ..evaluation import during_training  # here: training itself knows nothing of metrics

        try:
            evaluate = during_training(config)
        except WorkbenchError as error:
            if run:
                with holding(run):
                    run.set_status(state="failed", message=str(error))
            raise
    train(config, evaluate, run)  # to be stopped is no failure: what was asked for was done


if __name__ == "__main__":
    sys.exit(main())
