"""Does attention follow the shape of objects, or only locality? A test of the claim behind the paper's figures.

In twin images the glyphs can be read from the pixels. If attention follows shape, positions on one glyph attend to the other one, more
than under null maps that know less.

Shapes: B images, N = side^2 queries, M = key_side^2 keys; positions in row-major order. A sample's Q queries are those on a glyph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from .. import attention
from ..attention import Projections
from ..data import to_unit
from ..data.twins import disagreement, glyph_coverage
from ..messages import ParameterError, WorkbenchError, counted
from ..model import Discriminator, Generator, sampling
from ..model.layers import converge_sigma
from ..runs import Run
from .significance import Verdict, against_nulls
from .twin_runs import glyph_queries, latents, require_one_pair, split_layer

SMALLEST_MASS = 0.02  # smallest effect of interest: a fifth to a half of the attention that a uniform map gives a glyph


@dataclass(frozen=True)
class Mass:
    """Mean attention of the positions on a glyph on that glyph and on its twin, as shares, for each image."""

    own: tuple[float, ...]
    twin: tuple[float, ...]

    @property
    def background(self) -> tuple[float, ...]:
        """The share on neither glyph."""
        return tuple(1 - own - twin for own, twin in zip(self.own, self.twin, strict=True))


def mass(maps: Tensor | Projections, images: Tensor) -> Mass:
    """Attention on the own glyph and on its twin, of the queries on a glyph (`twin_runs.glyph_queries`).

    A key's weight is spread evenly over its cell; the part of the cell that a glyph covers (`twins.glyph_coverage`) counts.

    Parameters
    ----------
    maps
        Attention maps (B, N, M), or their projections, which need less memory.
    images
        The twin images (B, 3, S, S), floats in [-1, 1] or uint8, with readable glyphs.
    """
    return _stack([_shares(sample, sample.weights) for sample in _samples(maps, images)])


def null_masses(maps: Tensor | Projections, images: Tensor, untrained: Tensor | Projections | None = None) -> dict[str, Mass]:
    """The masses of null maps, for the same queries of the same images.

    Parameters
    ----------
    maps, images
        As for `mass`; at least two images.
    untrained
        Maps of the same images in a network with random weights.

    Returns
    -------
    dict of Mass
        uniform: equal weights on all keys.
        distance: a query's weight at each distance (in positions, rounded) is spread evenly over the positions at that distance.
        place: the mean map of the other images, which knows where objects usually are.
        colour: a softmax over negative RGB distances between the mean colours of query and keys, at the temperature that gives each query
        the entropy of its attention.
        untrained: the maps `untrained`.

    Raises
    ------
    ParameterError
        If there are fewer than two images, or not as many untrained maps.
    """
    count = len(images)
    if count < 2:
        raise ParameterError(f"images holds {count}; the mean map of the other images needs at least two")
    total = sum(_each(maps), start=torch.zeros(()))
    shares: dict[str, list[Tensor]] = {name: [] for name in ("uniform", "distance", "place", "colour")}
    for sample in _samples(maps, images):
        shares["uniform"].append(_shares(sample, torch.full_like(sample.weights, 1 / sample.weights.shape[1])))
        shares["distance"].append(_shares_by_distance(sample))
        shares["place"].append(_shares(sample, (total[sample.queries] - sample.weights) / (count - 1)))
        shares["colour"].append(_shares(sample, _weights_by_colour(sample)))
    masses = {name: _stack(values) for name, values in shares.items()}
    return masses if untrained is None else masses | {"untrained": mass(untrained, images)}


def more_on_twin(learned: Mass, nulls: Mapping[str, Mass]) -> dict[str, list[float]]:
    """Attention on the twin minus that under each null, image by image."""
    return {name: np.subtract(learned.twin, null.twin).tolist() for name, null in nulls.items()}


def follows_shape(learned: Mass, nulls: Mapping[str, Mass]) -> Verdict:
    """Whether attention follows shape, not just locality: more of it is on the twin than under every null but colour.

    See `significance.against_nulls`.
    """
    return against_nulls(more_on_twin(learned, {name: null for name, null in nulls.items() if name != "colour"}), SMALLEST_MASS)


def beyond_colour(learned: Mass, nulls: Mapping[str, Mass]) -> Verdict:
    """Whether attention follows more than locality and colour: more of it is on the twin than under every null."""
    return against_nulls(more_on_twin(learned, nulls), SMALLEST_MASS)


@dataclass(frozen=True)
class _Sample:
    """An image and the attention of the queries that lie on a glyph."""

    queries: Tensor  # (Q,) positions
    weights: Tensor  # (Q, M)
    glyphs: Tensor  # (side, side, 2), coverage by the left and the right glyph
    left: Tensor  # (Q,) bool: whether a query is on the left glyph
    image: Tensor  # (3, S, S)


def _each(maps: Tensor | Projections) -> Iterator[Tensor]:
    """The maps (N, M) one by one, because all may not fit into memory."""
    if isinstance(maps, Tensor):
        yield from maps
    else:
        yield from (maps[k : k + 1].maps()[0] for k in range(len(maps.query)))


def _samples(maps: Tensor | Projections, images: Tensor) -> Iterator[_Sample]:
    count = len(maps) if isinstance(maps, Tensor) else len(maps.query)
    if count != len(images):
        raise ParameterError(f"maps are of {counted(count, 'image')}, but images holds {len(images)}; give the images of the maps")
    x = to_unit(images) if images.dtype == torch.uint8 else images.float()
    for beta, image, coverage in zip(_each(maps), x, glyph_coverage(images), strict=True):
        side = math.isqrt(len(beta))
        covered, on_left = adaptive_avg_pool2d(coverage[None], side)[0], torch.arange(side) < side // 2
        glyphs = torch.stack([covered * on_left, covered * ~on_left], 2)
        queries, left = glyph_queries(coverage, side)
        yield _Sample(queries, beta[queries].float(), glyphs, left, image)


def _shares(sample: _Sample, weights: Tensor) -> Tensor:
    """Mean shares of weights (Q, M) on own glyph and twin, (2,)."""
    key_side = math.isqrt(weights.shape[1])
    glyphs = adaptive_avg_pool2d(sample.glyphs.movedim(2, 0), key_side).flatten(1)  # a key's weight, spread evenly over its cell
    return _own_and_twin(sample, weights.double() @ glyphs.double().T)


def _own_and_twin(sample: _Sample, sides: Tensor) -> Tensor:
    """Mean shares on own glyph and twin, (2,), from shares on the left and the right glyph (Q, 2)."""
    return torch.where(sample.left[:, None], sides, sides.flip(1)).mean(0)


def _stack(shares: list[Tensor]) -> Mass:
    return Mass(*(tuple(column.tolist()) for column in torch.stack(shares).unbind(1)))


def _shares_by_distance(sample: _Sample) -> Tensor:
    side = len(sample.glyphs)
    positions = torch.stack([torch.arange(side**2) // side, torch.arange(side**2) % side], 1).double()
    distance = torch.cdist(positions[sample.queries], positions).round().long()  # (Q, N)
    weights = attention.to_positions(sample.weights.double(), side).flatten(1)
    zeros = weights.new_zeros(len(distance), int(distance.max()) + 1)
    weight_at = zeros.scatter_add(1, distance, weights)
    count_at = zeros.scatter_add(1, distance, torch.ones_like(weights)).clamp(min=1)
    return _own_and_twin(sample, (weight_at / count_at).gather(1, distance) @ sample.glyphs.flatten(0, 1).double())


def _weights_by_colour(sample: _Sample) -> Tensor:
    """Weights (Q, M) by similarity of colour, with the entropy of the sample's weights."""
    key_side = math.isqrt(sample.weights.shape[1])
    query_colours = adaptive_avg_pool2d(sample.image, len(sample.glyphs)).flatten(1).T[sample.queries]
    key_colours = adaptive_avg_pool2d(sample.image, key_side).flatten(1).T
    scores = -torch.cdist(query_colours.double(), key_colours.double())
    entropy = torch.special.entr(sample.weights.double()).sum(1, keepdim=True)
    cold, hot = torch.full_like(entropy, -12.0), torch.full_like(entropy, 12.0)  # natural logarithms of the temperature
    for _ in range(40):  # bisection: entropy rises with temperature
        middle = (cold + hot) / 2
        low = torch.special.entr(torch.softmax(scores / middle.exp(), 1)).sum(1, keepdim=True) < entropy
        cold, hot = torch.where(low, middle, cold), torch.where(low, hot, middle)
    return torch.softmax(scores / hot.exp(), 1)


