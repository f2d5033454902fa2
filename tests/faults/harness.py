"""Breaking a piece of work on purpose: the shim, processes to break, and what is compared afterwards.

A process that has imported everything and computed nothing forks one process for each trial, and that one another for each piece of work:
a trial then costs what the work costs. `fork` gives what became of the work, `run_trials` runs two trials at a time.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
COUNT, KILL, KILL_HALF, FAIL, FAIL_ONCE, SHORT = range(1, 7)  # as in shim.c
TRACE = "Traceback (most recent call last)"

# What a disk that refuses still lets one do: files can be deleted on a full one.
FULL = "ud"


# ------------------------------------------------------------------------------------------------------- the shim


def with_shim() -> None:
    """Start this program again with the shim before the C library, compiled now; without a compiler, end in one line."""
    if os.environ.get("FAULTS_SHIM"):
        return
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not compiler or not sys.platform.startswith("linux"):
        sys.exit("the faults are planted by a small C library on Linux: a C compiler, cc, is needed and was not found")
    library = Path(tempfile.mkdtemp(prefix="faults-shim-")) / "shim.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "shim.c"), "-ldl"], check=True)
    # One thread: forked processes have no others, and sums come in one order.
    settings = dict(FAULTS_SHIM=str(library), LD_PRELOAD=str(library), OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    paths = os.pathsep.join(filter(None, [str(HERE.parents[1]), os.environ.get("PYTHONPATH")]))
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | settings | dict(PYTHONPATH=paths))


def shim() -> ctypes.CDLL:
    library = ctypes.CDLL(os.environ["FAULTS_SHIM"])
    library.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_char_p]
    library.fault_clock.argtypes = [ctypes.c_double]
    library.fault_kinds.restype = ctypes.c_char_p
    library.fault_count.restype = ctypes.c_long
    return library


@dataclass(frozen=True)
class Fault:
    """What happens at the `at`-th operation below a folder: `mode`, for failures with this `error`, but never for these `spared` kinds."""

    mode: int
    at: int = 0
    error: int = 0
    spared: str = ""

    def arm(self, folder: Path) -> None:
        shim().fault_arm(f"{folder}/".encode(), self.mode, self.at, self.error, self.spared.encode())

    def __str__(self) -> str:
        words = {COUNT: "count", KILL: "kill", KILL_HALF: "half", FAIL: "from", FAIL_ONCE: "once", SHORT: "short"}
        return ":".join([words[self.mode], *([errno.errorcode[self.error]] if self.error else []), str(self.at)])


# ---------------------------------------------------------------------------------------------------- one process


@dataclass
class Outcome:
    """What became of work in a process of its own.

    `how` is done (with `value`), told (an error of one line that a user can read: `text`), trace (any other error), killed or hung.
    """

    how: str
    value: object = None
    text: str = ""
    operations: str = ""  # one letter for each operation that the shim counted


def start(work: Callable, *arguments, fault: Fault | None = None, folder: Path | None = None) -> tuple[int, Path]:
    """Fork a process in a session of its own that does `work`; its pid, and the file for `outcome`."""
    handle, name = tempfile.mkstemp(prefix="outcome-", dir=os.environ["FAULTS_SCRATCH"])
    os.close(handle)
    result = Path(name)
    pid = os.fork()
    if pid:
        return pid, result
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a trial that is given up takes its work along
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # as a shell leaves them, not as the campaign has them
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        log = os.open(f"{result}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1), os.dup2(log, 2)
        outcome = _do(work, arguments, fault, folder)
        with open(f"{result}.part", "wb") as file:
            pickle.dump(outcome, file)
        os.replace(f"{result}.part", result)
    finally:
        os._exit(0)


def _do(work: Callable, arguments: tuple, fault: Fault | None, folder: Path | None) -> Outcome:
    from workbench.messages import WorkbenchError

    try:
        if fault:
            fault.arm(folder)
        outcome = Outcome("done", work(*arguments))
    except WorkbenchError as error:
        line = str(error)
        outcome = Outcome("trace" if "\n" in line.strip() or not line.strip() else "told", text=line)
    except KeyboardInterrupt:
        outcome = Outcome("told", text="interrupted")
    except BaseException:
        outcome = Outcome("trace", text=traceback.format_exc())
    if fault:
        shim().fault_disarm()
        outcome.operations = shim().fault_kinds().decode()[: shim().fault_count()]
    sys.stdout.flush(), sys.stderr.flush()
    return outcome


def wait(pid: int, result: Path, timeout: float = 90) -> Outcome:
    """Wait for a process of `start`; one that takes longer is killed, with all that it started, and hung."""
    until = time.monotonic() + timeout
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return Outcome("hung", text=f"not done after {timeout:g} s")
        time.sleep(0.003)
    log = Path(f"{result}.log")
    printed = log.read_text(errors="replace") if log.exists() else ""
    outcome = pickle.loads(result.read_bytes()) if result.stat().st_size else Outcome("killed", text=printed[-500:])
    if TRACE in printed and outcome.how in ("done", "told"):
        outcome = Outcome("trace", outcome.value, printed[printed.index(TRACE) :])
    outcome.text = outcome.text or printed
    for path in (result, log):
        path.unlink(missing_ok=True)
    return outcome


def fork(work: Callable, *arguments, fault: Fault | None = None, folder: Path | None = None, timeout: float = 90) -> Outcome:
    """Do `work` in a process of its own, and wait for it."""
    return wait(*start(work, *arguments, fault=fault, folder=folder), timeout)


# --------------------------------------------------------------------------------------------------------- trials


@dataclass
class Verdict:
    """Of one fault: what was lost ("" if nothing), and whether it was told in one line (None: there was nothing to tell)."""

    lost: str = ""
    told: bool | None = None
    text: str = ""  # what was said in its place


@dataclass(frozen=True)
class Trial:
    """A fault to try: its kind (a row of the table), a name to call it by again, and the work."""

    kind: str
    name: str
    work: Callable[[], Verdict]
    timeout: float = 240


def run_trials(trials: Iterable[Trial], jobs: int = 2) -> Iterator[tuple[Trial, Verdict]]:
    """Run trials in processes of their own, `jobs` at a time, each with a scratch folder of its own."""
    trials, running = iter(trials), {}
    exhausted = False
    while running or not exhausted:
        while not exhausted and len(running) < jobs:
            trial = next(trials, None)
            if trial is None:
                exhausted = True
                break
            pid, result = start(_in_scratch, trial.work)
            running[pid] = trial, result, time.monotonic() + trial.timeout
        for pid, (trial, result, until) in list(running.items()):
            done = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if done or time.monotonic() > until:
                del running[pid]
                outcome = wait(pid, result, 0)
                if outcome.how == "done":
                    yield trial, outcome.value
                else:
                    yield trial, Verdict(lost=f"the trial itself {outcome.how}: {outcome.text[-1500:]}")
        time.sleep(0.005)


def _in_scratch(work: Callable[[], Verdict]) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="trial-", dir=os.environ["FAULTS_SCRATCH"], ignore_cleanup_errors=True) as folder:
        use_folders(Path(folder))
        return work()


def use_folders(root: Path) -> None:
    """Have this process, and those it starts, keep everything below `root`."""
    os.environ["WORKBENCH_OUTPUTS"], os.environ["WORKBENCH_DATA"] = str(root / "outputs"), str(root / "data")
    os.environ["FAULTS_ROOT"] = str(root)
    os.chdir(root)


def root() -> Path:
    """The folder of this trial."""
    return Path(os.environ["FAULTS_ROOT"])


# ----------------------------------------------------------------------------------------------------- comparing


def files(folder: Path) -> list[str]:
    """Everything below a folder by name, but for what a kill may leave until the next start: lock files that nobody holds, and folders
    that were made and are empty, which might yet be another process's."""

    def harmless(path: Path) -> bool:
        if path.is_dir():
            return ".part-" in path.name and not any(path.iterdir())
        return (path.suffix or path.name) == ".lock" and not path.stat().st_size

    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not harmless(path))


