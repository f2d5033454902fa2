"""A line of text that names a view of the inspector: `demo@4000 G/attention.32 seed=3 sample=5 pins=5,11+6,2 reading=causal`.

First the run and its step, then the layer, then `name=value` for whatever is not the default. No sign in it needs quotes in a shell: others
are written as %20 is in an address. In the address of a page, "&" separates the words. `js/line.js` reads and writes the same lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from ..messages import ParameterError, nearest, short_repr
from ..parameters import whole
from ..readers import MAX_INTEGER, latents
from .inspection_request import intervention_of

EXAMPLE = "such as: demo@4000 G/attention.32 seed=3 pins=5,11"
UNCHANGED = dict(gamma0=False, replace="", scope="all")  # entries without an intervention
GAMMA0 = "gamma0"  # the run beside, if it is the same without attention


@dataclass(frozen=True)
class ViewLine:
    """The words of a line.

    Attributes
    ----------
    run, step
        The run, by name or path, and the step of its checkpoint or snapshot (None: the newest).
    beside, beside_step
        The run beside it, "gamma0", or empty.
    layer
        Such as "G/attention.32"; empty: the largest of the first network.
    entries
        Name -> value, as text, of everything else.
    """

    run: str
    step: int | None = None
    layer: str = ""
    beside: str = ""
    beside_step: int | None = None
    entries: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str) -> ViewLine:
        """The words of a line, or of the address of a page.

        A ParameterError if it names no run, or a word is neither a layer nor name=value.
        """
        refuse = _refusal(text)
        words = [word for word in re.split(r"[\s&]+", text.rpartition("#")[2]) if word]
        if not words:
            refuse(f"is empty; it begins with a run, {EXAMPLE}")
        run, step = _run(words[0], refuse)
        layer, entries = "", {}
        for word in words[1:]:
            name, equals, value = word.partition("=")
            if not equals and not layer and word[:2] in ("G/", "D/"):
                layer = unquote(word)
            elif not equals or not name:
                refuse(f"{short_repr(word)} is neither a layer such as G/attention.32 nor name=value")
            elif name in entries:
                refuse(f"has {name} twice")
            else:
                entries[name] = value
        beside, beside_step = _run(entries.pop("beside"), refuse) if "beside" in entries else ("", None)
        if beside_step is not None and not beside:
            beside = run  # "@500": the same run
        return cls(run, step, layer, GAMMA0 if beside == "gamma=0" else beside, beside_step, entries)

    def __str__(self) -> str:
        words = [_named(self.run, self.step), *([escaped(self.layer)] if self.layer else [])]
        words += [f"beside={_named(self.beside, self.beside_step)}"] if self.beside else []
        return " ".join([*words, *(f"{name}={value}" for name, value in self.entries.items())])


def _refusal(text: str):
    def refuse(reason: str):
        raise ParameterError(f"line={short_repr(text, 120)}: {reason}" if text.strip() else f"line {reason}")

    return refuse


def _run(word: str, refuse) -> tuple[str, int | None]:
    name, at, step = word.rpartition("@")
    number = whole(step) if at else None
    if at and (number is None or number >= MAX_INTEGER):
        refuse(f"{short_repr(word)}: {short_repr(step)} is not a step")
    return unquote(name if at else word), number


def _named(run: str, step: int | None) -> str:
    return escaped(run) + ("" if step is None else f"@{step}")


def escaped(text: str) -> str:
    """Text without signs that shells, lines and addresses read in another way; `unquote` restores it."""
    return re.sub(r"[^\w./:=,+-]|^[-=]", lambda sign: "".join(f"%{byte:02X}" for byte in sign[0].encode(errors="replace")), text)


def value_text(value) -> str:
    """A value as text: true or false, a number, text, or numbers in a list."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "+".join(map(value_text, value))
    return escaped(value) if isinstance(value, str) else repr(value).removesuffix(".0")


