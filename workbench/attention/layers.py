"""Attention layers of any network: how each computes queries, keys, values and its output, so that its map can be recomputed and changed.

`SelfAttention` needs nothing. `nn.MultiheadAttention` (torchvision's vision transformers), layers with one fused projection `qkv` (timm) and with
`to_q`, `to_k`, `to_v` (diffusers) are recognised by their attributes. `adapt` describes any other.

Shapes: B images, h heads, N queries, M keys, d channels of queries and keys, D of values; a `SelfAttention` has no dimension of heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..messages import ParameterError, WorkbenchError, nearest, short_repr
from ..model import SelfAttention
from .layout import TOKENS, Layout, guess_layout, registers

MARK = "workbench_adapter"  # attribute of a layer that `adapt` has described


@dataclass(frozen=True)
class Adapter:
    """How an attention layer computes: its map is softmax(q k^T) for each head.

    Attributes
    ----------
    layer
        The module.
    project
        Of the arguments of its forward pass: q (B, h, N, d), with the scale of the scores, k (B, h, M, d) and values (B, h, M, D).
    output
        Of the weighted values, heads side by side (B, N, h D), and those arguments: what the layer returns.
    batch_first
        Whether sequences are (B, N, C), not (N, B, C).
    pooled
        Whether fewer keys than queries are cells of positions; else they are something else, such as words.
    grid, tokens
        As `adapt` takes them.
    """

    layer: nn.Module
    project: Callable[..., tuple[Tensor, Tensor, Tensor]]
    output: Callable[..., Tensor]
    batch_first: bool = True
    pooled: bool = False
    grid: tuple[int, int] | None = None
    tokens: tuple[str, ...] | None = None

    @property
    def gamma(self) -> float | None:
        """The learned scalar of a `SelfAttention`; None for other layers."""
        return None

    def projections(self, inputs: tuple, options: dict) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of the arguments of a forward pass, in the layer's own precision (at least float32)."""
        inputs, options, device = self._exact(inputs, options)
        with torch.autocast(device, enabled=False):
            q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in self.project(*inputs, **options))
        return q, k, v

    def returns(self, weighted: Tensor, inputs: tuple, options: dict, gamma: float | None = None) -> Tensor:
        """What the layer returns for weighted values (B, h, N, D) or (B, N, D); `gamma` replaces the learned scalar, or, where there is
        none, is a factor of the weighted values."""
        inputs, options, device = self._exact(inputs, options)
        with torch.autocast(device, enabled=False):
            joined = weighted.transpose(1, 2).flatten(2).to(_dtype(self.layer))
            y = self.output(joined if gamma is None else gamma * joined, *inputs, **options)
        return y.to(torch.promote_types(y.dtype, torch.float32))

    def change(self, weighted: Tensor, inputs: tuple, options: dict) -> Tensor:
        """What the weighted values add to the output of the layer, (B, N, C)."""
        return self.by_position(self.returns(weighted, inputs, options) - self.returns(weighted, inputs, options, gamma=0.0))

    def by_position(self, x: Tensor) -> Tensor:
        """An input or output of the layer, (B, C, H, W) or a sequence, as (B, N, C)."""
        if x.ndim == 4:
            return x.flatten(2).transpose(1, 2)
        return (x if self.batch_first else x.transpose(0, 1)) if x.ndim == 3 else x[None]

    def layout(
        self, inputs: tuple, queries: int, keys: int, shape: tuple[int, int] | None, tokens: tuple[str, ...] | None
    ) -> Layout | None:
        """The layout for the arguments of a forward pass, in a network whose image has this shape and whose sequences begin with these
        tokens; see `guess_layout`."""
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            shape, tokens = (inputs[0].shape[2], inputs[0].shape[3]), ()
        tokens = tokens if self.tokens is None else self.tokens
        if queries != keys and not self.pooled:
            return None
        if self.grid is None:
            return guess_layout(queries, keys, shape, tokens)
        first = queries - math.prod(self.grid)  # keys have the grid of the queries, or they are no positions
        names = next((names for names in (TOKENS if tokens is None else (tokens,)) if len(names) == first), None)
        return None if names is None or queries != keys else Layout(self.grid, self.grid, names)

    def _exact(self, inputs: tuple, options: dict) -> tuple[tuple, dict, str]:
        """The arguments in the precision of the layer's parameters, and its device."""
        dtype, device = _dtype(self.layer), next(self.layer.parameters()).device.type

        def cast(x):
            return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x

        return tuple(map(cast, inputs)), {name: cast(x) for name, x in options.items()}, device


