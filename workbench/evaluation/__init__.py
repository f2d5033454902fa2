"""Evaluation of checkpoints or folders of images, by a protocol. The arithmetic of the scores is in `metrics`."""

import torch.distributed as _dist

from .checkpoints import evaluate_checkpoints
from .folders import evaluate_folder
from .parameters import Evaluation
from .samples import Samples
from .training import during_training
from .workers import evaluate_in_processes

__all__ = ["Evaluation", "Samples", "during_training", "evaluate"]


def evaluate(evaluation: Evaluation | None = None, **parameters) -> list[dict]:
    """Score checkpoints of a run, or a folder of images.

    Parameters
    ----------
    evaluation, parameters
        An `Evaluation`, or its parameters: `evaluate(run="twins32", n=1000)`.

    Returns
    -------
    list of dict
        A record per step, in order, including those of earlier evaluations; see `records.evaluation_record`. New records of a run are
        appended to its `evaluations.jsonl`.

    Raises
    ------
    ParameterError, WorkbenchError
        If a parameter does not fit, there is no such checkpoint, or data or weights are missing.
    """
    evaluation = evaluation or Evaluation.from_parameters(parameters)
    if evaluation.num_processes > 1 and not _dist.is_initialized():
        return evaluate_in_processes(evaluation)
    return evaluate_folder(evaluation) if evaluation.samples else evaluate_checkpoints(evaluation)
