"""Images to score, and to score against: any folder of them, whatever its layout, in the terms of an evaluation."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config
from ..data import DataError, Images, has_class_folders, is_image_folder, is_split, open_data, printable, short_sides, training_split, twins
from ..messages import say_once, shown, shown_text
from ..metrics.protocols import Protocol
from ..metrics.references import fewest, real_number
from ..metrics.scores import ImageSet
from ..parameters import ParameterError

if TYPE_CHECKING:
    from . import Evaluation

ENDLESS = 50_000  # reference images of a data set without end, where the protocol says all
SIZES = (32, 64, 128, 256)  # heights and widths of images


def own_size(evaluation: Evaluation) -> int:
    """Height and width of the images of both folders, where all of them agree.

    Raises
    ------
    ParameterError
        If they do not: scores of images that were brought to another size say something else, so somebody has to decide it.
    """
    places = {name: getattr(evaluation, name) for name in ("samples", "data")}
    bound = {name: place for name, place in places.items() if place not in ("twins", "imagenet")}  # which come at any size
    sides: dict[str, Counter] = {}
    for name, place in (bound or places).items():
        try:
            sides[name] = short_sides(place)
        except DataError as error:
            raise _about(error, name) from None
    sizes = set().union(*sides.values())
    if (len(sizes) == 1 and sizes <= set(SIZES)) or not sizes:  # none can be read: opening them reports it
        return min(sizes, default=SIZES[0])
    words = "; ".join(f"{name} has {_sizes(counts)}" for name, counts in sides.items())
    allowed = ", ".join(map(str, SIZES))
    raise ParameterError(
        f"image_size is not given, and the images are not all of one of its sizes: {words}; set image_size to one of {allowed}"
    )


def _sizes(counts: Counter) -> str:
    """The sizes in a folder, the most frequent first."""
    words = [f"{count:,} of {side} px" for side, count in counts.most_common(3)]
    return ", ".join(words) + (f" and {len(counts) - 3} more sizes" if len(counts) > 3 else "") if words else "none that can be read"


def open_images(
    name: str, place: str, size: int, evaluation: Evaluation, pairs: int = 1, conditional: bool = True, skip_unreadable: bool = False
) -> Images | twins.Twins:
    """The images that the parameter `name` says are at `place`; any folder will do, and where it has no class folders, there are no classes."""
    settings = Config.preset("twins32", data=place, image_size=size, pairs=pairs, num_classes=None, batch_size=2)
    settings = settings.replace(skip_unreadable=skip_unreadable or evaluation.skip_unreadable)
    try:
        if not conditional or not has_class_folders(settings):
            settings = settings.replace(num_classes=0)
        images = open_data(settings)
        given = getattr(evaluation, name)
        root = Path(settings.data)
        split = training_split(root, settings.num_classes == 0) if given and is_image_folder(settings) else root
    except DataError as error:
        raise _about(error, name, sized=bool(evaluation.samples)) from None
    if split != root:
        say_once(f"{name}={shown(given)}: its split {shown(split.name)} alone is taken; for another, set {name} to the folder of that one")
    if name == "samples" and is_split(split.name):  # which an image's data set is not named after
        images = replace(images, name=f"{images.name}/{printable(split.name)}")
    wanted = dict(samples="n", data="reference_n")[name]
    number = getattr(evaluation, wanted)
    # Of the protocol's number as many are taken as there are, of a number that was given all or none.
    if number and images.length is not None and number > images.length:
        raise ParameterError(
            f"{wanted}={number}, but {name}, {images.name}, has {images.length:,} images: give at most that, or leave {wanted} out"
        )
    return images


def _about(error: DataError, name: str, sized: bool = True) -> DataError:
    """The error in terms of an evaluation: what is given is called `name`, and no cure names a parameter of a training."""
    text = re.sub(r"\bdata=", f"{name}=", str(error))
    text = re.sub(r", fewer than batch_size=.*", ", and it takes at least 2 of either side: add images", text)
    text = text if sized else re.sub(r"set image_size=\d+, or ", "", text)
    return DataError(shown_text(text, 1000))  # a path may be long


def side(data: Images | twins.Twins, n: int) -> ImageSet:
    """What is known of a data set of which `n` images are taken."""
    if not data.num_classes:
        return ImageSet(n, reason=f"{data.name} has no class folders")
    return ImageSet(n, data.classes, n // len(data.classes))


def real_side(data: Images | twins.Twins, n: int) -> ImageSet:
    own = side(data, n)
    return ImageSet(n, own.classes, fewest(data, n)) if own.classes else own


def real_count(data: Images | twins.Twins, settings: Protocol) -> int:
    """How many real images are used: as many as the protocol wants and the data has."""
    n = settings.reference_n or (ENDLESS if data.length is None else data.length)
    return real_number(data, n if data.length is None else min(n, data.length))
