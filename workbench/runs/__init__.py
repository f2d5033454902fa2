"""Runs: the folder that a training writes and everything else reads."""

from .folder import (
    ACTIVE,
    BY_TRAINING,
    Run,
    command_line,
    create_run,
    describe_machine,
    find_runs,
    fork_point,
    git_state,
    holding,
    list_runs,
    load_into,
    release,
    reserve,
    write_provenance,
)
from .records import evaluation_record

__all__ = [
    "ACTIVE", "BY_TRAINING", "Run", "command_line", "create_run", "describe_machine", "evaluation_record", "find_runs", "fork_point", "git_state", "holding",
    "list_runs", "load_into", "release", "reserve", "write_provenance",
]  # fmt: skip
