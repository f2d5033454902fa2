"""Ways to read attention maps beta (B, N, M): of one query, over all queries, by relative offset.

Shapes: B images, N = side^2 queries, M = key_side^2 keys; positions in row-major order. A key covers a cell of (side / key_side)^2
positions, which share its weight evenly in maps over positions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..messages import ParameterError
from .capture import Projections


def to_positions(weights: Tensor, side: int) -> Tensor:
    """Weights of keys (..., M) as weights of positions (..., side, side): the positions of a cell share its key's weight; sums are preserved.

    Raises
    ------
    ParameterError
        If the keys are not a square map whose side divides `side`.
    """
    key_side = _side_of(weights.shape[-1], "keys")
    return upsample(weights.unflatten(-1, (key_side, key_side)), side)


def upsample(heat: Tensor, size: int) -> Tensor:
    """A map (..., side, side) as one of (..., size, size), nearest neighbour ("up-sampled to image size"); sums are preserved.

    Raises
    ------
    ParameterError
        If `size` is not a multiple of side.
    """
    side = heat.shape[-1]
    if size < 1 or size % side:
        raise ParameterError(f"size={size} does not fit a map of {side}x{side}; give a multiple of {side}")
    factor = size // side
    return (heat / factor**2).repeat_interleave(factor, -2).repeat_interleave(factor, -1)


def overlap(side: int, key_side: int, radius: int) -> Tensor:
    """How much of the cell of each key lies within `radius` of each position, along one axis: (side, key_side), in [0, 1].

    For a square neighbourhood, multiply the shares along both axes.
    """
    position = torch.arange(side)
    near = (position[:, None] - position).abs() <= radius
    return near.float().unflatten(1, (key_side, side // key_side)).mean(2)


def outgoing(beta: Tensor, query: int) -> Tensor:
    """Where a query attends: (B, side, side), sum 1, from maps (B, N, M) and a position in [0, N).

    Raises
    ------
    ParameterError
        If there is no such position.
    """
    side = check_query(query, beta.shape[1])
    return to_positions(beta[:, query], side)


def incoming(beta: Tensor, query: int) -> Tensor:
    """Which queries attend to a position: (B, side, side), the weight that each of them gives to position `query`.

    A key's weight is shared by the positions of its cell, so in the pooled variant all of a cell receive the same.

    Raises
    ------
    ParameterError
        If there is no such position.
    """
    side = check_query(query, beta.shape[1])
    key_side = _side_of(beta.shape[2], "keys")
    factor = side // key_side
    row, column = divmod(query, side)
    key = row // factor * key_side + column // factor
    return (beta[:, :, key] / factor**2).unflatten(1, (side, side))


def value_weighted(beta: Tensor, value_norm: Tensor, query: int) -> Tensor:
    """What a query receives from each position: (B, side, side), beta |value|, from maps (B, N, M) and norms of the values (B, M).

    A large weight on a value near zero contributes nothing (Kobayashi et al., 2020).

    Raises
    ------
    ParameterError
        If there is no such position.
    """
    side = check_query(query, beta.shape[1])
    return to_positions(beta[:, query] * value_norm, side)


def check_query(query: int, positions: int) -> int:
    """The side of a map of N positions; a ParameterError if `query` is not one of them."""
    side = _side_of(positions, "queries")
    if not 0 <= query < positions:
        raise ParameterError(f"query={query} is not a position of a {side}x{side} map; give one from 0 to {positions - 1}, row by row")
    return side


def _side_of(positions: int, kind: str) -> int:
    side = math.isqrt(positions)
    if side**2 != positions:
        raise ParameterError(f"{positions} {kind} are not a square map; give maps over side^2 of them")
    return side


def relative_offsets(beta: Tensor) -> Tensor:
    """Mean weight by offset of the position from the query: (2 side - 1, 2 side - 1) float32, from maps (B, N, M).

    The mean at offset (dy, dx) is over images and those queries for which that position is inside the map. Offset 0 is in the centre,
    [side - 1, side - 1].
    """
    side, key_side = _side_of(beta.shape[1], "queries"), _side_of(beta.shape[2], "keys")
    factor = side // key_side
    mean = beta.mean(0).view(side, side, key_side, key_side)  # query row and column, key row and column
    total = mean.new_zeros(2 * side - 1, 2 * side - 1)
    for row in range(side):  # a row of queries at a time, so that the weights of its positions stay small
        weights = (mean[row].transpose(0, 1) / factor**2).repeat_interleave(factor, -1)  # (key row, query column, column)
        # Shear, which brings weights of equal offset into one column: in lines of 2 side - 1 numbers cut out of lines of 2 side, each line
        # starts one column further right than the line above.
        sheared = F.pad(weights.flip(1), (0, side)).flatten(1)[:, :-side].unflatten(1, (side, 2 * side - 1))
        total[side - 1 - row : 2 * side - 1 - row] += sheared.sum(1).repeat_interleave(factor, 0)
    queries = side - torch.arange(1 - side, side, device=beta.device).abs()  # how many of a row have this offset inside
    return (total / torch.outer(queries, queries)).float()


def statistics(projections: Projections, image_size: int) -> dict[str, Tensor]:
    """Statistics of each query, (B, N) float32 each.

    Parameters
    ----------
    projections
        Of a layer, from `capture_projections`.
    image_size
        S, in pixels: a position of the feature map is S / side pixels wide.

    Returns
    -------
    dict
        entropy: of the weights over the keys, in nats, from 0 (one key) to log M (every key alike).
        distance: mean attention distance in pixels of the image, between centres of positions (Dosovitskiy et al., 2021, Figure 7).
        outside_3, outside_9: share of the weight outside the query's neighbourhood of 3x3 and 9x9 positions of the feature map.
        strength: |gamma o| / |x|, see `Projections`.
        received: N times the weight that the position receives, mean over the queries; 1 is average.
    """
    side, key_side = projections.side, projections.key_side
    near = {"outside_3": overlap(side, key_side, radius=1), "outside_9": overlap(side, key_side, radius=4)}
    distances = _distances(side, key_side)
    received = torch.zeros(len(projections.key), key_side, key_side)
    blocks: dict[str, list[Tensor]] = {name: [] for name in ("entropy", "distance", *near)}
    for rows in torch.arange(side).split(4):  # a few rows of queries of all images at a time: whole maps may not fit into memory
        query = projections.query.unflatten(1, (side, side))[:, rows].flatten(1, 2)
        log_beta = torch.log_softmax(query @ projections.key.transpose(1, 2), dim=-1)
        beta = log_beta.exp()
        blocks["entropy"].append((-beta * log_beta).sum(-1).clamp_min(0))
        beta = beta.unflatten(2, (key_side, key_side)).unflatten(1, (len(rows), side))  # (B, row, column, key row, key column)
        blocks["distance"].append((beta * distances[side - 1 - rows].flip(1)).sum((-2, -1)).flatten(1) * (image_size / side))
        for name, along in near.items():
            within = along[rows].any(0)  # few rows of keys
            inside = torch.einsum("brqyx,ry,qx->brq", beta[..., within, :], along[rows][:, within], along)
            blocks[name].append((1 - inside).clamp_min(0).flatten(1))
        received += beta.sum((1, 2))
    by_query = {name: torch.cat(parts, dim=1) for name, parts in blocks.items()}
    return by_query | {"strength": projections.strength, "received": upsample(received, side).flatten(1)}


def _distances(side: int, key_side: int) -> Tensor:
    """Mean distances, in positions, from each position to those of each key's cell: (side, side, key_side, key_side). Rows and columns of
    queries are in reverse order, so that the result is a view of a small table by offset."""
    factor = side // key_side
    offset = torch.arange(1 - side, side).float()
    table = F.avg_pool2d(torch.hypot(offset[:, None], offset)[None], factor, stride=1)[0]
    reach = side - factor + 1
    return table.unfold(0, reach, 1).unfold(1, reach, 1)[..., ::factor, ::factor]
