"""Does attention follow the shape of objects, or only places nearby? The question of the paper's figures, asked of `twins` and tested.

In twin images the glyphs can be read from the pixels, so it is known what a position on one glyph should look at: the other. Three
answers: how much of its attention falls there, against nulls (`study`); whether colour travels that way when it is planted there
(`transplant`); and over runs, whether distant places agree more where attention reaches further (`long_range`).

Shapes: B images, N = side^2 queries, M = key_side^2 keys; positions in row-major order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.nn.utils import parametrize

from .. import attention
from ..attention import Projections
from ..attention.capture import attention_layers
from ..attention.interventions import find_layer
from ..data.twins import Twins, disagreement, glyph_coverage, glyph_hues
from ..model import Discriminator, Generator, sampling
from ..model.layers import power_iteration
from ..parameters import ParameterError, WorkbenchError
from ..runs import Run
from ..runs.records import is_finite
from .significance import Verdict, against_nulls, rank_correlation

SMALLEST_MASS = 0.02  # of attention: a fifth to a half of what an even map gives to a glyph
SMALLEST_TURN = 0.05  # of the way from one hue to the other
HUE_RANGE = 1 / 12  # what still counts as a hue: 30 degrees to either side
RED, GREEN = 0.0, 1 / 3

# ------------------------------------------------------------------------------------------- where attention falls


@dataclass(frozen=True)
class Masses:
    """Attention of the positions on a glyph, averaged over them: the shares that fall on their own glyph and on its twin, (B,) float64."""

    own: Tensor
    twin: Tensor

    @property
    def background(self) -> Tensor:
        """The share that falls on neither."""
        return 1 - self.own - self.twin


def masses(maps: Tensor | Projections, images: Tensor) -> Masses:
    """How much attention falls on the own glyph and on its twin.

    A query lies on a glyph where its position is covered at least half as much as the image's most covered one; every key's weight is
    spread evenly over its cell, and falls on a glyph by how much that is covered (`twins.glyph_coverage`).

    Parameters
    ----------
    maps
        Attention maps (B, N, M), or the projections that they follow from (which takes less memory).
    images
        The twin images (B, 3, S, S), floats in [-1, 1] or uint8, both glyphs readable.
    """
    return _collect([_fall(scene, scene.weights) for scene in _scenes(maps, images)])


def nulls(maps: Tensor | Projections, images: Tensor, untrained: Tensor | Projections | None = None) -> dict[str, Masses]:
    """The same of maps that know less than attention may, for the same queries of the same images.

    Parameters
    ----------
    maps, images
        As `masses` takes them; at least two images.
    untrained
        Maps of the same images' features in a network with random weights.

    Returns
    -------
    dict of Masses
        uniform: every key alike.
        distance: what a query gives to positions at a distance (in positions, rounded) is shared evenly by all that are as far away.
        place: the mean map of the other images, which knows where things usually are and nothing of this image.
        colour: a softmax over negative distances in RGB between the query's and the keys' mean colours, for every query at the temperature
        at which its entropy is that of its attention (or nearest to it).
        untrained: the maps given.

    Raises
    ------
    ParameterError
        If there are fewer than two images, or not as many untrained maps.
    """
    count = len(images)
    if count < 2:
        raise ParameterError(f"images holds {count}; the mean map of the other images takes at least two")
    total = sum(_each(maps))
    found: dict[str, list] = {name: [] for name in ("uniform", "distance", "place", "colour")}
    for scene in _scenes(maps, images):
        found["uniform"].append(_fall(scene, torch.full_like(scene.weights, 1 / scene.weights.shape[1])))
        found["distance"].append(_fall_by_distance(scene))
        found["place"].append(_fall(scene, (total[scene.queries] - scene.weights) / (count - 1)))
        found["colour"].append(_fall(scene, _by_colour(scene)))
    result = {name: _collect(falls) for name, falls in found.items()}
    return result if untrained is None else result | {"untrained": masses(untrained, images)}


def follows_shape(learned: Masses, known: dict[str, Masses], smallest: float = SMALLEST_MASS) -> Verdict:
    """Whether more attention falls on the twin than under every null, image by image; see `significance.against_nulls`."""
    return against_nulls({name: (learned.twin - null.twin).tolist() for name, null in known.items()}, smallest)


@dataclass(frozen=True)
class _Scene:
    """An image and the attention of the queries that lie on a glyph in it.

    queries (Q,) positions; weights (Q, M); glyphs (side, side, 2), the coverage by the left and by the right one; left (Q,) bool, whose
    glyph a query is on; image (3, S, S).
    """

    queries: Tensor
    weights: Tensor
    glyphs: Tensor
    left: Tensor
    image: Tensor


def _each(maps: Tensor | Projections) -> Iterator[Tensor]:
    """Maps (N, M) one by one: those of all images may not fit into memory."""
    if isinstance(maps, Tensor):
        yield from maps
    else:
        yield from (maps[k : k + 1].maps()[0] for k in range(len(maps.query)))


def _scenes(maps: Tensor | Projections, images: Tensor) -> Iterator[_Scene]:
    there = len(maps) if isinstance(maps, Tensor) else len(maps.query)
    if there != len(images):
        raise ParameterError(f"maps are of {there} images, and images holds {len(images)}; give the images that the maps are of")
    x = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images.float()
    for beta, image, covered in zip(_each(maps), x, glyph_coverage(images), strict=True):
        side = math.isqrt(len(beta))
        glyphs = _halves_apart(adaptive_avg_pool2d(covered[None], side)[0])
        queries, left = _queries(covered, side)
        yield _Scene(queries, beta[queries].float(), glyphs, left, image)


def _queries(covered: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The positions on a glyph, covered at least half as much as the most covered one, and which of them are on the left one."""
    on = adaptive_avg_pool2d(covered[None], side).flatten()
    queries = (on >= on.max() / 2).nonzero()[:, 0]
    return queries, queries % side < side // 2


