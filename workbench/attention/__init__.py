"""Attention of a network: maps of its layers (`capture`), ways to read them (`readings`), their effect on the output (`interventions`), and all
of that for one image and layer (`inspect`)."""

from .capture import Projections, attention_map, capture, capture_projections
from .explain import NOISE, Explanation, explain, rounding
from .inspect import READINGS, STATISTICS, Inspection, collect_projections, every_projection, inspect_layer, mean_offsets, salient_positions
from .interventions import Effect, causal_map, effect, intervene
from .readings import incoming, outgoing, relative_offsets, statistics, to_positions, upsample, value_weighted

__all__ = [
    "NOISE", "READINGS", "STATISTICS", "Effect", "Explanation", "Inspection", "Projections", "attention_map", "capture",
    "capture_projections", "causal_map", "collect_projections", "effect", "every_projection", "explain", "incoming", "inspect_layer", "intervene", "mean_offsets", "outgoing",
    "relative_offsets", "rounding", "salient_positions", "statistics", "to_positions", "upsample", "value_weighted",
]  # fmt: skip
