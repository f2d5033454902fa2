"""Runs: the folder that a training writes and everything else reads."""

from .create import create_run, fork_point, holding, release, require_startable, reserve
from .find import find_runs, list_runs
from .folder import Run, load_into
from .provenance import command_line, describe_machine, git_state, write_provenance
from .records import BY_TRAINING, evaluation_record
from .resume import MAY_CHANGE_ON_RESUME, require_resumable, resumes
from .status import ACTIVE

__all__ = [
    "ACTIVE", "BY_TRAINING", "MAY_CHANGE_ON_RESUME", "Run", "command_line", "create_run", "describe_machine", "evaluation_record",
    "find_runs", "fork_point", "git_state", "holding", "list_runs", "load_into", "release", "require_resumable", "require_startable",
    "reserve", "resumes", "write_provenance",
]  # fmt: skip