@dataclass(frozen=True)
class OwnAdapter(Adapter):
    """That of a `SelfAttention`, which has no heads: q (B, N, d), k (B, M, d), v (B, M, D), weighted values (B, N, D)."""

    layer: SelfAttention

    @property
    def gamma(self) -> float:
        return self.layer.gamma.item()

    def returns(self, weighted: Tensor, inputs: tuple, options: dict, gamma: float | None = None) -> Tensor:
        x = inputs[0]
        return x + self.change(weighted, inputs, options, gamma).transpose(1, 2).unflatten(2, x.shape[2:])

    def change(self, weighted: Tensor, inputs: tuple, options: dict, gamma: float | None = None) -> Tensor:
        # Without calling the output convolution, so that its hooks see only the layer's own forward pass.
        o = weighted @ self.layer.output.weight.flatten(1).to(weighted.dtype).T
        return (self.layer.gamma if gamma is None else gamma) * o


def _dtype(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype


def adapt(
    layer: nn.Module,
    *,
    queries: Callable[..., Tensor] | None = None,
    keys: Callable[..., Tensor] | None = None,
    values: Callable[..., Tensor] | None = None,
    output: Callable[..., Tensor] | None = None,
    heads: int = 1,
    scale: float | None = None,
    grid: tuple[int, int] | None = None,
    tokens: tuple[str, ...] | None = None,
) -> nn.Module:
    """Describe an attention layer, so that all tools of this package find it in its network and recompute its map.

    Every reading recomputes the layer's output from the map and compares it with what the layer returned. Where they differ (masks,
    position biases, dropout), one line says so, and the map is not to be trusted.

    Parameters
    ----------
    layer
        A module that computes output(softmax(scale q k^T) v) for each head. A second call replaces the first.
    queries, keys, values
        Functions of the arguments of the layer's forward pass, such as its projections: (B, n, heads * d) with the heads side by side, or
        (B, heads, n, d). All of them, with `output`, or none for a layer that is recognised.
    output
        What the layer returns, from the weighted values (B, N, heads * D): a module is called with those alone (`layer.proj`), a function
        with those and then the arguments of the forward pass (`lambda o, x: x + layer.proj(o)`).
    heads
        Number of heads.
    scale
        Factor of the scores q k^T; None: 1 / sqrt(d), as usual. For a recognised layer, its own.
    grid
        Rows and columns of the positions of queries and keys; None: those of a feature map (B, C, H, W), else in the proportions of the
        network's image, with fewer keys if those are pooled cells.
    tokens
        Names of the tokens before the positions, such as ("class",); None: as the network says, or as fits.

    Returns
    -------
    nn.Module
        The same layer.

    Raises
    ------
    ParameterError
        If the description is incomplete or does not fit.
    """
    given = dict(queries=queries, keys=keys, values=values, output=output)
    for name, function in given.items():
        if function is not None and not callable(function):
            raise ParameterError(f"{name}={short_repr(function)} is not a function or module")
    missing = [name for name, function in given.items() if function is None]
    if not isinstance(layer, nn.Module):
        raise ParameterError(f"layer={short_repr(layer)} is not a module")
    if next(layer.parameters(), None) is None:
        raise ParameterError(f"layer={short_repr(layer)} has no parameters, so no projections of its own; give the module that holds them")
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1:
        raise ParameterError(f"heads={short_repr(heads)} is not a number of heads, at least 1")
    if grid is not None and not (len(grid) == 2 and all(isinstance(n, int) and n > 0 for n in grid)):
        raise ParameterError(f"grid={short_repr(grid)} is not (rows, columns)")
    if output is not None and not missing:
        project = partial(_project, given, heads, scale)
        adapter = Adapter(layer, project, (lambda o, *_, **__: output(o)) if isinstance(output, nn.Module) else output, pooled=True)
    elif len(missing) < len(given):
        raise ParameterError(f"{', '.join(missing)} of the layer is missing; give queries, keys, values and output")
    elif (recognised := recognise(layer)) is None:
        raise ParameterError(f"a {type(layer).__name__} is not a layer that is recognised; give queries, keys, values and output")
    else:
        adapter = recognised
    setattr(
        layer, MARK, replace(adapter, grid=None if grid is None else (grid[0], grid[1]), tokens=None if tokens is None else tuple(tokens))
    )
    return layer


def _project(functions: dict, heads: int, scale: float | None, *inputs, **options) -> tuple[Tensor, Tensor, Tensor]:
    parts = []
    for name in ("queries", "keys", "values"):
        x = functions[name](*inputs, **options)
        if not isinstance(x, Tensor) or x.ndim not in (3, 4) or (x.shape[1] != heads if x.ndim == 4 else x.shape[2] % heads):
            form = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise ParameterError(f"{name} of the adapted layer gives {form}; it takes (B, n, {heads} * d) or (B, {heads}, n, d)")
        parts.append(split_heads(x, heads) if x.ndim == 3 else x)
    q, k, v = parts
    return q * (q.shape[-1] ** -0.5 if scale is None else scale), k, v


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, n, h d) -> (B, h, n, d)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


