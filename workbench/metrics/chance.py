"""Whether an extractor recognises the classes of real images at all: if not, its features say little about such images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import bdtrc
from torch import Tensor

from ..messages import WorkbenchError
from .extractors import Extractor
from .references import drawn
from .scores import positions

TESTED = 1000  # real images
SIGNIFICANCE = 0.01
MARGIN = 1.1  # of many images, an accuracy that is hardly above chance is significant too


def require_above_chance(extractor: Extractor, data, n: int, pixels: Callable[[Tensor], Tensor], batch_size: int = 64) -> None:
    """Refuse an extractor that does not recognise the classes of real images better than by chance.

    It is tested on at most `TESTED` of the `n` real images of `data`, if it has a logit for each of their classes, by name.

    Raises
    ------
    WorkbenchError
        With its accuracy, and that of chance.
    """
    logits = positions(data.classes if data.num_classes else (), extractor.classes or ())
    if len(logits) < 2 or extractor.widths(data.size)[1] != len(logits):
        return
    labels, predictions = [], []
    for indices in np.array_split(drawn(data, min(n, TESTED)), -(-min(n, TESTED) // batch_size)):
        images, classes = data.batch(indices)
        labels.append(np.repeat(classes.numpy(), extractor.crops))
        predictions.append(extractor(pixels(images))[1][:, logits].argmax(1).cpu().numpy())
    accuracy, chance, is_at_chance = at_chance(np.concatenate(labels), np.concatenate(predictions), len(logits))
    if is_at_chance:
        images = f"{min(n, TESTED):,} real images of {data.name}" + (f", in {extractor.crops} crops each" if extractor.crops > 1 else "")
        raise WorkbenchError(
            f"extractor {extractor.name!r} recognises the classes of {images}, no better than by chance ({accuracy:.1%}, by chance "
            f"{chance:.1%}), so its scores would say nothing about them; use an extractor that was trained on such images"
        )


def at_chance(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> tuple[float, float, bool]:
    """Accuracy, that of the same predictions in random order, and whether the first is not significantly above the second.

    The one-sided binomial test is at `SIGNIFICANCE`, against `MARGIN` times chance. So few images that perfect predictions would not be
    significant prove nothing.

    Parameters
    ----------
    labels, predictions
        (n,) integers below num_classes.
    """
    n = len(labels)
    shares, predicted = (np.bincount(values, minlength=num_classes) / n for values in (labels, predictions))
    correct, chance = int((labels == predictions).sum()), float(shares @ predicted)

    def p_value(correct: int, chance: float) -> float:
        return float(bdtrc(correct - 1, n, min(1.0, MARGIN * chance))) if correct else 1.0

    decides = p_value(n, float(shares @ shares)) < SIGNIFICANCE
    return correct / n, chance, decides and p_value(correct, chance) >= SIGNIFICANCE
