"""Ways to read attention maps beta (..., N, M): of one query, over all queries, by relative offset.

Shapes: N queries, M keys, R x C positions; tokens first, then positions in row-major order (see `Layout`; without one, maps are square and
have no tokens: N = side^2, M = key_side^2). Leading dimensions are images, or images and heads: choose a head before, or average over heads
after. A key covers a cell of positions, which share its weight evenly in maps over positions. The weight of tokens is in no map: it is
`beta[..., :len(layout.tokens)]`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..messages import ParameterError
from .capture import Projections
from .layout import Layout


def to_positions(weights: Tensor, side: int) -> Tensor:
    """Weights of keys (..., M) as weights of positions (..., side, side): the positions of a cell share its key's weight; sums are preserved.

    Raises
    ------
    ParameterError
        If the keys are not a square map whose side divides `side`.
    """
    key_side = Layout.square(1, weights.shape[-1]).key_grid[0]
    return upsample(weights.unflatten(-1, (key_side, key_side)), side)


def upsample(heat: Tensor, size: int | tuple[int, int]) -> Tensor:
    """A map (..., rows, columns) as one of (..., size, size), nearest neighbour ("up-sampled to image size"); sums are preserved.

    Parameters
    ----------
    size
        One number, or height and width.

    Raises
    ------
    ParameterError
        If `size` is not a multiple of the map's.
    """
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = heat.shape[-2:]
    if min(height, width) < 1 or height % rows or width % columns:
        multiple = f"a multiple of {rows}" if rows == columns else f"multiples of {rows} and {columns}"
        raise ParameterError(f"size={size} does not fit a map of {rows}x{columns}; give {multiple}")
    down, across = height // rows, width // columns
    return (heat / (down * across)).repeat_interleave(down, -2).repeat_interleave(across, -1)


def overlap(side: int, key_side: int, radius: int) -> Tensor:
    """How much of the cell of each key lies within `radius` of each position, along one axis: (side, key_side), in [0, 1].

    For a rectangular neighbourhood, multiply the shares along both axes.
    """
    position = torch.arange(side)
    near = (position[:, None] - position).abs() <= radius
    return near.float().unflatten(1, (key_side, side // key_side)).mean(2)


def outgoing(beta: Tensor, query: int, layout: Layout | None = None) -> Tensor:
    """Where a query attends: (..., R, C), from maps (..., N, M) and a query in [0, N); sum 1, less the weight of tokens.

    Raises
    ------
    ParameterError
        If there is no such query.
    """
    layout = _layout_of(beta, query, layout)
    return _at_positions(beta[..., query, :], layout)


def incoming(beta: Tensor, query: int, layout: Layout | None = None) -> Tensor:
    """Which positions attend to the position or token of a query: (..., R, C), the weight that each of them gives to it.

    A key's weight is shared by the positions of its cell, so in the pooled variant all of a cell receive the same.

    Raises
    ------
    ParameterError
        If there is no such query.
    """
    layout = _layout_of(beta, query, layout)
    tokens, (down, across) = len(layout.tokens), layout.factor
    shared = 1 if query < tokens else down * across
    return (beta[..., tokens:, layout.key_of(query)] / shared).unflatten(-1, layout.grid)


def value_weighted(beta: Tensor, value_norm: Tensor, query: int, layout: Layout | None = None) -> Tensor:
    """What a query receives from each position: (..., R, C), beta |value|, from maps (..., N, M) and norms of the values (..., M).

    A large weight on a value near zero contributes nothing (Kobayashi et al., 2020).

    Raises
    ------
    ParameterError
        If there is no such query.
    """
    layout = _layout_of(beta, query, layout)
    return _at_positions(beta[..., query, :] * value_norm, layout)


def _layout_of(beta: Tensor, query: int, layout: Layout | None) -> Layout:
    """The layout of maps (square if None), in which there is such a query."""
    layout = layout or Layout.square(*beta.shape[-2:])
    layout.place(query)  # raises if there is none
    return layout


def _at_positions(weights: Tensor, layout: Layout) -> Tensor:
    """Weights of tokens and keys (..., M) as weights of positions (..., R, C)."""
    return upsample(weights[..., len(layout.tokens) :].unflatten(-1, layout.key_grid), layout.grid)


def relative_offsets(beta: Tensor, layout: Layout | None = None) -> Tensor:
    """Where queries look relative to their own position: (2 R - 1, 2 C - 1) float32, from maps (..., N, M), without tokens.

    The mean at offset (dy, dx) is over images and those queries for which that position is inside the map. Offset 0 is in the centre,
    [R - 1, C - 1].
    """
    layout = layout or Layout.square(*beta.shape[-2:])
    (rows, columns), (down, across), tokens = layout.grid, layout.factor, len(layout.tokens)
    mean = (
        beta.flatten(0, -3).mean(0)[tokens:, tokens:].unflatten(1, layout.key_grid).unflatten(0, layout.grid)
    )  # row and column of query and key
    total = mean.new_zeros(2 * rows - 1, 2 * columns - 1)
    for row in range(rows):  # a row of queries at a time, so that the weights of its positions stay small
        weights = (mean[row].transpose(0, 1) / (down * across)).repeat_interleave(across, -1)  # (key row, query column, column)
        # Shear, which brings weights of equal offset into one column: in lines of 2 C - 1 numbers cut out of lines of 2 C, each line
        # starts one column further right than the line above.
        sheared = F.pad(weights.flip(1), (0, columns)).flatten(1)[:, :-columns].unflatten(1, (columns, 2 * columns - 1))
        total[rows - 1 - row : 2 * rows - 1 - row] += sheared.sum(1).repeat_interleave(down, 0)
    pairs = [n - torch.arange(1 - n, n, device=beta.device).abs() for n in layout.grid]  # queries with this offset inside, along each axis
    return (total / torch.outer(*pairs)).float()


def statistics(projections: Projections, image_size: int | tuple[int, int]) -> dict[str, Tensor]:
    """Statistics of each query, (B, N) float32 each; of several heads, those of their mean map (see `Projections.head`).

    Parameters
    ----------
    projections
        Of a layer, from `capture_projections`.
    image_size
        S, in pixels, or height and width: a position of the feature map is S / side pixels wide.

    Returns
    -------
    dict
        entropy: of the weights over the keys, in nats, from 0 (one key) to log M (every key alike).
        distance: mean attention distance in pixels of the image, between centres of positions (Dosovitskiy et al., 2021, Figure 7).
        outside_3, outside_9: share of the weight outside the query's neighbourhood of 3x3 and 9x9 positions of the feature map.
        strength: |gamma o| / |x|, see `Projections`.
        received: N times the weight that the position receives, mean over the queries; 1 is average.

        Distance and shares are of the weight on positions, without tokens; of a query that is a token they are NaN.

    Raises
    ------
    ParameterError
        If queries and keys are not positions of a grid.
    """
    layout = projections.places
    (rows, columns), tokens = layout.grid, len(layout.tokens)
    scale = [
        size / count for size, count in zip((image_size,) * 2 if isinstance(image_size, int) else image_size, layout.grid, strict=True)
    ]
    near = {
        name: [overlap(*sides, radius) for sides in zip(layout.grid, layout.key_grid, strict=True)]
        for name, radius in (("outside_3", 1), ("outside_9", 4))
    }
    distances = _distances(layout, scale)
    received = torch.zeros(len(projections.query), layout.keys)
    token_beta, log_beta = _rows(projections, slice(0, tokens))
    blocks: dict[str, list[Tensor]] = {"entropy": [(-token_beta * log_beta).sum(-1)]}
    blocks |= {name: [torch.full_like(blocks["entropy"][0], torch.nan)] for name in ("distance", *near)}
    received += token_beta.sum(1)
    for block in torch.arange(rows).split(4):  # a few rows of queries of all images at a time: whole maps may not fit into memory
        beta, log_beta = _rows(projections, slice(tokens + columns * int(block[0]), tokens + columns * (int(block[-1]) + 1)))
        blocks["entropy"].append((-beta * log_beta).sum(-1).clamp_min(0))
        received += beta.sum(1)
        beta = beta[..., tokens:].unflatten(2, layout.key_grid).unflatten(1, (len(block), columns))  # (B, row, column, key row, key column)
        weight = beta.sum((-2, -1)).clamp_min(torch.finfo(beta.dtype).tiny).flatten(1) if tokens else 1.0  # else 1 but for rounding
        blocks["distance"].append((beta * distances[rows - 1 - block].flip(1)).sum((-2, -1)).flatten(1) / weight)
        for name, (down, across) in near.items():
            within = down[block].any(0)  # few rows of keys
            inside = torch.einsum("brqyx,ry,qx->brq", beta[..., within, :], down[block][:, within], across)
            blocks[name].append((1 - inside.flatten(1) / weight).clamp_min(0))
    by_query = {name: torch.cat(parts, dim=1) for name, parts in blocks.items()}
    per_cell = received[:, tokens:].unflatten(1, layout.key_grid)
    received = torch.cat([received[:, :tokens], upsample(per_cell, layout.grid).flatten(1)], dim=1)
    return by_query | {"strength": projections.strength, "received": received}


def _rows(projections: Projections, queries: slice) -> tuple[Tensor, Tensor]:
    """Some rows of the map, mean over heads, and their logarithms: (B, n, M)."""
    log_beta = torch.log_softmax(projections.query[..., queries, :] @ projections.key.transpose(-1, -2), dim=-1)
    if log_beta.ndim == 4:
        log_beta = log_beta.logsumexp(1) - math.log(projections.heads)
    return log_beta.exp(), log_beta


def _distances(layout: Layout, scale: list[float]) -> Tensor:
    """Mean distances, in pixels, from each position to those of each key's cell: (R, C, key rows, key columns), for pixels per row and column.
    Rows and columns of queries are in reverse order, so that the result is a view of a small table by offset."""
    rows, columns = ((torch.arange(1 - n, n) * pixels).float() for n, pixels in zip(layout.grid, scale, strict=True))
    down, across = layout.factor
    table = F.avg_pool2d(torch.hypot(rows[:, None], columns)[None], (down, across), stride=1)[0]
    return table.unfold(0, layout.grid[0] - down + 1, 1).unfold(1, layout.grid[1] - across + 1, 1)[..., ::down, ::across]
