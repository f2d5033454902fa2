"""Does attention help distant positions agree? Attention distance and disagreement of the glyphs, run by run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import attention
from ..attention.layers import attention_layers
from ..data.twins import Twins, disagreement
from ..messages import WorkbenchError
from ..records import is_finite
from ..runs import Run
from .significance import Verdict, against_nulls, rank_correlation
from .twin_runs import latents, require_twins

TRUTH = tuple(Twins.TRUTH)
SMALLEST_HUE = 0.0125  # turns of the hue circle: a twentieth of the mean difference of independent hues


def measure(run: Run, *, n: int = 32, seed: int = 1, weights: str = "auto") -> dict:
    """The disagreement of twins in a run's samples, its attention distance, and its Fréchet distance.

    Parameters
    ----------
    run
        A run of twins; its newest evaluated checkpoint is measured.
    n, seed
        Number of samples whose maps are measured, and seed of their latents.
    weights
        As for `shape.study`.

    Returns
    -------
    dict
        run, step, seed, attention (sites of G) and block; from the newest evaluation the disagreement of twins (`TRUTH`), the Fréchet
        distance and the protocol; the mean attention distance in pixels over queries and layers of G (None without attention), and that
        of each layer.

    Raises
    ------
    WorkbenchError
        If the run is not of twins, or no evaluated checkpoint exists.
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


def power_check(rows: Sequence[dict], image_size: int, pairs: int = 1) -> Verdict:
    """Whether samples of networks without attention disagree more than real twins. If not, attention has nothing to improve.

    Parameters
    ----------
    rows
        From `measure`, for at least two runs without attention in G and in D.
    image_size, pairs
        Of their images.
    """
    real = disagreement(Twins(image_size, pairs=pairs).batch(np.arange(1000))[0], pairs=pairs)["hue"].median().item()
    return against_nulls({"real twins": [row["twins_hue"] - real for row in rows]}, SMALLEST_HUE)


def correlated_columns(rows: Sequence[dict]) -> list[tuple[str, str]]:
    """The pairs of columns to correlate: distance, disagreement and Fréchet distance with each other."""
    frechet = [name for name in (rows[0] if rows else ()) if name.startswith("fd_")]
    return [("distance", y) for y in ("twins_hue", *frechet)] + [("twins_hue", y) for y in frechet]


def rank_correlations(rows: Sequence[dict], columns: Sequence[tuple[str, str]], by: str = "") -> list[dict]:
    """Spearman's rank correlations between columns of `measure`: x, y, of, n, rho, low, high (95 % bootstrap) and p (permutations).

    Runs that lack one of the two numbers are left out. Where there is no correlation, rho is None and `reason` says why.

    Parameters
    ----------
    columns
        Pairs (x, y).
    by
        A column: correlate the means over rows that share its value. Means over arms are independent; seeds of one arm are not.
    """
    correlations = []
    for x, y in columns:
        points: dict = {}  # by value of the column `by`, or by row
        for k, row in enumerate(rows):
            if row.get(x) is not None and row.get(y) is not None:
                points.setdefault(row[by] if by else k, []).append((row[x], row[y]))
        means = np.array([np.mean(values, 0) for values in points.values()]).reshape(-1, 2)
        equal = [name for name, values in zip((x, y), means.T, strict=True) if len(set(values.tolist())) == 1]
        reason = "too few for a correlation" if len(means) < 4 else f"all have the same {equal[0]}" if equal else ""
        test = dict(n=len(means), rho=None, reason=reason) if reason else rank_correlation(means[:, 0], means[:, 1])
        correlations.append(dict(x=x, y=y, of=f"means by {by}" if by else "runs") | test)
    return correlations
