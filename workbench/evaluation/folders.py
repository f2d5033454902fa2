"""Evaluation of a folder of images against another."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..data import DataError, short_sides
from ..messages import ParameterError
from ..metrics.one_pass import measure, select
from ..model import sampling
from ..progress import progress
from ..records import evaluation_record
from .images import image_set, open_images, plan_scores, real_statistics, require_room_for
from .parameters import SIZES, Evaluation
from .samples import suitable_batch


def evaluate_folder(evaluation: Evaluation) -> list[dict]:
    """The record of a folder of images; no record in other processes than the main one."""
    size = evaluation.image_size or common_size(evaluation)
    device = evaluation.torch_device
    extractor = evaluation.open_extractor(evaluation.data).to(device)
    batch_size = evaluation.batch_size or suitable_batch(extractor, device)
    scores = select(evaluation.scores, extractor)
    images, data = (open_images(name, getattr(evaluation, name), size, evaluation) for name in ("samples", "data"))
    protocol = evaluation.resolved_protocol(0).replace(per_class=0, weights="none")
    length = protocol.n if images.length is None else images.length
    protocol = protocol.replace(n=min(protocol.n, length))
    require_room_for(protocol, data, extractor)
    # In random order: folders are sorted by class, but each split of IS must contain all classes. A protocol that shuffles the splits
    # itself, as torch-fidelity, starts from the order of the files.
    order = torch.randperm(length, generator=sampling.rng(evaluation.seed, 4)).numpy()[: protocol.n]
    if protocol.shuffle_seed is not None:
        order.sort()
    sample_set = image_set(images, protocol.n)
    if sample_set.classes and images.length is not None:
        sample_set = replace(sample_set, fewest=int(np.bincount(images.labels[order], minlength=len(sample_set.classes)).min()))
    plan = plan_scores(scores, extractor, protocol, sample_set, data, truth=False)
    real = real_statistics(data, protocol, extractor, batch_size, plan.inputs.keep_all)

    def samples(start: int, count: int) -> tuple[Tensor, Tensor]:
        return images.batch(order[start : start + count])

    result = measure(samples, real, plan, None, batch_size, progress)
    if not result:
        return []
    source = dict(samples=images.name, samples_fingerprint=images.fingerprint)
    return [source | evaluation_record(seed=evaluation.seed, requested=scores, **result)]


def common_size(evaluation: Evaluation) -> int:
    """Height and width of all images of both folders.

    A ParameterError if the sizes differ: resizing changes scores, so the user must choose.
    """
    sources = {name: getattr(evaluation, name) for name in ("samples", "data")}
    fixed = {name: source for name, source in sources.items() if source not in ("twins", "imagenet")}  # which exist in any size
    sides: dict[str, Counter] = {}
    for name, source in (fixed or sources).items():
        try:
            sides[name] = short_sides(source)
        except DataError as error:
            raise error.renamed(data=name) from None
    sizes = set().union(*sides.values())
    if (len(sizes) == 1 and sizes <= set(SIZES)) or not sizes:  # opening a folder without readable images reports that
        return min(sizes, default=SIZES[0])
    counts = "; ".join(f"{name} has {_counts(counter)}" for name, counter in sides.items())
    raise ParameterError(
        f"image_size is not given, and the images are not all of one of its sizes: {counts}; set image_size to one of {', '.join(map(str, SIZES))}"
    )


def _counts(counts: Counter) -> str:
    """The sizes in a folder as text, most frequent first."""
    frequent = ", ".join(f"{count:,} of {side} px" for side, count in counts.most_common(3))
    return frequent + (f" and {len(counts) - 3} more sizes" if len(counts) > 3 else "") or "none that can be read"
