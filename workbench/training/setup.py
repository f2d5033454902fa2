"""The networks, optimisers, devices, processes and precision of a training."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import nn

from ..config import Config
from ..gpus import gpus, on_cpu
from ..messages import ParameterError
from ..model import Discriminator, Generator
from ..model.ema import EMA
from ..model.layers import span_processes
from ..processes import keep_memory


@dataclass
class Networks:
    """The state of a training: both networks, their optimisers, and the EMA of G.

    `ddp_generator` and `ddp_discriminator` wrap the networks in DistributedDataParallel if there are several processes. A step calls the
    network that learns through its wrapper, and the other directly.
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
    """Networks with fresh weights, drawn with `config.seed`, on the accelerator's device."""
    keep_memory()
    torch.manual_seed(config.seed)
    dtype = getattr(torch, config.dtype)
    generator, discriminator = Generator(config), Discriminator(config)
    for net in (generator, discriminator):
        net.to(accelerator.device, dtype).to(memory_format=torch.channels_last)
    ema = EMA(generator, config.ema_decay, config.ema_start) if config.ema_decay else None
    betas = (float(config.beta1), float(config.beta2))  # torch refuses a mixture of int and float
    adam_g = torch.optim.Adam(generator.parameters(), lr=config.lr_g, betas=betas, fused=True)
    adam_d = torch.optim.Adam(discriminator.parameters(), lr=config.lr_d, betas=betas, fused=True)
    if accelerator.num_processes > 1:
        span_processes(generator, config.batch_size // config.gradient_accumulation // accelerator.num_processes)
    with warnings.catch_warnings():  # newer releases of torch warn of `broadcast_buffers`, older ones have no other name for it
        warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)
        ddp_generator, ddp_discriminator, adam_g, adam_d = accelerator.prepare(generator, discriminator, adam_g, adam_d)
    return Networks(config, accelerator, generator, discriminator, ddp_generator, ddp_discriminator, adam_g, adam_d, ema)


def make_accelerator(config: Config) -> Accelerator:
    """The devices, processes and precision of `config`."""
    cpu = on_cpu(config.device)
    if cpu and config.mixed_precision == "fp16":
        raise ParameterError("mixed_precision='fp16' needs a GPU, and torch finds none; use 'bf16' or 'no'")
    # Buffers are equal in all processes, so they need not be broadcast in every forward pass.
    ddp = DistributedDataParallelKwargs(broadcast_buffers=False)
    # Reset what accelerate keeps of the first Accelerator of a process for all later ones.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    return Accelerator(cpu=cpu, mixed_precision=config.mixed_precision, kwargs_handlers=[ddp])


def decide_precision(config: Config) -> Config:
    """Replace `mixed_precision="auto"` by the choice of the main process; the run keeps it, since results depend on it."""
    if config.mixed_precision != "auto":
        return config
    if config.dtype != "float32":
        choice = "no"
    elif on_cpu(config.device):
        choice = "bf16" if _faster_in_bf16() else "no"
    else:
        choice = "bf16" if all(gpu.capability >= 8 for gpu in gpus()) else "no"
    if config.num_processes > 1:
        PartialState(cpu=on_cpu(config.device))
        choice = broadcast_object_list([choice])[0]
    return config.replace(mixed_precision=choice)


def _faster_in_bf16() -> bool:
    """Whether bf16 saves more than a tenth of a convolution's time on this CPU; some CPUs with bf16 instructions are slower."""
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(6):
        for dtype, times in seconds.items():
            x = torch.ones(8, 64, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
            weight = torch.ones(64, 64, 3, 3, dtype=dtype, requires_grad=True)
            start = time.perf_counter()
            F.conv2d(x, weight, padding=1).sum().backward()
            times.append(time.perf_counter() - start)
    return min(seconds[torch.bfloat16][1:]) < 0.9 * min(seconds[torch.float32][1:])
