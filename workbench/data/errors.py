"""What is wrong with data and how to fix it, in the words of the caller's own parameters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from ..messages import WorkbenchError, shown_text

UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, surrogates, separators of lines and paragraphs
INVISIBLE = {"Cf"}  # what changes the direction or the joining of text: usual in names of some languages, and able to disguise others


Part = str | tuple[str, str]  # text, or the name of a parameter and what follows it


class DataError(WorkbenchError):
    """Data that cannot be used: the problem, and what would fix it, in one line whatever the names of the files are.

    Parameters
    ----------
    problem
        What is wrong, with the path.
    fixes
        What to do about it: any one of them is enough.

    Each of them is a text or, if it is about a parameter, that parameter's name and what follows the name: ("data", "='/pets' is a file") as
    a problem, ("image_size", "=64") as a fix, which reads "set image_size=64". `renamed` puts them into the words of another caller.
    """

    def __init__(self, problem: Part, *fixes: Part):
        self.problem, self.fixes = problem, fixes
        text = ", or ".join(fix if isinstance(fix, str) else f"set {''.join(fix)}" for fix in fixes)
        super().__init__(shown_text(printable("".join(problem) + (f": {text}" if text else "")), 1000))  # a path may be long

    def renamed(self, **names: str | None) -> DataError:
        """The same error for a caller whose parameters are called otherwise; None: it has no such parameter, so nothing to set."""

        def rename(part: Part) -> Part:
            return part if isinstance(part, str) else (names.get(part[0], part[0]) or "", part[1])

        fixes = map(rename, self.fixes)
        return DataError(rename(self.problem), *(fix for fix in fixes if isinstance(fix, str) or fix[0]))


def printable(text: str) -> str:
    """Text without control characters, invisible characters and bytes that are not UTF-8, which names of files may have: these as escapes."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in UNPRINTABLE | INVISIBLE else c for c in text)


def first_of(names: Sequence[str]) -> str:
    """The first ten of some names, and how many more there are."""
    return ", ".join(names[:10]) + (f", and {len(names) - 10} more" if len(names) > 10 else "")


def reason(error: Exception) -> str:
    """What a library says of its failure, in one short line."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return shown_text(text) or type(error).__name__