@dataclass(frozen=True)
class ShapeStudy:
    """The result of `study`: plain data.

    Attributes
    ----------
    about
        Run, step, layer and images.
    learned, nulls
        `Mass` of the layer, and of each null.
    verdict
        The paper's claim: attention follows the shape of objects and not just locality, see `follows_shape`.
    beyond_colour
        More than the paper claims: it also exceeds the null of colour. The glyphs of twins share a hue on a grey background, so similarity
        of colour alone finds the other glyph.
    """

    about: str
    learned: Mass
    nulls: dict[str, Mass]
    verdict: Verdict
    beyond_colour: Verdict

    def differences(self) -> dict[str, list[float]]:
        """Null -> the differences (B,) that the verdicts test; see `more_on_twin`."""
        return more_on_twin(self.learned, self.nulls)

    def rows(self) -> list[dict]:
        """Rows of a table: mean shares of attention, and each null's effect with its test (see `significance.Verdict`)."""
        tests = {row["null"]: row for row in (*self.beyond_colour.rows, *self.verdict.rows)}
        columns = ("effect", "low", "high", "p_larger", "p_smaller", "detectable")
        rows = []
        for name, mass in {"attention": self.learned, **self.nulls}.items():
            shares = {key: float(np.mean(getattr(mass, key))) for key in ("own", "twin", "background")}
            ratio = float(np.mean(self.learned.twin) / np.mean(mass.twin))
            test = {key: tests[name][key] if name in tests else "" for key in columns}
            rows.append(dict(map=name, n=len(mass.twin), **shares, ratio=ratio, **test))
        return rows


