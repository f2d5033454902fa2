"""Runs: the folder that a training writes and everything else reads."""

from .create import create_run, fork_point, lock_run, release, require_startable, reserve
from .find import find_runs, list_runs, newest_with_checkpoint
from .folder import Run
from .provenance import command_line, perhaps_moved, require_same_data, write_provenance
from .resume import MAY_CHANGE_ON_RESUME, parent_folder, require_resumable, resumes
from .status import ACTIVE

__all__ = [
    "ACTIVE", "MAY_CHANGE_ON_RESUME", "Run", "command_line", "create_run", "find_runs", "fork_point", "list_runs", "lock_run", "newest_with_checkpoint",
    "parent_folder", "perhaps_moved", "release", "require_resumable", "require_same_data", "require_startable", "reserve", "resumes", "write_provenance",
]  # fmt: skip
