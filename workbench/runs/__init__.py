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

__all__ = [
    "ACTIVE", "BY_TRAINING", "Run", "command_line", "create_run", "describe_machine", "find_runs", "fork_point", "git_state", "holding",
    "list_runs", "load_into", "release", "reserve", "write_provenance",
]  # fmt: skip
