"""`launch(config)`: start a training in a separate process, or several."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Protocol

from ..config import Config
from ..data import open_data
from ..files import storing
from ..forkserver import fork_prepared
from ..processes import launch_command, launch_environment
from ..runs import (
    MAY_CHANGE_ON_RESUME,
    Run,
    command_line,
    create_run,
    fork_point,
    lock_run,
    parent_folder,
    require_same_data,
    require_startable,
    resumes,
)
from ..runs.liveness import BusyError, signature
from .memory import require_feasible
from .stopping import waiting_processes


class Forks(Protocol):
    """Forks a training, in place of a new process, which would import for seconds; as `forkserver.ForkServer`."""

    def fork(self, folder: Path, environment: dict[str, str]) -> int: ...


def launch(config: Config, attached: bool = False) -> Run:
    """Start training in a separate process (or several), and return without waiting for it.

    The process survives this one and does not receive its interrupts. Its output goes to `train.log` in the run folder. If the run is being
    trained already, nothing is started.

    Parameters
    ----------
    config
        All settings; `resume` continues or forks a run.
    attached
        Whether the training saves and stops when this process ends.

    Raises
    ------
    ParameterError, WorkbenchError
        If the run cannot be created or resumed.
    """
    return start(config, attached)[0]


def start(
    config: Config, attached: bool = False, threads: int | None = None, server: Forks | None = None, gpus: str | None = None
) -> tuple[Run, dict | None]:
    """As `launch`; returns the run, and the `liveness.signature` of the process: None if another process trains the run already.

    Parameters
    ----------
    threads
        Of each process of the training.
    server
        Forks the training, if it has one process; by default one that `forkserver.prepare` started, if any.
    gpus
        CUDA_VISIBLE_DEVICES of the training; by default that of this process.
    """
    require_startable(config)
    require_feasible(config)
    if resumes(config):
        run = Run(parent_folder(config))
        if config.data != run.config.data:
            require_same_data(run, config, open_data(config))  # before its settings change
    else:
        if config.resume and config.num_classes is None:
            fork_point(config.replace(num_classes=open_data(config).num_classes))
        run = create_run(config)
    try:
        with lock_run(run):
            config = run.update_config(config)
            run.clean()
            environment = launch_environment(config.num_processes, threads) | {"WORKBENCH_COMMAND": json.dumps(command_line())}
            if gpus is not None:
                environment["CUDA_VISIBLE_DEVICES"] = gpus
            if attached:
                environment["WORKBENCH_WAITING"] = ",".join(map(str, [*waiting_processes(), os.getpid()]))
            process = signature(_process(run, config.num_processes, environment, server))
            # Signed with the new process, to distinguish a slow start from a failed one before the process writes its own status.
            status = dict(state="starting", step=0, steps=config.steps, message="", alarms=[], seconds_per_step=None)
            run.set_status(**status, **process)
            return run, process
    except BusyError as error:
        if run.status().get("machine") != signature()["machine"]:  # nothing here tells whether that one is down
            print(f"{type(error).__name__}: {error}", flush=True)
        changes = config.changes(run.config)
        ignored = [f"{name}={changes[name]!r}" for name in sorted(MAY_CHANGE_ON_RESUME & changes.keys())]
        if ignored:
            print(f"run {run.name!r} is being trained already: {', '.join(ignored)} is not applied; stop and resume it", flush=True)
        return run, None


def _process(run: Run, num_processes: int, environment: dict[str, str], server: Forks | None) -> int:
    """Start the process that trains a run, and return its number."""
    command = [*launch_command("workbench.training", num_processes), "--config", str(run.path / "config.json")]
    with storing(run.path / "train.log"), open(run.path / "train.log", "ab") as log:
        if num_processes == 1:
            pid = server.fork(run.path, environment) if server else fork_prepared(run.path, environment)
            if pid:
                return pid
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True).pid
