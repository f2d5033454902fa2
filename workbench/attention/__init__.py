"""Looking at attention: what each layer computed (`capture`), ways to read it (`readings`), and what it does to the output (`causal`)."""

from .capture import Projections, attention_map, capture, capture_projections
from .interventions import Effect, causal_map, effect, intervene
from .readings import enlarge, incoming, moved, outgoing, relative_offsets, spread, statistics

__all__ = [
    "Effect", "Projections", "attention_map", "capture", "capture_projections", "causal_map", "effect", "enlarge", "incoming", "intervene",
    "moved", "outgoing", "relative_offsets", "spread", "statistics",
]  # fmt: skip
