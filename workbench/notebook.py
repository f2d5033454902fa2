"""Parameters of a notebook: read from its cells and from papermill's command line, and its generated parameters cell."""

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
        if source.startswith("# Parameters:"):  # the cell of the notebook itself, rather than papermill's
            names.clear()
        for statement in statements:
            targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
            names += [t.id for t in targets if isinstance(t, ast.Name)]
    values = {name: namespace[name] for name in dict.fromkeys(names) if name in namespace and name not in _INJECTED_PATHS}
    if not any(isinstance(value, (int, float)) for value in values.values()):
        return values
    # papermill parses what looks like a number: `-p run 0001` arrives as 1, `-p run 1e5` as 100000.0.
    typed = _typed_in(parent_command("papermill"))
    return {name: typed[name] if name in typed and _stands_for(typed[name], value) else value for name, value in values.items()}


_INJECTED_PATHS = ("PAPERMILL_INPUT_PATH", "PAPERMILL_OUTPUT_PATH")  # of `papermill --inject-paths`


def parent_command(*programs: str) -> list[str]:
    """The command line of the nearest ancestor process that runs one of these programs; [] if there is none.

    The search ends at a kernel: then papermill was called by its Python API, and what lies above belongs to another notebook.
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
    """The text of `-p NAME VALUE` and `--parameters NAME VALUE` among papermill's arguments, by name; the last one counts."""
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


def write_parameters_cell(path: Path, source: str) -> None:
    """Replace the cell of a notebook that is tagged `parameters`; everything else stays as it is.

    Raises
    ------
    WorkbenchError
        If there is no such notebook or cell, or it cannot be read or written.
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
