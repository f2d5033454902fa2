# ruff: noqa: RUF001
"""Inspecting any network: a generator that was changed in a notebook, a vision transformer, another package's; without a run."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .. import attention
from ..attention import Inspection, Projections
from ..attention.inspect import on_device
from ..messages import ParameterError, WorkbenchError, counted, say_once, short_repr, short_text
from ..model import sampling
from ..records import is_whole
from .inspected import STRIP, Inspected, layer_entry
from .inspection_request import InspectionRequest, require

Inputs = tuple | Callable[[int, int], tuple]


class InspectedNetwork(Inspected):
    """A network with attention layers, and the inputs to look at.

    Parameters
    ----------
    network
        Any module; it runs in eval mode, on its device.
    inputs
        Its inputs for a batch, such as (z, y) or (x,), or a function `inputs(count, seed)` that draws them: samples 8 p to 8 p + 7 of a
        seed are `inputs(8, seed + p)`.
    generates
        Whether the image is the output, (B, 3, H, W) in [-1, 1]; else it is the first input, whose range is mapped to [-1, 1] to be shown.
        Of feature maps (B, C, H, W) the mean of the channels is shown.
    class_names
        Names of the classes: of the second input, if that is a vector of whole numbers, and of several logits.
    views
        The folder of exports.
    gamma0
        Attention of the inspected layer is always off.

    Raises
    ------
    ParameterError, WorkbenchError
        If the inputs do not fit, or no attention layer is found or runs.
    """

    def __init__(
        self,
        network: nn.Module | None,
        inputs: Inputs,
        generates: bool,
        class_names: Sequence[str] = (),
        views: str | os.PathLike = ".",
        gamma0: bool = False,
    ):
        if not isinstance(network, nn.Module):
            raise ParameterError(f"{'generator' if generates else 'network'}={short_repr(network)} is not a module")
        if isinstance(class_names, str) or not all(isinstance(name, str) for name in class_names):
            raise ParameterError(f"classes={short_repr(class_names)} is not a list of names")
        self.network, self.inputs, self.generates, self.gamma0 = network, inputs, generates, gamma0
        self.views, self.name, self.dropped = Path(views), type(network).__name__, []
        self._names = list(class_names)
        self._lock = threading.Lock()  # messages of the front end may arrive in several threads
        first = self._batch(0, 0)
        if callable(inputs) and any(isinstance(x, Tensor) and not torch.equal(x, y) for x, y in zip(first, self._batch(0, 0), strict=True)):
            raise ParameterError(
                "inputs(8, 0) gives others the second time; draw them from a generator that is seeded by the second argument"
            )
        self.latents, self.samples = ("seed", None) if callable(inputs) else ("", len(inputs[0]))
        self._has_classes = (
            bool(self._names)
            and len(first) > 1
            and isinstance(first[1], Tensor)
            and first[1].ndim == 1
            and not first[1].is_floating_point()
        )
        self.num_classes = len(self._names) if self._has_classes else 0
        self.layers = self._find_layers(first)
        images = _grey(self._unscaled(first))
        self._range = (-1.0, 1.0) if generates and images.shape[1] == 3 else _range(images)
        height, width = images.shape[-2:]
        self.image_size = (height, width)
        self.about = f"{width}×{height} pixels · {len(self.layers)} attention layers"

    @property
    def class_names(self) -> list[str]:
        return self._names

    def beside(self, other) -> InspectedNetwork:
        """What is shown beside this network, for the same inputs: another network, or "gamma=0"."""
        off = isinstance(other, str) and other in ("gamma=0", "gamma0")
        if not off and not isinstance(other, nn.Module):
            raise ParameterError(f"b={short_repr(other)} is neither a network nor 'gamma=0'")
        beside = InspectedNetwork(self.network if off else other, self.inputs, self.generates, self._names, self.views, gamma0=off)
        beside._range = self._range  # the same colours for the same values
        own = {layer["id"] for layer in self.layers}
        for layer in beside.layers:
            theirs, ours = beside.layout(layer["id"]), self.layout(layer["id"]) if layer["id"] in own else None
            if ours and ours != theirs:
                raise ParameterError(f"b has other queries or keys in layer {layer['id']!r}: {theirs}, not {ours}")
        return beside

    def _find_layers(self, inputs: tuple) -> list[dict]:
        """The layers that run and whose queries and keys are positions; others are reported."""
        one = on_device(self.network, _rows(inputs, slice(0, 1)))
        with torch.no_grad(), attention.capture_projections(self.network) as captured, sampling.train_mode(self.network, False):
            try:
                self.network(*one)
            except WorkbenchError:
                raise
            except Exception as error:  # of anybody's network
                raise WorkbenchError(
                    f"the {self.name} does not run on these inputs: {type(error).__name__}: {short_text(str(error))}"
                ) from error
        if not captured:
            known = attention.attention_layers(self.network)
            what = (
                f"none of its attention layers runs: {', '.join(known)}"
                if known
                else "it has no attention layer that is known; describe it by attention.adapt"
            )
            raise WorkbenchError(f"nothing to inspect in a {self.name}: {what}")
        placed = {path: layer for path, layer in captured.items() if layer.layout}
        if unplaced := [path for path in captured if path not in placed]:
            say_once(
                f"not in the inspector: {', '.join(unplaced)}, whose queries and keys are not positions of a grid that is known; if they are, "
                "give it: attention.adapt(layer, grid=(rows, columns))"
            )
        if not placed:
            raise WorkbenchError(f"nothing to inspect in a {self.name}: of no attention layer is it known where its queries and keys are")
        kind, names = "G" if self.generates else "network", _short(list(placed))
        return [
            layer_entry(kind, path, f"{path or self.name} · {name}", layer.places, layer.heads)
            for name, (path, layer) in zip(names, placed.items(), strict=True)
        ]

    # -------------------------------------------------------------------------------------------- images and attention

    def inspect(self, request: InspectionRequest) -> Inspection:
        self.check(request)
        with self._lock:
            inputs, about = self._sample(request)
            head = None if request.head < 0 else request.head
            seen = attention.inspect_layer(
                self.network, inputs, request.path, attention_off=self.gamma0, head=head, **self.intervention(request)
            )
            image = self._shown(seen.image[None] if self.generates else inputs[0])[0]
        if seen.top is not None:
            about += f", predicted: {self.class_name(seen.top)}"
        if not seen.projections.trusted:
            about += ", MAP NOT REPRODUCED: see the message on stderr"
        after = self._shown(seen.after[None])[0] if seen.after is not None and self.generates else None
        label = int(inputs[1][0]) if self._has_classes else None
        name = "" if label is None else self.class_name(label)
        return replace(seen, layer=request.layer, image=image, after=after, network=self.label, about=about, label=label, class_name=name)

    def causal_map(self, request: InspectionRequest, query: int) -> Tensor:
        self.check(request)
        require(is_whole(query), "query", query, "a position of the layer")
        with self._lock, sampling.train_mode(self.network, False):
            inputs = on_device(self.network, self._sample(request)[0])
            gamma = 0.0 if self.gamma0 or request.gamma0 else None
            return attention.causal_map(self.network, inputs, request.path, query, batch_size=64, gamma=gamma)

    def projections(self, request: InspectionRequest, count: int) -> Projections:
        self.check(request)
        with self._lock:
            batches = [self._labelled(self._batch(request.seed, page), request.label) for page in range(-(-count // STRIP))]
            parts = [torch.cat(column) if isinstance(column[0], Tensor) else column[0] for column in zip(*batches, strict=True)]
            return attention.collect_projections(
                self.network, _rows(tuple(parts), slice(0, count)), request.path, attention_off=self.gamma0
            )

    def strip(self, request: InspectionRequest) -> tuple[list[str], Tensor]:
        self.check(request)
        with self._lock:
            page = request.sample // STRIP
            inputs = self._labelled(self._batch(request.seed, page), request.label)
            names = [self._about(inputs, row, request.seed, page) for row in range(len(inputs[0]))]
            if not self.gamma0:
                return names, self._images(inputs)
            with attention.intervene(self.network, request.path, gamma=0.0):
                return names, self._images(inputs)

    def drop(self, name: str, content: bytes) -> int:
        raise WorkbenchError(f"{name!r}: images are dropped onto the D of a run; give those of another network as its inputs")

    # -------------------------------------------------------------------------------------------- inputs

    def _sample(self, request: InspectionRequest) -> tuple[tuple, str]:
        """The inputs of one sample, and their description."""
        page, row = divmod(request.sample, STRIP)
        inputs = self._labelled(self._batch(request.seed, page), request.label)
        if row >= len(inputs[0]):
            raise WorkbenchError(f"sample={request.sample}: there are {self.samples} inputs")
        return _rows(inputs, slice(row, row + 1)), self._about(inputs, row, request.seed, page)

    def _batch(self, seed: int, page: int) -> tuple:
        """The inputs of a page of the strip, checked; of a given batch the last page may be shorter."""
        if not callable(self.inputs):
            return _rows(_checked(self.inputs, "inputs"), slice(page * STRIP, (page + 1) * STRIP))
        inputs = _checked(self.inputs(STRIP, seed + page), f"inputs({STRIP}, {seed + page})")
        if len(inputs[0]) != STRIP:
            raise ParameterError(
                f"inputs({STRIP}, {seed + page}) gives {counted(len(inputs[0]), 'sample')}; return as many as it is asked for"
            )
        return inputs

    def _labelled(self, inputs: tuple, label: int) -> tuple:
        """The inputs, of another class if one is chosen."""
        return inputs if label < 0 or not self.num_classes else (inputs[0], torch.full_like(inputs[1], label), *inputs[2:])

    def _about(self, inputs: tuple, row: int, seed: int, page: int) -> str:
        place = f"sample {row}, seed {seed + page}" if callable(self.inputs) else f"input {page * STRIP + row}"
        return f"{self.class_name(int(inputs[1][row]))}, {place}" if self._has_classes else place

    def _images(self, inputs: tuple) -> Tensor:
        """The images of inputs, (B, 3, H, W) in [-1, 1]."""
        return self._shown(self._unscaled(inputs))

    def _unscaled(self, inputs: tuple) -> Tensor:
        """The images of inputs as the network gives or takes them."""
        if not self.generates:
            return inputs[0]
        with torch.no_grad(), sampling.train_mode(self.network, False):
            output = self.network(*on_device(self.network, inputs))
        if not isinstance(output, Tensor) or output.ndim != 4:
            form = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise WorkbenchError(f"the generator gives {form}, not images (B, 3, H, W); one whose image is its input is network=...")
        return output

    def _shown(self, x: Tensor) -> Tensor:
        """Images as they are shown: (B, 3, H, W) in [-1, 1], float32 on the CPU."""
        low, high = self._range
        return ((2 * _grey(x) - (low + high)) / (high - low)).expand(-1, 3, -1, -1)


def _grey(x: Tensor) -> Tensor:
    """Images (B, 3, H, W), or the mean of the channels of feature maps (B, 1, H, W); float32 on the CPU."""
    if x.ndim != 4:
        raise WorkbenchError(f"images have shape {tuple(x.shape)}; the inspector shows (B, 3, H, W), or feature maps (B, C, H, W)")
    x = x.float().cpu()
    return x if x.shape[1] == 3 else x.mean(1, keepdim=True)


def _checked(inputs, name: str) -> tuple:
    """A tuple of inputs whose first is a batch; a ParameterError for others."""
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(inputs, tuple | list) or not inputs or not isinstance(inputs[0], Tensor) or inputs[0].ndim < 1:
        raise ParameterError(f"{name}={short_repr(inputs)} is not a tuple of the network's inputs whose first is a tensor, such as (z, y)")
    if inputs[0].is_floating_point() and not inputs[0].isfinite().all():
        raise ParameterError(f"{name} holds numbers that are not finite")
    lengths = {len(x) for x in inputs if isinstance(x, Tensor) and x.ndim}
    if len(lengths) > 1 or 0 in lengths:
        raise ParameterError(
            f"{name} holds tensors of {', '.join(map(str, sorted(lengths)))} samples; give a batch of at least one, equally long"
        )
    return tuple(inputs)


def _rows(inputs: tuple, rows: slice) -> tuple:
    return tuple(x[rows] if isinstance(x, Tensor) and x.ndim else x for x in inputs)


def _range(x: Tensor) -> tuple[float, float]:
    """What black and white are in images: -1 and 1, or 0 and 1, or, of normalised ones, their extremes."""
    low, high = x.min().item(), x.max().item()
    if low >= -1 and high <= 1:
        return (-1.0, 1.0) if low < 0 else (0.0, 1.0)
    return low, high if high > low else low + 1


def _short(paths: list[str]) -> list[str]:
    """Names that tell paths apart: without the beginning and end that all share."""
    words = [path.split(".") for path in paths]
    for end in (0, -1):
        while min(map(len, words)) > 1 and len({word[end] for word in words}) == 1:
            words = [word[1:] if end == 0 else word[:-1] for word in words]
    names = [".".join(word) or "layer" for word in words]
    numbers = [re.sub(r".*?(\d+)$", r"\1", name) for name in names]  # 3 of encoder_layer_3
    alike = len({re.sub(r"\d+$", "", name) for name in names}) == 1
    return numbers if alike and len(set(numbers)) == len(names) else names
