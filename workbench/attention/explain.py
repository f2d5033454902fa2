# ruff: noqa: RUF001
"""What one query does, in words: where it attends, whether that matters, and how both compare with chance.

Nulls: a uniform map, for the weights; rounding of float32, for the effects; and random keys of equal number, for whether the attended keys
have more effect than others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..messages import ParameterError, counted
from .inspect import Inspection
from .layout import Layout

NOISE = 2.0**-19  # 16 roundings of float32, relative to what is rounded
CHOICE = 2.0  # times a uniform weight: a map without such a key hardly chooses
SHARE = 1e-3  # of its input: a layer that adds less hardly contributes
ALPHA = 0.05
SHUFFLES = 2000
VERDICTS = ("diverged", "inert", "uniform", "unknown", "too few", "matters", "no more than chance", "less than chance")


@dataclass(frozen=True)
class Explanation:
    """Where a query attends and whether that matters: numbers, and a sentence or two.

    Attributes
    ----------
    verdict
        One of VERDICTS, the first that applies. "inert": the layer adds less than a thousandth of its input here, or no key changes the
        output beyond rounding. "uniform": no key has twice a uniform weight. "unknown": no network, hence no effects. "too few": there are
        less than 20 selections of as many keys, so no p can be below 0.05. The last three: the attended keys have more effect than random
        ones of equal number (p <= 0.05), no more, or less (p <= 0.05).
    entropy, most_entropy
        Of the weights, and of a uniform map, in nats.
    key, times, place
        The key with the largest weight, of several heads in their mean; that weight relative to a uniform one; and where the key is: "itself",
        "beside it", "its mirror", "beside its mirror", or its distance; empty where one of both is a token, which has no place.
    attended
        The fewest keys with half of the weight, by number.
    gamma, share
        The layer's scalar, None for layers without, and |gamma o| / |x| at the query.
    effect, median, rank
        Change of the output without that key; the median over all keys; and its rank, 1 for the largest. None without effects.
    p_more, p_less
        Probability that as many random keys have at least, or at most, the mean effect of the attended ones. None without effects.
    """

    verdict: str
    sentence: str
    entropy: float
    most_entropy: float
    key: int
    times: float
    place: str
    attended: int
    gamma: float | None
    share: float
    effect: float | None = None
    median: float | None = None
    rank: int | None = None
    p_more: float | None = None
    p_less: float | None = None


def rounding(seen: Inspection) -> float:
    """Rounding errors of the output: of a logit, or of the pixels of one position."""
    pixels = math.sqrt(seen.image[0].numel() / math.prod(seen.projections.places.grid))
    return NOISE * (math.sqrt(3) * pixels if seen.logit is None else max(1.0, abs(seen.logit)))


def explain(seen: Inspection, query: int, causal: Tensor | None = None) -> Explanation:
    """Where a query attends, whether that matters, and how both compare with chance.

    Parameters
    ----------
    seen
        An image and what the layer computes for it.
    query
        A token or a position, row-major.
    causal
        The effect of each key of this query (M,), from `causal_map`; None if it is unknown.

    Raises
    ------
    ParameterError
        If there is no such position, or `causal` does not fit the keys.
    """
    layer, layout = seen.projections, seen.projections.places
    layout.place(query)  # raises if there is none
    weights = seen.beta[query].double().numpy()
    effects = None if causal is None else causal.double().numpy()
    if effects is not None and effects.shape != weights.shape:
        raise ParameterError(f"causal has shape {effects.shape}; this layer has {counted(len(weights), 'key')}")
    key = int(np.nanargmax(weights)) if np.isfinite(weights).any() else 0
    order = np.argsort(-weights, kind="stable")
    attended = int(np.searchsorted(np.cumsum(weights[order]), 0.5 * weights.sum()) + 1)
    numbers: dict[str, Any] = dict(
        entropy=float(-(weights * np.log(np.maximum(weights, 1e-300))).sum()),
        most_entropy=math.log(len(weights)),
        key=key,
        times=float(weights[key] * len(weights)),
        place=_place(query, key, layout),
        attended=min(attended, len(weights)),
        gamma=layer.gamma,
        share=float(layer.strength[0, query]),
    )
    if effects is not None:
        more, less = chance(effects, order[:attended])
        numbers |= dict(
            effect=float(effects[key]),
            median=float(np.median(effects)),
            rank=int((effects > effects[key]).sum()) + 1,
            p_more=more,
            p_less=less,
        )
    verdict = _verdict(numbers, weights, effects, rounding(seen))
    return Explanation(verdict, _sentence(verdict, numbers, seen, query, effects), **numbers)


def chance(effects: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """Probabilities that random keys have at least, and at most, the mean effect of the chosen ones.

    From `SHUFFLES` random sets of as many keys, the chosen one counted among them (Phipson and Smyth, 2010).
    """
    rng = np.random.default_rng(0)
    means = rng.permuted(np.tile(effects, (SHUFFLES, 1)), axis=1)[:, : len(chosen)].mean(1)
    observed, slack = effects[chosen].mean(), 1e-9 * np.abs(effects).max()  # equal sets differ by rounding
    more, less = (means >= observed - slack).sum(), (means <= observed + slack).sum()
    return float((1 + more) / (1 + SHUFFLES)), float((1 + less) / (1 + SHUFFLES))


def _verdict(numbers: dict, weights: np.ndarray, effects: np.ndarray | None, floor: float) -> str:
    if not np.isfinite(weights).all() or (effects is not None and not np.isfinite(effects).all()):
        return "diverged"
    if numbers["share"] < SHARE or (effects is not None and effects.max() < floor):
        return "inert"
    if numbers["times"] < CHOICE:
        return "uniform"
    if effects is None:
        return "unknown"
    if math.comb(len(weights), numbers["attended"]) * ALPHA < 1:
        return "too few"
    return "matters" if numbers["p_more"] <= ALPHA else "less than chance" if numbers["p_less"] <= ALPHA else "no more than chance"


def _place(query: int, key: int, layout: Layout) -> str:
    here, at = layout.place(query), _cell_of(key, layout)
    if here is None or at is None:
        return "itself" if query == key else ""

    def cells_from(position: tuple[int, int]) -> int:
        return max(abs(on // pool - there) for on, there, pool in zip(position, at, layout.factor, strict=True))

    own, mirror = cells_from(here), cells_from((here[0], layout.grid[1] - 1 - here[1]))
    if own <= 1:
        return "beside it" if own else "itself"
    if mirror <= 1:
        return "beside its mirror" if mirror else "its mirror"
    parts = []
    for on, there, pool, (before, after) in zip(here, at, layout.factor, (("up", "down"), ("left", "right")), strict=True):
        first, last = there * pool, there * pool + pool - 1  # the nearest place of the key's cell
        steps = first - on if on < first else last - on if on > last else 0
        parts += [f"{abs(steps)} {before if steps < 0 else after}"] if steps else []
    return ", ".join(parts)


def _sentence(verdict: str, numbers: dict, seen: Inspection, query: int, effects: np.ndarray | None) -> str:
    layer, layout, (network, _, path) = seen.projections, seen.projections.places, seen.layer.rpartition("/")
    place, heads = layout.place(query), f", mean of {layer.heads} heads," if layer.heads > 1 else ""
    asks = f"Query {place}" if place else f"The {layout.tokens[query]} token"
    who = f"{asks} of {network if layer.gamma is not None else path} {layout.grid[0]}×{layout.grid[1]}{heads}"
    if verdict == "diverged":
        return f"{who}: its attention or its effects are not finite; the network has diverged."
    entropy = f"entropy {numbers['entropy']:.2f} of {numbers['most_entropy']:.2f} nats"
    times, what = _brief(numbers["times"]), _output(seen, place)
    key = ", ".join(filter(None, (_cell(numbers["key"], layout), numbers["place"])))
    if numbers["times"] < CHOICE:
        where = f"{who} looks at all places nearly alike: it hardly chooses ({entropy}, at most {times}× a uniform map)"
    else:
        where = f"{who} attends {times}× as much as uniform to {key} ({entropy})"
    if verdict == "inert":
        if numbers["share"] < SHARE:
            share = f"{_brief(100 * numbers['share'])} % of its input"
            gamma = "T" if numbers["gamma"] is None else f"Gamma is {_brief(numbers['gamma'])}: t"
            return f"{where}. {gamma}he layer hardly contributes here ({share})."
        return f"{where}. No key changes {what} by more than rounding."
    if effects is None:
        return f"{where}. Whether that matters is unknown: a snapshot keeps no network."
    if verdict == "uniform":
        return f"{where}; dropping any one key changes {what} by at most {_brief(effects.max())}."
    effect, median, keys = numbers["effect"], numbers["median"], numbers["attended"]
    relative = f"{_brief(effect / median)}× the median key" if median >= rounding(seen) else "the median key by no more than rounding"
    dropped = f"dropping that key changes {what} by {_brief(effect)}, {relative}, rank {numbers['rank']} of {len(effects)}"
    if verdict == "too few":
        return (
            f"{where}; {dropped}. {counted(len(effects), 'key')} {'is' if len(effects) == 1 else 'are'} too few to tell that from chance."
        )
    half = f"he {keys} keys with half of its attention have" if keys > 1 else "his key, with half of its attention, has"
    start, amount, p = {
        "matters": ("T", "more", "p_more"),
        "no more than chance": ("It attends where it matters no more than elsewhere: t", "no more", "p_more"),
        "less than chance": ("It attends where it matters least: t", "less", "p_less"),
    }[verdict]
    return f"{where}; {dropped}. {start}{half} {amount} effect than random ones of equal number (p = {_brief(numbers[p])})."


def _output(seen: Inspection, place: tuple[int, int] | None) -> str:
    """What `causal_map` measures."""
    if seen.logit is not None:
        return "the logit" if seen.top is None else "the logits"
    return "the output" if seen.layer.startswith("network/") else "the pixels there" if place else "the pixels"


def _cell_of(key: int, layout: Layout) -> tuple[int, int] | None:
    """Row and column of a key; None for a token."""
    at = key - len(layout.tokens)
    return None if at < 0 else divmod(at, layout.key_grid[1])


def _cell(key: int, layout: Layout) -> str:
    """The places of a key: "(5, 4)", or of a pooled one its first and its last; or "the class token"."""
    at = _cell_of(key, layout)
    if at is None:
        return f"the {layout.tokens[key]} token"
    first = tuple(part * pool for part, pool in zip(at, layout.factor, strict=True))
    last = tuple(part + pool - 1 for part, pool in zip(first, layout.factor, strict=True))
    return str(first) if first == last else f"{first}–{last}"


def _brief(value: float) -> str:
    """Two digits: 0.031, 6.1, 120."""
    return f"{float(f'{value:.2g}'):g}"
