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
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import Field, field, fields
from decimal import Decimal, InvalidOperation
from numbers import Integral, Real
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

# ----------------------------------------------------------------------------------------------------- errors


class WorkbenchError(Exception):
    """A mistake that the user can fix: its text is the whole message, in one line where possible."""

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
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by whoever started this
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (to the end of the process)
        with suppress(AttributeError):  # names of files and classes are printed whatever the terminal's encoding is
            sys.stdout.reconfigure(errors="backslashreplace")
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
            where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "the output"
            print(f"{type(error).__name__}: {where}: {error.strerror or error}", file=sys.stderr)
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
    longest: int = 100_000,
    read: Callable | None = None,
):
    """A dataclass field with what a user needs to know.

    Parameters
    ----------
    default, meaning
        Its value where none is given; what it is, in a few words.
    low, high, above, below, choices
        Allowed values (`above`, `below`: exclusive).
    longest
        Characters that a text may have.
    read
        Called as `read(value, refuse)` with whatever was given, by a parameter that reads more than its type; returns the value, or calls
        `refuse(what it is not)`.
    """
    allowed = dict(low=low, high=high, above=above, below=below, choices=choices and tuple(choices))
    return field(default=default, metadata=dict(meaning=meaning, read=read, longest=longest, **allowed))


class Parameters:
    """Base of frozen dataclasses of parameters: values are coerced to their declared type, or refused in one line.

    Raises
    ------
    ParameterError
        If a value does not fit; the message names parameter, value and cure.
    """

    none: ClassVar[str] = "the default"  # what None means in the parameters cell of a notebook
    synonyms: ClassVar[Mapping[str, str]] = {}  # what others call the parameters, in lower case: several words each, one or more parameters

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
                guess = nearest(name, known, cls.synonyms)
                rest = "" if guess else f"the parameters are: {', '.join(known)}"
                raise ParameterError(f"unknown parameter {shown(name)}; {guess}{rest}".rstrip())

    @classmethod
    def read(cls, name: str, value):
        """`value` as parameter `name` stores it.

        Raises
        ------
        ParameterError
            If it does not fit.
        """
        return _coerce(next(f for f in fields(cls) if f.name == name), value)

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
        if not source.startswith("# Parameters"):
            continue
        try:
            statements = ast.parse(source).body
        except (SyntaxError, ValueError):  # it has not run
            continue
        if source.startswith("# Parameters:"):  # the notebook's own cell: what was assigned before it does not count
            names.clear()
        for statement in statements:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            names += [t.id for t in targets if isinstance(t, ast.Name)]
    values = {name: namespace[name] for name in dict.fromkeys(names) if name in namespace and name not in _INJECTED_PATHS}
    typed = _typed_parameters() if any(isinstance(value, (int, float)) for value in values.values()) else {}
    return {name: typed[name] if name in typed and _stands_for(typed[name], value) else value for name, value in values.items()}


_INJECTED_PATHS = ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")  # of `papermill --inject-paths`


def _typed_parameters() -> dict[str, str]:
    """The parameters on the command line of the papermill that started this kernel, as they were typed; empty where there is none.

    papermill hands on what a text looks like: `-p run 0001` as 1, `-p run 1e5` as 100000.0.
    """
    import psutil

    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            with suppress(psutil.Error):
                words = process.cmdline()
                if any("ipykernel" in word for word in words[:8]):
                    return {}  # papermill was called in a notebook, by its Python API: further up is the command line of that one
                at = next((k for k, word in enumerate(words[:8]) if Path(word).name in ("papermill", "papermill.exe")), None)
                if at is not None:
                    return _typed_in(words[at + 1 :])
    return {}


def _typed_in(words: Iterable[str]) -> dict[str, str]:
    """What `-p NAME VALUE` and `--parameters NAME VALUE` say among papermill's arguments; the last one counts."""
    typed, rest = {}, iter(words)
    for word in rest:
        attached = re.fullmatch(r"(-[pr]|--parameters(?:_raw)?=)(.+)", word, re.DOTALL)
        if word in ("-p", "-r", "--parameters", "--parameters_raw"):
            option, name = word, next(rest, "")
        elif attached:
            option, name = attached.groups()
        else:
            continue
        value = next(rest, "")
        if option not in ("-r", "--parameters_raw", "--parameters_raw="):  # text that papermill leaves alone
            typed[name] = value
    return typed


def _stands_for(text: str, value) -> bool:
    """Whether papermill makes `value`, a number or a truth value, of `text`."""
    try:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return isinstance(value, bool) and text == str(value)
        number = type(value)(text)
    except ValueError:
        return False
    return number == value or (number != number and value != value)  # nan


