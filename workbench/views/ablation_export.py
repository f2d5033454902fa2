"""The content of `results.json`, which `ablation.ipynb` writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ..figures import Measured, Table
from ..machine import describe_machine, git_state
from ..messages import WorkbenchError, say_once
from ..records import is_finite
from ..runs import Run


def results(command: str, runs: Sequence[Run], tables: Mapping[str, Table], long_range: Sequence[dict]) -> dict:
    """The content of `results.json`, small enough to be committed: the command, commits, precisions and hours of training (of all runs
    together), versions and machine, and the tables with all their numbers; numbers that are not finite are null.

    Parameters
    ----------
    runs
        All runs that exist.
    long_range
        The rows of `long_range.measure`.
    """
    hours = sum(row["seconds"] for run in runs for row in run.history()[-1:] if is_finite(row.get("seconds"))) / 3600
    precisions = sorted({run.config.mixed_precision for run in runs})
    commits = sorted({_commit(run) for run in runs} - {""})
    here = describe_machine()
    here["machine"] = {name: here["machine"][name] for name in ("processor", "cores", "gpus")}  # without the name of the host
    record = dict(command=command, git=git_state(), **here, runs=dict(n=len(runs), hours=hours, commits=commits, precisions=precisions))
    record["tables"] = {name: dict(rows=[_plain(row) for row in table.rows], notes=table.notes) for name, table in tables.items()}
    record["long_range"] = [_plain(row) for row in long_range]
    return record


def _plain(value):
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, Measured):
        return _plain(asdict(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _commit(run: Run) -> str:
    """The commit that trained a run; "unknown" without git, "" before its first start."""
    try:
        git = run.provenance.get("git")
    except WorkbenchError as error:
        say_once(str(error))
        return "unknown"
    commit = git.get("commit") if isinstance(git, dict) else None
    return commit if isinstance(commit, str) else "unknown" if run.provenance else ""