def digests(folder: Path, pattern: str = "*.safetensors") -> dict[str, str]:
    """SHA-256 of files below a folder."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob(pattern))}


def rows(path: Path, *without: str) -> list[dict]:
    """The records of a JSON-lines file, read strictly, without some of their values."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [{name: value for name, value in json.loads(line).items() if name not in without} for line in lines]


def difference(a: dict, b: dict) -> str:
    """The first thing in which two states differ, in a few words; "" if they are equal."""
    for name in a.keys() | b.keys():
        x, y = a.get(name), b.get(name)
        if x == y:
            continue
        if isinstance(x, list) and isinstance(y, list) and all(isinstance(value, str) for value in x + y):
            return f"{name}: {', '.join(sorted(set(y) - set(x))[:4]) or 'nothing'} too much, {', '.join(sorted(set(x) - set(y))[:4]) or 'nothing'} missing"
        if isinstance(x, list) and isinstance(y, list) and [r.get("step") for r in x] == [r.get("step") for r in y]:
            other = next((a, b) for a, b in zip(x, y, strict=True) if a != b)
            return f"{name}: of step {other[0].get('step')}: {difference(*other)}"
        if isinstance(x, list) and isinstance(y, list):
            return f"{name}: {len(y)} records instead of {len(x)}, steps {[r.get('step') for r in y][:12]}"
        if isinstance(x, dict) and isinstance(y, dict):
            return f"{name}: {', '.join(sorted(k for k in x.keys() | y.keys() if x.get(k) != y.get(k))[:3])} differ"
        return f"{name}: {y!r:.90} instead of {x!r:.90}"
    return ""