def whole(text: str) -> int | None:
    """The number that a text of ASCII digits stands for; None for any other text, such as "²", "-1" or thousands of digits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def nearest(name, known: Iterable[str], synonyms: Mapping[str, str] = MappingProxyType({})) -> str:
    """A guess at what was meant, as the beginning of a sentence; empty where nothing comes near. Upper and lower case are the same.

    Parameters
    ----------
    synonyms
        What stands for a word that is not known: one of `known`, or several, separated by blanks, or none of them. What only resembles such
        a word says nothing: "optimizer" is no "imsize".
    """
    word, known = _plain(name[:100]) if isinstance(name, str) else "", list(known)
    exact = {_joined(other): names.split() for other, names in synonyms.items()} | {_joined(item): [item] for item in known}
    meant = exact.get(_joined(word))
    if meant is None:
        resembling = {_plain(item): item for item in known}
        meant = [resembling[match] for match in difflib.get_close_matches(word, list(resembling), n=1, cutoff=0.6)]
    return f"did you mean {' or '.join(map(repr, meant))}? " if meant else ""


def _joined(word: str) -> str:
    return _plain(word).replace("_", "")


def _plain(word: str) -> str:
    return word.lower().replace("-", "_").strip("_ ")


def shown(value, length: int = 80) -> str:
    """A value in a message: its repr in one line, the middle of a long one left out."""
    try:
        text = repr(value)
    except Exception:  # thousands of digits, or of lists in lists, or whatever an object of the user's raises
        text = f"<{type(value).__name__} that cannot be shown>"
    return shown_text(text, length)


def shown_text(text: str, length: int = 200) -> str:
    """Text in a message: in one line of printable characters, the middle of a long one left out."""
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    return text if len(text) <= length else f"{text[: length - length // 3]}...{text[-(length // 3) :]}"


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
        raise ParameterError(f"{f.name}={shown(value)} is not {what}{allowed} ({f.name}: {f.metadata['meaning']})")

    kind = _type(f)
    if value is None:
        if "None" in _declared(f):
            return None
        refuse(_KINDS[kind])
    try:
        return _read(f, kind, value, refuse)
    except WorkbenchError:
        raise
    except Exception:  # of lists nested too deep, or of an object that cannot be turned into text or a number
        refuse(_KINDS[kind])


def _read(f: Field, kind: str, value, refuse: Callable):
    """`value` as field `f` stores it; calls `refuse` where it does not fit."""
    if f.metadata["read"]:
        result = f.metadata["read"](value, refuse)
    elif kind == "bool":
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        readable = _is_scalar(value) or isinstance(value, bool) or hasattr(value, "dtype")  # the truth values of NumPy are no numbers
        result = words.get(str(value).strip().lower() if readable else "")
        if result is None:
            refuse("true or false")
    elif kind in ("int", "float"):
        result = _whole_number(value) if kind == "int" else _number(value)
        if result is None:
            refuse(_KINDS[kind])
        if kind == "int" and abs(result) > LARGEST:
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


LARGEST = 2**63 - 1  # what counts and seeds go up to: a signed integer of 64 bits


def _is_scalar(value) -> bool:
    """Whether it is text or a number, of NumPy too; truth values are neither."""
    return isinstance(value, (str, Real, Decimal)) and not isinstance(value, bool)


def _whole_number(value) -> int | None:
    """A whole number exactly, also from text such as "20", "+5", "1e3" or "1_000"; None for anything else."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if _number(value) is None:
        return None
    try:
        exact = Decimal(value.strip()) if isinstance(value, str) else value  # not by way of a float, which rounds from 2**53 on
        return int(exact) if exact == int(exact) else None
    except (InvalidOperation, ValueError, OverflowError):  # exponents of twenty digits, and what is finite as a float alone
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


def read_text(value, refuse) -> str:
    """Text, a number as text, or a path as text; containers and truth values are none."""
    if not _is_scalar(value) and not isinstance(value, os.PathLike):
        refuse("text")
    try:
        text = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
        text.encode()  # lone surrogates stand for bytes of a name that is not UTF-8, and nothing can print them
    except ValueError:  # these, and numbers of thousands of digits
        refuse("text")
    if any(unicodedata.category(sign) == "Cc" and sign not in "\n\r\t" for sign in text):
        refuse("text without control characters")
    return text


def read_list(value, refuse) -> str:
    """Items separated by commas, also from a list or a tuple: without blanks around them, and without empty ones."""
    items = value if isinstance(value, (list, tuple)) else [value]
    words = ",".join(read_text(item, refuse) for item in items).split(",")
    return ",".join(word.strip() for word in words if word.strip())


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
