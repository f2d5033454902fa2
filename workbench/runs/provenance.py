"""Where a run comes from: the command, the commit, the versions, the machine and the data."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..config import Config
from ..files import replace_text
from ..machine import describe_machine, git_state
from ..messages import WorkbenchError
from ..notebook import parent_command
from ..paths import program
from ..presets import BUILT_IN_DATA
from ..readers import words
from .create import fork_point
from .folder import Run
from .resume import parent_folder


def command_line() -> list[str]:
    """The command that the user typed: that of papermill if it runs this notebook, else that of this process."""
    if os.environ.get("WORKBENCH_COMMAND"):  # set by `launch`, and by `templates.execute`
        return json.loads(os.environ["WORKBENCH_COMMAND"])
    return parent_command("papermill", "jupyter-nbconvert") or [sys.executable, *sys.orig_argv[1:]]


def write_provenance(run: Run, config: Config, data, from_step: int) -> None:
    """Record where a run comes from; a resumed run only adds an entry to `started`.

    Parameters
    ----------
    data
        The data set, of which `name`, `fingerprint` and `classes` are recorded.

    Raises
    ------
    WorkbenchError
        If the data has changed since the first start.
    """
    start = dict(
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"), command=command_line(), from_step=from_step, git=git_state(), **describe_machine()
    )
    record = run.provenance
    if not record:
        parent = fork_point(config)
        record = dict(
            command=start["command"], git=start["git"], python=start["python"], versions=start["versions"], machine=start["machine"],
            parent=parent and dict(run=parent[0].name, step=parent[1]),
            note=config.note or "", tags=words(config.tags or ""),
        )  # fmt: skip
    else:
        require_same_data(run, config, data)
    # A run from another code base has learned from data that nobody here has seen: the first start records its own.
    record.setdefault("data", dict(name=data.name, fingerprint=data.fingerprint, classes=list(data.classes)))
    record.setdefault("started", []).append({k: start[k] for k in ("time", "command", "from_step", "git")})
    replace_text(run.path / "provenance.json", json.dumps(record, indent=2))


@contextmanager
def perhaps_moved(config: Config, run: Run | None) -> Iterator[None]:
    """Context that opens `config.data`: if they are not where `run`, or the run that `config` forks, had them, its error says how to give them."""
    try:
        yield
    except WorkbenchError as error:
        origin = run or (Run(parent_folder(config)) if config.resume else None)
        if origin is None or config.data != origin.config.data or config.data in BUILT_IN_DATA or os.path.exists(config.data):
            raise
        words = shlex.join([*program(), "train", "-p", "resume", config.resume or origin.reference, "-p", "data"])
        known = origin.provenance.get("data", {}).get("fingerprint", "")
        same = f" (fingerprint {known[:12]})" if known else ""
        raise WorkbenchError(
            f"{error}; if they were moved or packed, give the same images{same} in their new place: {words} FOLDER"
        ) from None


def require_same_data(run: Run, config: Config, data) -> None:
    """Refuse to resume a run with other images than those it was trained on; they may lie in another place, or be packed by now.

    Parameters
    ----------
    data
        The opened data set `config.data`.

    Raises
    ------
    WorkbenchError
        If its fingerprint is not the one that the run recorded, or `config.data` is another than the run's and the run has recorded none.
    """
    recorded, moved = run.provenance.get("data", {}), config.data != run.config.data
    known = recorded.get("fingerprint", "" if moved else data.fingerprint)
    if known == data.fingerprint:
        return
    if not known:
        raise WorkbenchError(
            f"data={config.data!r} differs from the {run.config.data!r} of run {run.name!r}, which has no record of its images yet: start a new run"
        )
    fix = "give the folder of the same images" if moved else "it has changed; restore it"
    raise WorkbenchError(
        f"the data in {config.data!r} (fingerprint {data.fingerprint[:12]}) is not what run {run.name!r} was trained on ({recorded.get('name')}, "
        f"{known[:12]}): {fix}, or fork the run: resume='{run.name}@<step>'"
    )
