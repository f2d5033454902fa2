"""Looking at attention: what each layer computed (`capture`), how to read it (`readings`), what it does to the output (`interventions`)."""

from .capture import Projections, attention_map, capture, capture_projections
from .interventions import Effect, causal_map, effect, intervene
from .readings import incoming, outgoing, relative_offsets, statistics, to_positions, upsample, value_weighted

__all__ = [
    "Effect", "Projections", "attention_map", "capture", "capture_projections", "causal_map", "effect", "incoming", "intervene", "outgoing",
    "relative_offsets", "statistics", "to_positions", "upsample", "value_weighted",
]  # fmt: skip
