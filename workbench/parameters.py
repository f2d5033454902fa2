"""Parameters: declared once with meaning and range, then read from anywhere, checked, and explained; and the errors that tell of mistakes.

A frozen dataclass that derives from `Parameters` declares each parameter with `parameter(default, meaning, ...)`. This module needs the
standard library only.
"""

from __future__ import annotations

import ast
import difflib
import functools
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, field, fields
from typing import ClassVar

# ----------------------------------------------------------------------------------------------------- errors


class WorkbenchError(Exception):
    """A mistake that the user can mend: its text is the whole message, in one line where possible."""

    def _render_traceback_(self) -> list[str]:  # what IPython (hence Jupyter and papermill) shows instead of a traceback
        return [f"{type(self).__name__}: {self}"]


class ParameterError(WorkbenchError, ValueError):
    """A parameter has an unknown name, a value of the wrong type, or a value out of range."""


_said: set[str] = set()


def say_once(text: str) -> None:
    """Print a line on stderr, once for each text in this process: what work goes on after, such as a file that is left out."""
    if text not in _said:
        _said.add(text)
        print(text, file=sys.stderr, flush=True)


def command(main):
    """Decorator for the function of a command line, which returns the exit status: a WorkbenchError, or a disk that fails, ends it with
    one line on stderr, an interrupt and a reader that has gone (`| head`) without a word."""

    @functools.wraps(main)
    def run(*arguments) -> int:
        try:
            main(*arguments)
            sys.stdout.flush()
        except WorkbenchError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter tells of it when it ends
            return 141
        except OSError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        return 0

    return run


# ------------------------------------------------------------------------------------------------- declaring them


def parameter(
    default,
    meaning: str,
    *,
    low=None,
    high=None,
    above=None,
    below=None,
    choices: Iterable | None = None,
    read: Callable | None = None,
):
    """A dataclass field with what a user needs to know.

    Parameters
    ----------
    default, meaning
        Its value where none is given; what it is, in a few words.
    low, high, above, below, choices
        Allowed values (`above`, `below`: exclusive).
    read
        Called as `read(value, refuse)` with whatever was given, by a parameter that reads more than its type; returns the value, or calls
        `refuse(what it is not)`.
    """
    allowed = dict(low=low, high=high, above=above, below=below, choices=choices and tuple(choices))
    return field(default=default, metadata=dict(meaning=meaning, read=read, **allowed))


class Parameters:
    """Base of frozen dataclasses of parameters: values are coerced to their declared type, or refused in one line.

    Raises
    ------
    ParameterError
        If a value does not fit; the message names parameter, value and cure.
    """

    none: ClassVar[str] = "the default"  # what None means in the parameters cell of a notebook

    def __post_init__(self):
        for f in fields(self):
            object.__setattr__(self, f.name, _coerce(f, getattr(self, f.name)))

    @classmethod
    def from_parameters(cls, parameters: Mapping):
        """From any mapping of names to values: `None` means the default.

        Values are coerced to the declared type of the parameter, whatever papermill or a shell made of them ("4e-4", 1e3, "false").

        Raises
        ------
        ParameterError
            For an unknown name (the message tells the nearest known one) or a value that does not fit.
        """
        cls.refuse_unknown(parameters)
        return cls(**{name: value for name, value in parameters.items() if value is not None})

    @classmethod
    def refuse_unknown(cls, names: Iterable[str]) -> None:
        """Raise a ParameterError for the first name that is no parameter."""
        known = [f.name for f in fields(cls)]
        for name in names:
            if name not in known:
                raise ParameterError(f"unknown parameter {name!r}; {nearest(name, known)}the parameters are: {', '.join(known)}")

    @classmethod
    def explain(cls, name: str) -> str:
        """The meaning and the allowed values of a parameter, in one line."""
        f = next(f for f in fields(cls) if f.name == name)
        allowed = _allowed(f)
        return f.metadata["meaning"] + (f", {allowed}" if allowed else "")

    @classmethod
    def explain_all(cls) -> str:
        """A line for every parameter: name, type, meaning, allowed values and default."""
        return "\n".join(f"{f.name:<22} {_type(f):<6} {cls.explain(f.name)} [{f.default!r}]" for f in fields(cls))

    @classmethod
    def cell(cls) -> str:
        """The source of the parameters cell of a notebook: every parameter, with its meaning."""
        lines = [f"{f.name}: {_type(f)} = None  # {cls.explain(f.name)}" for f in fields(cls)]
        return "\n".join([f"# Parameters: None stands for {cls.none}", *lines])


