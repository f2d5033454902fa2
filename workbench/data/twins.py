"""`twins`: a data set that is drawn, not downloaded, and whose long-range consistency can be measured against the truth.

Each image holds two copies of one glyph (the class), mirrored left and right, on a grey background. They share hue, size and height,
and their angles are mirrored. Everything local is easy; an image is right if two distant positions agree. More pairs are harder: stacked
pairs of the same glyph, each with another hue, size, height and angle.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from .drawing import hsv, uniform

CLASSES = ["disc", "square", "ring", "cross", "triangle", "bar"]
SYMMETRY = torch.tensor([0, 4, 0, 4, 3, 2])  # n: the glyph looks the same after 1/n of a turn; 0: after any rotation

# Ranges of the random quantities. Lengths are in units of half the image's width; the glyphs are centred at x = -0.5 and +0.5.
RADIUS = (0.33, 0.43)
HEIGHT = (-0.35, 0.35)
ANGLE = (-math.pi / 12, math.pi / 12)  # +-15 degrees
GREY = (0.25, 0.5)
VERSION = 1  # part of the fingerprint: raise it when the images change


class Twins:
    """The endless data set: image i of size S is a pure function of (i, S, seed, pairs).

    Parameters
    ----------
    size
        S, height and width in pixels.
    seed
        Seed of the set.
    pairs
        Glyph pairs per image: k, a divisor of S. Each is drawn as in an image of size S / k; its halves are pulled apart until the glyphs
        have the x of a single pair, and the pairs are stacked.
    """

    name = "twins"
    classes = CLASSES
    num_classes = len(CLASSES)
    counts = None  # classes are drawn uniformly
    length = None  # no end
    TRUTH = dict(twins_hue=False, twins_size=False, twins_height=False, twins_angle=False, twins_readable=True)  # whether higher is better

    def __init__(self, size: int, seed: int = 0, pairs: int = 1):
        self.size, self.seed, self.pairs = size, seed, pairs
        suffix = f" {pairs}" if pairs > 1 else ""
        self.measures = f"twins: {size} px, {pairs} pairs"
        self.fingerprint = hashlib.sha256(f"twins {VERSION} {size} {seed}{suffix}".encode()).hexdigest()

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) uint8 and labels (B,) int64 of these indices (B,), all >= 0."""
        # NumPy, because torch's threads would compete with the training step for cores.
        u = uniform(np.asarray(indices, dtype=np.uint64), self.seed, 2 + 4 * self.pairs)
        label, grey = (u[0] * len(CLASSES)).astype(np.int64), _scale(u[5], GREY)
        glyphs = [
            draw_half(label, hue, _scale(radius, RADIUS), _scale(height, HEIGHT), _scale(angle, ANGLE), grey, self.size // self.pairs)
            for hue, radius, height, angle in (u[1:5], *(u[k : k + 4] for k in range(6, len(u), 4)))
        ]
        left = np.broadcast_to(grey[:, None, None, None], (len(label), 3, self.size, self.size // 2)).copy()
        left[..., _columns(self.size, self.pairs)] = np.concatenate(glyphs, 2)
        image = np.concatenate([left, left[..., ::-1]], 3)
        return torch.from_numpy(np.rint(image * 255).astype(np.uint8)), torch.from_numpy(label)

    def truth(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """What `disagreement` measures in images of this set, named `twins_hue` and so on."""
        return {f"twins_{name}": value for name, value in disagreement(images, labels, self.pairs).items()}


def draw_half(label, hue, radius, height, angle, grey, size: int) -> np.ndarray:
    """The left halves of twin images; a right half is the mirror image of a left one.

    Parameters
    ----------
    label, hue, radius, height, angle, grey
        Arrays (B,): index into CLASSES; hue in [0, 1); radius and height in half widths; angle in radians; grey level in [0, 1].
    size
        S of the whole image.

    Returns
    -------
    np.ndarray
        (B, 3, S, S / 2) in [0, 1], with antialiased edges.
    """
    at = (np.arange(size) + 0.5) * 2 / size - 1
    x, y = at[None, None, : size // 2] + 0.5, -at[None, :, None]  # relative to the glyph's centre; y points up
    colour = hsv(np.asarray(hue))[:, :, None, None]
    label, radius, height, angle, grey = (np.asarray(v)[:, None, None] for v in (label, radius, height, angle, grey))
    y = y - height
    u = (np.cos(angle) * x + np.sin(angle) * y) / radius
    v = (np.cos(angle) * y - np.sin(angle) * x) / radius
    r, au, av = np.hypot(u, v), np.abs(u), np.abs(v)
    distances = (  # signed distances to the outline, in radii, negative inside: one per class
        r - 0.85,
        np.maximum(au, av) - 0.82,
        np.abs(r - 0.72) - 0.24,
        np.minimum(np.maximum(au - 1, av - 0.3), np.maximum(au - 0.3, av - 1)),
        np.maximum(-v, np.maximum(0.5 * v + 0.75**0.5 * u, 0.5 * v - 0.75**0.5 * u)) - 0.56,
        np.maximum(au - 0.34, av - 1),
    )
    distance = np.choose(label, distances)
    coverage = np.clip(0.5 - distance * radius * size / 2, 0, 1)[:, None]  # (B, 1, S, S / 2): share of the pixel inside
    return coverage * colour + (1 - coverage) * grey[:, None]


def disagreement(images: Tensor, labels: Tensor | None = None, pairs: int = 1) -> dict[str, Tensor]:
    """How much the left and the right glyph of each image differ; about 0 on real data. With several pairs: the mean over the pairs.

    Parameters
    ----------
    images
        (B, 3, S, S), floats in [-1, 1] or uint8.
    labels
        (B,) classes; without them the angle, whose meaning depends on the glyph's symmetry, is left out.
    pairs
        Glyph pairs per image, as in `Twins`.

    Returns
    -------
    dict of Tensor
        (B,) each, float64. `hue`: distance on the hue circle, 0 to 0.5 (independent hues: 0.25 in the mean and median).
        `size`: difference of the square roots of the areas, relative to their mean, 0 to 2. `height`: difference of the centres'
        heights, in units of half the height of a pair's part of the image. `angle`: deviation from mirrored angles, as a fraction of the
        turn after which the glyph looks the same, 0 to 0.5; 0 for disc and ring. `readable`: 1 if both halves contain a coloured object of
        about a glyph's size, else 0; the other values are then the worst: 0.5, 2, 2 and 0.5.
    """
    halves, chroma = _mirrored_halves(images, pairs)
    size = halves.shape[-2]
    mass = (chroma - 0.15).clamp(min=0)  # (B, 2, S, S / 2), without a faint tint of the background
    total = mass.sum((2, 3))
    peak = mass.square().sum((2, 3)) / total.clamp(min=1e-12)
    area = total / peak.clamp(min=1e-12)  # pixels of the glyph
    share = area / (size * size / 2)  # of a half; real glyphs take 0.05 to 0.25
    readable = (share > 0.02) & (share < 0.4) & (peak > 0.1)

    hue = _hues(halves, mass)
    at = (torch.arange(size, dtype=torch.float64, device=images.device) + 0.5) * 2 / size - 1
    px, py = at[: size // 2], -at
    weight = mass / total.clamp(min=1e-12)[..., None, None]
    cx, cy = (weight * px).sum((2, 3)), (weight * py[:, None]).sum((2, 3))
    root = area.sqrt()
    result = {
        "hue": _turns(hue[:, 0] - hue[:, 1]),
        "size": (root[:, 0] - root[:, 1]).abs() / root.mean(1).clamp(min=1e-12),
        "height": (cy[:, 0] - cy[:, 1]).abs(),
    }
    if labels is not None:
        n = SYMMETRY.to(images.device)[labels.repeat_interleave(pairs)][:, None, None, None]
        dx, dy = px - cx[..., None, None], py[:, None] - cy[..., None, None]
        r, theta = torch.hypot(dx, dy), torch.atan2(dy, dx)
        moment = weight * r**4  # distant pixels determine the angle
        phase = torch.atan2((moment * torch.sin(n * theta)).sum((2, 3)), (moment * torch.cos(n * theta)).sum((2, 3)))
        result["angle"] = torch.where(n[:, 0, 0, 0] > 0, _turns((phase[:, 0] - phase[:, 1]) / (2 * math.pi)), 0.0)
    both = readable.all(1)
    worst = {"hue": 0.5, "size": 2.0, "height": 2.0, "angle": 0.5}
    result = {k: torch.where(both, v, worst[k]) for k, v in result.items()} | {"readable": both.double()}
    return {k: v.unflatten(0, (-1, pairs)).mean(1) for k, v in result.items()}


def glyph_hues(images: Tensor) -> Tensor:
    """Hues of the left and the right glyph, as in `disagreement`: (B, 2) float64 in [0, 1), red at 0 and green at 1/3.

    Images (B, 3, S, S) are floats in [-1, 1] or uint8. The hue of an unreadable half (see `disagreement`) is meaningless.
    """
    halves, chroma = _mirrored_halves(images)
    return _hues(halves, (chroma - 0.15).clamp(min=0)) % 1


def glyph_coverage(images: Tensor) -> Tensor:
    """The fraction of each pixel that the glyph covers, read from the image: (B, S, S) float32 in [0, 1]; exact on real data.

    In each half, a pixel is a mixture of two colours: that of the background (the median of the half) and that of the glyph (the median of
    the most colourful pixels). Images (B, 3, S, S) are floats in [-1, 1] or uint8. The coverage of an unreadable half (see `disagreement`)
    is meaningless.
    """
    halves, chroma = _mirrored_halves(images)
    pixels, chroma = halves.flatten(3), chroma.flatten(2)
    colourful = chroma >= 0.8 * chroma.amax(2, keepdim=True)
    grey = pixels.median(3, keepdim=True).values
    # A median, because pixels at edges are among the most colourful too, and a glyph is thin.
    colour = pixels.masked_fill(~colourful[:, :, None], torch.nan).nanmedian(3, keepdim=True).values
    along = colour - grey  # (B, 2, 3, 1)
    coverage = ((pixels - grey) * along).sum(2) / along.square().sum(2).clamp(min=1e-12)
    left, right = coverage.clamp(0, 1).float().unflatten(2, halves.shape[-2:]).unbind(1)
    return torch.cat([left, right.flip(2)], 2)


def crops(images: Tensor, pairs: int) -> Tensor:
    """Each pair as an image of a single one, pair by pair: (B * pairs, C, S / pairs, S / pairs) of images (B, C, S, S)."""
    size = images.shape[-1]
    bands = images.unflatten(2, (pairs, size // pairs)).transpose(1, 2).flatten(0, 1)
    return torch.cat([half[..., _columns(size, pairs)] for half in bands.split(size // 2, 3)], 3)


def _columns(size: int, pairs: int) -> slice:
    """The columns of a half of an image that hold a pair's glyph."""
    margin = (size - size // pairs) // 4
    return slice(margin, size // 2 - margin)


def _mirrored_halves(images: Tensor, pairs: int = 1) -> tuple[Tensor, Tensor]:
    """Left and mirrored right halves of each pair (B * k, 2, 3, S / k, S / 2k) in [0, 1], and their chroma (without the 3), in float64."""
    x = crops(images.double() / 255 if images.dtype == torch.uint8 else (images.double() + 1) / 2, pairs)
    left, right = x.split(x.shape[-1] // 2, 3)
    halves = torch.stack([left, right.flip(3)], 1)
    return halves, halves.amax(2) - halves.amin(2)


def _hues(halves: Tensor, mass: Tensor) -> Tensor:
    """Hues (B, 2) in [-0.5, 0.5]: directions of the mean chroma in the plane orthogonal to grey."""
    red, green, blue = halves.unbind(2)
    a, b = (mass * (red - (green + blue) / 2)).sum((2, 3)), (mass * (green - blue) * 0.75**0.5).sum((2, 3))
    return torch.atan2(b, a) / (2 * math.pi)


def _turns(difference: Tensor) -> Tensor:
    """Distance on a circle of circumference 1."""
    return (difference - difference.round()).abs()


def _scale(u: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    return bounds[0] + u * (bounds[1] - bounds[0])