def value_of(name: str, text: str, default):
    """The inverse of `value_text` for values of the type of `default`; a ParameterError for text of another type."""
    if isinstance(default, str):
        return unquote(text)
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ParameterError(f"line: {name}={short_repr(text)} is not true or false")
        return text == "true"
    if isinstance(default, list | tuple):
        return [_number(name, part, 0.0) for part in text.split("+")] if text else []
    return _number(name, text, default)


def _number(name: str, text: str, default):
    """A number; a whole one if the default is."""
    try:
        number = int(text) if re.fullmatch(r"-?[0-9]{1,16}", text) else float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < MAX_INTEGER or isinstance(default, int) > isinstance(number, int):
        raise ParameterError(f"line: {name}={short_repr(text)} is not {'a whole' if isinstance(default, int) else 'a'} number")
    return number


def latent_of(name: str, text: str) -> list[int]:
    """A latent "seed:sample" as both numbers; a ParameterError for other text."""
    ((seed, sample), *more) = latents(f"line: {name}", text) or [(-1, -1)]
    if more or seed < 0:
        raise ParameterError(f"line: {name}={short_repr(text)} is not seed:sample")
    return [seed, sample]


def change_of(line: ViewLine, layer: dict) -> dict:
    """The intervention of a line on a layer, as an `InspectionRequest` has it; a ParameterError for an entry that does not fit."""
    entries = line.entries
    view = {name: value_of(name, entries[name], empty) if name in entries else empty for name, empty in UNCHANGED.items()}
    view["gamma"] = value_of("gamma", entries["gamma"], 0.0) if "gamma" in entries else None
    for name, side in (("forbid", layer["key_side"]), ("pins", layer["side"])):
        view[name] = positions_of(name, entries.get(name, ""), side)
    return intervention_of(view)


def positions_text(positions: Sequence[int], side: int) -> str:
    """Positions "row,column+row,column" of a side x side map; those that follow each other in a row as "row,first-last"."""
    parts: list[list[int]] = []  # row, first and last column
    for row, column in (divmod(position, side) for position in positions):
        if parts and parts[-1][0] == row and parts[-1][2] == column - 1:
            parts[-1][2] = column
        else:
            parts.append([row, column, column])
    return "+".join(f"{row},{first}" if first == last else f"{row},{first}-{last}" for row, first, last in parts)


def positions_of(name: str, text: str, side: int) -> list[int]:
    """The inverse of `positions_text`; a ParameterError for a position outside the map."""
    indices: list[int] = []
    for part in filter(None, text.split("+")):
        row, _, columns = part.partition(",")
        first, _, last = columns.partition("-")
        numbers = [-1 if (number := whole(text)) is None else number for text in (row, first, last or first)]
        if not 0 <= numbers[0] < side or not 0 <= numbers[1] <= numbers[2] < side:
            raise ParameterError(f"line: {name}={short_repr(text, 120)}: {short_repr(part)} is not row,column, each from 0 to {side - 1}")
        indices += range(numbers[0] * side + numbers[1], numbers[0] * side + numbers[2] + 1)
    return indices


def class_text(label: int, names: Sequence[str]) -> str:
    """A class by its name, or by its number if the name is not one plain word of its own."""
    name = names[label] if 0 <= label < len(names) else ""
    return name if re.fullmatch(r"[^\W\d][\w.-]*", name) and list(names).count(name) == 1 else str(label)


def class_of(text: str, names: Sequence[str]) -> int:
    """The number of a class by name or number; a ParameterError if it is neither."""
    name = unquote(text)
    label = -1 if text == "-1" else whole(text)  # a number first: a class that is not written by name may have the number of a name
    if label is None and name in names:
        label = list(names).index(name)
    if label is None or label >= len(names):
        raise ParameterError(f"line: class={short_repr(name)} is no class; {nearest(name, names)}there are {len(names)}")
    return label