def notebook_parameters(namespace: Mapping) -> dict:
    """The parameters that a notebook's `parameters` cell, and papermill after it, assigned.

    Parameters
    ----------
    namespace
        The notebook's `globals()`. Cells that start with the comment "# Parameters" (papermill's do too) are where
        parameters come from, so that a misspelt `papermill -p` name is seen, and a variable of another cell is not.
    """
    names: list[str] = []
    for source in namespace.get("In", ()):
        if source.startswith("# Parameters:"):  # the notebook's own cell: what was assigned before it does not count
            names.clear()
        if source.startswith("# Parameters"):
            for statement in ast.parse(source).body:
                targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
                names += [t.id for t in targets if isinstance(t, ast.Name)]
    return {name: namespace[name] for name in dict.fromkeys(names)}


def whole(text: str) -> int | None:
    """The number that a text of ASCII digits stands for; None for any other text, such as "²", "-1" or thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def nearest(name: str, known: Iterable[str]) -> str:
    """A guess at what was meant, as the beginning of a sentence; empty where nothing comes near."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {match[0]!r}? " if match else ""


# ----------------------------------------------------------------------------------------------------- checking

_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


def _declared(f: Field) -> str:
    """The type of a field as it is written: "float | None"."""
    return f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))


def _type(f: Field) -> str:
    return _declared(f).split(" ")[0]


def _coerce(f: Field, value):
    """`value` as the declared type of field `f`, or a ParameterError that says what would be right."""

    def refuse(what: str, guess: str = ""):
        allowed = f"; {guess}allowed: {_allowed(f)}" if _allowed(f) else ""
        raise ParameterError(f"{f.name}={value!r} is not {what}{allowed} ({f.name}: {f.metadata['meaning']})")

    kind = _type(f)
    if value is None:
        if "None" in _declared(f):
            return None
        refuse(_KINDS[kind])
    if f.metadata["read"]:
        return f.metadata["read"](value, refuse)
    text = value.strip() if isinstance(value, str) else value
    if kind == "bool":
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        value_ = words.get(str(text).lower())
        return refuse("true or false") if value_ is None else value_
    if kind in ("int", "float"):
        try:
            number = float(text) if not isinstance(text, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            refuse(_KINDS[kind])
        if kind == "int":
            if number != int(number):
                refuse("a whole number")
            number = int(text) if isinstance(text, int) else int(number)
        if not _within(f, number):
            refuse("in range")
        return number
    text = read_text(value, refuse)
    if f.metadata["choices"] and text not in f.metadata["choices"]:
        refuse("known", nearest(text, f.metadata["choices"]))
    return text


def read_text(value, refuse) -> str:
    """Text, or a path as text; containers and truth values are neither."""
    if isinstance(value, (dict, list, tuple, set, bool)):
        refuse("text")
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def read_list(value, refuse) -> str:
    """Text with commas, also from a list or a tuple."""
    return ",".join(str(item).strip() for item in value) if isinstance(value, (list, tuple)) else read_text(value, refuse)


def _within(f: Field, x) -> bool:
    m = f.metadata
    return (
        (m["low"] is None or x >= m["low"])
        and (m["high"] is None or x <= m["high"])
        and (m["above"] is None or x > m["above"])
        and (m["below"] is None or x < m["below"])
        and (m["choices"] is None or x in m["choices"])
    )


def _allowed(f: Field) -> str:
    """The allowed values of a field in words; empty when anything goes."""
    m = f.metadata
    if m["choices"]:
        return "one of " + ", ".join(map(str, m["choices"]))
    if _declared(f) == "bool":
        return "true or false"
    lower = f"above {m['above']}" if m["above"] is not None else f"at least {m['low']}" if m["low"] is not None else ""
    upper = f"below {m['below']}" if m["below"] is not None else f"at most {m['high']}" if m["high"] is not None else ""
    return " and ".join(part for part in (lower, upper) if part)
