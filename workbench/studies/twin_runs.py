"""What the studies of attention share: a layer of a run on twins, samples, and the positions on their glyphs.

Shapes: B images, N = side^2 queries; positions in row-major order.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..messages import ParameterError, WorkbenchError
from ..model import sampling
from ..runs import Run


def require_twins(run: Run) -> None:
    """Refuse a run that was not trained on twins: other images have no known glyphs."""
    if run.config.data != "twins":
        raise WorkbenchError(f"run {run.name!r} was trained on {run.config.data!r}; only images of twins have known glyphs")


def require_one_pair(run: Run) -> None:
    """Refuse a run that was not trained on twins with one pair: with several pairs, the twin of a glyph is unknown."""
    require_twins(run)
    if run.config.pairs > 1:
        raise WorkbenchError(f"run {run.name!r} has pairs={run.config.pairs}; the twin of a glyph is known only with pairs=1")


def split_layer(layer: str) -> tuple[str, str]:
    """Network and path of a layer: ("G", "attention.16") of "G/attention.16"."""
    network, _, path = layer.partition("/")
    if network not in ("G", "D") or not path:
        raise ParameterError(f"layer={layer!r} is not a network and a layer, such as 'G/attention.16'")
    return network, path


def latents(run: Run, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Latents (n, z_dim), and labels (n,) that go through the classes in turn, or None without classes."""
    return sampling.latents(n, run.config.z_dim, seed), sampling.labels(n, run.config.num_classes or 0)


def glyph_queries(coverage: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The positions on a glyph (Q,), and whether each is on the left glyph, (Q,) bool; from the coverage (S, S), see `twins.glyph_coverage`.

    A position is on a glyph if it is covered at least half as much as the most covered position.
    """
    covered = adaptive_avg_pool2d(coverage[None], side).flatten()
    queries = (covered >= covered.max() / 2).nonzero()[:, 0]
    return queries, queries % side < side // 2
