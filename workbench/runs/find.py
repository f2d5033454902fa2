"""Lists of runs: all, or by names, patterns and tags."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from ..files import UnreadableError
from ..messages import WorkbenchError, counted, say_once
from ..paths import outputs_dir
from ..readers import words
from .folder import Run


def list_runs() -> list[Run]:
    """All runs in the outputs folder, oldest first; those with unreadable settings are reported once and left out."""
    runs = []
    for path in outputs_dir().glob("*/config.json"):
        run = Run(path.parent)
        try:
            run.config  # noqa: B018 (raises if unreadable)
            runs.append((path.stat().st_mtime, run.name, run))
        except UnreadableError as error:
            say_once(str(error))
        except OSError:  # deleted in the meantime
            continue
    return [run for *_, run in sorted(runs, key=lambda entry: entry[:2])]


def newest_with_checkpoint() -> Run | None:
    """The newest run that has a checkpoint."""
    return next((run for run in reversed(list_runs()) if run.checkpoint_steps()), None)


def find_runs(text: str = "") -> list[Run]:
    """Runs by names, patterns such as `cats-*`, or tags, separated by commas; if `text` is empty, all runs that have a history.

    Returns
    -------
    list of Run
        In the order of `text`, each run once; the runs of a pattern or tag oldest first.

    Raises
    ------
    WorkbenchError
        If a name, pattern or tag matches no run.
    """
    all_runs = list_runs()
    if not words(text):
        return [run for run in all_runs if run.history()]
    runs: dict[Path, Run] = {}
    for word in words(text):
        if any(run.name == word for run in all_runs):
            matches = [Run(word)]
        elif any(character in word for character in "*?["):
            matches = [run for run in all_runs if fnmatchcase(run.name, word)]
            if not matches:
                raise WorkbenchError(f"no run in {outputs_dir()} matches {word!r}; it has {counted(len(all_runs), 'run')}")
        else:
            matches = [run for run in all_runs if word in _tags(run)] or [Run(word)]  # raises, and suggests the nearest name
        runs |= {run.path: run for run in matches if run.path not in runs}
    return list(runs.values())


def _tags(run: Run) -> list:
    try:
        return run.provenance.get("tags", [])
    except UnreadableError as error:
        say_once(str(error))
        return []
