"""Interventions on an attention layer, and their effect on the output of its network.

Shapes: B images, N = side^2 queries, M = key_side^2 keys, D channels of values; positions in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..messages import ParameterError, WorkbenchError, nearest
from ..model import Generator, SelfAttention
from ..model.layers import BatchNorm
from .capture import attention_layers, contribution, project_exactly
from .readings import check_query, overlap


@contextmanager
def intervene(
    module: nn.Module,
    layer: str,
    *,
    gamma: float | None = None,
    forbid: Tensor | None = None,
    replace: str | None = None,
    patch: tuple[int, Tensor] | None = None,
) -> Iterator[None]:
    """Context manager: change what the attention layer of `module` at the path `layer` computes.

    Interventions combine; without any the layer computes as learned. `capture` inside the context still gives the learned maps.

    Parameters
    ----------
    gamma
        Replaces the learned scalar; 0 switches attention off.
    forbid
        Bool (N, M) or (B, N, M): True where a query may not attend to a key; its other weights are renormalised.
    replace
        Replaces the learned map. "uniform": equal weights on all keys. "local": equal weights on the 3x3 positions around the query; in
        the pooled variant, each key by how many of those its cell contains.
    patch
        (source, keys), activation patching: at the keys of the bool mask, (M,) or one for each image (B, M), all images of the batch take
        the values of image `source` and keep their own maps. In place of the mask, int64 of its shape names for each key the one of the
        source whose value it takes, or -1 for none: with itself as source, an image has values copied from one region to another.

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

    def hook(attention, inputs, output):
        x = inputs[0]
        query, key, value = project_exactly(attention, x)
        if patch:
            value = _patched(value, *patch)
        shape = (query.shape[1], key.shape[1])
        if forbid is not None and forbid.shape not in (shape, (len(x), *shape)):
            raise ParameterError(f"forbid has shape {tuple(forbid.shape)}; this layer takes {shape} or {(len(x), *shape)}")
        masks = None if forbid is None else forbid.expand(len(x), *shape).to(x.device)
        fixed = None if replace is None else _fixed_scores(replace, *shape).to(query)
        weighted = []
        for image in range(len(x)):  # one by one: the maps of a whole batch may not fit into memory
            scores = query[image] @ key[image].T if fixed is None else fixed
            if masks is not None:
                scores = scores.masked_fill(masks[image], -torch.inf)
                empty = scores.isneginf().all(-1)
                if empty.any():
                    raise ParameterError(f"forbid leaves query {int(empty.nonzero()[0])} no key; leave every query at least one")
            weighted.append(torch.softmax(scores, dim=-1) @ value[image])
        change = contribution(attention, torch.stack(weighted), gamma)
        return (x + change.transpose(1, 2).unflatten(2, x.shape[2:])).to(output.dtype)

    with find_layer(module, layer).register_forward_hook(hook):
        yield


def _patched(value: Tensor, source: int, keys: Tensor) -> Tensor:
    """Values (B, M, D), replaced by those of image `source` at the keys of the mask, (M,) or (B, M), or by those of the keys that it names."""
    images, count = value.shape[:2]
    if not 0 <= source < images:
        raise ParameterError(f"patch has source {source}, not an image of a batch of {images}; give one from 0 to {images - 1}")
    if keys.shape not in ((count,), (images, count)):
        raise ParameterError(f"patch has a mask of shape {tuple(keys.shape)}; this layer takes ({count},) or ({images}, {count})")
    keys = keys.to(value.device)
    if keys.dtype == torch.bool:
        return torch.where(keys[..., None], value[source], value)
    if keys.min() < -1 or keys.max() >= count:
        raise ParameterError(
            f"patch names keys from {int(keys.min())} to {int(keys.max())}; this layer has keys 0 to {count - 1}, and -1 is none"
        )
    return torch.where(keys[..., None] >= 0, value[source][keys.clamp(min=0)], value)


def _fixed_scores(replace: str, queries: int, keys: int) -> Tensor:
    """Scores (N, M) whose softmax is the map "uniform" or "local"."""  # scores, so that forbidden keys are masked as usual
    if replace == "uniform":
        return torch.zeros(queries, keys)
    near = overlap(math.isqrt(queries), math.isqrt(keys), radius=1)
    return torch.einsum("yv,xu->yxvu", near, near).flatten(2).flatten(0, 1).log()


def find_layer(module: nn.Module, path: str) -> SelfAttention:
    """The attention layer at a `named_modules` path, or a WorkbenchError that lists the paths."""
    layers = attention_layers(module)
    if path not in layers:
        known = f"{nearest(path, layers)}there are: {', '.join(map(repr, layers))}" if layers else "the network has none"
        raise WorkbenchError(f"there is no attention layer {path!r}; {known}")
    return layers[path]


@dataclass(frozen=True)
class Effect:
    """The output of a network without and with an intervention: images (B, 3, S, S) or logits (B,), float32, on the CPU."""

    before: Tensor
    after: Tensor

    @property
    def difference(self) -> Tensor:
        """after - before."""
        return self.after - self.before