# ------------------------------------------------------------------------------------------------- layers that are recognised


def recognise(layer: nn.Module) -> Adapter | None:
    """The adapter of a layer of a known kind; None for others."""
    if isinstance(layer, SelfAttention):
        return OwnAdapter(layer, layer.project, layer.output, pooled=True)
    if isinstance(layer, nn.MultiheadAttention):
        return Adapter(layer, partial(_project_torch, layer), partial(_output_torch, layer), layer.batch_first)
    if all(isinstance(getattr(layer, name, None), nn.Module) for name in ("qkv", "proj")) and isinstance(
        getattr(layer, "num_heads", None), int
    ):
        windows = hasattr(layer, "relative_position_bias_table")  # of Swin: a batch holds windows, not images
        return None if windows else Adapter(layer, partial(_project_fused, layer), partial(_output_fused, layer))
    if all(isinstance(getattr(layer, name, None), nn.Module) for name in ("to_q", "to_k", "to_v", "to_out")) and hasattr(layer, "heads"):
        return Adapter(layer, partial(_project_diffusers, layer), partial(_output_diffusers, layer))
    return None


def _project_torch(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, *_, **masks):
    """q, k, v of `nn.MultiheadAttention`."""
    biases = (None, None, None) if layer.in_proj_bias is None else layer.in_proj_bias.chunk(3)
    weights = (
        (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight) if layer.in_proj_weight is None else layer.in_proj_weight.chunk(3)
    )
    parts = []
    for x, weight, bias in zip((query, key, value), weights, biases, strict=True):
        y = F.linear(x, weight, bias)
        parts.append(y[None] if y.ndim == 2 else y if layer.batch_first else y.transpose(0, 1))
    for part, added in ((1, layer.bias_k), (2, layer.bias_v)):
        extra = [] if added is None else [added.expand(len(parts[part]), -1, -1)]
        extra += [parts[part].new_zeros(len(parts[part]), 1, parts[part].shape[2])] if layer.add_zero_attn else []
        parts[part] = torch.cat([parts[part], *extra], dim=1)
    q, k, v = (split_heads(x, layer.num_heads) for x in parts)
    return q * layer.head_dim**-0.5, k, v


