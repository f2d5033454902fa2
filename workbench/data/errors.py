"""Errors of data: the problem and its fixes, in terms of the caller's parameters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ..messages import WorkbenchError, short_text

UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # Unicode categories: control characters, surrogates, separators of lines and paragraphs
INVISIBLE = {"Cf"}  # direction and joining of text: usual in some languages, but names that differ only in them look the same

Part = str | tuple[str, str]  # text, or the name of a parameter and what follows it


class DataError(WorkbenchError):
    """Data that cannot be used: one printable line with the problem and its fixes.

    Parameters
    ----------
    problem
        What is wrong, with the path: a text or, about a parameter, its name and the text after it, ("data", "='/pets' is a file").
    fixes
        Alternative fixes, likewise: ("image_size", "=64") reads "set image_size=64".
    """

    def __init__(self, problem: Part, *fixes: Part):
        self.problem, self.fixes = problem, fixes
        text = ", or ".join(fix if isinstance(fix, str) else f"set {''.join(fix)}" for fix in fixes)
        super().__init__(short_text(printable("".join(problem) + (f": {text}" if text else "")), 1000))  # a path may be long

    def renamed(self, **names: str | None) -> DataError:
        """The same error with the caller's names of parameters; None: the caller lacks the parameter, so its fixes are left out.

        A name such as "--skip-unreadable" is an option of a command line that takes no value.
        """

        def rename(part: Part) -> Part:
            if isinstance(part, str):
                return part
            name = names.get(part[0], part[0]) or ""
            return name, re.sub(r"^=\w+", "", part[1]) if name.startswith("--") else part[1]

        fixes = map(rename, self.fixes)
        return DataError(rename(self.problem), *(fix for fix in fixes if isinstance(fix, str) or fix[0]))


def printable(text: str) -> str:
    """Text, such as the name of a file, with escapes for control characters, invisible characters and bytes that are not UTF-8."""
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in UNPRINTABLE | INVISIBLE else c for c in text)


def first_of(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    return ", ".join(names[:10]) + (f", and {len(names) - 10} more" if len(names) > 10 else "")