@torch.no_grad()
def effect(network: nn.Module, inputs: tuple, layer: str, **intervention) -> Effect:
    """What an intervention changes in the output of a network.

    Parameters
    ----------
    network, inputs
        G or D, in eval mode (batch norm in training mode would move), and its inputs: (z, y) or (x, y).
    layer, intervention
        As `intervene` takes them.

    Raises
    ------
    WorkbenchError, ParameterError
        As `intervene` does.
    """
    with parametrize.cached():
        before = network(*inputs)
        with intervene(network, layer, **intervention):
            after = network(*inputs)
    return Effect(before.float().cpu(), after.float().cpu())


@torch.no_grad()
def causal_map(network: nn.Module, inputs: tuple, layer: str, query: int, *, batch_size: int = 256, gamma: float | None = None) -> Tensor:
    """How much the output depends on each key of a query: (M,) float32, on the CPU.

    Each key in turn is dropped for that query alone, and the query's other weights are renormalised. Equal to M calls of `effect` with
    `forbid`, up to rounding, but faster: earlier layers run once, later ones for `batch_size` variants at a time, and G after its last
    attention layer only around the query.

    Parameters
    ----------
    network, inputs
        G or D, batch norm in eval mode, and its inputs for one image: (z, y) or (x, y).
    layer
        `named_modules` path of the attention layer.
    query
        Position in [0, N), row-major.
    batch_size
        Variants at a time.
    gamma
        Replaces the learned scalar.

    Returns
    -------
    Tensor
        For G, the L2 norm of the change of the image over the query's own pixels (its S/side x S/side, all channels); for D, the absolute
        change of the logit.

    Raises
    ------
    WorkbenchError
        If there is no such layer.
    ParameterError
        If there is more than one image, no such position, or a batch norm in training mode, in which variants would change one another.
    """
    if len(inputs[0]) != 1:
        raise ParameterError(f"inputs hold {len(inputs[0])} images; causal_map takes one")
    if batch_size < 1:
        raise ParameterError(f"batch_size={batch_size} is out of range; at least 1")
    if any(isinstance(module, BatchNorm) and module.training for module in network.modules()):
        raise ParameterError("the network is in training mode, in which images of a batch change one another; call network.eval() first")
    attention = find_layer(network, layer)
    features: list[Tensor] = []

    def keep(_, inputs, output):
        features[:] = inputs[0], output

    with parametrize.cached():
        with nullcontext() if gamma is None else intervene(network, layer, gamma=gamma), attention.register_forward_hook(keep):
            network(*inputs)
        x, y = features
        side = check_query(query, x.shape[2] * x.shape[3])
        # After its last attention, a generator has only convolutions: two of 3x3 at each doubled resolution and one at the last, which reach
        # less than 1 + 1/2 + 1/4 + ... = 2 positions. Running it on the 5x5 positions around the query gives the same pixels of the query.
        # D, and layers before another attention layer, need the whole map.
        last = isinstance(network, Generator) and network.attention[max(network.attention, key=int)] is attention
        reach = 2 if last else side
        top, left = (max(0, at - reach) for at in divmod(query, side))
        row, column = query // side - top, query % side - left  # of the query in the part of the map that runs
        y = y[:, :, top:, left:][:, :, : row + reach + 1, : column + reach + 1]
        outputs = _with_each_key_dropped(attention, x, query, gamma)
        changes = []
        for batch in outputs[1:].split(batch_size):
            # The unchanged output goes first, through the same arithmetic.
            variants = y.expand(1 + len(batch), -1, -1, -1).contiguous(memory_format=torch.channels_last)
            variants[:, :, row, column] = torch.cat([outputs[:1], batch]).to(y.dtype)
            with attention.register_forward_hook(lambda *_, variants=variants: variants):
                pixels = _at_query(network(*inputs), row, column, y.shape[-1])
            changes.append((pixels[1:] - pixels[0]).norm(dim=1))
    return torch.cat(changes).float().cpu()


def _at_query(output: Tensor, row: int, column: int, width: int) -> Tensor:
    """The pixels, (B, all), of a position on a map of `width` columns in images (B, 3, H, W); logits (B,) as (B, 1)."""
    if output.ndim == 1:
        return output[:, None]
    pixels = output.shape[-1] // width
    return output[:, :, row * pixels : (row + 1) * pixels, column * pixels : (column + 1) * pixels].flatten(1)


def _with_each_key_dropped(attention: SelfAttention, x: Tensor, query: int, gamma: float | None) -> Tensor:
    """The layer's output at a query of x (1, C, H, W), with all keys first, then with each one dropped: (1 + M, C)."""
    queries, key, value = (projection[0] for projection in project_exactly(attention, x))
    # A new softmax for each: (o - beta_m value_m) / (1 - beta_m) is inexact where beta_m is nearly 1.
    scores = (key @ queries[query]).repeat(1 + len(key), 1)
    scores[1:].fill_diagonal_(-torch.inf)
    return x.flatten(2)[0, :, query] + contribution(attention, torch.softmax(scores, dim=-1) @ value, gamma)
