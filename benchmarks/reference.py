"""The reference step: a plain training step, with which that of the package is compared in numbers and in time.

It follows the released formulation, layer by layer, without optimisations: up-sample, then convolve, in both branches; convolve, then pool;
attention that stores its map; spectral normalization of one layer after the other, whose sigma the passes of a step share; D on real and
fake images in two passes; contiguous float32. Networks, weights and noise are those of the package.
"""

# A type checker does not know the types of a module's children.
# mypy: disable-error-code="arg-type, index"

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from workbench import Discriminator, Generator, SelfAttention
from workbench.data import to_unit
from workbench.model.attention import ResidualBlock
from workbench.model.layers import BatchNorm
from workbench.training.setup import Networks
from workbench.training.steps import draw_noise

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
    """One G step and EMA update: the loss, (1,)."""
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
    """The weight of every layer; spectrally normalised ones are divided by sigma after one power iteration."""
    weights: Weights = {}
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
    """Images (B, 3, S, S) in [-1, 1] of latents (B, z_dim) and classes (B,)."""
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
    """Logits (B,) of images (B, 3, S, S) and classes (B,)."""
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
    """The layer's output (B, C, H, W), through its map (B, N, M) of N = H * W queries and M keys."""
    if isinstance(layer, ResidualBlock):
        return x + convolve(layer.conv2, weights, F.relu(convolve(layer.conv1, weights, F.relu(x))))
    query, key, value = (convolve(projection, weights, x) for projection in (layer.query, layer.key, layer.value))
    if layer.variant == "official":
        key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
    beta = torch.softmax(query.flatten(2).transpose(1, 2) @ key.flatten(2), dim=-1)  # (B, N, M)
    o = (beta @ value.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
    return x + layer.gamma * convolve(layer.output, weights, o)
