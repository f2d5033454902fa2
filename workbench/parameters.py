"""Parameters: declared once with meaning and range, then read from anywhere, checked, and explained.

A frozen dataclass that derives from `Parameters` declares each parameter with `parameter(default, meaning, ...)`.
"""

from __future__ import annotations

import math
import operator
import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real
from typing import ClassVar, NoReturn

from .messages import ParameterError, WorkbenchError, nearest, short_repr

Refuse = Callable[..., NoReturn]  # refuse("a number") raises a ParameterError: "x='a' is not a number"; a 2nd argument is a suggestion

WIDEST = 100  # characters of a comment in the parameters cell of a notebook


def parameter(
    default,
    meaning: str,
    *,
    none: str = "",
    section: str = "",
    low=None,
    high=None,
    above=None,
    below=None,
    choices: Iterable | None = None,
    longest: int = 100_000,
    read: Callable[[object, Refuse], object] | None = None,
):
    """A dataclass field that describes itself to users.

    Parameters
    ----------
    default, meaning
        The default value (None: optional), and a description in a few words.
    none
        What a default of None stands for.
    section
        Heading of the section that begins here.
    low, high, above, below, choices
        Allowed values (`above`, `below`: exclusive).
    longest
        Largest number of characters of a text.
    read
        Parses values that need more than a type: `read(value, refuse)` returns the value to store, or calls `refuse`.
    """
    allowed = dict(low=low, high=high, above=above, below=below, choices=choices and tuple(choices))
    return field(default=default, metadata=dict(meaning=meaning, none=none, section=section, read=read, longest=longest, **allowed))


@dataclass(frozen=True)
class Parameters:
    """Base of frozen dataclasses of parameters: values are coerced to their declared type, or refused in one line.

    Raises
    ------
    ParameterError
        If a value does not fit; the message names parameter, value and fix.
    """

    first: ClassVar[tuple[str, ...]] = ()  # the most used parameters: on top of the parameters cell
    none: ClassVar[str] = "the value in brackets"  # what None means in the parameters cell
    synonyms: ClassVar[Mapping[str, str]] = {}  # for `nearest`

    def __post_init__(self):
        for f in fields(self):
            object.__setattr__(self, f.name, _coerce(f, getattr(self, f.name)))

    @classmethod
    def from_parameters(cls, parameters: Mapping):
        """From a mapping of names to values; None means the default.

        Values are coerced to the declared type, since papermill and shells pass "4e-4", 1e3 or "false".

        Raises
        ------
        ParameterError
            For an unknown name (the message suggests the nearest known one) or a value that does not fit.
        """
        cls.refuse_unknown(parameters)
        return cls(**{name: value for name, value in parameters.items() if value is not None})

    @classmethod
    def refuse_unknown(cls, names: Iterable[str]) -> None:
        """Raise a ParameterError for the first name that is no parameter."""
        known = [f.name for f in fields(cls)]
        for name in names:
            if name not in known:
                guess = nearest(name, known, cls.synonyms)
                rest = "" if guess else f"the parameters are: {', '.join(known)}"
                raise ParameterError(f"unknown parameter {short_repr(name)}; {guess}{rest}".rstrip())

    @classmethod
    def read(cls, name: str, value):
        """`value` as parameter `name` stores it; a ParameterError if it does not fit."""
        return _coerce(next(f for f in fields(cls) if f.name == name), value)

    @classmethod
    def explain_all(cls, defaults: Parameters | None = None) -> str:
        """A line for every parameter: name, type, meaning, allowed values and default; under the headings of their sections.

        `defaults`: parameters whose values to show as defaults, such as those of a preset.
        """
        lines = []
        for f in fields(cls):
            lines += ["", f.metadata["section"]] if f.metadata["section"] else []
            meaning = ", ".join(filter(None, [f.metadata["meaning"], _allowed(f)]))
            lines.append(f"{f.name:<22} {_type(f):<6} {meaning} [{in_words(f, getattr(defaults, f.name) if defaults else f.default)}]")
        return "\n".join(lines).strip("\n")

    @classmethod
    def cell(cls) -> str:
        """The source of the parameters cell of a notebook: every parameter, with its meaning and what None stands for."""
        defaults, by_name = cls(), {f.name: f for f in fields(cls)}
        lines = [f"# Parameters: None stands for {cls.none}"]
        lines += [cls._line(by_name[name], defaults) for name in cls.first]
        heading = ""
        for f in fields(cls):
            heading = f.metadata["section"] or heading
            if f.name not in cls.first:
                lines += ["", f"# {heading}"] if heading else []
                heading = ""
                lines.append(cls._line(f, defaults))
        return "\n".join(lines)

    @classmethod
    def _line(cls, f: Field, defaults: Parameters) -> str:
        default, choices = in_words(f, getattr(defaults, f.name)), [str(choice) for choice in f.metadata["choices"] or ()]
        comment = f.metadata["meaning"] + (f"; one of {', '.join(choices)}" if choices else "") + (f" ({default})" if default else "")
        while len(comment) > WIDEST and len(choices) > 1:  # errors list them all
            choices = [*choices[:-2], "..."] if choices[-1] == "..." else [*choices[:-1], "..."]
            comment = f"{f.metadata['meaning']}; one of {', '.join(choices)} ({default})"
        return f"{f.name}: {_type(f)} = None  # {comment}"


