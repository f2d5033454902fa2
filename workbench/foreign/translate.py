"""From the layers of another code base to the settings of a run and the tensors of its networks."""

from __future__ import annotations

from bisect import bisect

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..messages import WorkbenchError, short_text
from ..model import Discriminator, Generator
from .layouts import Facts, Layer, Layers, Layout, Place, block_places, places
from .recognise import Network


class MisfitError(WorkbenchError):
    """The networks of a file are none that `model.networks` can be; the message says why."""


# ------------------------------------------------------------------------------------------- settings, from shapes


def require_shapes(network: Network) -> None:
    """Refuse tensors that cannot be the part of a layer that their names say; whether sizes go together is checked later."""
    wrong = [
        f"{name} {short_text(str(tuple(tensor.shape)), 60)}"
        for (layer, _), there in network.layers.items()
        for part, (name, tensor) in there.parts.items()
        if not _fits(layer, part, tensor, there)
    ]
    if wrong:
        raise MisfitError(f"{network.role}: {len(wrong)} of another shape: {_shortened(sorted(wrong))}")


def _fits(layer: str, part: str, tensor: Tensor, there: Layer) -> bool:
    if part == "weight":
        table = layer in ("linear", "embedding", "shared") or layer.endswith((".gain", ".bias"))
        return tensor.numel() > 0 and tensor.ndim == (2 if table else 1 if "norm" in layer else 4)
    if part in ("value", "count"):
        return tensor.numel() == 1
    if part in ("u", "v") and "weight" in there and there["weight"].numel():
        rows = len(there["weight"]) if there["weight"].ndim else 1
        return tensor.numel() == (rows if part == "u" else there["weight"].numel() // rows)
    return part in ("u", "v") or tensor.ndim == 1


def settings_g(layers: Layers, layout: Layout, facts: Facts) -> dict:
    """The settings of a generator that its tensors show."""
    blocks, (features, z_dim) = block_places(layers), _shape(layers, "linear")
    if not blocks:
        raise MisfitError("missing: all blocks of G")
    channels = [features // 16, *(_shape(layers, "block.conv1", place)[0] for place in blocks)]
    sizes = [4 * 2**k for k in range(len(channels))]
    width, multiplier = channels[-1], max(1, channels[0] // channels[-1])
    _require_pattern("G", channels, [width * min(multiplier, sizes[-1] // size) for size in sizes])
    gains = {place: _shape(layers, "block.norm1.gain", place) for place in places(layers, "block.norm1.gain")}
    shared = ("shared", ()) in layers
    if shared:
        classes, inputs = _shape(layers, "shared")
        tables = [there for (layer, _), there in layers.items() if layer.endswith((".gain", ".bias")) and "weight" in there]
        if any(there["weight"].shape[1] != inputs for there in tables):
            raise MisfitError("it has hierarchical latents: every block of G takes a part of z, which none here does")
    else:
        classes = next((shape[1] if layout.gains_transposed else shape[0] for shape in gains.values()), 0)
    sn_gains = not shared and facts.gain_offset == 1 and any("u" in layers["block.norm1.gain", place] for place in gains)
    return dict(
        image_size=sizes[-1], width=width, max_multiplier=multiplier, z_dim=z_dim, num_classes=classes, sn_gains=sn_gains,
        sn_g=_normalises(layers), attention_g=_sites(layers, blocks, sizes[1:]),
    )  # fmt: skip


def settings_d(layers: Layers, layout: Layout, generator: dict) -> dict:
    """The settings of a discriminator that its tensors show, beside those of its generator."""
    image_size, multiplier = generator["image_size"], generator["max_multiplier"]
    blocks = block_places(layers)
    channels = [_shape(layers, "block.conv1", place)[0] for place in blocks]
    if image_size not in layout.halves:
        raise MisfitError(f"the discriminator of {layout.title} for {image_size} px is none that can be built here; G alone can be opened")
    halving, flat = layout.halves[image_size]
    if len(blocks) != halving + flat:
        raise MisfitError(
            f"its D has {len(blocks)} blocks, and one for {image_size} px has {halving + flat}: G and D do not belong together"
        )
    sizes = [image_size // 2 ** (k + 1) for k in range(halving)]
    after = [place for place in places(layers, "attention.query") if bisect(blocks, place) > halving]
    if after:
        name = layers["attention.query", after[0]].name
        raise MisfitError(
            f"its D has attention after blocks that keep the size of the map ({name}), where none can be here; G alone can be opened"
        )
    _require_pattern("D", channels[:halving], [channels[0] * min(multiplier, image_size // (2 * size)) for size in sizes])
    return dict(
        width_d=None if channels[0] == generator["width"] else channels[0], d_flat_blocks=flat, sn_d=_normalises(layers),
        d_downsamples=None if sizes[-1] == 4 else halving,
        d_flat_channels=None if channels[-1] == channels[halving - 1] else channels[-1], attention_d=_sites(layers, blocks, sizes),
    )  # fmt: skip


def _shape(layers: Layers, layer: str, place: Place = ()) -> tuple[int, ...]:
    """The shape of a layer's weight."""
    at = layers.get((layer, place))
    if at is None or "weight" not in at:
        beside = next((f", beside {other.name}" for (_, where), other in layers.items() if where == place != ()), "")
        raise MisfitError(f"missing: the weight of {at.name if at else layer + beside}")
    return tuple(at["weight"].shape)


def _normalises(layers: Layers) -> bool:
    """Whether the network has spectral normalization, leaving aside that of gains."""
    return any("u" in there for (layer, _), there in layers.items() if "norm" not in layer)


def _require_pattern(net: str, channels: list[int], expected: list[int]) -> None:
    if channels != expected:
        text = ", ".join(map(str, channels))
        raise MisfitError(f"the maps of its {net} have {text} channels; a SAGAN of this width has {', '.join(map(str, expected))}")


def _sites(layers: Layers, blocks: list[Place], sizes: list[int]) -> str:
    """The sizes of the maps with attention, as a parameter."""
    sites = sorted({sizes[bisect(blocks, place) - 1] for place in places(layers, "attention.query") if place > blocks[0]})
    return ",".join(map(str, sites)) or "none"


# --------------------------------------------------------------------------------------------------------- tensors

Entries = dict[str, tuple[str, Tensor]]  # name here -> name there, tensor


def tensors_g(network: Network, config: Config) -> dict[str, Tensor]:
    """The state dict of a generator; a MisfitError lists what is unknown, missing or of another shape."""
    layers = network.layers
    names = _names(layers, [f"blocks.{size}" for size in config.maps_g])
    shared = layers.get(("shared", ()))
    entries: Entries = {}
    for (layer, place), here in names.items():
        there = layers[layer, place]
        if layer.endswith((".gain", ".bias")):
            entries |= _gains(here, there, shared, network.layout, network.facts, config.sn_gains)
        elif "norm" in layer:
            entries |= _norm(here, there)
        elif there is not shared:
            entries |= _layer(here, there, config.sn_g)
    return _checked(network, Generator, config, entries, names)


def tensors_d(network: Network, config: Config) -> dict[str, Tensor]:
    """The state dict of a discriminator; a MisfitError lists what is unknown, missing or of another shape."""
    flat = [f"flat.{k}" for k in range(config.d_flat_blocks)]
    names = _names(network.layers, [*(f"blocks.{size}" for size in config.maps_d), *flat])
    entries: Entries = {}
    for key, here in names.items():
        entries |= _layer(here, network.layers[key], config.sn_d)
    return _checked(network, Discriminator, config, entries, names)


def swap_output(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a generator of BGR images, that of RGB images."""
    flipped = {name for name in tensors if name.startswith("output.") and not name.endswith(".v")}
    return {name: tensor.flip(0) if name in flipped else tensor for name, tensor in tensors.items()}


def swap_input(tensors: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Of a discriminator of BGR images, that of RGB images."""
    swapped = dict(tensors)
    for layer in ("conv1", "shortcut"):
        weight = f"blocks.{config.maps_d[0]}.{layer}." + ("parametrizations.weight.original" if config.sn_d else "weight")
        swapped[weight] = tensors[weight].flip(1)
        if config.sn_d:
            vector = weight.replace("original", "0.v")
            swapped[vector] = tensors[vector].view(3, -1).flip(0).flatten()
    return swapped


def _names(layers: Layers, blocks: list[str]) -> dict[tuple[str, Place], str]:
    """Layer and place -> name here; attention belongs to the map that the block before it outputs."""
    where = block_places(layers)
    if len(where) != len(blocks):
        raise MisfitError(f"there are {len(where)} blocks, expected {len(blocks)}")

    def name(layer: str, place: Place) -> str:
        block = blocks[bisect(where, place) - 1]
        if layer.startswith("attention."):
            return f"attention.{block.removeprefix('blocks.')}.{layer.removeprefix('attention.')}"
        return f"{block}.{layer.removeprefix('block.')}" if layer.startswith("block.") else layer

    return {(layer, place): name(layer, place) for layer, place in layers}


def _layer(here: str, there: Layer, sn: bool) -> Entries:
    """Weight, bias and singular vectors; or gamma."""
    if "value" in there:
        name, value = there.parts["value"]
        return {here: (name, value.squeeze())}
    entries = {f"{here}.bias": there.parts["bias"]} if "bias" in there else {}
    if "weight" in there:
        entries |= (
            _normalised(f"{here}.parametrizations.weight", there) if sn or "u" in there else {f"{here}.weight": there.parts["weight"]}
        )
    return entries


def _normalised(here: str, there: Layer, transposed: bool = False) -> Entries:
    """A weight with spectral normalization: itself, and u and v if the file has them."""
    name, weight = there.parts["weight"]
    entries = {f"{here}.original": (name, weight.T if transposed else weight)}
    if vectors := _vectors(there):
        u, v = reversed(vectors) if transposed else vectors
        entries |= {f"{here}.0.u": (f"{there.name}: u", u), f"{here}.0.v": (f"{there.name}: v", v)}
    return entries


def _vectors(there: Layer) -> tuple[Tensor, Tensor] | None:
    """u and v as they are used: PyTorch stores them, those of BigGAN-PyTorch follow from the stored u by one iteration."""
    if "v" in there and "u" in there:
        return there["u"].flatten(), there["v"].flatten()
    if "u" not in there or not there.parts["u"][0].endswith("u0"):
        return None
    u, matrix = there["u"].flatten(), there["weight"].flatten(1)
    v = F.normalize(matrix.T @ u, dim=0)
    return F.normalize(matrix @ v, dim=0), v


def _weight(there: Layer) -> Tensor:
    """A weight (rows, columns) as it is used, after spectral normalization."""
    if "u" not in there:
        return there["weight"]
    vectors = _vectors(there)
    if vectors is None:
        raise MisfitError(f"missing: u or v of {there.name}")
    u, v = vectors
    return there["weight"] / (u @ there["weight"] @ v)


def _gains(here: str, there: Layer, shared: Layer | None, layout: Layout, facts: Facts, sn: bool) -> Entries:
    """Gains or biases of each class, (classes, C)."""
    norm, _, kind = here.rpartition(".")
    if "weight" not in there:
        return {}
    if sn:
        return _normalised(f"{norm}.parametrizations.{kind}", there, layout.gains_transposed)
    table = shared["weight"] @ _weight(there).T if shared else _weight(there).T if layout.gains_transposed else _weight(there)
    return {here: (there.parts["weight"][0], table + (facts.gain_offset if kind == "gain" else 0))}


def _norm(here: str, there: Layer) -> Entries:
    """Running statistics, and gains and biases if they are the same for all classes."""
    entries = {
        f"{here}.{ours}": there.parts[part] for ours, part in (("running_mean", "mean"), ("running_var", "variance")) if part in there
    }
    if "count" in there and there["count"] > 0:  # standing statistics are stored as sums
        entries = {key: (name, total / there["count"]) for key, (name, total) in entries.items()}
    for ours, part in (("gain", "weight"), ("bias", "bias")):
        if part in there:
            name, value = there.parts[part]
            entries[f"{here}.{ours}"] = (name, value[None])
    return entries


# ----------------------------------------------------------------------------------------------------------- check


def _checked(network: Network, kind, config: Config, entries: Entries, names: dict[tuple[str, Place], str]) -> dict[str, Tensor]:
    """The tensors by name, if they are those of a network of this class."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in kind(config.replace(init="xavier")).state_dict().items()}
    there = {here: network.layers[key].name for key, here in names.items()}

    def missing(name: str) -> str:
        layer = max((here for here in there if name.startswith(f"{here}.")), key=len, default="")
        return f"{there[layer]} ({name.rpartition('.')[2]})" if layer else name

    wrong = {
        "unknown": [*network.unknown, *(entries[name][0] for name in entries.keys() - expected.keys())],
        "missing": [missing(name) for name in expected.keys() - entries.keys()],
        "of another shape": [
            f"{name} {tuple(tensor.shape)}, expected {expected[here]}"
            for here, (name, tensor) in entries.items()
            if here in expected and tuple(tensor.shape) != expected[here]
        ],
    }
    if any(wrong.values()):
        parts = [f"{len(found)} {problem}: {_shortened(sorted(found))}" for problem, found in wrong.items() if found]
        raise MisfitError(f"{network.role}: {'; '.join(parts)}")
    dtype = getattr(torch, config.dtype)
    return {here: tensor.to(dtype, copy=True) for here, (_, tensor) in entries.items()}  # a file may have one tensor under two names


def _shortened(names: list[str]) -> str:
    rest = [f"and {len(names) - 6} more"] if len(names) > 6 else []
    return ", ".join([*(short_text(name, 80) for name in names[:6]), *rest])
