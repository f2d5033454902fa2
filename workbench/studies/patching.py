"""Does attention carry colour from one glyph to its twin? Activation patching, with controls and a test.

The values of one sample, the source, replace those of another, the target, on its left glyph. If attention carries values, the hue of the
right glyph moves to the source's.

Shapes: P pairs of samples, F fractions, M = key_side^2 keys; positions in row-major order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .. import attention
from ..attention.layers import find_layer
from ..data.twins import disagreement, glyph_coverage, glyph_hues
from ..messages import ParameterError, WorkbenchError, counted
from ..model import Generator, sampling
from ..runs import Run
from .significance import Verdict, against_nulls
from .twin_runs import glyph_queries, latents, require_one_pair, split_layer

SMALLEST_SHIFT = 0.05  # smallest effect of interest: fraction of the way to the source's hue
HUE_RANGE = 1 / 12  # a glyph has a hue if it is within 30 degrees
RED, GREEN = 0.0, 1 / 3  # hues of source and target
CONDITIONS = ("glyph", "background", "gamma = 0")


@dataclass(frozen=True)
class PatchingStudy:
    """The result of `study`: plain data.

    Attributes
    ----------
    about
        Run, step, layer, samples and hues.
    fractions
        Of the keys whose values are patched, (F,).
    left, right
        Condition -> (P, F): shift of the hue of the left and the right glyph, as a fraction of the way to the source's. Keys are patched
        on the left "glyph", on the "background", or on the glyph with attention off ("gamma = 0").
    mass
        (P, F): attention of the right glyph's positions on the patched keys, in the condition "glyph".
    verdict
        Whether the right glyph's hue shifts more than in both controls, at the largest fraction.
    """

    about: str
    fractions: tuple[float, ...]
    left: dict[str, list[list[float]]]
    right: dict[str, list[list[float]]]
    mass: list[list[float]]
    verdict: Verdict

    def rows(self) -> list[dict]:
        """Rows of a table: condition, half, fraction, attention on patched keys; mean, standard deviation and n of the shift."""
        mass = np.mean(self.mass, 0).tolist()
        rows = []
        for half, conditions in (("left", self.left), ("right", self.right)):
            for condition, shifts in conditions.items():
                mean, sd = np.mean(shifts, 0).tolist(), np.std(shifts, 0, ddof=1).tolist()
                for k, fraction in enumerate(self.fractions):
                    rows.append(
                        dict(patched=condition, half=half, fraction=fraction, attention=mass[k] if condition == "glyph" else "",
                             shift=mean[k], sd=sd[k], n=len(shifts))
                    )  # fmt: skip
        return rows


@torch.no_grad()
def study(
    run: Run,
    layer: str,
    *,
    n: int = 64,
    seed: int = 1,
    fractions: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    pool: int = 1024,
    step: int | None = None,
    weights: str = "auto",
) -> PatchingStudy:
    """Patch the values on the left glyph of a red sample into a green one: does the right glyph turn red?

    `pair_by_hue` makes the pairs. Patched are keys on the left glyph of both images: a random part of them for each fraction, which contains
    those of smaller fractions. One control patches as many keys on the background of both left halves (all if there are fewer). The other
    switches the layer off (gamma = 0), which shows that nothing else carries values. The target keeps its maps; later layers contribute.

    Parameters
    ----------
    run, step, weights
        As for `shape.study`.
    layer
        An attention layer of G: "G/attention.16".
    n
        Largest number of pairs.
    fractions
        Of the keys, ascending in [0, 1], the first 0.
    pool, seed
        Number of samples from which pairs are made, and seed of their latents.

    Raises
    ------
    ParameterError
        For fractions out of range, or a layer of D.
    WorkbenchError
        As `shape.study`, or if there are fewer than two pairs.
    """
    require_one_pair(run)
    network, path = split_layer(layer)
    if network != "G":
        raise ParameterError(f"layer={layer!r}: D makes no images; give a layer of G")
    if len(fractions) < 2 or fractions[0] != 0 or list(fractions) != sorted(set(fractions)) or fractions[-1] > 1:
        raise ParameterError(f"fractions={fractions!r} cannot be used; give two or more, ascending, from 0 to at most 1")
    step = int(run.checkpoint_path(step).name)
    generator = run.generator(step, weights)
    find_layer(generator, path)
    z, y = latents(run, pool, seed)
    x = sampling.images(generator, z, y)
    coverage = glyph_coverage(x)
    pairs = pair_by_hue(x, y)[:n]
    if len(pairs) < 2:
        raise WorkbenchError(
            f"{pool} samples of run {run.name!r}, step {step}, have {counted(len(pairs), 'pair')} of a red and a green one; raise pool={pool}"
        )
    shifts, masses = [], []
    for k, pair in enumerate(map(list, pairs)):
        rng = sampling.rng(seed, 9, k)
        before, after, mass = patch_pair(generator, path, z[pair], None if y is None else y[pair], coverage[pair], fractions, rng)
        shifts.append(hue_shifts(before, after))
        masses.append(mass)
    by_half = torch.stack(shifts).permute(3, 1, 0, 2).tolist()  # half, condition, P, F
    left, right = (dict(zip(CONDITIONS, conditions, strict=True)) for conditions in by_half)
    last = {condition: np.array(shifts)[:, -1] for condition, shifts in right.items()}
    verdict = against_nulls({control: last["glyph"] - last[control] for control in CONDITIONS[1:]}, SMALLEST_SHIFT)
    about = (
        f"{run.name}, step {step:,}, {layer} ({run.config.attention_variant}), {counted(len(pairs), 'pair')} among {pool} samples of seed {seed}: "
        f"hue {RED:.2f} into {GREEN:.2f}"
    )
    return PatchingStudy(about, tuple(fractions), left, right, torch.stack(masses).tolist(), verdict)


def pair_by_hue(images: Tensor, y: Tensor | None) -> list[tuple[int, int]]:
    """Pairs (source, target) of samples of one class: the source has red glyphs, the target green ones, within 30 degrees.

    Each target is paired with the unused source whose glyphs overlap its glyphs the most. So pairs are independent.
    """
    readable, hues, coverage = disagreement(images)["readable"].bool(), glyph_hues(images), glyph_coverage(images).flatten(1)

    def of_hue(hue: float) -> Tensor:
        return readable & (hue_difference(hues, hue).abs() < HUE_RANGE).all(1)

    sources, pairs = of_hue(RED), []
    for target in of_hue(GREEN).nonzero()[:, 0].tolist():
        overlap = torch.minimum(coverage, coverage[target]).sum(1) / torch.maximum(coverage, coverage[target]).sum(1)
        same = sources if y is None else sources & (y == y[target])
        if same.any():
            source = int(overlap.masked_fill(~same, -1).argmax())
            sources[source] = False
            pairs.append((source, target))
    return pairs


def hue_difference(a: Tensor, b: Tensor | float) -> Tensor:
    """a - b on the hue circle, in [-0.5, 0.5]."""
    return a - b - (a - b).round()


def hue_shifts(before: Tensor, after: Tensor) -> Tensor:
    """Shifts of the hues of both glyphs towards the source's, (conditions, F, 2), in the images of `patch_pair`."""
    source, target = glyph_hues(before)
    hues = glyph_hues(after.flatten(0, 1)).unflatten(0, after.shape[:2])
    return hue_difference(hues, hues[:, :1]) / hue_difference(source, target)


