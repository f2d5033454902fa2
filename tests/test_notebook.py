import json
import math
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from workbench import WorkbenchError
from workbench.notebook import notebook_parameters, write_parameters_cell


def test_notebook_parameters_come_from_the_parameters_cells():
    namespace = dict(
        In=["", "# Parameters: ours\na: int = None  # x\nb: int = None", "# Parameters\na = 3\nlrd = 1\n", "other = 5", "# Parameters!"],
        a=3, b=None, lrd=1, other=5,
    )  # fmt: skip
    assert notebook_parameters(namespace) == dict(a=3, b=None, lrd=1)
    # The cell edited and run again: what it no longer assigns is forgotten.
    namespace["In"].append("# Parameters: ours\na: int = 3")
    assert notebook_parameters(namespace) == dict(a=3)


class Process:
    """A stand-in for `psutil.Process`, with these command lines above it."""

    def __init__(self, *lines):
        self.lines = lines

    def parents(self):
        return [Process(line) for line in self.lines]

    def cmdline(self):
        if self.lines[0] is None:
            raise psutil.AccessDenied
        return self.lines[0]


def notebook(cell: str) -> dict:
    """The globals of a notebook that papermill injected these parameters into."""
    values = {"nan": math.nan, "inf": math.inf}
    names: dict = {}
    exec(cell.replace("float('nan')", "nan").replace("float('inf')", "inf"), values, names)
    return dict(In=["", "# Parameters: ours\nrun: str = None", f"# Parameters\n{cell}"], run=None) | names


@pytest.mark.parametrize(
    ("words", "cell", "read"),
    [
        ("-p run 0001", "run = 1", "0001"),
        ("-p run 1e5", "run = 100000.0", "1e5"),
        ("-p run 2026_01_05", "run = 20260105", "2026_01_05"),
        ("-p run True", "run = True", "True"),
        ("-p run nan", "run = float('nan')", "nan"),
        ("-p run -inf", "run = -float('inf')", "-inf"),
        ("-p run 1.50", "run = 1.5", "1.50"),
        ("-p run \uff11\uff12", "run = 12", "\uff11\uff12"),
        ("--parameters run 0001", "run = 1", "0001"),
        ("--parameters=run 0001", "run = 1", "0001"),
        ("-prun 0001", "run = 1", "0001"),
        ("-p run 0002 -p run 0001", "run = 1", "0001"),
        ("-r note -p -p run 0001", "run = 1", "0001"),
        ("-p run 0001 -r run 1", "run = '1'", "1"),
        ("-p run 0001 -k -p", "run = 1", "0001"),
        ("-p run cats", "run = 'cats'", "cats"),
        ("-p run None", "run = None", None),
        ("-y run:_5", "run = 5", 5),
        ("-p run 0002", "run = 1", 1),  # something else was injected
        ("-p run 1", "run = True", True),
        ("-p run", "run = 1", 1),
        ("-p", "run = 1", 1),
        ("-p seed 01", "run = 1", 1),
    ],
)
def test_parameters_are_taken_as_they_were_typed(monkeypatch, words, cell, read):
    line = [sys.executable, "/usr/bin/papermill", "train.ipynb", "out.ipynb", *words.split()]
    monkeypatch.setattr(psutil, "Process", lambda: Process(line))
    assert notebook_parameters(notebook(cell)) == dict(run=read)


@pytest.mark.parametrize(
    ("above", "read"),
    [
        ([["python", "-m", "papermill", "a", "-p", "run", "01"]], "01"),
        ([["python", "-X", "dev", "-m", "papermill", "a", "-p", "run", "01"]], "01"),
        ([["bash", "x"], None, ["python", "papermill.exe", "-p", "run", "01"]], "01"),
        ([["python", "papermill", "a"], ["python", "papermill", "-p", "run", "01"]], 1),
        ([["python", "-m", "ipykernel_launcher", "-f", "x"], ["python", "papermill", "-p", "run", "01"]], 1),  # papermill's Python API
        ([["jupyter-lab", "-p", "run", "01"], ["cat", "papermill.ipynb"]], 1),
        ([], 1),
    ],
)
def test_the_papermill_that_started_the_kernel_counts(monkeypatch, above, read):
    monkeypatch.setattr(psutil, "Process", lambda: Process(*above))
    assert notebook_parameters(notebook("run = 1")) == dict(run=read)


def test_cells_that_did_not_run_and_injected_paths_are_left_out():
    cells = [
        "# Parameters: ours\na: int = None",
        "# Parameters\na = = 3",
        "# Parameters\na = \0",
        "# Parameters\nPAPERMILL_INPUT_PATH = 'x'\nb = c",
    ]
    assert notebook_parameters(dict(In=cells, a="x", PAPERMILL_INPUT_PATH="x")) == dict(a="x")


@pytest.mark.slow
def test_parameters_are_taken_as_they_were_typed_for_a_real_papermill(tmp_path):
    given = {"run": "0001", "note": "1e5", "tags": "2026_01_05", "data": "True", "preset": "nan", "resume": "None", "augment": "cats"}
    sources = [
        "# Parameters: None stands for nothing\n" + "".join(f"{name}: str = None\n" for name in (*given, "dtype", "device")),
        "import json, workbench.notebook as p\nprint(json.dumps(p.notebook_parameters(globals())))",
    ]
    tags = [["parameters"], []]
    cells = [
        dict(cell_type="code", id=f"c{k}", metadata=dict(tags=tags[k]), source=source, outputs=[], execution_count=None)
        for k, source in enumerate(sources)
    ]
    kernel = dict(kernelspec=dict(name="python3", language="python", display_name="Python 3"))
    (tmp_path / "in.ipynb").write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, metadata=kernel, cells=cells)))
    words = [word for item in given.items() for word in ("-p", *item)]
    line = [sys.executable, "-m", "papermill", "in.ipynb", "out.ipynb", "--inject-paths", *words, "-y", "dtype: 0010", "-r", "device", "01"]
    done = subprocess.run(
        line, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads((tmp_path / "out.ipynb").read_text())["cells"][-1]["outputs"][0]["text"]
    assert json.loads("".join(printed)) == given | dict(resume=None, dtype=8, device="01")


def test_a_parameters_cell_is_written_anew_and_nothing_else(tmp_path):
    cells = [
        dict(cell_type="markdown", id="a", metadata={}, source=["é\n", "text"]),
        dict(cell_type="code", id="b", metadata=dict(tags=["parameters"]), source=["old"], outputs=[], execution_count=None),
    ]
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps(dict(cells=cells, nbformat=4)))
    write_parameters_cell(path, "a: int = None\nb: int = None")
    cells[1]["source"] = ["a: int = None\n", "b: int = None"]
    assert json.loads(path.read_text()) == dict(cells=cells, nbformat=4) and path.read_text().startswith('{\n "cells"')
    for content, says in (('{"cells": []}', "has no cell with the tag"), ("{", "cannot be read: "), (None, "is not there")):
        path.write_text(content) if content else path.unlink()
        with pytest.raises(WorkbenchError, match=says):
            write_parameters_cell(path, "")
