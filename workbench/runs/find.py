"""Which runs there are."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

from ..files import UnreadableError
from ..messages import say_once
from ..parameters import WorkbenchError
from ..places import outputs_dir
from ..readers import words
from .folder import Run


def list_runs() -> list[Run]:
    """All runs in the outputs folder, the oldest first. One whose settings cannot be read is left out, and reported once."""
    runs = []
    for path in outputs_dir().glob("*/config.json"):
        run = Run(path.parent)
        try:
            run.config  # noqa: B018 (is it readable?)
            runs.append((path.stat().st_mtime, run.name, run))
        except UnreadableError as error:
            say_once(str(error))
        except OSError:  # deleted meanwhile
            continue
    return [run for *_, run in sorted(runs, key=lambda entry: entry[:2])]


def find_runs(text: str = "") -> list[Run]:
    """Runs by their names, by patterns of names such as `cats-*`, or by tags, separated by commas.

    Parameters
    ----------
    text
        Empty: all runs that have a history.

    Returns
    -------
    list of Run
        Each once, in the order in which they are named; those of a pattern or a tag the oldest first.

    Raises
    ------
    WorkbenchError
        If nothing goes by a name, pattern or tag.
    """
    known = list_runs()
    wanted = words(text)
    if not wanted:
        return [run for run in known if run.history()]
    runs: dict[Path, Run] = {}
    for word in wanted:
        if any(run.name == word for run in known):
            chosen = [Run(word)]
        elif any(sign in word for sign in "*?["):
            chosen = [run for run in known if fnmatchcase(run.name, word)]
            if not chosen:
                raise WorkbenchError(f"no run in {outputs_dir()} goes by {word!r}; {len(known)} runs are there")
        else:
            chosen = [run for run in known if word in _tags(run)] or [Run(word)]  # which tells what is wrong
        runs |= {run.path: run for run in chosen if run.path not in runs}
    return list(runs.values())


def _tags(run: Run) -> list:
    try:
        return run.provenance.get("tags", [])
    except UnreadableError as error:
        say_once(str(error))
        return []
