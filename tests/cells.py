"""The cells of a notebook, run in this process as papermill runs them in a kernel, which takes 8 seconds of a core to start."""

import ast
import asyncio
import inspect
from pathlib import Path

from papermill.cli import _resolve_type
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def parsed(given: dict[str, str]) -> dict:
    """Parameters as papermill's command line reads them."""
    return {name: _resolve_type(value) for name, value in given.items()}


def run_cells(name: str, given: dict) -> list:
    """The values of the cells of a notebook, with these parameters injected."""
    notebook = parameterize_notebook(load_notebook_node(str(NOTEBOOKS / f"{name}.ipynb")), given)
    namespace, values = {"In": [""]}, []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            namespace["In"].append(cell.source)
            values.append(execute(cell.source, namespace, name))
    return values


def execute(source: str, namespace: dict, name: str) -> object:
    """Run statements that may await; the value of the last one, where it is an expression."""
    tree, last = ast.parse(source), None
    if tree.body and isinstance(tree.body[-1], ast.Expr):
        last = ast.Expression(tree.body.pop().value)
    value = None
    for part, mode in ((tree, "exec"), (last, "eval")):
        if part is not None:
            value = eval(compile(part, name, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
            value = asyncio.run(value) if inspect.iscoroutine(value) else value
    return value