def in_words(f: Field, value) -> str:
    """A value of a parameter as text; for None and "" what they stand for."""
    return f.metadata["none"] if value is None or value == "" else written(value)


def written(value) -> str:
    """The value of a parameter as text: 0.0004, true, none."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def whole(text: str) -> int | None:
    """The number in a text of ASCII digits; None for any other text, such as "²", "-1" or thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def _declared(f: Field) -> str:
    """The type of a field as its declaration spells it: "float | None"."""
    return f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))


def _type(f: Field) -> str:
    return _declared(f).split(" ")[0]


def _optional(f: Field) -> bool:
    return f.default is None or "None" in _declared(f)


def _coerce(f: Field, value):
    """`value` as the declared type of field `f`; a ParameterError if it does not fit."""

    def refuse(what: str, guess: str = "") -> NoReturn:
        allowed = f"; {guess}allowed: {_allowed(f)}" if _allowed(f) else ""
        raise ParameterError(f"{f.name}={short_repr(value)} is not {what}{allowed} ({f.name}: {f.metadata['meaning']})")

    kind, optional = _type(f), _optional(f)
    if value is None:
        if optional:
            return None
        refuse(_KINDS[kind])
    try:
        if optional and kind != "str" and isinstance(value, str) and value.strip().lower() == "none":  # overrides a preset's value
            return None
        result = _read(f, kind, value, refuse)
        return None if optional and result == "" else result  # one spelling of "not given"
    except WorkbenchError:
        raise
    except Exception:  # lists nested too deep, objects that fail to become text or a number
        refuse(_KINDS[kind])


def _read(f: Field, kind: str, value, refuse: Refuse):
    if f.metadata["read"]:
        result = f.metadata["read"](value, refuse)
    elif kind == "bool":
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        readable = _is_scalar(value) or isinstance(value, bool) or hasattr(value, "dtype")  # bool, also NumPy's
        result = words.get(str(value).strip().lower() if readable else "")
        if result is None:
            refuse("true or false")
    elif kind in ("int", "float"):
        result = _whole_number(value) if kind == "int" else _number(value)
        if result is None:
            refuse(_KINDS[kind])
        if kind == "int" and abs(result) > 2**63 - 1:
            refuse("a whole number of 64 bits")
        if not _within(f, result):
            refuse("in range")
    else:
        result = read_text(value, refuse)
        if f.metadata["choices"] and result not in f.metadata["choices"]:
            result = result.strip() if result.strip() in f.metadata["choices"] else refuse("known", nearest(result, f.metadata["choices"]))
    if isinstance(result, str) and len(result) > f.metadata["longest"]:
        refuse(f"text of at most {f.metadata['longest']:,} characters")
    return result


def _is_scalar(value) -> bool:
    """Whether a value is text or a number, also NumPy's, and not a bool."""
    return isinstance(value, (str, Real, Decimal)) and not isinstance(value, bool)


def _whole_number(value) -> int | None:
    """A whole number exactly, also from text such as "20", "+5", "1e3" or "1_000"; None for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if _number(value) is None:
        return None
    try:
        exact = Decimal(value.strip()) if isinstance(value, str) else value  # a float would round from 2**53 on
        return int(exact) if exact == int(exact) else None
    except (InvalidOperation, ValueError, OverflowError):  # exponents of twenty digits, numbers that are finite only as a float
        return None


def _number(value) -> float | None:
    """A finite number; None for anything else."""
    if not _is_scalar(value) or (isinstance(value, str) and not value.isascii()):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def read_text(value, refuse: Refuse) -> str:
    """Text, a number or a path as text; containers and bools are refused."""
    if not _is_scalar(value) and not isinstance(value, os.PathLike):
        refuse("text")
    try:
        text = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
        text.encode()
    except ValueError:  # lone surrogates (a name that is not UTF-8 and cannot be printed), numbers of thousands of digits
        refuse("text")
    if any(unicodedata.category(sign) == "Cc" and sign not in "\n\r\t" for sign in text):
        refuse("text without control characters")
    return text


_BOUNDS = {
    "above": ("above", operator.gt),
    "low": ("at least", operator.ge),
    "below": ("below", operator.lt),
    "high": ("at most", operator.le),
}


def _within(f: Field, x) -> bool:
    m = f.metadata
    in_bounds = all(m[name] is None or compare(x, m[name]) for name, (_, compare) in _BOUNDS.items())
    return in_bounds and (m["choices"] is None or x in m["choices"])


def _allowed(f: Field) -> str:
    """The allowed values of a field in words; empty if all are allowed."""
    m = f.metadata
    if m["choices"]:
        return "one of " + ", ".join(map(str, m["choices"]))
    if _type(f) == "bool":
        return "true or false"
    allowed = " and ".join(f"{words} {m[name]}" for name, (words, _) in _BOUNDS.items() if m[name] is not None)
    return f"{allowed}, or none" if allowed and _optional(f) else allowed
