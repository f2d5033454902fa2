"""The evaluation that training makes every `evaluate_every` steps."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Config
from ..data import open_data
from ..metrics.limits import require_room
from ..metrics.one_pass import measure
from ..metrics.scores import ImageSet
from ..model import Generator
from ..records import evaluation_record
from .images import plan_scores, real_statistics
from .parameters import Evaluation
from .samples import Samples, suitable_batch, truth_of


def during_training(config: Config) -> Callable[[Generator, int], dict | None]:
    """The evaluation for `train(config, evaluate)`: Fréchet distance, class score and, for twins, the disagreement.

    Returns
    -------
    function
        `evaluate(generator, step)`, to be called by all processes of the training; the main one gets a record.

    Raises
    ------
    WorkbenchError
        If the extractor cannot be opened or does not take such images, or there is no room for so many: now, and not hours later.
    """
    # Twins have no end, and are drawn in no time: as many as make no difference to so few samples.
    reference_n = 10 * config.evaluate_n if config.data == "twins" else None
    evaluation = Evaluation(extractor=config.evaluate_extractor, n=config.evaluate_n, reference_n=reference_n, protocol="workbench")
    extractor = evaluation.open_extractor(config.data)
    scores = {"is", "fid", "truth"} if config.data == "twins" else {"is", "fid"}
    require_room(("evaluate_n", "real images"), config.evaluate_n, reference_n or 0, 0, extractor, config.image_size)
    truth = truth_of(config)
    opened = []

    def evaluate(generator: Generator, step: int) -> dict | None:
        protocol = evaluation.resolved_protocol(generator.num_classes).replace(weights="ema" if config.ema_decay else "raw")
        if not opened:  # the first time
            device = next(generator.parameters()).device
            extractor.to(device)
            data, batch_size = open_data(config, progress=False), suitable_batch(extractor, device)
            names = data.classes if generator.num_classes else ()
            samples = ImageSet(protocol.n, names, protocol.n // max(1, len(names)))
            plan = plan_scores(None, extractor, protocol, samples, data, truth is not None, among=scores)
            opened.extend((real_statistics(data, protocol, extractor, batch_size, keep_all=False), plan, batch_size))
        real, plan, batch_size = opened
        result = measure(Samples(generator, protocol, evaluation.seed), real, plan, truth, batch_size)
        return result and evaluation_record(step=step, seed=evaluation.seed, requested=scores, **result)

    return evaluate
