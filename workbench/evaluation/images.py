"""The real or given images of an evaluation, and the plan of its scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..config import Config
from ..data import DataError, Images, has_class_folders, is_image_folder, is_split, open_data, printable, training_split
from ..data.datasets import Drawn
from ..messages import ParameterError, counted, say_once, short_repr
from ..metrics.chance import require_above_chance
from ..metrics.extractors import Extractor
from ..metrics.one_pass import Plan, plan
from ..metrics.protocols import Protocol
from ..metrics.references import Reference, fewest, real_number, reference
from ..metrics.resources import require_room
from ..metrics.scores import ImageSet
from ..progress import progress
from .parameters import Evaluation

ENDLESS = 50_000  # real images of a data set without end, if the protocol uses all


def open_images(
    name: str, source: str, size: int, evaluation: Evaluation, conditional: bool = True, skip_unreadable: bool = False, **drawn
) -> Images | Drawn:
    """The images of `source`, for the parameter `name` ("samples" or "data"); they have classes if the folder has class folders.

    `drawn` are the parameters of a drawn data set.
    """
    config = Config.preset("twins32", data=source, image_size=size, num_classes=None, batch_size=2, **drawn)
    config = config.replace(skip_unreadable=skip_unreadable or evaluation.skip_unreadable)
    try:
        if not conditional or not has_class_folders(config):
            config = config.replace(num_classes=0)
        images = open_data(config)
        value = getattr(evaluation, name)
        root = Path(config.data)
        split = training_split(root, config.num_classes == 0) if value and is_image_folder(config) else root
    except DataError as error:
        # The message must not name parameters that an evaluation does not have.
        size_parameter = "image_size" if evaluation.samples else None
        raise error.renamed(data=name, image_size=size_parameter, batch_size=None) from None
    if split != root:
        say_once(
            f"{name}={short_repr(value)}: only its split {short_repr(split.name)} is used; for another, set {name} to the folder of that one"
        )
    if isinstance(images, Images) and name == "samples" and is_split(split.name):  # the name of a data set does not name its split
        images = replace(images, name=f"{images.name}/{printable(split.name)}")
    count = dict(samples="n", data="reference_n")[name]
    number = getattr(evaluation, count)
    if number and images.length is not None and number > images.length:  # the protocol's own number is only an upper bound
        raise ParameterError(
            f"{count}={number}, but {name}, {images.name}, has {counted(images.length, 'image')}: give at most that, or leave {count} out"
        )
    return images


def image_set(data: Images | Drawn, n: int) -> ImageSet:
    """Number and classes of `n` images of a data set."""
    if not data.num_classes:
        return ImageSet(n, reason=f"{data.name} has no class folders")
    return ImageSet(n, data.classes, n // len(data.classes))


def real_count(data: Images | Drawn, protocol: Protocol) -> int:
    """The number of real images: the protocol's, or all if the data has fewer."""
    n = protocol.reference_n or (ENDLESS if data.length is None else data.length)
    return real_number(data, n if data.length is None else min(n, data.length))


def require_room_for(protocol: Protocol, data: Images | Drawn, extractor: Extractor, features: int = 0) -> None:
    """Refuse an evaluation that needs more memory than is free; `features`: generated images whose features are kept."""
    require_room(("n", "reference_n"), protocol.n, real_count(data, protocol), features, extractor, data.size)


def plan_scores(
    scores: set[str] | None, extractor: Extractor, protocol: Protocol, samples: ImageSet, data: Images | Drawn, truth: bool, **options
) -> Plan:
    """The plan for computing scores (None: all) against the real images `data`; see `metrics.one_pass.plan`.

    Raises
    ------
    ParameterError
        If a requested score cannot be computed, or the images need too much memory.
    WorkbenchError
        If the extractor recognises the classes of the real images only by chance.
    """
    require_room_for(protocol, data, extractor)  # before the labels are read
    real = image_set(data, real_count(data, protocol))
    require_above_chance(extractor, data, real.n, protocol.to_pixels)
    if real.classes:
        real = replace(real, fewest=fewest(data, real.n))
    result = plan(scores, extractor, protocol, samples, real, extractor.widths(data.size), truth, **options)
    require_room_for(protocol, data, extractor, result.features)
    return result


def real_statistics(data: Images | Drawn, protocol: Protocol, extractor: Extractor, batch_size: int, keep_all: bool) -> Reference:
    """The statistics of the real images."""
    return reference(data, real_count(data, protocol), extractor, protocol.to_pixels, keep_all, batch_size, progress)
