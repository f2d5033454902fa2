"""`binding`: a drawn data set in which distant tiles must agree, and which tiles must agree only their content tells.

An image is a square grid of tiles. Each tile shows a pattern of a fixed vocabulary in one hue; each pattern of an image stands on exactly two
tiles, at random positions, and both have the same hue, drawn anew for every image and pattern. So the hue of a tile is right if it equals
that of the tile with the same pattern, wherever that is: found by content, checked by value. Hues of different patterns are independent.

The *near* version is the control: both tiles of a pattern stand side by side. Patterns, hues and their entropy are the same, without distance.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from .drawing import hsv, uniform

CELLS = 4  # of a pattern, on each side
GREY = 0.15  # level of the cells that are off
VERSION = 2  # part of the fingerprint: raise it when the images change


class Binding:
    """The endless data set: image i of size S is a pure function of (i, S, seed, tiles, patterns, near, mismatched).

    Parameters
    ----------
    size
        S, height and width in pixels; a multiple of 4 * tiles.
    seed
        Seed of the set.
    tiles
        Tiles on each side of the grid, an even number.
    patterns
        Size of the vocabulary, at least the number of pairs, tiles^2 / 2; by default as many. An image takes a random part of a larger one.
    near
        Whether both tiles of a pair stand side by side.
    mismatched
        Wrong pairs: none in right images. Their second tiles exchange hues in a cycle, so patterns and hues are those of a right image, and
        only what belongs together differs. A single one has none to exchange with: its second tile has a hue of its own.
    own_hues
        All second tiles of wrong pairs have hues of their own: easier to tell, since the image holds more hues.
    """

    classes: list[str] = []
    num_classes = 0
    counts = None
    length = None  # no end
    TRUTH = {f"binding_{name}": True for name in ("agreement", "readable", "paired", "hue_entropy", "variety")}  # higher is better

    def __init__(self, size: int, seed: int = 0, tiles: int = 4, patterns: int | None = None, near: bool = False, mismatched: int = 0,
                 own_hues: bool = False):  # fmt: skip
        self.size, self.seed, self.tiles, self.near, self.mismatched, self.own_hues = size, seed, tiles, near, mismatched, own_hues
        self.name = "binding-near" if near else "binding"
        self.pairs = tiles**2 // 2
        self.vocabulary = vocabulary(patterns or self.pairs)
        self.measures = f"binding: {size} px, {tiles}x{tiles} tiles, {len(self.vocabulary)} patterns"  # the same near and far
        about = f"binding {VERSION} {size} {seed} {tiles} {len(self.vocabulary)} {near} {mismatched} {own_hues}"
        self.fingerprint = hashlib.sha256(about.encode()).hexdigest()

    def batch(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) uint8 and labels (B,) int64, all 0, of these indices (B,), all >= 0."""
        pattern, hue = self.contents(indices)
        on = np.kron(self.vocabulary, np.ones((self.size // (CELLS * self.tiles),) * 2, bool))  # (P, s, s)
        colour = hsv(hue.ravel()).reshape(*hue.shape, 3)  # (B, tiles, tiles, 3)
        image = np.where(on[pattern][..., None], colour[..., None, None, :], GREY)  # (B, tiles, tiles, s, s, 3)
        image = image.transpose(0, 5, 1, 3, 2, 4).reshape(len(pattern), 3, self.size, self.size)
        return torch.from_numpy(np.rint(image * 255).astype(np.uint8)), torch.zeros(len(pattern), dtype=torch.int64)

    def contents(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pattern, an index into the vocabulary, and the hue in [0, 1) of each tile: both (B, tiles, tiles)."""
        pairs, vocabulary = self.pairs, len(self.vocabulary)
        u = uniform(np.asarray(indices, dtype=np.uint64), self.seed, 4 * pairs + vocabulary).T  # (B, ...)
        hues, own, order, choice = np.split(u, [pairs, 2 * pairs, 4 * pairs], axis=1)
        patterns = choice.argsort(1)[:, :pairs]  # (B, pairs): which ones, and which pair has which
        slots = self._slots(order)  # (B, pairs, 2): positions of both tiles
        both = np.stack([hues, self._second_hues(hues, own)], 2)
        pattern, hue = np.empty((len(u), 2 * pairs), np.int64), np.empty((len(u), 2 * pairs))
        flat = slots.reshape(len(u), -1)
        np.put_along_axis(pattern, flat, patterns.repeat(2, 1), 1)
        np.put_along_axis(hue, flat, both.reshape(len(u), -1), 1)
        return pattern.reshape(-1, self.tiles, self.tiles), hue.reshape(-1, self.tiles, self.tiles)

    def _second_hues(self, hues: np.ndarray, own: np.ndarray) -> np.ndarray:
        """The hues (B, pairs) of the second tiles, from those of the first ones and hues of their own."""
        wrong = slice(self.mismatched)
        second = hues.copy()
        second[:, wrong] = own[:, wrong] if self.own_hues or self.mismatched == 1 else np.roll(hues[:, wrong], 1, axis=1)
        return second

    def _slots(self, order: np.ndarray) -> np.ndarray:
        """The positions (B, pairs, 2) of the tiles of each pair, from uniform numbers (B, 2 * pairs)."""
        if not self.near:
            return order.argsort(1).reshape(len(order), self.pairs, 2)
        # Side by side: dominoes, all horizontal or all vertical, in random order.
        grid = np.arange(2 * self.pairs).reshape(self.tiles, self.tiles)
        dominoes = np.stack([grid.reshape(-1, 2), grid.T.reshape(-1, 2)])  # (2, pairs, 2)
        chosen = dominoes[(order[:, -1] < 0.5).astype(int)]
        return np.take_along_axis(chosen, order[:, : self.pairs].argsort(1)[..., None], 1)

    def truth(self, images: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """What `agreement` measures in images of this set, named `binding_agreement` and so on."""
        values = agreement(images, self.tiles, len(self.vocabulary))
        return {f"binding_{name}": value for name, value in values.items()}


def vocabulary(count: int) -> np.ndarray:
    """`count` patterns (count, 4, 4) bool with half the cells on, as different as a greedy choice from a fixed random order finds."""
    rng = np.random.default_rng(0)
    candidates = np.stack([rng.permutation(CELLS**2) < CELLS**2 // 2 for _ in range(2000)])
    chosen = [0]
    distance = (candidates != candidates[0]).sum(1)
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, (candidates != candidates[chosen[-1]]).sum(1))
    return candidates[chosen].reshape(count, CELLS, CELLS)


def agreement(images: Tensor, tiles: int = 4, patterns: int | None = None) -> dict[str, Tensor]:
    """How well tiles of the same pattern agree in hue, corrected for chance, and what is drawn at all. Real images: about 1, 1, 1, and the entropy of the data.

    Parameters
    ----------
    images
        (B, 3, S, S), floats in [-1, 1] or uint8.
    tiles, patterns
        As in `Binding`.

    Returns
    -------
    dict of Tensor
        (B,) each, float64. `agreement`: mean cos(2 pi difference of hues) over pairs of tiles that show the same pattern, minus that
        over pairs of tiles that show different ones: 0 for independent hues and for one hue everywhere. `readable`: share of tiles that show a
        pattern of the vocabulary. `paired`: share of readable tiles whose pattern stands on exactly two. `hue_entropy`: of the hues of the
        tiles, in 8 bins, as a share of log 8. `variety`: share of readable tiles that do not show the same pattern in the next image, in which
        a generator of one layout would repeat it.
    """
    words = torch.from_numpy(vocabulary(patterns or tiles**2 // 2)).to(images.device)
    x = images.double() / 255 if images.dtype == torch.uint8 else (images.double() + 1) / 2
    grid, cell = tiles * CELLS, x.shape[-1] // (tiles * CELLS)
    cells = x.unflatten(3, (grid, cell)).unflatten(2, (grid, cell)).mean((3, 5))  # (B, 3, grid, grid)
    cells = cells.unflatten(3, (tiles, CELLS)).unflatten(2, (tiles, CELLS)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)  # (B, T, 3, 4, 4)
    chroma = (cells.amax(2) - cells.amin(2)).flatten(2)  # (B, T, 16)
    centred = chroma - chroma.mean(2, keepdim=True)
    templates = words.flatten(1).double() * 2 - 1
    match = centred @ templates.T / (centred.norm(dim=2, keepdim=True) * 4).clamp(min=1e-9)  # correlation (B, T, P)
    best, pattern = match.max(2)
    readable = (best > 0.8) & (chroma.amax(2) > 0.2)
    red, green, blue = (cells.flatten(3) * words.flatten(1).double()[pattern][:, :, None]).sum(3).unbind(2)
    hue = torch.atan2((green - blue) * 0.75**0.5, red - (green + blue) / 2)  # (B, T), radians
    cosine = torch.cos(hue[:, :, None] - hue[:, None])
    off = ~torch.eye(hue.shape[1], dtype=torch.bool, device=hue.device)
    both = readable[:, :, None] & readable[:, None] & off
    same = both & (pattern[:, :, None] == pattern[:, None])
    other = both & ~same

    def mean(mask: Tensor) -> Tensor:
        return (cosine * mask).sum((1, 2)) / mask.sum((1, 2)).clamp(min=1)

    bins = ((hue / (2 * math.pi)) % 1 * 8).long().clamp(0, 7)
    share = torch.nn.functional.one_hot(bins, 8).double().mean(1)
    entropy = -(share * share.clamp(min=1e-12).log()).sum(1) / math.log(8)
    counts = (same.sum(2) + 1) * readable
    drawn = readable.sum(1).clamp(min=1)
    repeated = readable.roll(-1, 0) & (pattern == pattern.roll(-1, 0))
    value = torch.where(same.any(2).any(1) & other.any(2).any(1), mean(same) - mean(other), 0.0)
    return dict(
        agreement=value, readable=readable.double().mean(1),
        paired=(counts == 2).double().sum(1) / drawn, hue_entropy=entropy, variety=(readable & ~repeated).double().sum(1) / drawn,
    )  # fmt: skip