def _output_torch(layer: nn.MultiheadAttention, o: Tensor, query: Tensor, *_, **masks) -> Tensor:
    y = F.linear(o, layer.out_proj.weight, layer.out_proj.bias)
    return y[0] if query.ndim == 2 else y if layer.batch_first else y.transpose(0, 1)


def _project_fused(layer, x: Tensor, *_, **masks):
    """q, k, v of timm's `Attention` and its like."""
    q, k, v = (split_heads(part, layer.num_heads) for part in layer.qkv(x).chunk(3, dim=-1))
    q, k = getattr(layer, "q_norm", nn.Identity())(q), getattr(layer, "k_norm", nn.Identity())(k)
    return q * getattr(layer, "scale", q.shape[-1] ** -0.5), k, v


def _output_fused(layer, o: Tensor, *_, **masks) -> Tensor:
    return layer.proj(getattr(layer, "norm", nn.Identity())(o))


def _project_diffusers(layer, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *_, **masks):
    """q, k, v of diffusers' `Attention`."""
    x = hidden_states.flatten(2).transpose(1, 2) if hidden_states.ndim == 4 else hidden_states
    if getattr(layer, "group_norm", None) is not None:
        x = layer.group_norm(x.transpose(1, 2)).transpose(1, 2)
    context = x if encoder_hidden_states is None else encoder_hidden_states
    if encoder_hidden_states is not None and getattr(layer, "norm_cross", None):
        context = layer.norm_encoder_hidden_states(context)
    q, k, v = (split_heads(to(x), layer.heads) for to, x in ((layer.to_q, x), (layer.to_k, context), (layer.to_v, context)))
    q, k = (x if (norm := getattr(layer, name, None)) is None else norm(x) for name, x in (("norm_q", q), ("norm_k", k)))
    return q * getattr(layer, "scale", q.shape[-1] ** -0.5), k, v


def _output_diffusers(layer, o: Tensor, hidden_states: Tensor, *_, **masks) -> Tensor:
    y = layer.to_out[0](o)
    if hidden_states.ndim == 4:
        y = y.transpose(1, 2).unflatten(2, hidden_states.shape[2:])
    y = y + hidden_states if getattr(layer, "residual_connection", False) else y
    return y / getattr(layer, "rescale_output_factor", 1.0)


# ------------------------------------------------------------------------------------------------- layers of a network


def adapter_of(layer: nn.Module) -> Adapter | None:
    """The adapter of a layer that `adapt` has described, or that is recognised; None for other modules."""
    return vars(layer).get(MARK) or recognise(layer)


def attention_layers(module: nn.Module) -> dict[str, nn.Module]:
    """The attention layers of a network by their `named_modules` path."""
    return {path: layer for path, layer in module.named_modules() if adapter_of(layer) is not None}


def find_layer(module: nn.Module, path: str) -> Adapter:
    """The attention layer at a `named_modules` path, or a WorkbenchError that lists the paths."""
    layers = attention_layers(module)
    if path not in layers:
        known = (
            f"{nearest(path, layers)}there are: {', '.join(map(repr, layers))}"
            if layers
            else "the network has none that is known; see `attention.adapt`"
        )
        raise WorkbenchError(f"there is no attention layer {path!r}; {known}")
    adapter = adapter_of(layers[path])
    assert adapter is not None
    return adapter


def first_tokens(module: nn.Module) -> tuple[str, ...] | None:
    """The tokens before the positions, as a vision transformer says (timm, torchvision); None if none says so."""
    for part in module.modules():
        count = getattr(part, "num_prefix_tokens", None)
        if isinstance(count, int) and not isinstance(count, bool):
            has_class, second = getattr(part, "cls_token", None) is not None, getattr(part, "dist_token", None) is not None
            names = (("class",) if has_class else ()) + (("distillation",) if second else ())
            return names + registers(count - len(names))
        if isinstance(getattr(part, "class_token", None), nn.Parameter):
            return ("class",)
    return None
