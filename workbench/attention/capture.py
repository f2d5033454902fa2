"""Attention maps and projections of a network, recomputed in hooks and checked against the output of its layers.

Shapes: B images, N queries, M keys, d channels of queries and keys, D of values; tokens first, then positions in row-major order. In the
official variant of `SelfAttention` keys are 2x2-pooled cells (a quarter of the positions), in the paper's they are positions. Other layers
(see `adapt`) have a dimension of heads h after that of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..messages import ParameterError, WorkbenchError, say_once
from .layers import Adapter, OwnAdapter, adapter_of, attention_layers, first_tokens
from .layout import Layout, guess_layout

T = TypeVar("T")

SQUARE = Layout((0, 0), (0, 0))  # stands for that of square maps, of whatever size
TENSORS = ("query", "key", "value_norm", "strength")  # of `Projections`


@dataclass(frozen=True)
class Projections:
    """Queries, keys and norms of an attention layer, from which its maps follow; float32, on the CPU.

    Attributes
    ----------
    query, key
        (B, N, d) and (B, M, d), or, of a layer with heads, (B, h, N, d) and (B, h, M, d), with the scale of the scores in the queries.
    value_norm
        (B, M) or (B, h, M): Euclidean norms of the values.
    strength
        (B, N): |gamma o| / |x|, norms over channels, o after the output projection of all heads: the change that attention makes, relative
        to the layer's input. |x| is taken as at least a millionth of the image's largest.
    gamma
        The learned scalar of a `SelfAttention`; None for other layers.
    layout
        Where queries and keys are; None if that is not known. By default square maps.
    trusted
        Whether the recomputed map reproduces the output of the layer.
    """

    query: Tensor
    key: Tensor
    value_norm: Tensor
    strength: Tensor
    gamma: float | None
    layout: Layout | None = SQUARE
    trusted: bool = True

    def __post_init__(self):
        if self.layout is SQUARE:
            object.__setattr__(self, "layout", guess_layout(self.query.shape[-2], self.key.shape[-2], tokens=()))

    @property
    def places(self) -> Layout:
        """The layout, or a ParameterError where queries and keys are no positions."""
        if self.layout is None:
            raise ParameterError(
                f"{self.query.shape[-2]} queries and {self.key.shape[-2]} keys are not positions of a grid that is known; if they are, give it: "
                "attention.adapt(layer, grid=(rows, columns), tokens=(...))"
            )
        return self.layout

    @property
    def side(self) -> int:
        """Columns of the feature map, in positions; of a square one, N = side^2."""
        return self.places.grid[1]

    @property
    def key_side(self) -> int:
        """Columns of the map of keys; of a square one, M = key_side^2."""
        return self.places.key_grid[1]

    @property
    def heads(self) -> int:
        """Number of heads; 1 for a layer without."""
        return self.query.shape[1] if self.query.ndim == 4 else 1

    def head(self, number: int) -> Projections:
        """Those of one head, (B, N, d); `strength` stays that of all heads.

        Raises
        ------
        ParameterError
            If there is no such head.
        """
        if not 0 <= number < self.heads:
            raise ParameterError(f"head={number} is not one of {self.heads} heads; give one from 0 to {self.heads - 1}")
        if self.query.ndim == 3:
            return self
        return replace(self, query=self.query[:, number], key=self.key[:, number], value_norm=self.value_norm[:, number])

    def maps(self) -> Tensor:
        """The attention maps beta (B, N, M) or (B, h, N, M), float32; rows sum to 1."""
        return attention_map(self.query, self.key)

    def __getitem__(self, images: slice) -> Projections:
        """The projections of a slice of the images."""
        parts = {name: getattr(self, name)[images] for name in TENSORS}
        return replace(self, **parts)


def attention_map(query: Tensor, key: Tensor) -> Tensor:
    """beta (..., N, M): softmax over the keys of <query, key> (Eq. 1), from queries (..., N, d) and keys (..., M, d)."""
    return torch.softmax(query @ key.transpose(-1, -2), dim=-1)


def capture(module: nn.Module) -> AbstractContextManager[dict[str, Tensor]]:
    """Context manager giving a dict: `named_modules` path -> attention map, float32, of the latest forward.

    Maps are (B, N, M) for a `SelfAttention`, and (B, h, N, M), one for each head, for other layers, which are recognised or described by
    `adapt`. They are recomputed in float32 (float64 for a float64 network) from the input of each layer. Applied to the values, they must
    give the output of the layer's fused kernel, to its precision. Outputs of the network do not change.

    Parameters
    ----------
    module
        A network, or one attention layer (its path is "").

    Raises
    ------
    WorkbenchError
        From the forward pass, if the map applied to the values is not the output of a `SelfAttention`. For other layers, which may have
        masks, position biases or dropout, one line on stderr says so, once.
    """
    return _watch(module, _read_map)


def capture_projections(module: nn.Module) -> AbstractContextManager[dict[str, Projections]]:
    """Like `capture`, giving path -> `Projections`: small where maps are large."""
    return _watch(module, _read_projections)


@contextmanager
def _watch(module: nn.Module, read: Callable[..., T]) -> Iterator[dict[str, T]]:
    """Context manager giving a dict: path of each attention layer -> the reading.

    `read(call, query, key, value)` returns the reading.
    """
    readings: dict[str, T] = {}
    kernel_outputs: dict[str, Tensor] = {}
    differing: set[type] = set()
    tokens = first_tokens(module)

    def keep_kernel_output(path, output_convolution, inputs):
        kernel_outputs[path] = inputs[0].detach()

    @torch.no_grad()
    def read_layer(path, adapter, layer, inputs, options, output):
        query, key, value = adapter.projections(inputs, options)
        layout = adapter.layout(inputs, query.shape[-2], key.shape[-2], shape[-1], tokens)
        with torch.autocast(query.device.type, enabled=False):
            call = _Call(path, adapter, inputs, options, kernel_outputs.pop(path, output), layout, differing)
            readings[path] = read(call, query, key, value)

    with ExitStack() as hooks:
        shape = hooks.enter_context(image_shape(module))
        for path, layer in attention_layers(module).items():
            adapter = adapter_of(layer)
            if isinstance(adapter, OwnAdapter):
                hooks.enter_context(layer.output.register_forward_pre_hook(partial(keep_kernel_output, path)))
            hooks.enter_context(layer.register_forward_hook(partial(read_layer, path, adapter), with_kwargs=True))
        yield readings


@contextmanager
def image_shape(module: nn.Module) -> Iterator[list[tuple[int, int] | None]]:
    """Context manager giving a list whose last entry is the height and width of the image that a network got last; None without one."""
    seen: list[tuple[int, int] | None] = [None]

    def keep_shape(_, inputs, options):
        images = [x for x in (*inputs, *options.values()) if isinstance(x, Tensor) and x.ndim == 4]
        seen[-1] = (images[0].shape[2], images[0].shape[3]) if images else None

    with module.register_forward_pre_hook(keep_shape, with_kwargs=True):
        yield seen


@dataclass(frozen=True)
class _Call:
    """A forward pass of a layer: its arguments, what it returned (a `SelfAttention`: what its kernel did), and the types of layers known to
    differ from their maps."""

    path: str
    adapter: Adapter
    inputs: tuple
    options: dict
    output: Tensor
    layout: Layout | None
    differing: set[type]

    def check(self, weighted: Tensor) -> bool:
        """Whether the values weighted by the recomputed map give the output. A `SelfAttention` must; of others one line says so, for the
        first layer of a type."""
        if isinstance(self.adapter, OwnAdapter):
            _check(self.path, weighted, self.output)
            return True
        kind = type(self.adapter.layer)
        right = check_output(self.path, self.adapter, weighted, self.inputs, self.options, self.output, say=kind not in self.differing)
        self.differing.update(() if right else (kind,))
        return right


def _read_map(call: _Call, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    beta = attention_map(query, key)
    call.check(beta @ value)
    return beta.float()


def weighted_values(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The values weighted by the learned map, image by image: the maps of a whole batch may not fit into memory."""
    return torch.cat([attention_map(q, k) @ v for q, k, v in zip(query.split(1), key.split(1), value.split(1), strict=True)])


