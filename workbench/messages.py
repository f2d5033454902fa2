"""Messages to the user: errors that the user can fix, values in one line, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
import functools
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import pairwise
from types import MappingProxyType


class WorkbenchError(Exception):
    """A mistake that the user can fix. Its text is all that is shown, if possible one line."""

    def _render_traceback_(self) -> list[str]:  # what IPython (hence Jupyter and papermill) shows instead of a traceback
        return [f"{type(self).__name__}: {self}"]


class ParameterError(WorkbenchError, ValueError):
    """A parameter has an unknown name, a value of the wrong type, or a value out of range."""


def counted(count: int, noun: str) -> str:
    """A number and what it counts: "1 key", "1,024 keys", "2 classes"."""
    ending = "" if count == 1 else "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}{ending}"


_printed: set[str] = set()


def say_once(text: str) -> None:
    """Print a warning on stderr, each text once in this process."""
    if text not in _printed:
        _printed.add(text)
        print(text, file=sys.stderr, flush=True)


class EnvironmentVariableError(WorkbenchError):
    """A library that is imported does not understand the value of an environment variable."""


@contextmanager
def blaming_variables() -> Iterator[None]:
    """Context of imports: a library's error about an environment variable becomes one line, an EnvironmentVariableError."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        if line := blame(error):
            raise EnvironmentVariableError(line) from None
        raise


def blame(error: BaseException) -> str:
    """Which environment variable a library could not read while it was imported, in one line; "" if the error has another cause.

    It is one that the error's text or the source where it was raised names, or whose value that text quotes.
    """
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, WorkbenchError | ImportError) or not any(map(_imports, frames)):
        return ""
    text = next((line for line in str(error).splitlines() if line.strip()), "")
    shown = " ".join([str(error), *(frame.line or "" for frame in frames)])
    files = "".join(line for frame in frames for line in linecache.getlines(frame.filename))
    named = [name for name in os.environ if re.search(rf"\b{re.escape(name)}\b", shown) and len(name) > 3]
    quoted = [name for name, value in os.environ.items() if value and repr(value).lower() in text.lower()]
    for name in named or sorted(quoted, key=lambda name: name not in files):
        return f"{name}={short_repr(os.environ[name])}: a library cannot read this environment variable ({short_text(text, 120)})"
    return ""


def _imports(frame: traceback.FrameSummary) -> bool:
    """Whether a module of another package is being imported in this frame."""
    return frame.name == "<module>" and not frame.filename.startswith(os.path.dirname(__file__))


def one_line_errors() -> None:
    """Print no stack trace of such an error if this is `python -m workbench...`, which imports libraries before any of its code runs."""

    def hook(kind, error, trace, before=sys.excepthook):
        if line := blame(error):
            print(f"EnvironmentVariableError: {line}", file=sys.stderr, flush=True)
        else:
            before(kind, error, trace)

    if any(word.startswith("workbench.") for before, word in pairwise(sys.orig_argv) if before == "-m"):
        sys.excepthook = hook


def command(main):
    """Decorator for the function of a command line, which then returns the exit status: its own, or 0.

    A WorkbenchError or a failing disk prints one line on stderr; an interrupt or a closed pipe (`| head`) prints nothing.
    """

    @functools.wraps(main)
    def run(*arguments) -> int:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # the parent process closed it
                setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the process ends)
        with suppress(AttributeError):  # names of files and classes may not fit the terminal's encoding
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            with blaming_variables():
                status = main(*arguments)
            sys.stdout.flush()
        except WorkbenchError as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter reports it at exit
            return 141
        except OSError as error:
            where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "the output"
            print(f"{type(error).__name__}: {where}: {error.strerror or error}", file=sys.stderr)
            return 2
        return status or 0

    return run


def nearest(name, known: Iterable[str], synonyms: Mapping[str, str] = MappingProxyType({})) -> str:
    """A suggestion for a misspelt name: "did you mean 'steps'? ", or "". Case does not matter.

    Parameters
    ----------
    synonyms
        Other name -> one or several of `known`, separated by blanks, or "". They must match exactly, known names roughly.
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


def short_repr(value, length: int = 80) -> str:
    """A value in a message: its repr in one line; of a long one, beginning and end."""
    try:
        text = repr(value)
    except Exception:  # thousands of digits, deeply nested lists, objects with a broken repr
        text = f"<{type(value).__name__} that cannot be shown>"
    return short_text(text, length)


def one_line(error: BaseException, length: int = 200) -> str:
    """The message of another package's exception in one short line, or its type."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return short_text(text, length) or type(error).__name__


def short_text(text: str, length: int = 200) -> str:
    """Text in a message: one line of printable characters; of a long one, beginning and end."""
    text = "".join(sign if sign.isprintable() else " " for sign in text)
    return text if len(text) <= length else f"{text[: length - length // 3]}...{text[-(length // 3) :]}"
