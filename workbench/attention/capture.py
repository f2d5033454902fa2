"""Attention maps and projections of a network, recomputed in hooks and checked against the output of the fused kernel.

Shapes: B images, N = side^2 queries, M = key_side^2 keys, d channels of queries and keys, D of values; positions in row-major order.
In the official variant keys are 2x2-pooled cells (key_side = side / 2), in the paper's they are positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..messages import WorkbenchError
from ..model import SelfAttention

T = TypeVar("T")


@dataclass(frozen=True)
class Projections:
    """Queries, keys and norms of an attention layer, from which its maps follow; float32, on the CPU.

    Attributes
    ----------
    query, key
        (B, N, d) and (B, M, d).
    value_norm
        (B, M): Euclidean norms of the values.
    strength
        (B, N): |gamma o| / |x|, norms over channels, o after the output convolution: the change that attention makes, relative to
        its input. |x| is taken as at least a millionth of the image's largest.
    gamma
        The layer's learned scalar.
    """

    query: Tensor
    key: Tensor
    value_norm: Tensor
    strength: Tensor
    gamma: float

    @property
    def side(self) -> int:
        """Side of the feature map, in positions: N = side^2."""
        return math.isqrt(self.query.shape[1])

    @property
    def key_side(self) -> int:
        """Side of the map of keys: M = key_side^2."""
        return math.isqrt(self.key.shape[1])

    def maps(self) -> Tensor:
        """The attention maps beta (B, N, M), float32; rows sum to 1."""
        return attention_map(self.query, self.key)

    def __getitem__(self, images: slice) -> Projections:
        """The projections of a slice of the images."""
        return Projections(self.query[images], self.key[images], self.value_norm[images], self.strength[images], self.gamma)


def attention_map(query: Tensor, key: Tensor) -> Tensor:
    """beta (B, N, M): softmax over the keys of <query, key> (Eq. 1), from queries (B, N, d) and keys (B, M, d)."""
    return torch.softmax(query @ key.transpose(1, 2), dim=-1)


def capture(module: nn.Module) -> AbstractContextManager[dict[str, Tensor]]:
    """Context manager giving a dict: `named_modules` path -> attention map (B, N, M), float32, of the latest forward.

    The maps are recomputed in float32 (float64 for a float64 network) from the input of each layer. Applied to the values, they must give
    the output of the layer's fused kernel, to its precision. Outputs of the network do not change.

    Parameters
    ----------
    module
        A network, or one `SelfAttention` (its path is "").

    Raises
    ------
    WorkbenchError
        From the forward pass, if the map applied to the values is not the layer's output.
    """
    return _watch(module, _read_map)


def capture_projections(module: nn.Module) -> AbstractContextManager[dict[str, Projections]]:
    """Like `capture`, giving path -> `Projections`: small where maps are large."""
    return _watch(module, _read_projections)


def attention_layers(module: nn.Module) -> dict[str, SelfAttention]:
    """The attention layers of a network by their `named_modules` path."""
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, SelfAttention)}


def project_exactly(layer: SelfAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, N, d), keys (B, M, d) and values (B, M, D) of x (B, C, H, W), in the layer's own precision (at least float32)."""
    with torch.autocast(x.device.type, enabled=False):
        projections = layer.project(x.to(layer.gamma.dtype))
    query, key, value = (tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in projections)
    return query, key, value


def contribution(layer: SelfAttention, weighted: Tensor, gamma: float | None = None) -> Tensor:
    """What the layer adds to its input, gamma o (..., C), from the weighted values (..., D); `gamma` replaces the learned scalar."""
    # Without calling the output convolution, so that its hooks see only the layer's own forward pass.
    o = weighted @ layer.output.weight.flatten(1).to(weighted.dtype).T
    return (layer.gamma if gamma is None else gamma) * o


@contextmanager
def _watch(module: nn.Module, read: Callable[..., tuple[T, Tensor]]) -> Iterator[dict[str, T]]:
    """Context manager giving a dict: path of each attention layer -> the reading.

    `read(layer, x, query, key, value)` returns the reading and the values weighted by the recomputed map, (B, N, D).
    """
    readings: dict[str, T] = {}
    kernel_outputs: dict[str, Tensor] = {}

    def keep_kernel_output(path, output_convolution, inputs):
        kernel_outputs[path] = inputs[0].detach()

    @torch.no_grad()
    def read_layer(path, layer, inputs, output):
        x = inputs[0]
        with torch.autocast(x.device.type, enabled=False):
            reading, weighted = read(layer, x, *project_exactly(layer, x))
        _check(path, weighted, kernel_outputs.pop(path))
        readings[path] = reading

    with ExitStack() as hooks:
        for path, layer in attention_layers(module).items():
            hooks.enter_context(layer.output.register_forward_pre_hook(partial(keep_kernel_output, path)))
            hooks.enter_context(layer.register_forward_hook(partial(read_layer, path)))
        yield readings


def _read_map(layer: SelfAttention, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    beta = attention_map(query, key)
    return beta.float(), beta @ value


def _read_projections(layer: SelfAttention, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Projections, Tensor]:
    # Image by image: the maps of a whole batch may not fit into memory.
    images = zip(query.split(1), key.split(1), value.split(1), strict=True)
    weighted = torch.cat([attention_map(q, k) @ v for q, k, v in images])
    change = contribution(layer, weighted)
    size = x.to(change.dtype).flatten(2).norm(dim=1)  # (B, N)
    floor = (1e-6 * size.amax(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
    strength = change.norm(dim=-1) / size.maximum(floor)
    query, key, value_norm, strength = (tensor.float().cpu() for tensor in (query, key, value.norm(dim=-1), strength))
    return Projections(query, key, value_norm, strength, layer.gamma.item()), weighted


# Largest relative rounding error, by the dtype of the fused kernel's output. The error grows with the scores: in bfloat16, 0.01 was measured
# for scores up to 30 and 0.07 for scores up to 2,000, where nearly all the weight of a query is on one key.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def _check(path: str, weighted: Tensor, output: Tensor) -> None:
    """Raise unless the values weighted by the recomputed maps (B, N, D) equal the `output` (B, D, H, W) of the fused kernel."""
    dtype, output = output.dtype, output.flatten(2).transpose(1, 2).to(weighted.dtype)
    # float32 on a GPU may be TF32, which rounds as float16 does.
    tolerance = _TOLERANCE[torch.float16 if dtype == torch.float32 and output.is_cuda else dtype]
    error = ((output - weighted).norm() / weighted.norm().clamp_min(torch.finfo(torch.float32).tiny)).item()
    # If both are NaN or infinite, the network has diverged, which this check does not report.
    if not error <= tolerance and (output.isfinite().all() or weighted.isfinite().all()):
        raise WorkbenchError(
            f"attention layer {path!r}: its output differs from its map applied to its values by a relative error of {error:.2g}; "
            f"rounding in {str(dtype).removeprefix('torch.')} explains at most {tolerance:g}"
        )
