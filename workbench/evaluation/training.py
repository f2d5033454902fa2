"""Evaluation during training, every `evaluate_every` steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from ..config import Config
from ..data import open_data
from ..metrics.chance import TESTED, require_above_chance
from ..metrics.extractors import default_extractor
from ..metrics.one_pass import Plan, measure
from ..metrics.protocols import Protocol
from ..metrics.references import Reference
from ..metrics.resources import require_room
from ..metrics.scores import ImageSet
from ..model import Generator
from ..records import evaluation_record
from .images import plan_scores, real_statistics
from .parameters import Evaluation
from .samples import Samples, suitable_batch, truth_of


def during_training(config: Config) -> Callable[[Generator, int], dict | None] | None:
    """A function `evaluate` for `train(config, evaluate)`: Fréchet distance, class score and, for twins, the disagreement.

    Returns
    -------
    function
        `evaluate(generator, step)`, which all processes of the training call; it returns a record in the main one. None for `binding` without
        an extractor: none knows its images, and `train` measures the ground truth alone.

    Raises
    ------
    WorkbenchError
        If the extractor cannot be opened or does not accept the images, or they need too much memory: now, not hours later. Whether the
        extractor recognises classes is tested now for twins, which are drawn, else at the first evaluation, when the data are packed.
    """
    if config.evaluate_extractor == "auto" and default_extractor(config.data) is None:
        return None
    reference_n = 10 * config.evaluate_n if config.data == "twins" else None  # twins are cheap, and more real images change nothing
    evaluation = Evaluation(extractor=config.evaluate_extractor, n=config.evaluate_n, reference_n=reference_n, protocol="workbench")
    extractor = evaluation.open_extractor(config.data, config.pairs)
    scores = {"is", "fid", "truth"} if config.data == "twins" else {"is", "fid"}
    first_protocol = evaluation.resolved_protocol(config.num_classes)
    require_room(("evaluate_n", "real images"), first_protocol.n, reference_n or 0, 0, extractor, config.image_size)
    if config.data == "twins":
        require_above_chance(extractor, open_data(config), TESTED, first_protocol.to_pixels)
    truth = truth_of(config)

    @cache
    def prepare(protocol: Protocol, num_classes: int, device: torch.device) -> tuple[Reference, Plan, int]:
        data, batch_size = open_data(config, progress=False), suitable_batch(extractor.to(device), device)
        names = data.classes if num_classes else ()
        samples = ImageSet(protocol.n, names, protocol.n // max(1, len(names)))
        plan = plan_scores(None, extractor, protocol, samples, data, truth is not None, among=scores)
        return real_statistics(data, protocol, extractor, batch_size, keep_all=False), plan, batch_size

    def evaluate(generator: Generator, step: int) -> dict | None:
        protocol = evaluation.resolved_protocol(generator.num_classes).replace(weights="ema" if config.ema_decay else "raw")
        real, plan, batch_size = prepare(protocol, generator.num_classes, next(generator.parameters()).device)
        result = measure(Samples(generator, protocol, evaluation.seed), real, plan, truth, batch_size)
        return result and evaluation_record(step=step, seed=evaluation.seed, requested=scores, **result)

    return evaluate
