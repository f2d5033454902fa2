# ruff: noqa: RUF001
"""Maps, their scales and their colours, as the front end shows them (`js/maps.js`, `js/scale.js`, `js/paint.js`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..attention import NOISE, STATISTICS, Inspection, rounding

PALETTE, DIVERGING = "inferno", "RdBu_r"
LUMINANCE = (0.2126, 0.7152, 0.0722)  # of CSS's `grayscale`


@dataclass(frozen=True)
class Reading:
    """A way to read the attention.

    Attributes
    ----------
    reference, compared
        The value to compare with, and its name.
    floor
        Smaller values are rounding errors.
    divided
        A weight is divided among the positions of its key where maps of keys are compared with larger ones.
    """

    name: str
    unit: str
    reference: Callable[[Inspection], float] | None = None
    compared: str = "uniform"
    floor: Callable[[Inspection], float] = lambda seen: 0.0
    divided: bool = False


def _keys(seen: Inspection) -> int:
    return seen.projections.key.shape[-2]


READINGS = {
    "outgoing": Reading("Looks at", "attention weight", lambda seen: 1 / _keys(seen), divided=True),
    "incoming": Reading("Seen by", "attention weight", lambda seen: 1 / _keys(seen)),
    "value_weighted": Reading(
        "Value-weighted",
        "weight × ‖value‖",
        lambda seen: seen.projections.value_norm.mean().item() / _keys(seen),
        "uniform, mean value",
        divided=True,
    ),
    "causal": Reading("Matters", "change of the output", floor=rounding),
    "entropy": Reading("Entropy", "nats", lambda seen: math.log(_keys(seen))),
    "distance": Reading("Distance", "image pixels"),
    "outside_3": Reading("Outside 3×3", "fraction of the weights"),
    "outside_9": Reading("Outside 9×9", "fraction of the weights"),
    "strength": Reading("Strength", "‖γ·o‖ / ‖x‖", floor=lambda seen: NOISE),
    "received": Reading("Received", "× the average", lambda seen: 1.0, "average"),
}
OFFSETS = Reading("By offset", "mean weight by offset", lambda seen: 1 / math.prod(seen.projections.places.grid))


def values_of(seen: Inspection, reading: str, query: int, causal: np.ndarray | None = None) -> np.ndarray:
    """The map of a reading over positions or keys, without tokens, (rows, columns): weights of keys, not divided among the positions of a
    pooled key; of several heads the mean."""
    layout, of_keys = seen.projections.places, False
    if reading in STATISTICS:
        values = seen.statistics[reading].numpy()
    elif reading == "incoming":
        values = seen.beta[:, layout.key_of(query)].numpy()
    else:
        of_keys = True
        if reading == "causal":
            assert causal is not None
            values = causal
        elif reading == "value_weighted":
            weighted = seen.projections.maps()[0][..., query, :] * seen.projections.value_norm[0]
            values = (weighted.mean(0) if weighted.ndim == 2 else weighted).numpy()
        else:
            values = seen.beta[query].numpy()
    return values[len(layout.tokens) :].reshape(layout.key_grid if of_keys else layout.grid)


@dataclass(frozen=True)
class Scale:
    """Where values are among the colours: from 0, or if `signed` from -`high`, to `high`; or up to `octaves` above and below a reference.

    Attributes
    ----------
    palette
        Name of the colour map.
    text
        The scale in words, with its unit.
    """

    palette: str
    text: str
    high: float = 1.0
    octaves: float = 0.0
    signed: bool = False

    def place(self, values: np.ndarray, reference: float = 0.0) -> np.ndarray:
        """The places of values among the colours, from 0 to 1; `reference` is that of their map."""
        if self.signed:
            return np.clip(0.5 + values / (2 * self.high), 0, 1)
        if not self.octaves:
            return np.clip(values / self.high, 0, 1)
        with np.errstate(divide="ignore"):
            return np.clip(0.5 + np.log2(values / reference) / (2 * self.octaves), 0, 1)

    def colours(self, values: np.ndarray, reference: float = 0.0) -> np.ndarray:
        """The colours of values, (..., 3) uint8; that of 0 where a network has diverged."""
        return colour_table(self.palette)[np.rint(255 * np.nan_to_num(self.place(values, reference))).astype(int)]


def scale_of(maps: Sequence[tuple[Any, np.ndarray]], kind: Reading, relative: bool) -> Scale:
    """One scale for maps of a reading, each with what it was read from; `relative` to their references, if the reading has one."""
    if relative and kind.reference:
        most = max((values.max() / kind.reference(seen) for seen, values in maps), default=1.0)
        octaves = max(1.0, math.log2(most))
        return Scale(DIVERGING, f"{kind.unit}, 1/{2**octaves:.2g} to {2**octaves:.2g} × {kind.compared}", octaves=octaves)
    top = max((float(values.max()) for _, values in maps), default=0.0)
    floor = max((kind.floor(seen) for seen, _ in maps), default=0.0)
    noise = ": no more than rounding" if top < floor else ""
    return Scale(PALETTE, f"{kind.unit}, 0 to {max(top, floor):.2g}{noise}", high=max(top, floor) or 1.0)


def differences(maps: Sequence[Sequence[np.ndarray]], kind: Reading) -> tuple[list[np.ndarray], Scale]:
    """b - a for maps of two runs, at the larger resolution; and one scale, at least to a thousandth of the maps: less is rounding errors."""
    a, b = maps
    high = max(float(np.max(values)) for values in (*a, *b))
    changes = []
    for pair in zip(a, b, strict=True):
        shape = max(pair[0].shape, pair[1].shape)
        first, second = (_enlarged(values, shape) / (math.prod(shape) / values.size if kind.divided else 1) for values in pair)
        changes.append(second - first)
    most = max(max(float(np.abs(change).max()) for change in changes), high / 1000)
    return changes, Scale(DIVERGING, f"{kind.unit}, b - a, -{most:.2g} to {most:.2g}", high=most or 1.0, signed=True)


def _enlarged(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    down, across = (large // small for large, small in zip(shape, values.shape, strict=True))
    return values.repeat(down, 0).repeat(across, 1)


def colour_table(name: str) -> np.ndarray:
    """256 RGB colours of a matplotlib colour map, (256, 3) uint8."""
    from matplotlib import colormaps

    return colormaps[name](np.arange(256), bytes=True)[:, :3]


def over(image: np.ndarray, colours: np.ndarray, opacity: float, smooth: bool) -> np.ndarray:
    """The colours of a map (side, side, 3) over an image (S, S, 3), uint8; a visible map makes the image grey."""
    if not opacity:
        return image
    enlarged = Image.fromarray(colours).resize(image.shape[1::-1], Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST)
    return _blend((image @ np.array(LUMINANCE))[..., None], np.asarray(enlarged), opacity)


def colour_bar(scale: Scale, opacity: float | None) -> np.ndarray:
    """The colours of a scale, (16, 256, 3) uint8; with the opacity of a map on an image, the lower half has them over greys from black to white."""
    colours = np.broadcast_to(colour_table(scale.palette), (8, 256, 3))
    if opacity is None:
        return np.concatenate([colours, colours])
    return np.concatenate([colours, _blend(np.linspace(0, 255, 8)[:, None, None], colours, opacity)])


def difference(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, int]:
    """after - before of uint8 images on grey, amplified by a power of two as far as it fits; and that factor."""
    change = after.astype(int) - before
    most = int(np.abs(change).max())
    factor = 2 ** max(0, math.floor(math.log2(127 / most))) if most else 1
    return np.clip(128 + factor * change, 0, 255).astype(np.uint8), factor


def _blend(below: np.ndarray, above: np.ndarray, opacity: float) -> np.ndarray:
    return np.rint((1 - opacity) * below + opacity * above).astype(np.uint8)
