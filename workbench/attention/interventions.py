"""Interventions on an attention layer, and their effect on the output of its network.

Shapes: B images, h heads (no dimension of them in a `SelfAttention`), N queries, M keys, D channels of values; tokens first, then positions in
row-major order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..messages import ParameterError, nearest, short_repr
from .capture import check_output, first_of, image_shape, weighted_values
from .layers import OwnAdapter, find_layer, first_tokens
from .layout import Layout
from .readings import overlap

Change = Callable[[Tensor], Tensor]


@contextmanager
def intervene(
    module: nn.Module,
    layer: str,
    *,
    gamma: float | None = None,
    forbid: Tensor | None = None,
    replace: str | None = None,
    patch: tuple[int, Tensor] | None = None,
    values: Change | None = None,
    scores: Change | None = None,
    map: Change | None = None,
    output: Change | None = None,
) -> Iterator[None]:
    """Context manager: change what the attention layer of `module` at the path `layer` computes.

    Interventions combine, in the order of the computation: `patch`, `values`; `replace`, `scores`, `forbid`; `map`; `gamma`, `output`.
    Without any the layer computes as learned. `capture` inside the context still gives the learned maps.

    The functions get and return a tensor, of all images of the batch; return the same shape, and finite numbers. Layers with heads have a
    dimension of them after that of images: (B, h, N, M).

    Parameters
    ----------
    gamma
        Replaces the learned scalar; 0 switches attention off. Of a layer without one, a factor of the weighted values.
    forbid
        Bool (N, M) or (B, N, M): True where a query may not attend to a key; its other weights are renormalised.
    replace
        Replaces the learned map. "uniform": equal weights on all keys. "local": equal weights on the 3x3 positions around the query; in
        the pooled variant, each key by how many of those its cell contains; a token attends to itself.
    patch
        (source, keys), activation patching: at the keys of the bool mask, (M,) or one for each image (B, M), all images of the batch take
        the values of image `source` and keep their own maps. In place of the mask, int64 of its shape names for each key the one of the
        source whose value it takes, or -1 for none: with itself as source, an image has values copied from one region to another.
    values
        Function of the values (B, M, D).
    scores
        Function of the scores (B, N, M), whose softmax is the map: `lambda scores: scores / 2`. It may return -inf, as `forbid` does.
    map
        Function of the map (B, N, M). What it returns is used as it is: rows need not sum to 1.
    output
        Function of what the layer returns, such as a feature map (B, C, H, W) or sequence (B, N, C).

    Raises
    ------
    WorkbenchError
        If there is no such layer.
    ParameterError
        For values that do not fit: at once, or, if that depends on the size of the feature map, from the forward pass.
    """
    if replace not in (None, "uniform", "local"):
        raise ParameterError(f"replace={replace!r} is not known; {nearest(str(replace), ('uniform', 'local'))}give uniform, local or None")
    for name, mask in (("forbid", forbid), ("patch", patch and patch[1])):
        if mask is not None and mask.dtype != torch.bool and not (name == "patch" and mask.dtype == torch.int64):
            raise ParameterError(f"{name} has a mask of {mask.dtype}; give a mask of torch.bool")
    for name, function in (("values", values), ("scores", scores), ("map", map), ("output", output)):
        if function is not None and not callable(function):
            raise ParameterError(
                f"{name}={short_repr(function)} is not a function; give one of a tensor, such as `lambda {name}: {name} / 2`"
            )
    adapter, tokens = find_layer(module, layer), first_tokens(module)

    def hook(attention, inputs, options, returned):
        query, key, value = adapter.projections(inputs, options)
        if not isinstance(adapter, OwnAdapter):
            check_output(layer, adapter, weighted_values(query, key, value), inputs, options, returned)
        if patch:
            value = _patched(value, *patch)
        value = _changed("values", values, value)
        images, shape = len(query), (query.shape[-2], key.shape[-2])
        if forbid is not None and forbid.shape not in (shape, (images, *shape)):
            raise ParameterError(f"forbid has shape {tuple(forbid.shape)}; this layer takes {shape} or {(images, *shape)}")
        masks = None if forbid is None else forbid.expand(images, *shape).to(query.device)
        fixed = None
        if replace is not None:
            layout = adapter.layout(inputs, *shape, image[-1], tokens)
            fixed = _fixed_scores(replace, *shape, layout).to(query)
        weighted = []
        # One by one: the maps of a whole batch may not fit into memory. But a function gets all images.
        for part in torch.arange(images).split(images if scores or map else 1):
            learned = query[part] @ key[part].transpose(-1, -2)
            s = _changed("scores", scores, learned if fixed is None else fixed.expand_as(learned))
            if masks is not None:
                mask = masks[part]
                s = s.masked_fill(mask if s.ndim == 3 else mask[:, None], -torch.inf)
            empty = s.isneginf().all(-1)
            if empty.any():
                name = "forbid leaves" if scores is None else f"{_name('scores', scores)} leaves"
                raise ParameterError(f"{name} query {int(empty.nonzero()[0, -1])} no key; leave every query at least one")
            weighted.append(_changed("map", map, torch.softmax(s, dim=-1)) @ value[part])
        y = _changed("output", output, adapter.returns(torch.cat(weighted), inputs, options, gamma)).to(first_of(returned).dtype)
        return (y, *returned[1:]) if isinstance(returned, tuple) else y

    with image_shape(module) as image, adapter.layer.register_forward_hook(hook, with_kwargs=True):
        yield


def _name(parameter: str, function: Change) -> str:
    return f"{parameter}={getattr(function, '__name__', None) or short_repr(function)}"


def _changed(parameter: str, function: Change | None, x: Tensor) -> Tensor:
    """What a function of the user's makes of x; refused unless it is a tensor like x of finite numbers (scores may be -inf)."""
    if function is None:
        return x
    y = function(x)
    name, shape = _name(parameter, function), tuple(x.shape)
    if not isinstance(y, Tensor):
        raise ParameterError(f"{name} returned a {type(y).__name__}; return a tensor of shape {shape}")
    if y.shape != x.shape or not (y.is_floating_point() or y.dtype == torch.bool):
        raise ParameterError(
            f"{name} returned {str(y.dtype).removeprefix('torch.')} of shape {tuple(y.shape)}; return floating point of shape {shape}"
        )
    y = y.to(x)
    finite = y.isfinite() | y.isneginf() if parameter == "scores" else y.isfinite()
    if not finite.all() and x.isfinite().all():  # else the network has diverged
        raise ParameterError(
            f"{name} returned {y[~finite][0].item()} at {tuple((~finite).nonzero()[0].tolist())} of shape {shape}; return finite numbers"
        )
    return y