@torch.no_grad()
def patch_pair(
    generator: Generator, path: str, z: Tensor, y: Tensor | None, coverage: Tensor, fractions: Sequence[float], rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Patch the values of a source into a target, in the attention layer at `path`.

    Parameters
    ----------
    z, y, coverage
        Latents (2, z_dim), labels (2,) and coverage by glyphs (2, S, S) of source and target.
    rng
        Decides the order in which keys are patched.

    Returns
    -------
    before, after, mass
        Images of source and target (2, 3, S, S); the patched target (conditions, F, 3, S, S), see `CONDITIONS`; and the attention of
        the right glyph's positions on the patched keys (F,).
    """
    with attention.capture_projections(generator) as captured:
        before = sampling.images(generator, z, y)
    layer = captured[path][1:]
    keys = [keys[torch.randperm(len(keys), generator=rng)] for keys in _patchable(coverage, layer.key_side)]
    count = len(keys[0])
    masks = torch.zeros(2, len(fractions), layer.key_side**2, dtype=torch.bool)
    for condition, order in zip(masks, keys, strict=True):
        for mask, fraction in zip(condition, fractions, strict=True):
            mask[order[: round(fraction * count)]] = True
    # The batch holds the source, with an empty mask, and the target once for each mask.
    masks = torch.cat([masks.new_zeros(1, layer.key_side**2), masks.flatten(0, 1)])
    samples = torch.tensor([0] + [1] * (len(masks) - 1))
    patched = []
    for gamma in (None, 0.0):
        with attention.intervene(generator, path, patch=(0, masks), gamma=gamma):
            patched.append(sampling.images(generator, z[samples], None if y is None else y[samples], batch_size=len(samples)))
    after = torch.stack([*patched[0][1:].chunk(2), patched[1][1 : 1 + len(fractions)]])  # in the order of CONDITIONS
    queries, on_left = glyph_queries(coverage[1], layer.side)
    weights = layer.maps()[0, queries[~on_left]].mean(0)
    return before, after, torch.stack([weights[mask].sum() for mask in masks[1 : 1 + len(fractions)]])


def _patchable(coverage: Tensor, key_side: int) -> tuple[Tensor, Tensor]:
    """Keys of the left half that lie on the glyph of both images, and on the background of both; coverage (2, S, S)."""
    cells = adaptive_avg_pool2d(coverage, key_side)
    left = torch.arange(key_side).repeat(key_side) < key_side // 2
    least, most = cells.amin(0).flatten().masked_fill(~left, 0), cells.amax(0).flatten().masked_fill(~left, 1)
    return (least >= least.max() / 2).nonzero()[:, 0], (most < 0.05).nonzero()[:, 0]
