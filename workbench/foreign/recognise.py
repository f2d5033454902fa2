"""Which code base a file is from, by the names of its tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor

from ..files import UnreadableError
from ..messages import ParameterError, nearest, short_repr, short_text
from . import biggan_pytorch, mmgeneration, studiogan
from .layouts import Facts, Layers, Layout, find_layers
from .weights import Weights

LAYOUTS = {module.LAYOUT.name: module.LAYOUT for module in (biggan_pytorch, mmgeneration, studiogan)}

# Others that people have: names that are all there, and why they do not fit.
UNFIT = {
    ("weight_bar",): "heykeetae/Self-Attention-GAN: transposed convolutions instead of residual blocks, and attention with biases",
    (r"^(block2|b2)\.c1\.", r"^l1\."): "mimicry: its blocks enlarge maps bilinearly, and those here by repeating pixels",
    (r"^blocks\.\d+\.\d+\.conv4\.",): "BigGAN-deep: blocks of four convolutions",
    (r"^linear0\.", r"^shared\."): "BigGAN in PyTorch-StudioGAN: hierarchical latents",
    (r"shared_embedding\.",): "BigGAN in mmgeneration: hierarchical latents",
    (r"(^|\.)(mapping|synthesis)\.",): "StyleGAN",
}
ROLE = re.compile(r"(generator_ema|generator|discriminator)\.(.+)", re.DOTALL)


@dataclass(frozen=True)
class Network:
    """A network of a file: "generator", "ema" or "discriminator", and its layers."""

    weights: Weights
    layout: Layout
    role: str
    layers: Layers
    unknown: list[str]

    @property
    def facts(self) -> Facts:
        return self.layout.facts(self.weights)


def recognise(weights: Weights, layout: str) -> list[Network]:
    """The networks of a file.

    Raises
    ------
    ParameterError
        If there is no such layout, or the file has another one, which the message names.
    UnreadableError
        If no layout fits.
    """
    if layout not in ("auto", *LAYOUTS):
        raise ParameterError(
            f"layout={short_repr(layout)} is not one of auto, {', '.join(LAYOUTS)}; {nearest(layout, LAYOUTS)}".rstrip("; ")
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in weights.tensors.items():
        match = ROLE.fullmatch(name)
        groups.setdefault(match[1] if match else "", {})[match[2] if match else name] = tensor
    return [_network(weights, role, tensors, layout) for role, tensors in groups.items()]


def _network(weights: Weights, role: str, tensors: dict[str, Tensor], asked: str) -> Network:
    for patterns, reason in UNFIT.items():
        if all(any(re.search(pattern, name) for name in tensors) for pattern in patterns):
            raise UnreadableError(weights.path, f"the networks do not fit. It is from {reason}")
    candidates = []
    for layout in LAYOUTS.values():
        for kind in ("generator", "discriminator"):
            layers, unknown = find_layers(tensors, getattr(layout, kind))
            candidates.append((len(unknown), layout, kind, layers, unknown))
    strange, layout, kind, layers, unknown = min(candidates, key=lambda candidate: candidate[0])
    if strange > len(tensors) / 2:
        names = short_text(", ".join(list(tensors)[:3]), 100)
        raise UnreadableError(weights.path, f"its names are of none of {', '.join(LAYOUTS)}; they begin with {names}")
    if asked not in ("auto", layout.name):
        raise ParameterError(f"layout={asked!r} does not fit {weights.path.name}: its tensors are named as in layout={layout.name!r}")
    if kind == "generator" and ("ema" in role or (not role and "ema" in weights.path.stem.lower())):
        kind = "ema"
    return Network(weights, layout, kind, layers, unknown)
