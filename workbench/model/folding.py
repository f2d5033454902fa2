"""A generator as a list of plain operations, for runtimes without torch: normalisation is folded into weights, gains and biases."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..messages import WorkbenchError
from .attention import ResidualBlock, SelfAttention
from .layers import BatchNorm
from .networks import Generator

Operation = dict  # kind, and tensors by name


@torch.no_grad()
def fold(generator: Generator) -> list[Operation]:
    """The operations of a generator in eval mode, in order; float64 tensors.

    Spectral normalization is divided out, and batch norm is a gain and a bias (classes, C) (without classes: (1, C)). Kernels are
    (height, width, in, out), and feature maps (H, W, C).

    Returns
    -------
    list of dict
        `kind`, and what it takes:

        linear: weight (z_dim, 4 * 4 * C), bias; a latent to a 4x4 map.
        block: norm1, conv1, norm2, conv2, shortcut, as `GeneratorBlock` computes.
        attention: path, pooled (keys and values are 2x2-pooled), query, key, value, output: (in, out), and gamma.
        residual: conv1, conv2, as `ResidualBlock` computes.
        output: norm, conv; a map to an image.

    Raises
    ------
    WorkbenchError
        If the generator has a part that is none of these; the message names it.
    """
    _require(generator, Generator, "the network")
    operations: list[Operation] = [dict(kind="linear", **_linear(generator.linear))]
    for size, block in generator.blocks.items():
        parts = {name: _norm(getattr(block, name)) for name in ("norm1", "norm2")}
        parts |= {name: _conv(getattr(block, name)) for name in ("conv1", "conv2", "shortcut")}
        operations.append(dict(kind="block", **parts))
        if size in generator.attention:
            operations.append(_site(f"attention.{size}", generator.attention[size]))
    return [*operations, dict(kind="output", norm=_norm(generator.norm), conv=_conv(generator.output))]


def _site(path: str, module: nn.Module) -> Operation:
    if type(module) is ResidualBlock:
        return dict(kind="residual", conv1=_conv(module.conv1), conv2=_conv(module.conv2))
    _require(module, SelfAttention, path)
    weights = {name: _conv(getattr(module, name))["weight"][0, 0] for name in ("query", "key", "value", "output")}
    return dict(kind="attention", path=path, pooled=module.variant == "official", gamma=module.gamma.item(), **weights)


def _require(module: nn.Module, kind: type, name: str) -> None:
    if type(module) is not kind:
        raise WorkbenchError(f"{name} is a {type(module).__name__}; a folded generator consists of the package's own layers")


def _linear(layer: nn.Linear) -> dict[str, Tensor]:
    """Weight and bias, whose outputs (C, 4, 4) come as (4, 4, C)."""
    weight, bias = (tensor.double().unflatten(0, (-1, 4, 4)).movedim(0, 2).flatten(0, 2) for tensor in (layer.weight, layer.bias))
    return dict(weight=weight.T, bias=bias)


def _conv(layer: nn.Conv2d) -> dict[str, Tensor]:
    """Its kernel (height, width, in, out), and its bias if there is one."""
    bias = {} if layer.bias is None else dict(bias=layer.bias.double())
    return dict(weight=layer.weight.double().permute(2, 3, 1, 0)) | bias


def _norm(norm: BatchNorm) -> dict[str, Tensor]:
    """x -> gain x + bias, of each class."""
    gain = norm.gain.double() + (1 if norm.sn else 0)
    scale = gain / torch.sqrt(norm.running_var.double() + norm.eps)
    return dict(gain=scale, bias=norm.bias.double() - norm.running_mean.double() * scale)
