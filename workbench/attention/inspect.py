"""What an attention layer computes for one image, and what an intervention changes; for any network with attention layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..messages import ParameterError, WorkbenchError
from ..model import sampling
from .capture import TENSORS, Projections, capture_projections
from .interventions import intervene, measured
from .layers import find_layer
from .readings import incoming, outgoing, relative_offsets, statistics, value_weighted

STATISTICS = ("entropy", "distance", "outside_3", "outside_9", "strength", "received")
READINGS = ("outgoing", "incoming", "value_weighted", *STATISTICS)


@dataclass(frozen=True)
class Inspection:
    """One image, and what one attention layer computed for it: the data of a figure or a widget.

    Attributes
    ----------
    layer
        Its `named_modules` path, after the name of the network if there are several ("G/attention.16").
    image, after
        (3, H, W) in [-1, 1]: the output of a generator, or the input of another network; the output of a generator under the intervention,
        None without one.
    projections
        Of this image; of several heads, maps and readings are their mean.
    logit, logit_after
        The output of a network with a single logit, without and with the intervention; of several logits, the largest, and the same one
        after; None for others.
    top
        The number of the largest of several logits.
    queries
        Queries to show: positions, row-major, behind the tokens if there are any.
    network, about
        Captions of the network ("twins32, step 4,000") and of the image ("ring, seed 0, sample 3").
    label, class_name
        Class of the image, by number and name; None and empty without classes.
    """

    layer: str
    image: Tensor
    projections: Projections
    after: Tensor | None = None
    logit: float | None = None
    logit_after: float | None = None
    top: int | None = None
    queries: tuple[int, ...] = ()
    network: str = ""
    about: str = ""
    label: int | None = None
    class_name: str = ""

    @cached_property
    def beta(self) -> Tensor:
        """The attention map (N, M), mean over heads."""
        beta = self.projections.maps()[0]
        return beta.mean(0) if beta.ndim == 3 else beta

    @cached_property
    def statistics(self) -> dict[str, Tensor]:
        """(N,) each, see `attention.statistics`."""
        return {name: values[0] for name, values in statistics(self.projections, (self.image.shape[-2], self.image.shape[-1])).items()}

    def heat(self, reading: str, query: int) -> Tensor:
        """One of READINGS as a map (R, C) over positions: of one query, or for the statistics of all queries.

        Raises
        ------
        ParameterError
            If there is no such reading or query.
        """
        layout = self.projections.places
        if reading == "outgoing":
            return outgoing(self.beta, query, layout)
        if reading == "incoming":
            return incoming(self.beta, query, layout)
        if reading == "value_weighted":
            heat = value_weighted(self.projections.maps()[0], self.projections.value_norm[0], query, layout)
            return heat.mean(0) if heat.ndim == 3 else heat
        if reading in self.statistics:
            return self.statistics[reading][len(layout.tokens) :].view(layout.grid)
        raise ParameterError(f"reading={reading!r} is not one of {', '.join(READINGS)}")


def inspect_layer(
    network: nn.Module,
    inputs: tuple,
    layer: str,
    *,
    attention_off: bool = False,
    head: int | None = None,
    source: tuple | None = None,
    **intervention,
) -> Inspection:
    """What an attention layer computes for one image, and the output of the network under an intervention.

    Parameters
    ----------
    network, inputs
        A network, and its inputs for one image, such as (z, y) or (x, y); run in eval mode.
    layer
        `named_modules` path of the attention layer.
    attention_off
        The layer's gamma is 0 also without the intervention; its map stays the learned one.
    head
        The head to inspect; None: all, whose mean is read.
    source
        Inputs for another image, which precedes this one in the batch of the intervention: the source of a `patch`.
    intervention
        Arguments of `intervene`; those that are None change nothing.

    Raises
    ------
    WorkbenchError, ParameterError
        As `capture` and `intervene` do.
    """
    output, projections = _run(network, inputs, layer, attention_off)
    projections = projections if head is None else projections.head(head)
    after, intervention = None, {name: value for name, value in intervention.items() if value is not None}
    if intervention:
        with intervene(network, layer, **({"gamma": 0.0} if attention_off else {}) | intervention):
            after = run_network(network, inputs if source is None else _joined(source, inputs))[-1:]
    if output.ndim == 4:
        return Inspection(layer, output[0], projections, None if after is None else after[0])
    top = int(output[0].argmax()) if output.ndim == 2 and output.shape[1] > 1 else None
    logit, logit_after = (None if value is None else _logit(value, top) for value in (output, after))
    return Inspection(layer, inputs[0][0], projections, logit=logit, logit_after=logit_after, top=top)


def _logit(output: Tensor, top: int | None) -> float | None:
    if top is not None:
        return output[0, top].item()
    return output.item() if output.numel() == 1 else None


def _joined(first: tuple, second: tuple) -> tuple:
    """Inputs of two images as those of a batch."""
    return tuple(None if a is None else torch.cat([a, b]) for a, b in zip(first, second, strict=True))


def collect_projections(network: nn.Module, inputs: tuple, layer: str, *, attention_off: bool = False, batch_size: int = 64) -> Projections:
    """The projections of an attention layer for many images, run `batch_size` at a time; parameters as of `inspect_layer`."""
    starts = range(0, len(inputs[0]), batch_size)
    batches = [tuple(None if x is None else x[k : k + batch_size] for x in inputs) for k in starts]
    chunks = [_run(network, batch, layer, attention_off)[1] for batch in batches]
    tensors = {name: torch.cat([getattr(chunk, name) for chunk in chunks]) for name in TENSORS}
    return Projections(**tensors, gamma=chunks[0].gamma, layout=chunks[0].layout, trusted=all(chunk.trusted for chunk in chunks))


def every_projection(network: nn.Module, inputs: tuple) -> tuple[Tensor, dict[str, Projections]]:
    """The output of a network, run in eval mode, and the projections of all its attention layers by their `named_modules` path."""
    with capture_projections(network) as captured:
        return run_network(network, inputs), captured


def _run(network: nn.Module, inputs: tuple, layer: str, attention_off: bool) -> tuple[Tensor, Projections]:
    find_layer(network, layer)  # raises if there is no such layer
    with capture_projections(network) as captured, intervene(network, layer, gamma=0.0) if attention_off else nullcontext():
        output = run_network(network, inputs)
    if layer not in captured:
        raise WorkbenchError(f"the attention layer {layer!r} does not run for these inputs")
    seen = captured[layer]
    return output, replace(seen, strength=torch.zeros_like(seen.strength), gamma=0.0) if attention_off else seen


@torch.no_grad()
def run_network(network: nn.Module, inputs: tuple) -> Tensor:
    """The output in eval mode, float32 on the CPU, for inputs of any device; what is no tensor stays."""
    with sampling.train_mode(network, False), parametrize.cached():
        return measured(network(*on_device(network, inputs)))


def on_device(network: nn.Module, inputs: tuple) -> tuple:
    """Inputs on the device of a network, in its precision; what is no tensor stays."""
    weight = next(network.parameters())
    return tuple(x.to(weight if x.is_floating_point() else weight.device) if isinstance(x, Tensor) else x for x in inputs)


def mean_offsets(projections: Projections) -> Tensor:
    """`relative_offsets` of the maps of projections, (2 R - 1, 2 C - 1)."""
    images = range(len(projections.query))  # one by one: their maps are large
    return torch.stack([relative_offsets(projections[k : k + 1].maps(), projections.places) for k in images]).mean(0)


def key_positions(queries: Sequence[int], side: int, key_side: int) -> tuple[int, ...]:
    """The keys whose cells contain these positions of a side x side map, ascending."""
    cells = (tuple(at * key_side // side for at in divmod(query, side)) for query in queries)
    return tuple(sorted({row * key_side + column for row, column in cells}))


def taken_keys(keys: Sequence[int], shift: tuple[int, int], key_side: int) -> Tensor:
    """For `patch` of `intervene`: at these keys, the keys `shift` = (rows, columns) away, and -1 at all others; (M,) int64.

    A ParameterError if one of them lies outside of the map.
    """
    taken = torch.full((key_side**2,), -1)
    for key in keys:
        row, column = (at + by for at, by in zip(divmod(key, key_side), shift, strict=True))
        if not (0 <= row < key_side and 0 <= column < key_side):
            raise ParameterError(f"key {key} would take its value from row {row}, column {column}, outside of a {key_side}x{key_side} map")
        taken[key] = row * key_side + column
    return taken


def positions_mask(queries: Sequence[int] | None, keys: Sequence[int], shape: tuple[int, int]) -> Tensor:
    """A mask of `shape` (N, M) for `forbid` of `intervene`: True at these keys for these queries (None: all)."""
    mask = torch.zeros(shape, dtype=torch.bool)
    rows = torch.arange(shape[0]) if queries is None else torch.tensor(queries, dtype=torch.long)
    mask[rows[:, None], torch.tensor(keys, dtype=torch.long)] = True
    return mask


def salient_positions(image: Tensor, grid: int | tuple[int, int]) -> tuple[int, int, int]:
    """Three positions (row-major, on a grid of rows and columns, or a square one) of an image (3, H, W): in the left half the one whose
    colour is furthest from the median, the same in the right half, and the one that is nearest to it."""
    median = image.flatten(1).median(1).values
    salience = nn.functional.adaptive_avg_pool2d((image - median[:, None, None]).abs().sum(0, keepdim=True), grid)[0]
    right = torch.arange(salience.shape[1]) >= salience.shape[1] // 2
    left_object, right_object = salience.masked_fill(right, -1), salience.masked_fill(~right, -1)
    return int(left_object.argmax()), int(right_object.argmax()), int(salience.argmin())
