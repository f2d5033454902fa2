"""The training steps of D and of G, on the hinge loss (Zhang et al., 2019, Section 4).

All randomness is a function of (seed, step, index in the global batch), independent of the number of processes and of gradient
accumulation. B is the number of images per process and pass: batch_size / (gradient_accumulation * num_processes).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from ..data import augment, to_unit
from ..model import sampling
from ..model.layers import power_iteration
from ..model.losses import hinge_discriminator, hinge_generator
from .diagnostics import gradient_norm, saturation
from .setup import Networks


def d_step(nets: Networks, step: int, k: int, real: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """One step of D on its hinge loss. G does not learn.

    As in the released code, G is in training mode: its power-iteration vectors and running statistics are updated.

    Parameters
    ----------
    step, k
        Index of the G step, and of this D step within it; the noise depends on both.
    real
        `gradient_accumulation` micro-batches of this process: (uint8 images (B, 3, S, S), classes (B,)).

    Returns
    -------
    dict
        0-d tensors of this process: `loss_d`; `d_real`, `d_fake`, mean logits; `saturated_real`, `saturated_fake`, see `saturation`;
        `grad_norm_d` and `finite_d`, see `gradient_norm`.
    """
    config, accelerator = nets.config, nets.accelerator
    power_iteration(nets.generator)
    power_iteration(nets.discriminator)
    z, y, u = draw_noise(nets, step, k)
    reports = []
    for (indices, synchronised), (x_real, y_real) in zip(_micro_batches(nets, nets.ddp_discriminator), real, strict=True):
        x_real = augment.apply(config.augment, to_unit(x_real.to(nets.device), z.dtype), u[0][indices], real=True)  # (B, 3, S, S)
        y_fake = None if y is None else y[indices]
        with torch.no_grad(), accelerator.autocast():
            x_fake = nets.generator(z[indices], y_fake)
        x_fake = augment.apply(config.augment, x_fake.to(z.dtype), u[1][indices], real=False)
        with synchronised:
            with accelerator.autocast():  # one pass over both: (2B, 3, S, S) -> (2B,)
                labels = None if y_fake is None else torch.cat([y_real.to(nets.device), y_fake])
                logits = nets.ddp_discriminator(torch.cat([x_real, x_fake]), labels)
            real_logits, fake_logits = logits.to(z.dtype).chunk(2)
            loss = hinge_discriminator(real_logits, fake_logits)
            accelerator.backward(loss / config.gradient_accumulation)
        real_logits, fake_logits = real_logits.detach(), fake_logits.detach()
        saturated_real, saturated_fake = saturation(real_logits, fake_logits)
        report = dict(loss_d=loss.detach(), d_real=real_logits.mean(), d_fake=fake_logits.mean())
        reports.append(report | dict(saturated_real=saturated_real, saturated_fake=saturated_fake))
    norm, finite = gradient_norm(nets.optimizer_d, accelerator.scaler)
    nets.optimizer_d.step()
    nets.optimizer_d.zero_grad(set_to_none=True)
    return _mean(reports) | dict(grad_norm_d=norm, finite_d=finite)


def g_step(nets: Networks, step: int) -> dict[str, Tensor]:
    """One step of G on its hinge loss, and an update of the EMA. D does not learn.

    Returns
    -------
    dict
        0-d tensors of this process: `loss_g`; `grad_norm_g` and `finite_g`, see `gradient_norm`.
    """
    config, accelerator = nets.config, nets.accelerator
    power_iteration(nets.generator)
    z, y, u = draw_noise(nets, step, config.d_steps)
    reports = []
    nets.discriminator.requires_grad_(False)  # do not compute gradients of D's weights
    for indices, synchronised in _micro_batches(nets, nets.ddp_generator):
        y_fake = None if y is None else y[indices]
        with synchronised:
            with accelerator.autocast():
                x_fake = nets.ddp_generator(z[indices], y_fake)
            x_fake = augment.apply(config.augment, x_fake.to(z.dtype), u[1][indices], real=False)
            with accelerator.autocast():
                logits = nets.discriminator(x_fake, y_fake)
            loss = hinge_generator(logits.to(z.dtype))
            accelerator.backward(loss / config.gradient_accumulation)
        reports.append(dict(loss_g=loss.detach()))
    nets.discriminator.requires_grad_(True)
    norm, finite = gradient_norm(nets.optimizer_g, accelerator.scaler)
    nets.optimizer_g.step()
    nets.optimizer_g.zero_grad(set_to_none=True)
    if nets.ema:
        nets.ema.update(nets.generator, step + 1)
    return _mean(reports) | dict(grad_norm_g=norm, finite_g=finite)


def draw_noise(nets: Networks, step: int, k: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """For the global batch of (step, k): latents (N, z_dim), uniform classes (N,) or None, and random numbers for augmentation (2, N, ...)."""
    config, count = nets.config, nets.config.batch_size
    rng = sampling.rng(config.seed, 0, step, k)
    z = torch.randn(count, config.z_dim, generator=rng)
    y = torch.randint(config.num_classes, (count,), generator=rng) if config.num_classes else None
    u = torch.rand(2, count, augment.NUMBERS, generator=rng)
    return z.to(nets.device, getattr(torch, config.dtype)), None if y is None else y.to(nets.device), u.to(nets.device)


def _micro_batches(nets: Networks, learning: nn.Module) -> Iterator[tuple[slice, AbstractContextManager]]:
    """For each micro-batch: the indices of this process's images in the global batch (as in `data.loader`), and a context for its passes.

    The gradients of the network that learns are averaged over the processes only in the last context.
    """
    micro = nets.config.batch_size // nets.config.gradient_accumulation
    size = micro // nets.accelerator.num_processes
    for number in range(nets.config.gradient_accumulation):
        first = number * micro + nets.accelerator.process_index * size
        last = number == nets.config.gradient_accumulation - 1
        yield slice(first, first + size), nullcontext() if last else nets.accelerator.no_sync(learning)


def _mean(reports: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Mean of reports of micro-batches, which have equal sizes."""
    return {name: torch.stack([report[name] for report in reports]).mean() for name in reports[0]} if len(reports) > 1 else reports[0]