def _read_projections(call: _Call, query: Tensor, key: Tensor, value: Tensor) -> Projections:
    weighted = weighted_values(query, key, value)
    trusted = call.check(weighted)
    change = call.adapter.change(weighted, call.inputs, call.options)
    x = next(x for x in (*call.inputs, *call.options.values()) if isinstance(x, Tensor))
    size = call.adapter.by_position(x.to(change.dtype)).norm(dim=-1)  # (B, N)
    floor = (1e-6 * size.amax(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
    strength = change.norm(dim=-1) / size.maximum(floor)
    query, key, value_norm, strength = (tensor.float().cpu() for tensor in (query, key, value.norm(dim=-1), strength))
    return Projections(query, key, value_norm, strength, call.adapter.gamma, call.layout, trusted)


# Largest relative rounding error, by the dtype of the fused kernel's output. The error grows with the scores: in bfloat16, 0.01 was measured
# for scores up to 30 and 0.07 for scores up to 2,000, where nearly all the weight of a query is on one key.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.1}


def _check(path: str, weighted: Tensor, output: Tensor) -> None:
    """Raise unless the values weighted by the recomputed maps (B, N, D) equal the `output` (B, D, H, W) of the fused kernel."""
    error, tolerance = _error(weighted, weighted, output.flatten(2).transpose(1, 2))
    if error:
        raise WorkbenchError(f"attention layer {path!r}: its output differs from its map applied to its values by {error}; {tolerance}")


def check_output(path: str, adapter: Adapter, weighted: Tensor, inputs: tuple, options: dict, output, say: bool = True) -> bool:
    """Whether the layer returned what follows from its recomputed map; else one line says so, once."""
    expected = adapter.returns(weighted, inputs, options)
    error, _ = _error(expected, expected - adapter.returns(weighted, inputs, options, gamma=0.0), first_of(output))
    if error and say:
        say_once(
            f"attention layer {path!r}: the recomputed map does not reproduce the layer's output (masks, position biases, dropout, or another "
            f"computation); do not trust the maps of {type(adapter.layer).__name__}"
        )
    return not error


def first_of(output):
    """What a layer returns, or the first of several things."""
    return output[0] if isinstance(output, tuple) else output


def _error(expected: Tensor, change: Tensor, output: Tensor) -> tuple[str, str]:
    """The error of an output, relative to the `change` that attention makes, as text, empty within rounding; and what rounding explains."""
    dtype, output = output.dtype, output.detach().to(expected.dtype)
    if output.shape != expected.shape:
        return f"its shape, {tuple(output.shape)}, not {tuple(expected.shape)}", ""
    # float32 on a GPU may be TF32, which rounds as float16 does.
    rounded = torch.float16 if dtype == torch.float32 and output.is_cuda else dtype
    tolerance, size = _TOLERANCE[rounded], change.norm().clamp_min(torch.finfo(torch.float32).tiny)
    rest = (
        8 * torch.finfo(rounded).eps * (expected - change).norm() / size
    ).item()  # what the layer returns without attention is rounded, too
    error = ((output - expected).norm() / size).item()
    # If both are NaN or infinite, the network has diverged, which this check does not report.
    if error <= tolerance + rest or not (output.isfinite().all() or expected.isfinite().all()):
        return "", ""
    return f"a relative error of {error:.2g}", f"rounding in {str(dtype).removeprefix('torch.')} explains at most {tolerance:g}"
