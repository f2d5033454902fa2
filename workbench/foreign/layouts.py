"""How code bases name the layers of a SAGAN. One module per code base has its `Layout`; this one finds names in them.

Names of layers here are those of `model.networks`, but for the blocks, which every layout numbers its own way: "block.conv1" stands for
`blocks.<size>.conv1` or `flat.<k>.conv1`, "attention.query" for `attention.<size>.query`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from .weights import Weights

Place = tuple[int, ...]  # where a block stands among the others: (3, 0) of "blocks.3.0.conv1"; () for layers outside of the blocks
FIRST: Place = (-1,)


@dataclass(frozen=True)
class Facts:
    """What tensors do not show: settings of the run, order of the channels, what is added to gains, and the G steps done."""

    settings: dict
    bgr: bool = False
    gain_offset: float = 1.0
    step: int = 0


@dataclass(frozen=True)
class Layout:
    """The names of a code base.

    Attributes
    ----------
    name, title
        The value of `layout`, and what the code base is called.
    generator, discriminator
        Layer here -> layer there, `{n}` for the number of a block; "first.conv1" and the like for a first block without a number.
    halves
        Image size -> blocks of D that halve the map, and those after them that do not.
    ema_decay
        Of its EMA, to go on with.
    facts
        What the name of the file and its notes tell.
    gains_transposed
        Whether gains and biases are linear layers, (C, classes), and not embeddings.
    """

    name: str
    title: str
    generator: Mapping[str, str]
    discriminator: Mapping[str, str]
    halves: Mapping[int, tuple[int, int]]
    ema_decay: float
    facts: Callable[[Weights], Facts]
    gains_transposed: bool = False


@dataclass(frozen=True)
class Layer:
    """A layer of a file: its name there, and of each part the name and the tensor."""

    name: str
    parts: dict[str, tuple[str, Tensor]]

    def __contains__(self, part: str) -> bool:
        return part in self.parts

    def __getitem__(self, part: str) -> Tensor:
        return self.parts[part][1]


Layers = dict[tuple[str, Place], Layer]

# Parts of layers, in the words of all layouts: u and v of spectral normalization, mean and variance of batch norm.
PARTS = {
    "weight": r"weight|weight_orig|gain", "bias": "bias", "u": "weight_u|u0", "v": "weight_v", "mean": r"(bn\.)?(stored|running)_mean",
    "variance": r"(bn\.)?(stored|running)_var", "count": r"(bn\.)?accumulation_counter", "value": "",
}  # fmt: skip
# Further singular vectors, singular values for logs, counters that are not used.
UNUSED = re.compile(r".*\.(sv\d+|u[1-9]\d*|num_batches_tracked)")


def find_layers(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> tuple[Layers, list[str]]:
    """The layers of one network, and the names of tensors that belong to none."""
    patterns = [(layer, part, _pattern(there, end)) for layer, there in names.items() for part, end in PARTS.items()]
    layers: Layers = {}
    unknown = []
    for name, tensor in tensors.items():
        hit = next(((layer, part, match) for layer, part, pattern in patterns if (match := pattern.fullmatch(name))), None)
        if hit is None:
            unknown += [] if UNUSED.fullmatch(name) else [name]
            continue
        layer, part, match = hit
        number = match.groupdict().get("n")
        place = tuple(map(int, number.split("."))) if number else FIRST if layer.startswith("first.") else ()
        layer = layer.replace("first.", "block.")
        layers.setdefault((layer, place), Layer(match["path"], {})).parts[part] = (name, tensor)
    return layers, unknown


@functools.cache
def _pattern(there: str, end: str) -> re.Pattern:
    path = re.escape(there).replace(r"\{n\}", r"(?P<n>\d{1,6}(\.\d{1,6})?)")
    return re.compile(rf"(?P<path>{path})" + (rf"\.({end})" if end else ""))


def places(layers: Layers, layer: str) -> list[Place]:
    """Where a layer of blocks stands, in the order of the network."""
    return sorted(place for name, place in layers if name == layer)


def block_places(layers: Layers) -> list[Place]:
    """Where the residual blocks stand, in the order of the network."""
    return sorted({place for name, place in layers if name.startswith("block.")})
