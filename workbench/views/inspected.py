# ruff: noqa: RUF001, RUF002
"""What everything that shows attention asks of a network, whether it is that of a run (`InspectedRun`) or anybody's (`InspectedNetwork`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from .. import attention
from ..attention import Explanation, Inspection, Layout, Projections
from ..attention.inspect import positions_mask, taken_keys
from ..messages import ParameterError, WorkbenchError, nearest, short_repr
from ..records import is_whole
from ..studies import effects
from .inspection_request import InspectionRequest, require

STRIP = 8  # images on a page of the strip


class Inspected(ABC):
    """A network, its images and its attention layers.

    Attributes
    ----------
    layers
        See `layer_entry`.
    num_classes
        Of the samples; 0 if their class cannot be chosen.
    image_size
        Height and width.
    about
        A line on the network.
    latents
        What samples depend on: "latents" (seed, truncation, interpolation), "seed", or "" for given inputs.
    samples, real
        How many samples and real images there are; None for samples without end.
    dropped
        Images that the user added.
    views
        The folder of exports.
    tools
        What can be done with the image: "pin", "drag" (along `directions` main directions of the latent), "brush" (knock out), "paint", "measure";
        "explain" (a place in words), "overview" (`every_layer` at every step), "copy" (a line that opens the view).
    gamma0
        Whether gamma of the inspected layer is always 0: the network without attention there.
    """

    name: str
    layers: list[dict]
    num_classes: int
    image_size: tuple[int, int]
    about: str
    latents: str = "latents"
    samples: int | None = None
    real: int = 0
    dropped: list[tuple[str, Tensor]]
    views: Path
    tools: tuple[str, ...] = ("pin", "brush", "explain")
    directions: int = 0
    gamma0: bool

    @property
    def label(self) -> str:
        """The name, and whether gamma is 0."""
        return self.name + (", γ = 0" if self.gamma0 else "")

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """The names of the classes."""

    @property
    def reference(self) -> str:
        """What a line of text names it by."""
        return self.name

    @property
    def steps(self) -> list[int]:
        """Steps of the checkpoints; none if there is no choice."""
        return []

    @property
    def recorded_steps(self) -> list[int]:
        """Steps of the snapshots."""
        return []

    @property
    def weights(self) -> list[str]:
        """Kinds of weights of G to choose from."""
        return []

    @abstractmethod
    def inspect(self, request: InspectionRequest) -> Inspection:
        """The image of a request, and the attention of the layer for it.

        A ParameterError or WorkbenchError if there is no such layer, checkpoint or image.
        """

    @abstractmethod
    def causal_map(self, request: InspectionRequest, query: int) -> Tensor:
        """How much the image at a query (for networks that return no image: what they return) changes without one key, for each key (M,)."""

    @abstractmethod
    def projections(self, request: InspectionRequest, count: int) -> Projections:
        """The projections of the request's layer for the first `count` samples of its class and seed."""

    @abstractmethod
    def strip(self, request: InspectionRequest) -> tuple[list[str], Tensor]:
        """Labels and images (B, 3, H, W) to choose from: `STRIP` samples or real images from the request's on, or all of another source."""

    @abstractmethod
    def drop(self, name: str, content: bytes) -> int:
        """Add an image file; returns its number among the dropped images."""

    def measure(self, request: InspectionRequest, samples: range) -> effects.Numbers:
        """What the request's intervention changes in samples or real images, by number; see `studies.effects.measure`."""
        raise WorkbenchError(f"effects are measured over the samples of a run, and {self.name!r} is none")

    def explain(self, request: InspectionRequest, query: int) -> Explanation:
        """What a query of the layer does as it was learned, in words: in the mean of all heads, and of a snapshot, which keeps no network, only
        where it attends."""
        require(is_whole(query), "query", query, "a position of the layer")
        request = request.unchanged
        return attention.explain(self.inspect(request), query, None if request.source == "recorded" else self.causal_map(request, query))

    def every_layer(self, request: InspectionRequest) -> tuple[Tensor, dict[str, Projections]]:
        """The image (3, H, W) of a request, and the projections of every attention layer for it: of G if it generates the image, and of D.

        Gamma is the learned one.
        """
        raise WorkbenchError(f"layers and checkpoints are those of a run, and {self.name!r} is none")

    def offsets(self, request: InspectionRequest, count: int = 16) -> Tensor:
        """Where queries look relative to themselves, mean over `count` samples of the request's class: (2 R - 1, 2 C - 1)."""
        projections = self.projections(request, count)
        return attention.mean_offsets(projections if request.head < 0 else projections.head(request.head))

    def layout(self, layer: str) -> Layout:
        """Where the queries and keys of a layer are."""
        entry = next(entry for entry in self.layers if entry["id"] == layer)
        return Layout((entry["rows"], entry["side"]), (entry["key_rows"], entry["key_side"]), tuple(entry["tokens"]))

    def check(self, request: InspectionRequest) -> None:
        """Raise a WorkbenchError unless there are the layer, positions, head and class of a request."""
        if self.gamma0:
            request.require_network()
        known = {layer["id"]: layer for layer in self.layers}
        if request.layer not in known:
            raise WorkbenchError(
                f"run {self.name!r} has no attention layer {request.layer!r}; {nearest(request.layer, known)}"
                f"there are: {', '.join(known) or 'none'}"
            )
        layout, heads = self.layout(request.layer), known[request.layer]["heads"]
        for name, tool in (("directions", "drag"), ("paint", "paint")):
            if getattr(request, name) and tool not in self.tools:
                raise ParameterError(f"{name}={short_repr(getattr(request, name))} needs the samples of a run, and {self.name!r} is none")
        for name, limit in (("forbid", layout.keys), ("queries", layout.queries), ("paint", layout.keys)):
            positions = getattr(request, name) or ()
            require(len(positions) <= limit, name, positions, f"a selection of the {limit} positions of {request.layer}")
            if outside := [k for k in positions if k >= limit]:
                raise ParameterError(f"{name}={outside[0]} is no position of {request.layer}, which has {limit}")
        if request.head >= heads:
            raise ParameterError(f"head={request.head} is no head of {request.layer}, which has {heads}")
        if request.label >= max(1, self.num_classes):
            raise ParameterError(f"label={request.label} is no class of run {self.name!r}, which has {self.num_classes}")

    def intervention(self, request: InspectionRequest) -> dict:
        """The arguments of `intervene`; None where a request changes nothing."""
        layout = self.layout(request.layer)
        mask = positions_mask(request.queries, request.forbid, (layout.queries, layout.keys)) if request.forbid else None
        patch = None
        if request.paint:
            taken = taken_keys(request.paint, request.paint_shift, layout.key_grid[1])
            patch = (0, taken if request.paint_from is None else torch.stack([torch.full_like(taken, -1), taken]))  # after the source
        gamma = 0.0 if request.gamma0 else request.gamma
        return dict(gamma=gamma, forbid=mask, replace=request.replace or None, patch=patch)

    def class_name(self, label: int) -> str:
        """The name of a class, or its number."""
        names = self.class_names
        return names[label] if 0 <= label < len(names) else str(label)


def layer_entry(network: str, path: str, name: str, layout: Layout, heads: int = 1) -> dict:
    """An attention layer: id ("G/attention.16"), network, label ("G · 16×16"), the columns of queries and keys (side, key_side) and their
    rows, tokens before them, and heads."""
    (rows, side), (key_rows, key_side) = layout.grid, layout.key_grid
    sizes = dict(side=side, key_side=key_side, rows=rows, key_rows=key_rows, tokens=list(layout.tokens), heads=heads)
    return dict(id=f"{network}/{path}", network=network, label=name) | sizes
