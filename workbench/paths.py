"""The folders of runs and data, and the names of folders."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import sys
import unicodedata
from pathlib import Path

from .messages import ParameterError, counted, nearest, short_repr
from .parameters import whole

DEMO = Path(__file__).resolve().parent / "demo"  # a run that ships with the package
MAX_NAME = 200  # bytes of a run's name: with the suffixes of temporary files it stays below the 255 of most file systems
SHORT_NAME = 150  # bytes of a name that is made of settings, before numbers and endings are added


def outputs_dir() -> Path:
    """The folder that holds the runs: `WORKBENCH_OUTPUTS`, or `outputs/` beside the package."""
    return _base_folder("WORKBENCH_OUTPUTS", "outputs")


def data_dir() -> Path:
    """The folder that holds datasets: `WORKBENCH_DATA`, or `data/` beside the package."""
    return _base_folder("WORKBENCH_DATA", "data")


def _base_folder(variable: str, name: str) -> Path:
    # Not the working directory: papermill and Jupyter run notebooks from anywhere. Only an installed (not editable) package uses it,
    # because no checkout surrounds it.
    checkout = Path(__file__).resolve().parent.parent
    default = checkout / name if (checkout / "pyproject.toml").exists() else Path.cwd() / name
    text = os.environ.get(variable) or str(default)
    path = Path(os.path.realpath(os.path.expanduser(text)))
    try:
        reason = "" if stat.S_ISDIR(os.stat(path).st_mode) else "not a folder"
    except FileNotFoundError:  # made by the first write
        reason = "there is no such user" if os.path.expanduser(text).startswith("~") else ""
    except OSError as error:  # a loop of links, a name too long, no permission
        reason = error.strerror or str(error)
    if reason:
        raise ParameterError(f"{variable}={short_repr(text)} in the environment cannot be used ({reason}): set it to a folder, or unset it")
    return path


def program() -> list[str]:
    """The words that call the command `workbench` of this environment from any shell: its name, if the PATH finds it."""
    found = shutil.which("workbench")
    ours = found and os.path.realpath(os.path.dirname(found)) == os.path.realpath(os.path.dirname(sys.executable))
    return ["workbench"] if ours else [sys.executable, "-m", "workbench"]


def import_path() -> str:
    """`PYTHONPATH` with which a new process finds this package from any working directory."""
    return os.pathsep.join(filter(None, [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH")]))


def find_run_folder(text: str | os.PathLike) -> Path | None:
    """The folder of a run; None if there is none. It never raises.

    Parameters
    ----------
    text
        A bare name is looked up in the outputs folder; "demo", if not there, is the run that ships with the package. Only explicit paths
        are relative to the working directory: text with a separator, or that begins with "~" or ".", and path objects.
    """
    try:
        path = explicit_path(text)
        if not path and not os.fspath(text).strip():
            return None
        folders = [path] if path else [outputs_dir() / text, *([DEMO] if text == DEMO.name else [])]
        return next((Path(os.path.realpath(folder)) for folder in folders if os.path.exists(folder / "config.json")), None)
    except (OSError, ValueError, TypeError, RuntimeError):  # NUL, no UTF-8, too long, no such user, no permission
        return None


def run_folder(parameter: str, text: str) -> Path:
    """The folder of the run that a parameter names; a ParameterError, which suggests the nearest, if there is none."""
    folder = find_run_folder(text)
    if folder is None:
        raise ParameterError(f"{parameter}={short_repr(text)}: {no_such_run(text)}")
    return folder


def no_such_run(text: str) -> str:
    """The message that a run does not exist, with the nearest name."""
    known = sorted(path.parent.name for path in outputs_dir().glob("*/config.json"))
    return f"there is no run {short_repr(text)} in {outputs_dir()}; {nearest(text, known)}it has {counted(len(known), 'run')}"


def numbered(folder: Path, suffix: str = "") -> list[int]:
    """The numbers that are names of files or folders in `folder`, ascending; [] if it does not exist. "007" does not count."""
    try:
        names = [name.removesuffix(suffix) for name in os.listdir(folder) if name.endswith(suffix)]
    except OSError:
        return []
    return sorted(number for name in names if (number := whole(name)) is not None and name == str(number))


def checkpoint_steps(run: Path) -> list[int]:
    """The steps at which a run has checkpoints, ascending."""
    return numbered(run / "checkpoints")


def explicit_path(text: str | os.PathLike) -> Path | None:
    """`text` as a path, relative to the working directory; None for a bare name."""
    explicit = not isinstance(text, str) or text.startswith(("~", ".")) or any(sign in text for sign in (os.sep, os.altsep) if sign)
    return Path(os.path.expanduser(text)) if explicit else None


def short_name(name: str, limit: int = SHORT_NAME) -> str:
    """A name of at most `limit` bytes: a longer one is cut and gets its hash at the end, so that different names stay different."""
    if len(name.encode(errors="replace")) <= limit:
        return name
    return f"{_cut(name, limit - 9).rstrip('-. ')}-{_hash(name)}"


def folder_name(text: str) -> str:
    """Text as the name of a folder. If it is not the text itself, it has the text's hash at the end: different texts stay different."""
    name = _cut(re.sub(r"[^\w.=+-]+", "_", text), SHORT_NAME).strip("_-.")
    return name if name == text else f"{name}-{_hash(text)}".lstrip("-")


def _cut(text: str, limit: int) -> str:
    return text.encode(errors="replace")[:limit].decode(errors="ignore")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


def name_fault(name: str) -> str:
    """Why `name` cannot name a run's folder; empty if it can."""
    size = len(name.encode(errors="surrogatepass"))
    if size > MAX_NAME:
        return f"it has {size} bytes; at most {MAX_NAME}"
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name):
        return "it contains control characters"
    for sign in "/\\@,":
        if sign in name:
            return f"use one without {sign!r}"
    if name[0] in ".-~ " or name[-1] in ". ":
        return "use one that does not begin with '.', '-', '~' or a blank, or end with '.' or a blank"
    return ""