def _halves_apart(coverage: Tensor) -> Tensor:
    """Coverage (side, side) by the left glyph and by the right one: (side, side, 2)."""
    left = torch.arange(coverage.shape[1]) < coverage.shape[1] // 2
    return torch.stack([coverage * left, coverage * ~left], 2)


def _fall(scene: _Scene, weights: Tensor) -> Tensor:
    """Where weights (Q, M) of the scene's queries fall: mean shares of own and twin, (2,)."""
    key_side = math.isqrt(weights.shape[1])
    glyphs = adaptive_avg_pool2d(scene.glyphs.movedim(2, 0), key_side).flatten(1)  # a key's weight, spread evenly over its cell
    return _own_and_twin(scene, weights.double() @ glyphs.double().T)


def _own_and_twin(scene: _Scene, sides: Tensor) -> Tensor:
    """Shares on the left and the right glyph (Q, 2) as mean shares of own and twin, (2,)."""
    return torch.where(scene.left[:, None], sides, sides.flip(1)).mean(0)


def _collect(falls: list[Tensor]) -> Masses:
    return Masses(*torch.stack(falls).unbind(1))


def _fall_by_distance(scene: _Scene) -> Tensor:
    side = len(scene.glyphs)
    at = torch.stack([torch.arange(side**2) // side, torch.arange(side**2) % side], 1).double()
    distance = torch.cdist(at[scene.queries], at).round().long()  # (Q, N)
    weights = attention.to_positions(scene.weights.double(), side).flatten(1)
    empty = weights.new_zeros(len(distance), int(distance.max()) + 1)
    given = empty.scatter_add(1, distance, weights)
    there = empty.scatter_add(1, distance, torch.ones_like(weights)).clamp(min=1)
    return _own_and_twin(scene, (given / there).gather(1, distance) @ scene.glyphs.flatten(0, 1).double())


def _by_colour(scene: _Scene) -> Tensor:
    """Weights (Q, M) that go by likeness of colour, as concentrated as those of the scene."""
    key_side = math.isqrt(scene.weights.shape[1])
    asked = adaptive_avg_pool2d(scene.image, len(scene.glyphs)).flatten(1).T[scene.queries]
    offered = adaptive_avg_pool2d(scene.image, key_side).flatten(1).T
    scores = -torch.cdist(asked.double(), offered.double())
    wanted = torch.special.entr(scene.weights.double()).sum(1, keepdim=True)
    cold, hot = torch.full_like(wanted, -12.0), torch.full_like(wanted, 12.0)  # natural logarithms of the temperature
    for _ in range(40):  # entropy rises with temperature
        middle = (cold + hot) / 2
        low = torch.special.entr(torch.softmax(scores / middle.exp(), 1)).sum(1, keepdim=True) < wanted
        cold, hot = torch.where(low, middle, cold), torch.where(low, hot, middle)
    return torch.softmax(scores / hot.exp(), 1)


# --------------------------------------------------------------------------------------------------- of a run's layer


@dataclass(frozen=True)
class Study:
    """What `study` found.

    Attributes
    ----------
    about
        What was looked at: run, step, layer, images.
    learned, nulls
        `Masses` of the layer, and of each null.
    verdict
        Whether attention follows the shape of objects: over every null.
    locality
        Whether it at least goes beyond places: over every null but colour. On twins, whose glyphs share a hue on a grey background, likeness
        of colour alone finds the other glyph.
    """

    about: str
    learned: Masses
    nulls: dict[str, Masses]
    verdict: Verdict
    locality: Verdict

    def rows(self) -> list[dict]:
        """For a table: mean shares of attention, and for each null the effect with its test (see `significance.Verdict`)."""
        tested = {row["null"]: row for row in self.verdict.rows}
        rows = []
        for name, found in {"attention": self.learned, **self.nulls}.items():
            shares = {key: getattr(found, key).mean().item() for key in ("own", "twin", "background")}
            ratio = (self.learned.twin.mean() / found.twin.mean()).item()
            test = {
                key: tested[name][key] if name in tested else "" for key in ("effect", "low", "high", "p_larger", "p_smaller", "detectable")
            }
            rows.append(dict(map=name, n=len(found.twin), **shares, ratio=ratio, **test))
        return rows


def study(
    run: Run, layer: str, *, n: int = 96, seed: int = 1, step: int | None = None, weights: str = "auto", smallest: float = SMALLEST_MASS
) -> Study:
    """Does an attention layer follow the shape of objects? On samples of a run's generator, every class in turn.

    Samples in which a glyph cannot be read are left out, and counted in `about`.

    Parameters
    ----------
    run
        A run trained on twins.
    layer
        "G/attention.16", or "D/attention.16" (D looking at the same samples).
    n, seed
        Samples, and seed of their latents.
    step, weights
        Checkpoint (None: the newest), and weights of G: "ema", "raw", or "auto", averaged where there are such.
    smallest
        Smallest effect of interest: by how much more of the attention should fall on the twin than under a null.

    Raises
    ------
    WorkbenchError
        If the run is not of twins, there is no such layer or checkpoint, or too few samples can be read.
    """
    network, path = _parts(run, layer)
    step = int(run.checkpoint_path(step).name)
    generator = run.generator(step, weights)
    z, y = _latents(run, n, seed)
    x = sampling.images(generator, z, y)
    readable = disagreement(x)["readable"].bool()
    if readable.sum() < 2:
        raise WorkbenchError(
            f"in {n} samples of run {run.name!r}, step {step}, glyphs can be read in {readable.sum()}; train it for longer"
        )
    z, y, x = z[readable], None if y is None else y[readable], x[readable]
    inputs, trained = (z, generator) if network == "G" else (x, run.discriminator(step))
    projections = _projections(trained, path, inputs, y)
    known = nulls(projections, x, _projections(_untrained(run, network), path, inputs, y))
    learned = masses(projections, x)
    about = (
        f"{run.name}, step {step:,}, {layer} ({run.config.attention_variant}, gamma {projections.gamma:+.3f}), {len(x)} samples of seed {seed}"
        f"{f', {n - len(x)} unreadable ones left out' if len(x) < n else ''}"
    )
    places = {name: null for name, null in known.items() if name != "colour"}
    return Study(about, learned, known, follows_shape(learned, known, smallest), follows_shape(learned, places, smallest))


def _parts(run: Run, layer: str) -> tuple[str, str]:
    """Network and path of a layer "G/attention.16" of a run of twins, one pair in each image."""
    require_one_pair(run)
    network, _, path = layer.partition("/")
    if network not in ("G", "D") or not path:
        raise ParameterError(f"layer={layer!r} is not a network and a layer, such as 'G/attention.16'")
    return network, path


def require_one_pair(run: Run) -> None:
    """Refuse a run that `study` and `transplant` cannot be asked of.

    Raises
    ------
    WorkbenchError
        If it was not trained on twins, or on several pairs in an image.
    """
    _require_twins(run)
    if run.config.pairs > 1:
        raise WorkbenchError(f"run {run.name!r} has pairs={run.config.pairs}: which glyph is whose twin is asked of one pair alone")


def _require_twins(run: Run) -> None:
    if run.config.data != "twins":
        raise WorkbenchError(
            f"run {run.name!r} was trained on {run.config.data!r}; only in images of twins is it known where the glyphs are"
        )


def _latents(run: Run, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    return sampling.latents(n, run.config.z_dim, seed), sampling.labels(n, run.config.num_classes)


@torch.no_grad()
def _projections(network: nn.Module, path: str, inputs: Tensor, y: Tensor | None, batch_size: int = 64) -> Projections:
    find_layer(network, path)  # raises where there is no such layer
    weight, parts = next(network.parameters()), []
    with parametrize.cached(), attention.capture_projections(network) as found:
        for k in range(0, len(inputs), batch_size):
            batch = slice(k, k + batch_size)
            network(inputs[batch].to(weight), None if y is None else y[batch].to(weight.device))
            parts.append(found[path])
    names = ("query", "key", "value_norm", "strength")
    return Projections(*(torch.cat([getattr(part, name) for part in parts]) for name in names), gamma=parts[0].gamma)


def _untrained(run: Run, network: str) -> nn.Module:
    """The run's network with random weights of another seed; batch norm and spectral norm know them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.config.seed + 1)
        made = (Generator if network == "G" else Discriminator)(run.config).to(getattr(torch, run.config.dtype))
    sampling.settle(made) if network == "G" else power_iteration(made, 10)
    return made.eval().requires_grad_(False)


# ------------------------------------------------------------------------------------------------ what attention does

ARMS = ("glyph", "background", "gamma = 0")


@dataclass(frozen=True)
class Transplant:
    """What `transplant` found.

    Attributes
    ----------
    about
        What was done, to what.
    doses
        Shares of the keys whose values were replaced.
    left, right
        Where they were ("glyph", "background"), and without attention ("gamma = 0") -> (P, doses): how far the hue of the left and the
        right glyph turned, as a share of the way to the donor's: 0 stays, 1 arrives.
    mass
        (P, doses): attention of the right glyph's positions on the keys that were replaced, under "glyph".
    images
        (P, 1 + doses, 3, S, S): donor, and recipient at each dose, under "glyph".
    verdict
        Whether the right glyph turns, at the largest dose, against both controls.
    """

    about: str
    doses: tuple[float, ...]
    left: dict[str, Tensor]
    right: dict[str, Tensor]
    mass: Tensor
    images: Tensor
    verdict: Verdict

    def rows(self) -> list[dict]:
        """For a table: arm, half, dose, attention on what was replaced, and mean, standard deviation and n of the response."""
        return [
            dict(
                patched=arm, half=half, dose=dose, attention=self.mass[:, k].mean().item() if arm == "glyph" else "",
                response=found[arm][:, k].mean().item(), sd=found[arm][:, k].std().item(), n=len(self.mass),
            )
            for half, found in (("left", self.left), ("right", self.right)) for arm in found for k, dose in enumerate(self.doses)
        ]  # fmt: skip


@torch.no_grad()
def transplant(
    run: Run,
    layer: str,
    *,
    n: int = 64,
    seed: int = 1,
    donor_hue: float = RED,
    recipient_hue: float = GREEN,
    doses: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0),
    pool: int = 1024,
    step: int | None = None,
    weights: str = "auto",
    smallest: float = SMALLEST_TURN,
) -> Transplant:
    """Give a green sample the values of a red one under its left glyph: does its right glyph turn red?

    Pairs are of one class, hues being read from the images; each recipient has the donor, used once, whose glyphs overlap its own
    the most. Keys are those that lie on the left glyph of both; a dose replaces a random share of them, nested from dose to dose. One
    control replaces as many keys of the background of both, in the left half (all, where those are fewer); the other switches the layer
    off (gamma = 0), and shows that nothing else carries values. Maps stay the recipient's own; what later layers make of the change is part of the effect.

    Parameters
    ----------
    run, step, weights
        As in `study`.
    layer
        An attention layer of G: "G/attention.16".
    n
        Pairs at most.
    donor_hue, recipient_hue
        On the hue circle, [0, 1).
    doses
        Shares of the keys, ascending in [0, 1], the first 0.
    pool, seed
        Samples among which pairs are looked for, and seed of their latents.
    smallest
        Smallest effect of interest, as a share of the way to the donor's hue.

    Raises
    ------
    ParameterError
        For doses out of range, or a layer of D.
    WorkbenchError
        As in `study`; or if there are fewer than two pairs.
    """
    network, path = _parts(run, layer)
    if network != "G":
        raise ParameterError(f"layer={layer!r}: D paints no images; give a layer of G")
    if len(doses) < 2 or doses[0] != 0 or list(doses) != sorted(set(doses)) or doses[-1] > 1:
        raise ParameterError(f"doses={doses!r} are not shares of the keys; give two or more, ascending, from 0 to at most 1")
    step = int(run.checkpoint_path(step).name)
    generator = run.generator(step, weights)
    find_layer(generator, path)
    z, y = _latents(run, pool, seed)
    x = sampling.images(generator, z, y)
    coverage = glyph_coverage(x)
    pairs = pair_by_hue(x, y, donor_hue, recipient_hue)[:n]
    if len(pairs) < 2:
        raise WorkbenchError(
            f"among {pool} samples of run {run.name!r}, step {step}, there are {len(pairs)} pairs of these hues; raise pool={pool}"
        )
    found = []
    for k, pair in enumerate(map(list, pairs)):
        order = sampling.generator_for(seed, 9, k)
        found.append(_patch(generator, path, z[pair], None if y is None else y[pair], coverage[pair], doses, order))
    turns, mass, seen = (torch.stack(parts) for parts in zip(*found, strict=True))  # turns: (P, arms, doses, 2)
    left, right = ({arm: turns[:, k, :, half] for k, arm in enumerate(ARMS)} for half in (0, 1))
    verdict = against_nulls({arm: (right["glyph"][:, -1] - right[arm][:, -1]).tolist() for arm in ARMS[1:]}, smallest)
    about = (
        f"{run.name}, step {step:,}, {layer} ({run.config.attention_variant}), {len(pairs)} pairs among {pool} samples of seed {seed}: "
        f"hue {donor_hue:.2f} into {recipient_hue:.2f}"
    )
    return Transplant(about, tuple(doses), left, right, mass, seen, verdict)


def pair_by_hue(images: Tensor, y: Tensor | None, donor_hue: float, recipient_hue: float) -> list[tuple[int, int]]:
    """Pairs (donor, recipient) of samples of one class, whose glyphs have these hues (within 30 degrees) and overlap the most.

    Recipients choose in order, and every donor is used once, so that pairs are independent.
    """
    readable, hues, coverage = disagreement(images)["readable"].bool(), glyph_hues(images), glyph_coverage(images).flatten(1)

    def of_hue(hue: float) -> Tensor:
        return readable & (turn(hues - hue).abs() < HUE_RANGE).all(1)

    donors, pairs = of_hue(donor_hue), []
    for recipient in of_hue(recipient_hue).nonzero()[:, 0].tolist():
        overlap = torch.minimum(coverage, coverage[recipient]).sum(1) / torch.maximum(coverage, coverage[recipient]).sum(1)
        same = donors if y is None else donors & (y == y[recipient])
        if same.any():
            donor = int(overlap.masked_fill(~same, -1).argmax())
            donors[donor] = False
            pairs.append((donor, recipient))
    return pairs


def turn(difference: Tensor) -> Tensor:
    """A difference of hues as the shortest way round the circle, in [-0.5, 0.5]."""
    return difference - difference.round()


def _patch(
    generator: Generator, path: str, z: Tensor, y: Tensor | None, coverage: Tensor, doses: tuple[float, ...], order: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """For a pair, donor first: turns (arms, doses, 2), attention on what was replaced (doses,), and images (1 + doses, 3, S, S)."""
    with attention.capture_projections(generator) as found:
        before = sampling.images(generator, z, y)
    layer = found[path][1:]
    keys = [keys[torch.randperm(len(keys), generator=order)] for keys in _patchable(coverage, layer.key_side)]
    count = len(keys[0])  # of the background as many, where it has as many
    masks = torch.zeros(2, len(doses), layer.key_side**2, dtype=torch.bool)
    for arm, chosen in zip(masks, keys, strict=True):
        for mask, dose in zip(arm, doses, strict=True):
            mask[chosen[: round(dose * count)]] = True
    # The donor, whose mask changes nothing, and after it the recipient once for every mask.
    masks = torch.cat([masks.new_zeros(1, layer.key_side**2), masks.flatten(0, 1)])
    which = torch.tensor([0] + [1] * (len(masks) - 1))
    made = []
    for gamma in (None, 0.0):
        with attention.intervene(generator, path, patch=(0, masks), gamma=gamma):
            made.append(sampling.images(generator, z[which], None if y is None else y[which], batch_size=len(which)))
    arms = torch.stack([*made[0][1:].chunk(2), made[1][1 : 1 + len(doses)]])  # as ARMS
    hues = glyph_hues(arms.flatten(0, 1)).unflatten(0, arms.shape[:2])
    donor, recipient = glyph_hues(before)
    queries, on_left = _queries(coverage[1], layer.side)
    looked_at = layer.maps()[0, queries[~on_left]].mean(0)
    mass = torch.stack([looked_at[mask].sum() for mask in masks[1 : 1 + len(doses)]])
    return turn(hues - hues[:, :1]) / turn(donor - recipient), mass, torch.cat([before[:1], arms[0]])


def _patchable(coverage: Tensor, key_side: int) -> tuple[Tensor, Tensor]:
    """Keys on the left glyph of both images of a pair, and in the left half off the glyphs of both; coverage (2, S, S)."""
    cells = adaptive_avg_pool2d(coverage, key_side)
    left = torch.arange(key_side).repeat(key_side) < key_side // 2
    least, most = cells.amin(0).flatten().masked_fill(~left, 0), cells.amax(0).flatten().masked_fill(~left, 1)
    return (least >= least.max() / 2).nonzero()[:, 0], (most < 0.05).nonzero()[:, 0]


# ------------------------------------------------------------------------------------------------------- across runs

TRUTH = ("twins_hue", "twins_size", "twins_height", "twins_angle", "twins_readable")
SMALLEST_HUE = 0.0125  # on the hue circle: a twentieth of what independent hues differ by


def long_range(run: Run, *, n: int = 32, seed: int = 1, weights: str = "auto") -> dict:
    """How well distant places agree in a run's samples, how far its attention reaches, and its Frechet distance.

    Parameters
    ----------
    run
        A run of twins, looked at in its newest evaluated checkpoint.
    n, seed
        Samples that maps are taken of, and seed of their latents.
    weights
        As in `study`.

    Returns
    -------
    dict
        run, step, seed, attention (sites of G) and block (what stands there); the scores of its newest evaluation that tell the disagreement of
        twins (`TRUTH`) and the Frechet distance, with their protocol; distance: how far attention reaches, in pixels, mean over queries and
        layers of G (None without attention), and that of each layer.

    Raises
    ------
    WorkbenchError
        If the run is not of twins, or has no evaluation of a checkpoint that is still there.
    """
    config = run.config
    _require_twins(run)
    steps = run.checkpoint_steps()
    record = next((r for r in run.evaluations()[::-1] if r["step"] in steps and is_finite(r["scores"].get(TRUTH[0]))), None)
    if record is None:
        raise WorkbenchError(f"run {run.name!r} has no evaluation with the disagreement of twins; evaluate it with scores='fd,truth'")
    generator = run.generator(record["step"], weights)
    z, y = _latents(run, n, seed)
    distances = {}
    for path in attention_layers(generator):
        layer = _projections(generator, path, z, y)
        distances[f"distance {path}"] = attention.statistics(layer, config.image_size)["distance"].mean().item()
    row = dict(run=run.name, step=record["step"], seed=config.seed, attention=config.attention_g, block=config.attention_block)
    row |= {name: value for name, value in record["scores"].items() if (name in TRUTH or name.startswith("fd_")) and is_finite(value)}
    row |= dict(distance=sum(distances.values()) / len(distances) if distances else None) | distances
    return row | dict(protocol=record["protocol"])


def power_check(rows: list[dict], image_size: int, pairs: int = 1, smallest: float = SMALLEST_HUE) -> Verdict:
    """Whether networks without attention fail where distant places must agree: else attention has nothing to improve at this size.

    Parameters
    ----------
    rows
        What `long_range` says of runs without attention, in G and in D; at least two.
    image_size, pairs
        Of their images.
    smallest
        Smallest disagreement of interest, in turns of the hue circle, beyond that which is read from real twins.
    """
    real = disagreement(Twins(image_size, pairs=pairs).batch(np.arange(1000))[0], pairs=pairs)["hue"].median().item()
    return against_nulls({"real twins": [row["twins_hue"] - real for row in rows]}, smallest)


def rank_correlations(rows: list[dict], pairs: list[tuple[str, str]], by: str = "") -> list[dict]:
    """Spearman's rank correlations between columns of `long_range`: x, y, of, n, rho, low, high (95 % bootstrap) and p (permutations).

    Runs without one of the two numbers are left out; pairs of which fewer than four are left have rho None.

    Parameters
    ----------
    by
        A column: correlate the means over the rows that share its value, which are independent where seeds of one arm are not.
    """
    result = []
    for x, y in pairs:
        both = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
        points = [(row[x], row[y]) for row in both]
        if by:
            shared = [
                [point for row, point in zip(both, points, strict=True) if row[by] == value] for value in {row[by]: 0 for row in both}
            ]
            points = [tuple(np.mean(same, 0).tolist()) for same in shared]
        tested = rank_correlation(*zip(*points, strict=True)) if len(points) >= 4 else dict(n=len(points), rho=None)
        result.append(dict(x=x, y=y, of=f"means by {by}" if by else "runs") | tested)
    return result
