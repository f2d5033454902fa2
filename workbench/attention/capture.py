"""What attention layers computed: recomputed in a hook, and checked against the output of the fused kernel.

Shapes: B images, N = side^2 queries, M = key_side^2 keys, d channels of queries and keys, D of values; positions in row-major order.
In the official variant keys are 2x2-pooled cells (key_side = side / 2), in the paper's they are positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..model import SelfAttention
from ..parameters import WorkbenchError

T = TypeVar("T")


@dataclass(frozen=True)
class Projections:
    """What an attention layer computed, small enough to keep; float32, on the CPU.

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
        From the forward pass, if a map does not explain the layer's output.
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


@contextmanager
def _watch(module: nn.Module, read: Callable[..., tuple[T, Tensor]]) -> Iterator[dict[str, T]]:
    """Context manager giving a dict: path of each attention layer -> the reading.

    `read(layer, x, query, key, value)` returns the reading, and the values weighted by the recomputed map, (B, N, D).
    """
    readings: dict[str, T] = {}
    kernel_outputs: dict[str, Tensor] = {}

    def keep_kernel_output(path):
        def hook(output_convolution, inputs):
            kernel_outputs[path] = inputs[0].detach()

        return hook

    def read_layer(path):
        @torch.no_grad()
        def hook(layer, inputs, output):
            x = inputs[0]
            with torch.autocast(x.device.type, enabled=False):
                reading, mixed = read(layer, x, *project_exactly(layer, x))
            _check(path, mixed, kernel_outputs.pop(path))
            readings[path] = reading

        return hook

    handles = []
    try:
        for path, layer in attention_layers(module).items():
            handles += [layer.output.register_forward_pre_hook(keep_kernel_output(path)), layer.register_forward_hook(read_layer(path))]
        yield readings
    finally:
        for handle in handles:
            handle.remove()


def _read_map(layer: SelfAttention, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    beta = attention_map(query, key)
    return beta.float(), beta @ value


def _read_projections(layer: SelfAttention, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Projections, Tensor]:
    # Image by image: the maps of a whole batch may not fit into memory.
    images = zip(query.split(1), key.split(1), value.split(1), strict=True)
    mixed = torch.cat([attention_map(q, k) @ v for q, k, v in images])
    o = mixed @ layer.output.weight.flatten(1).to(mixed.dtype).T  # (B, N, C); not by calling the layer, which would count as a forward
    size = x.to(o.dtype).flatten(2).norm(dim=1)  # (B, N)
    floor = (1e-6 * size.amax(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
    strength = (layer.gamma * o).norm(dim=-1) / size.maximum(floor)
    query, key, value_norm, strength = (tensor.float().cpu() for tensor in (query, key, value.norm(dim=-1), strength))
    return Projections(query, key, value_norm, strength, layer.gamma.item()), mixed


# Largest relative rounding errors, by the dtype of the fused kernel's output. They grow with the scores: measured in bfloat16, 0.01 where
# maps are soft (scores to 30) and 0.07 where nearly every query has one key left (to 2,000).
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def _check(path: str, mixed: Tensor, output: Tensor) -> None:
    """Raise unless `mixed` (B, N, D), from the recomputed maps, equals the `output` (B, D, H, W) of the fused kernel."""
    dtype, output = output.dtype, output.flatten(2).transpose(1, 2).to(mixed.dtype)
    # float32 on a GPU may be TF32, which rounds as float16 does.
    tolerance = _TOLERANCE[torch.float16 if dtype == torch.float32 and output.is_cuda else dtype]
    error = ((output - mixed).norm() / mixed.norm().clamp_min(torch.finfo(torch.float32).tiny)).item()
    # Both NaN or infinite: the network has diverged, which this check does not report.
    if not error <= tolerance and (output.isfinite().all() or mixed.isfinite().all()):
        raise WorkbenchError(
            f"attention layer {path!r} does not produce what its map says: relative error {error:.2g} in "
            f"{str(dtype).removeprefix('torch.')}, where rounding explains at most {tolerance:g}"
        )
