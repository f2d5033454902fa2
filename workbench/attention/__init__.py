"""Attention of a network: maps of its layers (`capture`), ways to read them (`readings`), their effect on the output (`interventions`), and all
of that for one image and layer (`inspect`). `layers` knows how attention layers of other packages compute; `adapt` describes any other."""

from .capture import Projections, attention_map, capture, capture_projections
from .causal import causal_map
from .explain import NOISE, Explanation, explain, rounding
from .inspect import READINGS, STATISTICS, Inspection, collect_projections, every_projection, inspect_layer, mean_offsets, salient_positions
from .interventions import Effect, effect, intervene
from .layers import adapt, attention_layers
from .layout import Layout
from .readings import incoming, outgoing, relative_offsets, statistics, to_positions, upsample, value_weighted

__all__ = [
    "NOISE", "READINGS", "STATISTICS", "Effect", "Explanation", "Inspection", "Layout", "Projections", "adapt", "attention_layers", "attention_map",
    "capture", "capture_projections", "causal_map", "collect_projections", "effect", "every_projection", "explain", "incoming", "inspect_layer",
    "intervene", "mean_offsets", "outgoing", "relative_offsets", "rounding", "salient_positions", "statistics", "to_positions", "upsample", "value_weighted",
]  # fmt: skip
