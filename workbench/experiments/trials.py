"""Doing many trainings, each an ordinary run of `train.ipynb` in a folder that is named by its settings.

So they can be stopped and gone on with, be shared by several machines with one outputs folder, and be looked at meanwhile; and whoever
asks for the same settings again finds them done.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..config import Config, outputs_dir
from ..parameters import WorkbenchError
from ..processes import launch_environment
from ..progress import progress
from ..runs import ACTIVE, Run

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "train.ipynb"
POLL = 0.5  # seconds


@dataclass(frozen=True)
class Trial:
    """One training of an experiment: an arm with a seed."""

    label: str
    config: Config

    @classmethod
    def of(cls, base: Config, label: str, changes: dict, seed: int) -> Trial:
        """The training of an arm, named by what its experiments have in common (as a hash) and by what differs in it."""
        config = Config.from_parameters({**_settings(base), **changes, "seed": seed})
        common = fingerprint(base)
        differs = [f"{name}={value}" for name, value in config.changes(base.replace(seed=seed)).items()] or ["base"]
        name = "-".join([base.preset, common, *differs, f"seed={seed}"]).replace("/", "_").replace(",", "_")
        return cls(label, config.replace(run=name, tags=f"ablation,{common}"))

    @property
    def run(self) -> Run | None:
        """Its run, once it was begun."""
        return Run(self.config.run) if (outputs_dir() / self.config.run / "config.json").exists() else None

    @property
    def state(self) -> str:
        """As of `Run.status`; "waiting" before it was begun, "diverged" where that ended it."""
        run = self.run
        if run is None:
            return "waiting"
        status = run.status()
        return "diverged" if status["state"] == "failed" and status["message"].startswith("training diverged") else status["state"]

    @property
    def at_rest(self) -> bool:
        """Whether there is nothing left to do. That it diverged is a result."""
        return self.state in ("finished", "diverged")


def fingerprint(base: Config) -> str:
    """What runs of these common settings are found by: part of their names, and a tag of theirs."""
    return hashlib.sha256(json.dumps(_settings(base.replace(seed=0)), sort_keys=True).encode()).hexdigest()[:6]


def _settings(config: Config) -> dict:
    return {name: value for name, value in asdict(config).items() if name not in ("run", "resume", "note", "tags")}


def carry_out(trials: Sequence[Trial], jobs: int = 1) -> None:
    """Do the trainings that are missing, `jobs` at a time; those that were stopped go on.

    An interrupt lets those that are under way save, and ends. Those that another machine works on are waited for.

    Raises
    ------
    WorkbenchError
        If a training could not be done for another reason than that it diverged.
    """
    todo = {trial.config.run: trial for trial in trials}
    under_way: dict[str, tuple[subprocess.Popen, Path]] = {}
    with progress(len(todo), "trainings") as advance:
        try:
            while todo:
                for name, trial in list(todo.items()):
                    if name in under_way:
                        process, log = under_way[name]
                        if process.poll() is None:
                            continue
                        del under_way[name]
                        over = _require_done(trial, process, log)
                    else:
                        over = trial.at_rest
                    if over:
                        del todo[name]
                        advance(1)
                    elif len(under_way) < jobs and trial.state not in ACTIVE:
                        under_way[name] = _start(trial, jobs)
                time.sleep(POLL if todo else 0)
        finally:
            for process, _ in under_way.values():
                process.send_signal(signal.SIGINT)
            for name, (process, log) in under_way.items():
                process.wait()
                log.unlink(missing_ok=True)
                while todo[name].state in ACTIVE:  # papermill does not wait until its training has saved
                    time.sleep(POLL)


def _start(trial: Trial, jobs: int) -> tuple[subprocess.Popen, Path]:
    config, folder = trial.config, outputs_dir() / trial.config.run
    folder.mkdir(parents=True, exist_ok=True)
    if trial.run:
        values = dict(resume=config.run)
    else:
        preset = asdict(Config.preset(config.preset))
        values = {name: value for name, value in asdict(config).items() if value != preset[name]} | dict(preset=config.preset)
    words = [word for name, value in values.items() for word in ("-p", name, str(value))]
    environment = launch_environment(1) | {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))}
    log = folder / "papermill.log"
    command = [sys.executable, "-m", "papermill", str(NOTEBOOK), str(folder / "train.ipynb"), "--no-progress-bar", *words]
    with open(log, "w") as file:
        # In a session of its own: an interrupt of this process is handed on once, by `carry_out`.
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment, start_new_session=True), log


def _require_done(trial: Trial, process: subprocess.Popen, log: Path) -> bool:
    """Whether a training whose process has ended is over: at rest, or stopped by somebody. Else another machine was first."""
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    state = trial.state
    if process.returncode and not trial.at_rest and state not in (*ACTIVE, "created"):
        raise WorkbenchError(f"the training {trial.config.run!r} could not be done: {said[-1] if said else process.returncode}")
    return state not in (*ACTIVE, "created")