def _patched(value: Tensor, source: int, keys: Tensor) -> Tensor:
    """Values (B, M, D) or (B, h, M, D), replaced by those of image `source` at the keys of the mask, (M,) or (B, M), or by those of the keys
    that it names."""
    images, count = len(value), value.shape[-2]
    if not 0 <= source < images:
        raise ParameterError(f"patch has source {source}, not an image of a batch of {images}; give one from 0 to {images - 1}")
    if keys.shape not in ((count,), (images, count)):
        raise ParameterError(f"patch has a mask of shape {tuple(keys.shape)}; this layer takes ({count},) or ({images}, {count})")
    keys = (keys[:, None] if keys.ndim == 2 and value.ndim == 4 else keys).to(value.device)  # for all heads
    if keys.dtype == torch.bool:
        return torch.where(keys[..., None], value[source], value)
    if keys.min() < -1 or keys.max() >= count:
        raise ParameterError(
            f"patch names keys from {int(keys.min())} to {int(keys.max())}; this layer has keys 0 to {count - 1}, and -1 is none"
        )
    named = keys.clamp(min=0)[..., None].expand(*value.shape[:-2], count, value.shape[-1])
    return torch.where(keys[..., None] >= 0, value[source].expand_as(value).gather(-2, named), value)


def _fixed_scores(replace: str, queries: int, keys: int, layout: Layout | None) -> Tensor:
    """Scores (N, M) whose softmax is the map "uniform" or "local"."""  # scores, so that forbidden keys are masked as usual
    if replace == "uniform":
        return torch.zeros(queries, keys)
    if layout is None:
        raise ParameterError(
            f"replace='local' needs queries and keys that are positions of a grid; {queries} and {keys} are not; see attention.adapt"
        )
    down, across = (overlap(of_queries, of_keys, radius=1) for of_queries, of_keys in zip(layout.grid, layout.key_grid, strict=True))
    near = torch.einsum("yv,xu->yxvu", down, across).flatten(2).flatten(0, 1)
    return torch.block_diag(torch.eye(len(layout.tokens)), near).log()


@dataclass(frozen=True)
class Effect:
    """The output of a network without and with an intervention, or a metric of it, float32, on the CPU: images (B, 3, S, S), logits (B,)."""

    before: Tensor
    after: Tensor

    @property
    def difference(self) -> Tensor:
        """after - before."""
        return self.after - self.before


@torch.no_grad()
def effect(network: nn.Module, inputs: tuple, layer: str, *, metric: Callable | None = None, **intervention) -> Effect:
    """What an intervention changes in the output of a network.

    Parameters
    ----------
    network, inputs
        A network in eval mode (batch norm in training mode would move), and its inputs: (z, y) of G or (x, y) of D.
    layer, intervention
        As `intervene` takes them.
    metric
        Function of the output, to be compared in its place: a tensor or a number, such as `lambda images: images.mean((1, 2, 3))`.

    Raises
    ------
    WorkbenchError, ParameterError
        As `intervene` does; and if there is no tensor to compare.
    """
    with parametrize.cached():
        before = network(*inputs)
        with intervene(network, layer, **intervention):
            after = network(*inputs)
    return Effect(measured(before, metric), measured(after, metric))


def measured(output, metric: Callable | None = None) -> Tensor:
    """An output, or a metric of it, as a float32 tensor on the CPU; a ParameterError if it is none."""
    value = output if metric is None else metric(output)
    if isinstance(value, int | float):
        value = torch.tensor(value)
    if not isinstance(value, Tensor):
        of = "the network returns" if metric is None else f"{_name('metric', metric)} returned"
        raise ParameterError(
            f"{of} a {type(value).__name__}, not a tensor; give a metric of the output that is one: metric=lambda output: ..."
        )
    return value.float().cpu()
