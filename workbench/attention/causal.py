"""How much the output of a network depends on each key of a query."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..messages import ParameterError, WorkbenchError, counted
from ..model import Discriminator, Generator
from ..model.layers import BatchNorm
from .capture import attention_map, check_output, first_of, image_shape
from .interventions import intervene, measured
from .layers import OwnAdapter, find_layer, first_tokens


@torch.no_grad()
def causal_map(network: nn.Module, inputs: tuple, layer: str, query: int, *, batch_size: int = 256, gamma: float | None = None) -> Tensor:
    """How much the output depends on each key of a query: (M,) float32, on the CPU.

    Each key in turn is dropped for that query alone, in all heads, and the query's other weights are renormalised. Equal to M calls of
    `effect` with `forbid`, up to rounding, but faster: later layers run for `batch_size` variants at a time; in G and D, earlier ones run
    once, and G after its last attention layer only around the query.

    Parameters
    ----------
    network, inputs
        A network, batch norm in eval mode, and its inputs for one image: (z, y) of G or (x, y) of D.
    layer
        `named_modules` path of the attention layer.
    query
        Position in [0, N), row-major, behind the tokens if there are any.
    batch_size
        Variants at a time.
    gamma
        As of `intervene`.

    Returns
    -------
    Tensor
        For networks that return images, the L2 norm of the change of the image over the query's own pixels (its S/side x S/side, all
        channels; of a token, over all pixels); for others, of all that they return: for D, the absolute change of the logit.

    Raises
    ------
    WorkbenchError
        If there is no such layer, or it does not run.
    ParameterError
        If there is more than one image, no such position, or a batch norm in training mode, in which variants would change one another.
    """
    if len(inputs[0]) != 1:
        raise ParameterError(f"inputs hold {counted(len(inputs[0]), 'image')}; causal_map takes one")
    if batch_size < 1:
        raise ParameterError(f"batch_size={batch_size} is out of range; at least 1")
    if any(isinstance(module, BatchNorm | nn.modules.batchnorm._BatchNorm) and module.training for module in network.modules()):
        raise ParameterError("the network is in training mode, in which images of a batch change one another; call network.eval() first")
    adapter, tokens = find_layer(network, layer), first_tokens(network)
    calls: list[tuple] = []

    def keep(_, inputs, options, output):
        calls[:] = [(inputs, options, output)]

    with parametrize.cached():
        with (
            image_shape(network) as image,
            nullcontext() if gamma is None else intervene(network, layer, gamma=gamma),
            adapter.layer.register_forward_hook(keep, with_kwargs=True),
        ):
            output = measured(network(*inputs))
        if not calls:
            raise WorkbenchError(f"the attention layer {layer!r} does not run for these inputs")
        arguments, options, y = calls[0]
        q, k, v = adapter.projections(arguments, options)
        layout = adapter.layout(arguments, q.shape[-2], k.shape[-2], image[-1], tokens)
        place = layout.place(query) if layout else None
        if not 0 <= query < q.shape[-2]:
            raise ParameterError(f"query={query} is not one of {q.shape[-2]} queries; give one from 0 to {q.shape[-2] - 1}")
        weighted = _with_each_key_dropped(q, k, v, query)  # (1 + M, h, D)
        if isinstance(adapter, OwnAdapter) and type(network) in (Generator, Discriminator) and place:
            return _from_layer(network, inputs, adapter, arguments, y, weighted, place, output, batch_size, gamma)
        learned = attention_map(q, k) @ v
        if gamma is None:
            check_output(layer, adapter, learned, arguments, options, y)
        changes = []
        for batch in weighted[1:].split(batch_size):
            # The unchanged output goes first, through the same arithmetic. The network runs from its inputs: which later layers add or join
            # what earlier ones made is not known.
            variants = learned.expand(1 + len(batch), *learned.shape[1:]).clone()
            variants[..., query, :] = torch.cat([weighted[:1], batch])

            def hook(_, arguments, options, output, variants=variants):
                result = adapter.returns(variants, arguments, options, gamma).to(first_of(output).dtype)
                return (result, *output[1:]) if isinstance(output, tuple) else result

            with adapter.layer.register_forward_hook(hook, with_kwargs=True):
                outputs = measured(network(*(x.expand(len(variants), *x.shape[1:]) if isinstance(x, Tensor) else x for x in inputs)))
            changes.append(_changes(outputs, place, layout.grid if layout else None))
    return torch.cat(changes)


def _from_layer(network, inputs, adapter, arguments, y, weighted, place, output, batch_size, gamma) -> Tensor:
    """The causal map of a layer of G or D, whose earlier layers do not run again."""
    x, grid, (row, column) = arguments[0], tuple(y.shape[2:]), place
    outputs = x[0, :, row, column] + adapter.change(weighted, (x,), {}, gamma)  # (1 + M, C)
    if isinstance(network, Generator) and network.attention[max(network.attention, key=int)] is adapter.layer:
        # After its last attention, a generator has only convolutions: two of 3x3 at each doubled resolution and one at the last, which reach
        # less than 1 + 1/2 + 1/4 + ... = 2 positions. Running it on the 5x5 positions around the query gives the same pixels of the query.
        # D, layers before another attention layer, and a generator that was changed need the whole map.
        top, left = max(0, row - 2), max(0, column - 2)
        part = y[:, :, top : row + 3, left : column + 3]
        with adapter.layer.register_forward_hook(lambda *_: part):
            nearby = _pixels(measured(network(*inputs)), (row - top, column - left), tuple(part.shape[2:]))
        pixels = _pixels(output, place, grid)
        if nearby.shape == pixels.shape and (nearby - pixels).norm() <= 1e-3 * pixels.norm():
            y, row, column = part, row - top, column - left
    changes = []
    for batch in outputs[1:].split(batch_size):
        variants = y.expand(1 + len(batch), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        variants[:, :, row, column] = torch.cat([outputs[:1], batch]).to(y.dtype)  # the unchanged one first, as above
        with adapter.layer.register_forward_hook(lambda *_, variants=variants: variants):
            changes.append(_changes(measured(network(*inputs)), (row, column), tuple(y.shape[2:])))
    return torch.cat(changes)


def _changes(outputs: Tensor, place: tuple[int, int] | None, grid: tuple[int, int] | None) -> Tensor:
    """The norms of the differences of outputs from the first, (B - 1,), of images at the pixels of a position."""
    pixels = _pixels(outputs, place, grid)
    return (pixels[1:] - pixels[0]).norm(dim=1)


def _pixels(output: Tensor, place: tuple[int, int] | None, grid: tuple[int, int] | None) -> Tensor:
    """The pixels, (B, all), of a position of a grid in images (B, C, H, W); all of what is no image, or no position's."""
    if output.ndim != 4 or place is None or grid is None:
        return output.reshape(len(output), -1)
    height, width = (size // count for size, count in zip(output.shape[2:], grid, strict=True))
    return output[:, :, place[0] * height :, place[1] * width :][:, :, :height, :width].flatten(1)


def _with_each_key_dropped(q: Tensor, k: Tensor, v: Tensor, query: int) -> Tensor:
    """The weighted values of a query of one image, with all keys first, then with each one dropped: (1 + M, D) or (1 + M, h, D)."""
    # A new softmax for each: (o - beta_m value_m) / (1 - beta_m) is inexact where beta_m is nearly 1.
    scores = (k[0] @ q[0, ..., query, :, None]).squeeze(-1)  # (M,) or (h, M)
    keys = torch.arange(k.shape[-2], device=k.device)
    scores = scores.repeat(1 + len(keys), *[1] * scores.ndim)
    scores[1 + keys, ..., keys] = -torch.inf
    return (torch.softmax(scores, dim=-1).unsqueeze(-2) @ v[0]).squeeze(-2)
