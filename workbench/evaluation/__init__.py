"""Evaluating: which checkpoints, against which images, by which protocol. The scores themselves are in `metrics`."""

from .checkpoints import Evaluation, Samples, best_and_worst_classes, during_training, evaluate, left_out, nearest_real, runs_of, table

__all__ = [
    "Evaluation", "Samples", "best_and_worst_classes", "during_training", "evaluate", "left_out", "nearest_real", "runs_of", "table",
]  # fmt: skip
