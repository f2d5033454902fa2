"""The notebooks are templates: where they are, copies to work in, and runs of them through papermill.

A headless run reads the template itself, so nothing that a user left in a copy reaches it; JupyterLab opens a copy, so nothing is saved into
the template.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from .files import read_json, replace_text, storing
from .messages import WorkbenchError
from .signals import signals_to

FOLDER = Path(__file__).parent / "notebooks"
NAMES = ("tour", "train", "evaluate", "attention", "compare", "ablation")
# What papermill and kernels print that says nothing about the work: frames of cells, objects that have a picture in
# the notebook, and blank lines.
NOISE = re.compile(
    r"\s*$|Exception encountered at |(Executing|Ending) Cell \d+-+$|<[\w.]+ [^>]*>$|(Input|Output) Notebook: |Executing notebook with kernel: |"
    r"Aborted!$|\[IPKernelApp\] (WARNING \| (Kernel is running over TCP|Parent appears)|ERROR \| Exception in message handler:$)|PosixPath\('"
)
# `papermill`, without a module that jsonschema imports for most of a second to check addresses, which notebooks have none of.
PAPERMILL = "import sys; sys.modules['rfc3987_syntax'] = None; del sys.argv[0]; from papermill.__main__ import papermill; papermill()"
COPIED = ".templates.json"  # in a folder of copies: name -> SHA-256 of the template that was copied


def template(name: str) -> Path:
    """The notebook of this name, as it comes with the package; a WorkbenchError if there is none."""
    path = (FOLDER / f"{name}.ipynb").resolve()
    if not path.is_file():
        raise WorkbenchError(f"there is no notebook {name}.ipynb in {FOLDER}: install the package again")
    return path


def copy_templates(folder: Path) -> list[str]:
    """Copy all notebooks into a folder, and say for each what happened.

    A copy that was changed stays; one that was not is replaced by a newer template.
    """
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    known = read_json(folder / COPIED) if (folder / COPIED).exists() else {}
    lines = []
    for name in NAMES:
        source, copy = template(name), folder / f"{name}.ipynb"
        new = _digest(source)
        old = _digest(copy) if copy.exists() else None
        if old not in (None, new, known.get(name)):
            newer = "; the template is newer: delete the copy to get it" if known.get(name) != new else ""
            lines.append(f"{copy}: kept, it was changed{newer}")
            continue
        if old != new:
            with storing(copy):
                shutil.copyfile(source, copy)
        known[name] = new
        lines.append(f"{copy}: {'copied' if old is None else 'as the template' if old == new else 'replaced by the newer template'}")
    replace_text(folder / COPIED, json.dumps(known, indent=1))
    return lines


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def execute(name: str, parameters: Iterable[tuple[str, str]], out: Path) -> int:
    """Run a notebook through papermill, print what its cells print, and return the exit status; after an interrupt, 128 and its number.

    Interrupts and SIGTERM are passed on: the notebook saves what it has, then papermill ends.

    Parameters
    ----------
    parameters
        Names and values, as typed.
    out
        The executed notebook.
    """
    options = [word for pair in parameters for word in ("-p", *pair)]
    words = [sys.executable, "-c", PAPERMILL, "papermill", "--log-output", "--no-progress-bar", str(template(name)), str(out), *options]
    with storing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    # A process group of its own: an interrupt from the terminal reaches papermill once, by this process.
    environment = os.environ | {
        "WORKBENCH_COMMAND": json.dumps([sys.executable, *sys.orig_argv[1:]]),  # for the run's provenance
        "WORKBENCH_WAITING": str(os.getpid()),  # if this process is killed, runs save and stop
    }
    process = subprocess.Popen(
        words, process_group=0, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    passed_on = []

    def pass_on(number, frame):
        passed_on.append(number)
        process.send_signal(number)

    with signals_to(pass_on, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
        for line in about_the_work(process.stdout or ()):
            print(line, end="", flush=True)
        code = process.wait()
    return 128 + passed_on[0] if code and passed_on else code


def about_the_work(lines: Iterable[str]) -> Iterator[str]:
    """The lines of papermill's output that cells printed, and the error of a cell without papermill's own traceback."""
    inside = False  # a traceback of papermill
    for line in lines:
        inside = line.startswith("Traceback (most") or (inside and not line.startswith("Exception encountered at "))
        if not (inside or NOISE.match(line)):
            yield line
