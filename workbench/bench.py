"""How fast training is, as ratios of one run: full steps against a plain reference step, and what each rewrite is worth.

`python -m workbench.bench` times full training steps (one D step, one G step, both optimisers, the average) of this package and of the
reference step below, in turn, each in a process of its own. Both work on the same weights and the same noise, and a test holds their
losses and gradients together to 1e-9.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import data, model, sampling, training
from .config import Config
from .data import to_unit
from .model import BatchNorm, Discriminator, DownConv, Generator, ResidualBlock, SelfAttention, SpectralNorm, UpConv
from .parameters import ParameterError, command
from .runs import describe_machine
from .training import Networks, draw_noise

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
    projections = (self.query, self.key, self.value, self.output)
    return attend(self, {layer: layer.weight for layer in projections}, x)


def _plain_sigma(self: SpectralNorm, weight: Tensor) -> Tensor:
    with torch.autocast(weight.device.type, enabled=False):
        return weight / torch.dot(self.u, weight.flatten(1) @ self.v)


class _TwoPasses(nn.Module):
    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, y: Tensor | None) -> Tensor:
        return torch.cat([self.net(*half) for half in zip(x.chunk(2), (None, None) if y is None else y.chunk(2), strict=True)])


def _in_two_passes(nets: Networks) -> None:
    nets.ddp_discriminator = _TwoPasses(nets.ddp_discriminator)


def _with_plain_adam(nets: Networks) -> None:
    nets.optimizer_g, nets.optimizer_d = (
        torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.0, 0.9)) for net in (nets.generator, nets.discriminator)
    )


# Each takes one thing away from a step: by other settings, by patches that hold while its process lives, or by changing the networks.
SWITCHES: dict[str, dict] = {
    "up-sampling inside the convolution": dict(patches=[(UpConv, "forward", lambda self, x: nn.Conv2d.forward(self, upsample(x)))]),
    "pooling inside the convolution": dict(patches=[(DownConv, "forward", lambda self, x: F.avg_pool2d(nn.Conv2d.forward(self, x), 2))]),
    "fused attention": dict(patches=[(SelfAttention, "forward", _plain_attention)]),
    "gradient of sigma by hand": dict(patches=[(SpectralNorm, "forward", _plain_sigma)]),
    "channels_last": dict(patches=[(model, "_channels_last", lambda x: x)]),
    "real and fake images in one pass": dict(change=_in_two_passes),
    "fused Adam": dict(change=_with_plain_adam),
    "memory kept between steps": dict(patches=[(training, "keep_memory", lambda: None)]),
}


def _serve(pipe, config: Config, contender: str) -> None:
    """Answer requests of `Contender`: a step's seconds, the floating-point operations of one, the most memory held."""
    switch = SWITCHES["memory kept between steps"] if contender == "plain" else SWITCHES.get(contender, {})
    with contextlib.ExitStack() as stack:
        for target, name, replacement in switch.get("patches", ()):
            stack.enter_context(mock.patch.object(target, name, replacement))
        nets = training.build(config, training._accelerator(config))
        switch.get("change", lambda nets: None)(nets)
        x = torch.randint(0, 256, (config.batch_size, 3, config.image_size, config.image_size), dtype=torch.uint8, device=nets.device)
        y = torch.randint(max(1, config.num_classes), (config.batch_size,), device=nets.device)
        step = 0
        while (asked := pipe.recv()) is not None:
            try:
                began = time.perf_counter()
                if contender == "plain":
                    plain_d_step(nets, step, x, y), plain_g_step(nets, step)
                else:
                    training.d_step(nets, step, 0, [(x, y)]), training.g_step(nets, step)
                if nets.device.type == "cuda":
                    torch.cuda.synchronize()
                pipe.send(time.perf_counter() - began)
                step += 1
            except torch.cuda.OutOfMemoryError:
                pipe.send(None)


class Contender:
    """A process of its own that takes training steps when asked."""

    def __init__(self, config: Config, name: str):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, config, name), daemon=True)
        self.process.start()

    def seconds(self) -> float:
        self.pipe.send("step")
        return self.pipe.recv()

    def close(self):
        self.pipe.send(None)
        self.process.join()
