"""Parameters of a notebook: read from its cells and from papermill's command line; and writing its parameters cell."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from .files import read_json, replace_text
from .messages import WorkbenchError


def notebook_parameters(namespace: Mapping) -> dict:
    """The parameters that a notebook's `parameters` cell, and papermill's after it, assigned.

    Parameters
    ----------
    namespace
        The notebook's `globals()`. Only cells that start with "# Parameters", as papermill's does, count: a misspelt name of `papermill -p`
        is in them, and variables of other cells are not.
    """
    names: list[str] = []
    for source in namespace.get("In", ()):
        if not source.startswith("# Parameters"):
            continue
        try:
            statements = ast.parse(source).body
        except (SyntaxError, ValueError):  # this cell did not run
            continue
        if source.startswith("# Parameters:"):  # the notebook's cell, not papermill's
            names.clear()
        for statement in statements:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            names += [t.id for t in targets if isinstance(t, ast.Name)]
    values = {name: namespace[name] for name in dict.fromkeys(names) if name in namespace and name not in _INJECTED_PATHS}
    if not any(isinstance(value, (int, float)) for value in values.values()):
        return values
    # papermill parses what looks like a number: `-p run 0001` arrives as 1, `-p run 1e5` as 100000.0.
    typed = _typed_in(parent_command("papermill"))
    return {name: typed[name] if name in typed and _parses_to(typed[name], value) else value for name, value in values.items()}


_INJECTED_PATHS = ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")  # of `papermill --inject-paths`


def parent_command(*programs: str) -> list[str]:
    """The command line of the nearest ancestor process that runs one of these programs; [] if there is none.

    The search ends at a kernel: processes above it belong to another notebook, which called papermill's Python API.
    """
    with suppress(psutil.Error):
        for process in psutil.Process().parents():
            with suppress(psutil.Error):
                words = process.cmdline()
                if any("ipykernel" in word for word in words[:8]):
                    return []
                if any(Path(word).name.removesuffix(".exe") in programs for word in words[:8]):
                    return words
    return []


def _typed_in(words: Iterable[str]) -> dict[str, str]:
    """Name -> text of the last `-p NAME VALUE` or `--parameters NAME VALUE` among papermill's arguments."""
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
        if option not in ("-r", "--parameters_raw", "--parameters_raw="):  # papermill does not parse these
            typed[name] = value
    return typed


def _parses_to(text: str, value) -> bool:
    """Whether papermill parses `text` as `value`, a number or a bool."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return isinstance(value, bool) and text == str(value)
    try:
        return repr(type(value)(text)) == repr(value)  # their text, because nan != nan
    except ValueError:
        return False


def write_parameters_cell(path: Path, source: str) -> None:
    """Replace the cell of a notebook that has the tag `parameters`.

    A WorkbenchError if there is no such notebook or cell, or the notebook cannot be read or written.
    """
    try:
        notebook = read_json(path)
    except FileNotFoundError:
        raise WorkbenchError(f"{path} is not there: give the folder of the notebooks") from None
    cell = next((cell for cell in notebook.get("cells", []) if "parameters" in cell["metadata"].get("tags", [])), None)
    if cell is None:
        raise WorkbenchError(f"{path} has no cell with the tag 'parameters'")
    cell["source"] = source.splitlines(keepends=True)
    replace_text(path, json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
