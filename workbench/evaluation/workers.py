"""Evaluation by several processes: start them with the parameters, and collect the records or the cause of a failure."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from ..gpus import gpus, on_cpu
from ..messages import ParameterError, WorkbenchError
from ..metrics.stream import is_main
from ..processes import LostProcessError, launch_command, launch_environment, process_group, rank
from .parameters import Evaluation

MODULE = "workbench.evaluation"


def evaluate_in_processes(evaluation: Evaluation) -> list[dict]:
    """The records, computed by `num_processes` processes that run `work`. The progress is printed on stderr.

    Raises
    ------
    ParameterError
        If there are not that many GPUs or cores.
    WorkbenchError
        If a process fails; the message is the first cause.
    """
    count, device = evaluation.num_processes, evaluation.device
    most = 4 * (os.cpu_count() or 1) if on_cpu(device) else len(gpus())
    if count > most:
        raise ParameterError(f"num_processes={count:,} is too many for this machine; at most {most}")
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "evaluation.json").write_text(json.dumps(asdict(evaluation)))
        with open(folder / "log", "w+b") as log:  # a pipe would have to be read at the same time as stdout
            process = subprocess.Popen(
                [*launch_command(MODULE, count), "--worker", name],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, errors="replace",
                env=launch_environment(count), start_new_session=True,
            )  # fmt: skip
            try:
                for line in process.stdout:
                    print(line, end="", file=sys.stderr, flush=True)
                status = process.wait()
            except BaseException:
                _end(process)
                raise
        if status:
            raise WorkbenchError(_first_cause(folder, count))
        return json.loads((folder / "records.json").read_text())


def work(folder: Path, evaluate: Callable[[Evaluation], list[dict]]) -> None:
    """Run by each process (`--worker FOLDER`): the main one writes the records, and any process the error that ends it."""
    try:
        evaluation = Evaluation(**json.loads((folder / "evaluation.json").read_text()))
        with process_group(evaluation.num_processes, evaluation.device, MODULE):
            # Progress goes to stdout, because launchers and libraries write messages to stderr.
            with redirect_stderr(sys.stdout) if is_main() else nullcontext():
                records = evaluate(evaluation)
            main = is_main()
        if main:
            (folder / "records.json").write_text(json.dumps(records))
    except BaseException as error:
        message = str(error) if isinstance(error, WorkbenchError) else f"{type(error).__name__}: {error}"
        lost = isinstance(error, LostProcessError)  # the consequence of another process's failure
        failure = dict(message=" ".join(message.split()), expected=isinstance(error, WorkbenchError), cause=not lost)
        (folder / f"failure-{rank()}-{os.getpid()}.json").write_text(json.dumps(failure))
        raise


def _end(process: subprocess.Popen) -> None:
    """End a launcher and its processes, which do not belong to its session."""
    children = []
    with suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)
    for child in children:
        with suppress(psutil.Error):
            child.kill()
    process.kill()
    process.wait()


def _first_cause(folder: Path, num_processes: int) -> str:
    """Why the processes failed, in one line."""
    failures = [json.loads(path.read_text()) for path in sorted(folder.glob("failure-*.json"))]
    causes = [failure for failure in failures if failure["cause"]]
    if causes:
        return min(causes, key=lambda failure: not failure["expected"])["message"]
    log = (folder / "log").read_text(errors="replace")
    # The log of torch's launcher names the process that ended first; the launcher ends the others.
    for status, number in re.findall(r"exitcode: -(\d+)\)? local_rank: (\d+)", log):
        with suppress(ValueError):
            name = signal.Signals(int(status)).name
            cause = "; unless you did that, there was no memory left" if name == "SIGKILL" else ""
            return f"process {number} of {num_processes} (counted from 0) was ended by {name}{cause}"
    return f"{num_processes} processes ended without results and without an error message"
