"""Variants of the training step: that of the package, the plain reference, and the package's with one optimisation less or one option more.

Each runs in a separate process, so that variants do not share allocator, precision, peak memory or patches.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
from collections.abc import Callable
from functools import partialmethod
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from workbench import Config, SelfAttention, WorkbenchError
from workbench.model import layers, networks
from workbench.model.layers import DownConv, UpConv
from workbench.training import setup
from workbench.training.setup import Networks
from workbench.training.steps import d_step, g_step

from .reference import attend, plain_d_step, plain_g_step, upsample
from .timing import peak_memory, seconds


def _plain_attention(self: SelfAttention, x: Tensor) -> Tensor:
    return attend(self, {layer: layer.weight for layer in (self.query, self.key, self.value, self.output)}, x)


def plain_adam(nets: Networks) -> None:
    """Replace fused Adam by Adam one tensor after the other."""
    for name, net in (("optimizer_g", nets.generator), ("optimizer_d", nets.discriminator)):
        settings = {k: v for k, v in getattr(nets, name).param_groups[0].items() if k in ("lr", "betas", "eps")}
        setattr(nets, name, torch.optim.Adam(net.parameters(), **settings))


def _contiguous(nets: Networks) -> None:
    for net in (nets.generator, nets.discriminator):
        net.to(memory_format=torch.contiguous_format)


def _plain(nets: Networks) -> None:
    _contiguous(nets)
    plain_adam(nets)


def _in_two_passes(nets: Networks) -> None:
    forward = nets.ddp_discriminator.forward

    def twice(x: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat([forward(*half) for half in zip(x.chunk(2), (None, None) if y is None else y.chunk(2), strict=True)])

    nets.ddp_discriminator.forward = twice


_FREED_MEMORY = [(setup, "keep_memory", lambda: None)]
# Optimisations to remove from a step, by patches (target, name, replacement) or by a change of the networks.
WITHOUT: dict[str, dict] = {
    "up-sampling inside the convolution": dict(patches=[(UpConv, "forward", lambda self, x: nn.Conv2d.forward(self, upsample(x)))]),
    "pooling inside the convolution": dict(patches=[(DownConv, "forward", lambda self, x: F.avg_pool2d(nn.Conv2d.forward(self, x), 2))]),
    "fused attention": dict(patches=[(SelfAttention, "forward", _plain_attention)]),
    "channels_last": dict(patches=[(networks, "channels_last", lambda x: x), (layers, "channels_last", lambda x: x)], change=_contiguous),
    "real and fake images in one pass": dict(change=_in_two_passes),
    "fused Adam": dict(change=plain_adam),
    "memory kept between steps": dict(patches=_FREED_MEMORY),
}
# Options to add, for a GPU. (On two cores, compiled networks take 1.2 times the seconds of a step.)
WITH: dict[str, dict] = {
    "cuDNN's choice by measurement": dict(change=lambda nets: setattr(torch.backends.cudnn, "benchmark", True)),
    "torch.compile": dict(change=lambda nets: (nets.generator.compile(), nets.discriminator.compile())),
    "torch.compile and CUDA graphs": dict(
        change=lambda nets: (nets.generator.compile(mode="reduce-overhead"), nets.discriminator.compile(mode="reduce-overhead"))
    ),
}
VARIANTS = WITHOUT | WITH | {"fast": {}, "plain": dict(patches=_FREED_MEMORY, change=_plain)}


@contextlib.contextmanager
def patched(variant: str):
    """Context with the patches of a variant."""
    with contextlib.ExitStack() as stack:
        for target, name, replacement in VARIANTS[variant].get("patches", ()):
            stack.enter_context(mock.patch.object(target, name, replacement))
        yield


def change(variant: str, nets: Networks) -> None:
    """Change networks into those of a variant."""
    VARIANTS[variant].get("change", lambda nets: None)(nets)


class StepProcess:
    """A process that runs training steps of one variant on request: "fast", "plain", or a key of `WITHOUT` or `WITH`."""

    def __init__(self, config: Config, variant: str):
        self.config = config
        context = multiprocessing.get_context("spawn")
        self._pipe, other_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(other_end, config, variant), daemon=True)
        self._process.start()
        other_end.close()

    def __enter__(self) -> StepProcess:
        return self

    def __exit__(self, *error) -> None:
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join()

    def _ask(self, quantity: str) -> float:
        try:
            self._pipe.send(quantity)
            answer = self._pipe.recv()
        except (EOFError, OSError):
            raise WorkbenchError(
                f"the timed process at size {self.config.image_size}, batch {self.config.batch_size} ended: not enough memory?"
            ) from None
        if isinstance(answer, str):
            raise WorkbenchError(answer)
        return answer

    seconds = partialmethod(_ask, "seconds")  # duration of one step
    flops = partialmethod(_ask, "flops")  # floating-point operations of one step
    peak_flops = partialmethod(_ask, "peak_flops")  # the best rate of large products or convolutions in the step's precision, per second
    peak_bytes = partialmethod(_ask, "peak_bytes")  # peak memory so far, without that of the process before it built its networks


def _serve(pipe, config: Config, variant: str) -> None:
    """Run in the process: answer requests with numbers, or with the text of an error."""
    with patched(variant):
        idle = peak_memory()
        nets = setup.build(config, setup.make_accelerator(config))
        change(variant, nets)
        step = _stepper(config, variant, nets)

        def flops() -> float:
            with FlopCounterMode(display=False) as counter:
                step()
            return counter.get_total_flops()

        quantities = dict(
            seconds=lambda: seconds(step),
            flops=flops,
            peak_flops=lambda: _peak_flops(nets.device, config.mixed_precision),
            peak_bytes=lambda: torch.cuda.max_memory_allocated() if nets.device.type == "cuda" else peak_memory() - idle,
        )
        while (quantity := pipe.recv()) is not None:
            try:
                pipe.send(quantities[quantity]())
            except torch.OutOfMemoryError:
                pipe.send(f"{variant}: {config.batch_size} images of {config.image_size} px do not fit into the memory of the GPU")
            except Exception as error:  # such as an option that this machine cannot compile
                pipe.send(f"{variant}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def _stepper(config: Config, variant: str, nets: Networks) -> Callable[[], None]:
    """A function that runs the next step, on images of noise, and waits for it."""
    x = torch.randint(0, 256, (config.batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8, device=nets.device)
    y = torch.randint(config.num_classes or 1, (config.batch_size,), device=nets.device)
    numbers = itertools.count()

    def step() -> None:
        number = next(numbers)
        if variant == "plain":
            plain_d_step(nets, number, x, y), plain_g_step(nets, number)
        else:
            d_step(nets, number, 0, [(x, y)]), g_step(nets, number)
        if nets.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def _peak_flops(device: torch.device, mixed_precision: str) -> float:
    """The better rate of a large matrix product and a large convolution: on some CPUs one of their libraries is half as fast as the other."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision, torch.float32)
    size, batch, channels, side = (8192, 128, 512, 32) if device.type == "cuda" else (2048, 8, 256, 32)
    a = torch.randn(size, size, device=device).to(dtype)
    x = torch.randn(batch, channels, side, side, device=device).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)

    def rate(operations: int, work: Callable[[], Tensor]) -> float:
        def run() -> None:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return operations / min(seconds(run) for _ in range(8))

    with torch.no_grad():
        return max(rate(2 * size**3, lambda: a @ a), rate(2 * 9 * batch * (channels * side) ** 2, lambda: F.conv2d(x, weight, padding=1)))
