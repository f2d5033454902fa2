"""Does attention help where distant places must agree? Over runs: how far attention reaches, beside how well the glyphs of twins agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import attention
from ..attention.capture import attention_layers
from ..data.twins import Twins, disagreement
from ..parameters import WorkbenchError
from ..records import is_finite
from ..runs import Run
from .probe import latents, require_twins
from .significance import Verdict, against_nulls, rank_correlation

TRUTH = ("twins_hue", "twins_size", "twins_height", "twins_angle", "twins_readable")
SMALLEST_HUE = 0.0125  # on the hue circle: a twentieth of what independent hues differ by


def measure(run: Run, *, n: int = 32, seed: int = 1, weights: str = "auto") -> dict:
    """How well distant places agree in a run's samples, how far its attention reaches, and its Frechet distance.

    Parameters
    ----------
    run
        A run of twins, looked at in its newest evaluated checkpoint.
    n, seed
        Samples that maps are taken of, and seed of their latents.
    weights
        As of `shape.study`.

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
    require_twins(run)
    steps = run.checkpoint_steps()
    record = next((r for r in run.evaluations()[::-1] if r["step"] in steps and is_finite(r["scores"].get(TRUTH[0]))), None)
    if record is None:
        raise WorkbenchError(f"run {run.name!r} has no evaluation with the disagreement of twins; evaluate it with scores='fd,truth'")
    generator = run.generator(record["step"], weights)
    z, y = latents(run, n, seed)
    distances = {}
    for path in attention_layers(generator):
        layer = attention.collect_projections(generator, (z, y), path)
        distances[f"distance {path}"] = attention.statistics(layer, config.image_size)["distance"].mean().item()
    row = dict(run=run.name, step=record["step"], seed=config.seed, attention=config.attention_g, block=config.attention_block)
    row |= {name: value for name, value in record["scores"].items() if (name in TRUTH or name.startswith("fd_")) and is_finite(value)}
    row |= dict(distance=sum(distances.values()) / len(distances) if distances else None) | distances
    return row | dict(protocol=record["protocol"])


def power_check(rows: Sequence[dict], image_size: int, pairs: int = 1, smallest: float = SMALLEST_HUE) -> Verdict:
    """Whether networks without attention fail where distant places must agree: else attention has nothing to improve at this size.

    Parameters
    ----------
    rows
        Of `measure`, for runs without attention, in G and in D; at least two.
    image_size, pairs
        Of their images.
    smallest
        Smallest disagreement of interest, in turns of the hue circle, beyond that which is read from real twins.
    """
    real = disagreement(Twins(image_size, pairs=pairs).batch(np.arange(1000))[0], pairs=pairs)["hue"].median().item()
    return against_nulls({"real twins": [row["twins_hue"] - real for row in rows]}, smallest)


def correlated_columns(rows: Sequence[dict]) -> list[tuple[str, str]]:
    """The pairs of columns to correlate: the distance with the disagreement and the Frechet distance, and these two."""
    frechet = [name for name in (rows[0] if rows else ()) if name.startswith("fd_")]
    return [("distance", y) for y in ("twins_hue", *frechet)] + [("twins_hue", y) for y in frechet]


def rank_correlations(rows: Sequence[dict], columns: Sequence[tuple[str, str]], by: str = "") -> list[dict]:
    """Spearman's rank correlations between columns of `measure`: x, y, of, n, rho, low, high (95 % bootstrap) and p (permutations).

    Runs without one of the two numbers are left out; pairs of which fewer than four are left have rho None.

    Parameters
    ----------
    columns
        Pairs (x, y).
    by
        A column: correlate the means over the rows that share its value, which are independent where seeds of one arm are not.
    """
    correlations = []
    for x, y in columns:
        both = [row for row in rows if row.get(x) is not None and row.get(y) is not None]
        points = [(row[x], row[y]) for row in both]
        if by:
            values = list(dict.fromkeys(row[by] for row in both))
            of_value = [[point for row, point in zip(both, points, strict=True) if row[by] == value] for value in values]
            points = [tuple(np.mean(same, 0).tolist()) for same in of_value]
        test = rank_correlation(*zip(*points, strict=True)) if len(points) >= 4 else dict(n=len(points), rho=None)
        correlations.append(dict(x=x, y=y, of=f"means by {by}" if by else "runs") | test)
    return correlations
