"""What an attention layer computes for one image, and what an intervention changes; for any network with `SelfAttention` layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..messages import ParameterError
from ..model import sampling
from .capture import Projections, capture_projections
from .interventions import find_layer, intervene
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
        (3, S, S) in [-1, 1]: the output of a generator, or the input of another network; the output of a generator under the intervention,
        None without one.
    projections
        Of this image.
    logit, logit_after
        The output of a network with a single logit, without and with the intervention; None for others.
    queries
        Positions to show, row-major.
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
    queries: tuple[int, ...] = ()
    network: str = ""
    about: str = ""
    label: int | None = None
    class_name: str = ""

    @cached_property
    def beta(self) -> Tensor:
        """The attention map (N, M)."""
        return self.projections.maps()[0]

    @cached_property
    def statistics(self) -> dict[str, Tensor]:
        """(N,) each, see `attention.statistics`."""
        return {name: values[0] for name, values in statistics(self.projections, self.image.shape[-1]).items()}

    def heat(self, reading: str, query: int) -> Tensor:
        """One of READINGS as a map (side, side): of one query, or for the statistics of all queries.

        Raises
        ------
        ParameterError
            If there is no such reading or position.
        """
        if reading == "outgoing":
            return outgoing(self.beta[None], query)[0]
        if reading == "incoming":
            return incoming(self.beta[None], query)[0]
        if reading == "value_weighted":
            return value_weighted(self.beta[None], self.projections.value_norm, query)[0]
        if reading in self.statistics:
            return self.statistics[reading].view(self.projections.side, self.projections.side)
        raise ParameterError(f"reading={reading!r} is not one of {', '.join(READINGS)}")


def inspect_layer(network: nn.Module, inputs: tuple, layer: str, *, attention_off: bool = False, **intervention) -> Inspection:
    """What an attention layer computes for one image, and the output of the network under an intervention.

    Parameters
    ----------
    network, inputs
        A network, and its inputs for one image, such as (z, y) or (x, y); run in eval mode.
    layer
        `named_modules` path of the attention layer.
    attention_off
        The layer's gamma is 0 also without the intervention; its map stays the learned one.
    intervention
        Arguments of `intervene`; those that are None change nothing.

    Raises
    ------
    WorkbenchError, ParameterError
        As `capture` and `intervene` do.
    """
    output, projections = _run(network, inputs, layer, attention_off)
    after, intervention = None, {name: value for name, value in intervention.items() if value is not None}
    if intervention:
        with intervene(network, layer, **({"gamma": 0.0} if attention_off else {}) | intervention):
            after = _forward(network, inputs)
    if output.ndim == 4:
        return Inspection(layer, output[0], projections, None if after is None else after[0])
    logit, logit_after = (None if value is None or value.numel() != 1 else value.item() for value in (output, after))
    return Inspection(layer, inputs[0][0], projections, logit=logit, logit_after=logit_after)


def collect_projections(network: nn.Module, inputs: tuple, layer: str, *, attention_off: bool = False, batch_size: int = 64) -> Projections:
    """The projections of an attention layer for many images, run `batch_size` at a time; parameters as of `inspect_layer`."""
    starts = range(0, len(inputs[0]), batch_size)
    batches = [tuple(None if x is None else x[k : k + batch_size] for x in inputs) for k in starts]
    chunks = [_run(network, batch, layer, attention_off)[1] for batch in batches]
    tensors = {f.name: torch.cat([getattr(chunk, f.name) for chunk in chunks]) for f in fields(Projections) if f.name != "gamma"}
    return Projections(**tensors, gamma=chunks[0].gamma)


def every_projection(network: nn.Module, inputs: tuple) -> tuple[Tensor, dict[str, Projections]]:
    """The output of a network, run in eval mode, and the projections of all its attention layers by their `named_modules` path."""
    with capture_projections(network) as captured:
        return _forward(network, inputs), captured


def _run(network: nn.Module, inputs: tuple, layer: str, attention_off: bool) -> tuple[Tensor, Projections]:
    find_layer(network, layer)  # raises if there is no such layer
    with capture_projections(network) as captured:
        if not attention_off:
            return _forward(network, inputs), captured[layer]
        with intervene(network, layer, gamma=0.0):
            output = _forward(network, inputs)
    return output, replace(captured[layer], strength=torch.zeros_like(captured[layer].strength), gamma=0.0)


@torch.no_grad()
def _forward(network: nn.Module, inputs: tuple) -> Tensor:
    """The output, float32 on the CPU, for inputs of any device; None stays None."""
    weight = next(network.parameters())
    inputs = tuple(x if x is None else x.to(weight if x.is_floating_point() else weight.device) for x in inputs)
    with sampling.train_mode(network, False), parametrize.cached():
        return network(*inputs).float().cpu()


def mean_offsets(projections: Projections) -> Tensor:
    """`relative_offsets` of the maps of projections, (2 side - 1, 2 side - 1)."""
    images = range(len(projections.query))  # one by one: their maps are large
    return torch.stack([relative_offsets(projections[k : k + 1].maps()) for k in images]).mean(0)


def positions_mask(queries: Sequence[int] | None, keys: Sequence[int], shape: tuple[int, int]) -> Tensor:
    """A mask of `shape` (N, M) for `forbid` of `intervene`: True at these keys for these queries (None: all)."""
    mask = torch.zeros(shape, dtype=torch.bool)
    rows = torch.arange(shape[0]) if queries is None else torch.tensor(queries, dtype=torch.long)
    mask[rows[:, None], torch.tensor(keys, dtype=torch.long)] = True
    return mask


def salient_positions(image: Tensor, side: int) -> tuple[int, int, int]:
    """Three positions (row-major, side x side) of an image (3, S, S): in the left half the one whose colour is furthest from the median,
    the same in the right half, and the one that is nearest to it."""
    median = image.flatten(1).median(1).values
    salience = nn.functional.adaptive_avg_pool2d((image - median[:, None, None]).abs().sum(0, keepdim=True), side)[0]
    right = torch.arange(side) >= side // 2
    left_object, right_object = salience.masked_fill(right, -1), salience.masked_fill(~right, -1)
    return int(left_object.argmax()), int(right_object.argmax()), int(salience.argmin())