def study(run: Run, layer: str, *, n: int = 96, seed: int = 1, step: int | None = None, weights: str = "auto") -> ShapeStudy:
    """Does an attention layer follow the shape of objects? Measured on samples of a run's generator, of all classes.

    Samples with an unreadable glyph are left out, and counted in `about`.

    Parameters
    ----------
    run
        A run trained on twins.
    layer
        "G/attention.16", or "D/attention.16", which sees the same samples.
    n, seed
        Number of samples, and seed of their latents.
    step, weights
        Checkpoint (None: the newest), and weights of G: "ema", "raw", or "auto": EMA if available.

    Raises
    ------
    WorkbenchError
        If the run is not of twins, there is no such layer or checkpoint, or too few samples are readable.
    """
    require_one_pair(run)
    network, path = split_layer(layer)
    step = int(run.checkpoint_path(step).name)
    generator = run.generator(step, weights)
    z, y = latents(run, n, seed)
    x = sampling.images(generator, z, y)
    readable = disagreement(x)["readable"].bool()
    if readable.sum() < 2:
        raise WorkbenchError(f"glyphs can be read in {readable.sum()} of {n} samples of run {run.name!r}, step {step}; train it for longer")
    z, y, x = z[readable], None if y is None else y[readable], x[readable]
    inputs, trained = ((z, y), generator) if network == "G" else ((x, y), run.discriminator(step))
    maps = attention.collect_projections(trained, inputs, path)
    learned, nulls = mass(maps, x), null_masses(maps, x, attention.collect_projections(_untrained(run, network), inputs, path))
    about = (
        f"{run.name}, step {step:,}, {layer} ({run.config.attention_variant}, gamma {maps.gamma:+.3f}), {counted(len(x), 'sample')} of seed {seed}"
        f"{f', {n - len(x)} unreadable ones left out' if len(x) < n else ''}"
    )
    return ShapeStudy(about, learned, nulls, follows_shape(learned, nulls), beyond_colour(learned, nulls))


def _untrained(run: Run, network: str) -> nn.Module:
    """The run's network with random weights of another seed, and the batch norm and spectral norm of these weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed + 1)
        fresh = (Generator if network == "G" else Discriminator)(run.config).to(getattr(torch, run.config.dtype))
    sampling.recalibrate(fresh) if isinstance(fresh, Generator) else converge_sigma(fresh)
    return fresh.eval().requires_grad_(False)
