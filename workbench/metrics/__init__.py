"""Metrics: extractors, streamed moments, scores, protocols, and one pass over the images for all of them."""

from .class_score import inception_score
from .extractors import Extractor, inception, open_extractor, twins
from .fid import frechet_distance, frechet_distance_of_features, intra_frechet_distance
from .kid import kernel_distance
from .moments import Moments
from .one_pass import measure
from .prdc import density_coverage, nearest_neighbours, precision_recall
from .protocols import PROTOCOLS, Protocol, differences, protocol, require_comparable
from .references import Reference, reference
from .reported import published

__all__ = [
    "PROTOCOLS", "Extractor", "Moments", "Protocol", "Reference", "density_coverage", "differences", "frechet_distance",
    "frechet_distance_of_features", "inception", "inception_score", "intra_frechet_distance", "kernel_distance", "measure",
    "nearest_neighbours", "open_extractor", "precision_recall", "protocol", "published", "reference", "require_comparable", "twins",
]  # fmt: skip
