"""Readers of parameters that hold several values.

| syntax | example | used by |
|---|---|---|
| list | `a, b` or `["a", "b"]` | runs, scores, classes, tags, ... |
| whole numbers | `500,1000` or `last` | steps, seeds, attention sites |
| settings | `lr_d=1e-3; width=16` | settings of a sweep |
| grid | `lr_d=1e-3 or 4e-3; width=16 or 24`, with `|` for `or` | grid of a sweep |
| positions | `row,column; row,column` | queries |
| latents | `3, 3:7` | seeds of attention.ipynb |
| amounts | `1.5, 0, -2` | directions of attention.ipynb |
| run@step | `cats@500`, `@500` | resume, compare |

`read_list`, `read_sites` and the like are called as `read(value, refuse)`, see `parameters.parameter`. The others raise a ParameterError
that begins with the parameter and its text.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable

from .messages import ParameterError, short_repr
from .parameters import Refuse, read_text, whole

MAX_INTEGER = 2**53  # JavaScript rounds integers from here on


def quote(parameter: str, text: str) -> str:
    """The beginning of a message, parameter='text'; long text is shortened."""
    return f"{parameter}={short_repr(text, 120)}"


def words(text: str, sign: str = ",") -> list[str]:
    """The non-empty parts of a text between signs, stripped."""
    return [word for part in text.split(sign) if (word := part.strip())]


def read_list(value, refuse: Refuse) -> str:
    """Non-empty items separated by commas, also from a list or a tuple."""
    items = value if isinstance(value, list | tuple) else [value]
    return ",".join(words(",".join(read_text(item, refuse) for item in items)))


def read_trackers(value, refuse: Refuse) -> str:
    """Names of trackers, separated by commas, or "none"."""
    names = words(read_list(value, refuse))
    if any(name not in ("tensorboard", "wandb") for name in names) and names != ["none"]:
        refuse("none, tensorboard, wandb, or tensorboard,wandb")
    return ",".join(dict.fromkeys(names)) or "none"


def read_steps(*names: str) -> Callable:
    """A reader of steps such as 500,1000, or of one of these names."""
    known = ", ".join(f'"{name}"' for name in names)

    def read(value, refuse: Refuse) -> str:
        items = _items(value, refuse)
        if len(items) == 1 and items[0] in names:
            return items[0]
        return _numbers(items, refuse, f"{known}, or steps such as 500,1000")

    return read


def read_sites(value, refuse: Refuse) -> str:
    """Feature-map sizes, ascending, or "none"."""
    items = _items(value, refuse)
    if not items or items[0].lower() == "none":
        return "none"
    sizes = _numbers(items, refuse, 'a list of feature-map sizes such as "32", "32,64" or "none"')
    return ",".join(map(str, sorted(map(int, sizes.split(",")))))


def read_seeds(value, refuse: Refuse) -> str:
    """Seeds, all different."""
    items = _items(value, refuse)
    seeds = _numbers(items, refuse, "seeds such as 0,1,2,3,4")
    if seeds.count(",") + 1 < len(items):
        seed, times = Counter(map(_number, items)).most_common(1)[0]
        refuse(f"a list of different seeds: {seed} appears {times} times")
    return seeds


def _items(value, refuse: Refuse) -> list[str]:
    return words(read_list(value, refuse).strip("[]() "))


def _numbers(items: list[str], refuse: Refuse, what: str) -> str:
    """Whole numbers as text, without duplicates."""
    numbers = [_number(item) for item in items]
    if not numbers or None in numbers:
        refuse(what)
    return ",".join(map(str, dict.fromkeys(numbers)))


def _number(item: str) -> int | None:
    return whole(item.removesuffix(".0"))  # papermill makes 500.0 of 5e2


def split_step(text: str) -> tuple[str, str | None]:
    """The parts of "run" (the step is None) or "run@step"; the run may be a path that contains "@"."""
    name, at, step = text.rpartition("@")
    return (name, step) if at and os.sep not in step else (text, None)


def assignments(parameter: str, text: str) -> dict[str, str]:
    """ "a=1; b=2" as a dict; a ParameterError for a part or a value that is empty, or a name that is assigned twice."""
    values = {}
    parts = [part.strip() for part in text.split(";")]
    for part in parts if parts[-1] else parts[:-1]:
        name, equals, value = (word.strip() for word in part.partition("="))
        if not (name and equals):
            raise ParameterError(f"{quote(parameter, text)}: {short_repr(part)} is not parameter=value")
        if name in values:
            raise ParameterError(f"{quote(parameter, text)}: {name} is assigned twice")
        if not all(word.strip() for word in value.split("|")):
            raise ParameterError(f"{quote(parameter, text)}: a value of {name} is empty")
        values[name] = value
    return values


def alternatives(parameter: str, text: str) -> dict[str, list[str]]:
    """The grid "a=1|2; b=3|4" as a dict of lists; a ParameterError as from `assignments`, and for a value that appears twice."""
    grid = {name: words(values, "|") for name, values in assignments(parameter, text).items()}
    for name, values in grid.items():
        value, times = Counter(values).most_common(1)[0]
        if times > 1:
            raise ParameterError(f"{quote(parameter, text)}: {name}={value} appears twice, and would be compared with itself")
    return grid


def map_positions(parameter: str, text: str, side: int) -> list[int]:
    """Row-major indices of the positions "row,column; row,column" on a side x side map; a ParameterError for one outside of it."""
    indices = []
    for part in filter(None, (part.strip(" ()[]") for part in text.split(";"))):
        numbers = [whole(number.strip()) for number in part.split(",")]
        if len(numbers) != 2 or not all(number is not None and number < side for number in numbers):
            raise ParameterError(f'{quote(parameter, text)}: {short_repr(part)} is not "row,column", each from 0 to {side - 1}')
        indices.append(numbers[0] * side + numbers[1])
    return indices


def latents(parameter: str, text: str) -> list[tuple[int, int]]:
    """Latents "3, 3:7" as pairs (seed, sample of that seed); a ParameterError for other text."""
    pairs = []
    for part in words(text):
        seed, _, sample = part.partition(":")
        first, second = whole(seed), whole(sample or "0")
        if first is None or second is None or max(first, second) >= MAX_INTEGER:
            raise ParameterError(f"{quote(parameter, text)}: {short_repr(part)} is not a seed such as 3, or a sample of it such as 3:7")
        pairs.append((first, second))
    return pairs


def amounts(parameter: str, text: str, most: float) -> list[float]:
    """Numbers "1.5, 0, -2" from -most to most; a ParameterError for other text."""
    numbers = []
    for part in words(text):
        try:
            numbers.append(float(part))
        except ValueError:
            numbers.append(math.nan)
        if not abs(numbers[-1]) <= most:
            raise ParameterError(f"{quote(parameter, text)}: {short_repr(part)} is not a number from {-most:g} to {most:g}")
    return numbers
