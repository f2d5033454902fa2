"""The run folder: its name, configuration, provenance, history, status and checkpoints, and the models in it.

Whoever trains writes it and whoever looks reads it; there is no other connection between the two. Everything that is replaced is
replaced at once (written beside, then renamed), so a reader never sees half a file; and whoever reads trusts nothing that is there: a
damaged line is left out, a damaged file is an `UnreadableError` that names it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch
from torch import Tensor

from ..attention.snapshots import Snapshot, load_snapshot
from ..config import (
    Config,
    checkpoint_steps,
    may_change,
    parent_folder,
    require_forkable,
    require_resumable,
    split_resume,
    start_step,
    stored_config,
)
from ..files import (
    StorageError,
    UnreadableError,
    append_record,
    claim_text,
    delete_folder,
    drop_records,
    flush,
    new_folder,
    read_json,
    read_records,
    remove_leftovers,
    replace_bytes,
    replace_text,
    storing,
    synced,
)
from ..model import Discriminator, Generator
from ..parameters import ParameterError, WorkbenchError, nearest, say_once, whole
from ..places import DEMO, find_run_folder, outputs_dir
from ..tensors import first_not_finite, load_tensors, save_tensors, seal, sums, verify
from .liveness import BusyError, Hold, alive, hold, moves, signature

ACTIVE = ("starting", "running", "stopping")
BY_TRAINING = "during_training"  # of evaluations that a training made, and makes again
RESERVED = ".reserved"  # in a folder that `reserve` made, until a run is begun there
STATES = ("created", *ACTIVE, "stopped", "finished", "failed")


class Run:
    """A run folder.

    Parameters
    ----------
    path
        The name of a run in the outputs folder, or an explicit path (see `config.find_run_folder`); "demo" is a small run that ships
        with the package, and is never written to: what belongs to it goes to `outputs/demo`.

    Raises
    ------
    WorkbenchError
        If there is no run there; the message names the nearest.
    """

    def __init__(self, path: str | os.PathLike):
        folder = find_run_folder(path)
        if folder is None:
            known = [run.name for run in list_runs()]
            raise WorkbenchError(
                f"there is no run {str(path)!r} in {outputs_dir()}; {nearest(str(path), known)}{len(known)} runs are there"
            )
        self.path = folder.resolve()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def reference(self) -> str:
        """What `Run` opens this run by: its name, or its path where it lies elsewhere."""
        return self.name if self.path in (outputs_dir() / self.name, DEMO) else str(self.path)

    @property
    def home(self) -> Path:
        """The folder for what is written about this run: its own, or in the outputs folder where it ships with the package."""
        return outputs_dir() / self.name if self.path == DEMO else self.path

    @property
    def views(self) -> Path:
        """The folder for what is exported from this run."""
        return self.home / "views"

    def __repr__(self) -> str:
        return f"Run({self.name!r})"

    @property
    def config(self) -> Config:
        """All settings.

        Raises
        ------
        UnreadableError
            If `config.json` is damaged, or of another version.
        """
        return stored_config(self.path)

    def update_config(self, config: Config) -> Config:
        """Take over from `config` what may change when a run goes on, and what its first start decides; what defines the run stays.

        Returns
        -------
        Config
            The settings of this run from now on, which `config.json` has.

        Raises
        ------
        ParameterError
            If `config` differs in anything else.
        """
        require_resumable(config, self.path)
        own = self.config
        config = own.replace(**{name: getattr(config, name) for name in may_change(own)}, run=self.name)
        replace_text(self.path / "config.json", config.to_json())
        return config

    @property
    def provenance(self) -> dict:
        """Where the run comes from, see `write_provenance`; {} before its first start.

        Raises
        ------
        UnreadableError
            If `provenance.json` is damaged.
        """
        path = self.path / "provenance.json"
        try:
            record = read_json(path)
        except FileNotFoundError:
            return {}
        kinds = dict(data=dict, tags=list, started=list, note=str)
        wrong = [name for name, kind in kinds.items() if not isinstance(record.get(name, kind()), kind)]
        if wrong:
            raise UnreadableError(path, f"{wrong[0]!r} is a {type(record[wrong[0]]).__name__}")
        return record

    # ------------------------------------------------------------------------------------------------ records

    def history(self) -> list[dict]:
        """The logged steps in order, with means over the steps since the last one.

        step, images, seconds, loss_d, loss_g, d_real, d_fake, gamma_..., lr_g, lr_d; norms of the gradients, grad_norm_d and grad_norm_g,
        and the largest, grad_norm_d_max and grad_norm_g_max; the shares of images that D's hinge loss is flat at, saturated_real and
        saturated_fake. Older runs do not have all of them.
        """
        return read_records(self.path / "history.jsonl", _is_history)

    def spectra(self) -> list[dict]:
        """The layers' singular values in order, at the steps of the sample grids: step and layers, see `diagnostics.spectra`."""
        return read_records(self.path / "spectra.jsonl", _is_spectra)

    def evaluations(self) -> list[dict]:
        """The evaluations in order: step, scores, protocol and what else belongs to it."""
        places = dict.fromkeys((self.path, self.home))
        return [record for place in places for record in read_records(place / "evaluations.jsonl", _is_evaluation)]

    def append(self, file: str, record: dict) -> None:
        """Append a record to `history.jsonl`, `spectra.jsonl` or `evaluations.jsonl`.

        Raises
        ------
        StorageError
            If it cannot be written; the file then ends where it ended before.
        """
        with storing(self.home):
            self.home.mkdir(parents=True, exist_ok=True)
        append_record(self.home / file, record)

    def begin_records(self, origin: Run | None, step: int) -> None:
        """Drop the records of the steps after `step`, which a training that starts there writes again; evaluations by hand stay.

        Parameters
        ----------
        origin
            The run whose checkpoint it starts from: this one, or a fork's parent; None: it starts from nothing.

        Raises
        ------
        UnreadableError, StorageError
            If records cannot be read or written: nothing is dropped then.
        """
        for file, rows in (("history.jsonl", Run.history), ("spectra.jsonl", Run.spectra), ("evaluations.jsonl", None)):
            path = self.path / file
            if origin is not None and origin.path == self.path:
                drop_records(path, lambda record, own=rows is not None: record["step"] > step and (own or bool(record.get(BY_TRAINING))))
            else:  # evaluations are of a run itself, not of a fork's parent
                kept = [] if origin is None or rows is None else [row for row in rows(origin) if row["step"] <= step]
                if kept or path.exists():
                    replace_text(path, "".join(json.dumps(row) + "\n" for row in kept))  # at once: whoever is killed here begins here again

    def save_sample(self, step: int, png: bytes) -> None:
        """Write the sample grid of a step."""
        with storing(self.path / "samples"):
            (self.path / "samples").mkdir(exist_ok=True)
        replace_bytes(self.sample_path(step), png)

    def sample_steps(self) -> list[int]:
        return _numbers(self.path / "samples", ".png")

    def sample_path(self, step: int) -> Path:
        return self.path / "samples" / f"{step}.png"

    def attention_steps(self) -> list[int]:
        """Steps at which the training wrote down its attention."""
        return _numbers(self.path / "attention", ".safetensors")

    def attention_path(self, step: int) -> Path:
        return self.path / "attention" / f"{step}.safetensors"

    def attention(self, step: int | None = None) -> Snapshot:
        """The attention that the training wrote down at `step`, by default the last time.

        Raises
        ------
        WorkbenchError
            If there is none; the message lists those there are.
        """
        steps = self.attention_steps()
        if not steps:
            raise WorkbenchError(f"run {self.name!r} has written down no attention yet")
        if step is not None and step not in steps:
            raise WorkbenchError(f"run {self.name!r} has no attention of step {step}; there is that of: {', '.join(map(str, steps))}")
        return load_snapshot(self.attention_path(steps[-1] if step is None else step))

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that the training process printed, when it was started by `launch`."""
        try:
            with open(self.path / "train.log", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 65_536))
                return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def _last_error(self) -> str:
        """What the log says that the training died of: the last error of ours, else of anybody, else the last line."""
        lines = [line.strip() for line in self.log_tail(400).splitlines() if any(map(str.isalnum, line))]
        for pattern in (
            r"(Workbench|Parameter|Data|Storage|Unreadable|Busy)Error: .",
            r"[\w.]*(Error|Exception)\b(?<!CalledProcessError)(?<!ChildFailedError)",
        ):
            if errors := [line for line in lines if re.match(pattern, line)]:
                return errors[-1]
        return lines[-1] if lines else ""

    # ------------------------------------------------------------------------------------------------- status

    def status(self) -> dict:
        """What the training does: `state` and `message`, `step`, `steps`, `alarms`, `seconds_per_step`, `pid`, `host`. Never raises.

        State is created, starting, running, stopping, stopped, finished, failed; lost: its process died without reporting; or unreadable:
        a file of the run is damaged, which the message names.
        """
        status = dict(state="created", message="", step=0, steps=0, alarms=[], seconds_per_step=None, pid=None, host=None)
        try:
            status["steps"] = self.config.steps
            status |= self._recorded_status()
        except UnreadableError as error:
            return status | dict(state="unreadable", message=str(error))
        if status["state"] in ACTIVE:
            if not alive(status, self.path):
                log = self._last_error()
                log = f" ({log[:300]})" if log else ""
                status |= dict(state="lost", message=f"died without reporting{log}; {self.how_to_go_on()}")
            elif (self.path / "stop").exists():
                status["state"] = "stopping"
        return status

    def _recorded_status(self) -> dict:
        """What `status.json` says."""
        path = self.path / "status.json"
        try:
            status = read_json(path)
        except FileNotFoundError:
            return {}
        kinds = dict(state=str, message=str, step=int, steps=int, alarms=list, pid=int, host=str, machine=str)
        wrong = [name for name, kind in kinds.items() if not isinstance(status.get(name, kind()), kind)]
        if wrong or status.get("state", "created") not in STATES or not isinstance(status.get("seconds_per_step"), int | float | None):
            raise UnreadableError(path, f"{(wrong or ['state'])[0]}={status.get((wrong or ['state'])[0])!r} is of another version")
        return status | dict(alarms=[alarm for alarm in status.get("alarms", []) if isinstance(alarm, str)])

    def set_status(self, **changes) -> None:
        """Merge changes into `status.json`, and sign them with this process.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        status = {}
        with suppress(UnreadableError):
            status = self._recorded_status()
        path, text = self.path / "status.json", json.dumps(status | signature() | dict(time=time.time()) | changes)
        try:
            replace_text(path, text)
        except StorageError:
            # A full disk has no room for a new file, but for the end of a training in the old one.
            if changes.get("state") in (None, *ACTIVE) or not path.exists():
                raise
            with storing(path), open(path, "r+b") as file:
                file.write(text.encode())
                file.truncate()

    @property
    def active(self) -> bool:
        """Whether a training process works on this run."""
        return self.status()["state"] in ACTIVE

    def stop(self) -> None:
        """Ask the training to save and stop at its next step; nothing where there is none."""
        if self.active:
            with storing(self.path / "stop"):
                (self.path / "stop").touch()

    def how_to_go_on(self) -> str:
        """What to do to continue this run, in one line."""
        steps = self.checkpoint_steps()
        if not steps:
            return f"nothing was saved yet; start again with: {resume_command(self.reference)}"
        return f"saved at step {steps[-1]}; go on with: {resume_command(self.reference)}"

    # -------------------------------------------------------------------------------------------- checkpoints

    def checkpoint_steps(self) -> list[int]:
        return checkpoint_steps(self.path)

    def checkpoint_path(self, step: int | None = None) -> Path:
        """The folder of the checkpoint at `step`, by default the newest.

        Raises
        ------
        WorkbenchError
            If there is none; the message lists those there are.
        """
        steps = self.checkpoint_steps()
        if not steps:
            raise WorkbenchError(f"run {self.name!r} has no checkpoint yet")
        if step is not None and step not in steps:
            raise WorkbenchError(f"run {self.name!r} has no checkpoint at step {step}; there are: {', '.join(map(str, steps))}")
        return self.path / "checkpoints" / str(steps[-1] if step is None else step)

    def save_checkpoint(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict, keep: int = 0) -> None:
        """Write a checkpoint, complete or not at all: `<name>.safetensors` for each dict of tensors, and `state.json`.

        Parameters
        ----------
        keep
            Delete all but the newest `keep` checkpoints afterwards; 0: none.
        """
        target = self.path / "checkpoints" / str(step)
        if not target.exists():
            for file in ("history.jsonl", "spectra.jsonl", "evaluations.jsonl"):  # no power cut leaves gaps before a checkpoint
                if (self.path / file).exists():
                    flush(self.path / file)
            with new_folder(target) as partial:
                for name, values in tensors.items():
                    save_tensors(partial / f"{name}.safetensors", values)
                with storing(target), synced(partial / "state.json") as file:
                    file.write(json.dumps(state).encode())
                seal(partial)
        self.prune(keep)

    def prune(self, keep: int) -> None:
        """Delete all but the newest `keep` checkpoints; 0: none."""
        for old in self.checkpoint_steps()[:-keep] if keep else ():
            delete_folder(self.path / "checkpoints" / str(old))

    def read_checkpoint(self, step: int | None = None) -> tuple[int, dict[str, dict[str, Tensor]], dict]:
        """What `save_checkpoint` wrote, by default the newest: its step, tensors by file, and state.

        Raises
        ------
        WorkbenchError
            If there is none; or if anything in it is not what was written, then the message names the file and the newest good checkpoint.
        """
        folder = self.checkpoint_path(step)
        with self._checked(folder):
            listed = sums(folder)
            tensors = {
                name.removesuffix(".safetensors"): load_tensors(folder / name, digest)
                for name, digest in listed.items() if name.endswith(".safetensors")
            }  # fmt: skip
            verify(folder)
            state = read_json(folder / "state.json") if "state.json" in listed else {}
            if state.get("step") != int(folder.name):
                raise UnreadableError(folder / "state.json", f"it is of step {state.get('step')}")
        return int(folder.name), tensors, state

    @contextmanager
    def _checked(self, folder: Path) -> Iterator[None]:
        """Context in which an UnreadableError also tells the newest good checkpoint."""
        try:
            yield
        except UnreadableError as error:
            good = self.newest_good_checkpoint(but=int(folder.name))
            advice = "no other checkpoint is good" if good is None else f"the newest good checkpoint is that of step {good}"
            if good is not None and good < int(folder.name):
                advice += f": to resume from it, delete {folder}"
            raise WorkbenchError(f"{error}; {advice}") from None

    def newest_good_checkpoint(self, but: int | None = None) -> int | None:
        """The step of the newest checkpoint, but for that at `but`, that is what was written and holds no NaN; None if there is none."""
        for step in reversed(self.checkpoint_steps()):
            folder = self.path / "checkpoints" / str(step)
            with suppress(UnreadableError):
                names = verify(folder) if step != but else ()
                files = [load_tensors(folder / name) for name in names if name.endswith(".safetensors")]
                if files and all(first_not_finite(tensors) is None for tensors in files):
                    return step
        return None

    def clean(self) -> None:
        """Delete what a killed training left half-written, and a wish to stop that it has not heard; for whoever holds the run."""
        for folder in (self.path, *(self.path / name for name in ("checkpoints", "samples", "attention"))):
            remove_leftovers(folder)
        with storing(self.path / "stop"):
            (self.path / "stop").unlink(missing_ok=True)

    def generator(self, step: int | None = None, weights: str = "ema") -> Generator:
        """The generator of a checkpoint, in eval mode.

        Parameters
        ----------
        step
            G step; by default the newest checkpoint's.
        weights
            "ema": the exponential moving average; "raw": the weights that were trained; "auto": EMA if available.

        Raises
        ------
        WorkbenchError
            If there is no such checkpoint, the run keeps no average, or the checkpoint is damaged.
        """
        config = self.config
        if weights not in ("ema", "raw", "auto"):
            raise ParameterError(f"weights={weights!r} is not one of ema, raw, auto")
        if weights == "auto":
            weights = "ema" if config.ema_decay else "raw"
        if weights == "ema" and not config.ema_decay:
            raise WorkbenchError(f"run {self.name!r} keeps no averaged weights (ema_decay=0); use weights='raw'")
        return self._load(Generator(config), step, "ema" if weights == "ema" else "generator")

    def discriminator(self, step: int | None = None) -> Discriminator:
        """The discriminator of a checkpoint (by default the newest), in eval mode."""
        return self._load(Discriminator(self.config), step, "discriminator")

    def _load(self, net, step: int | None, name: str):
        folder = self.checkpoint_path(step)
        net = net.to(getattr(torch, self.config.dtype))
        with self._checked(folder):
            listed = sums(folder)
            if f"{name}.safetensors" not in listed:
                kept = ", ".join(file.removesuffix(".safetensors") for file in listed if file.endswith(".safetensors"))
                raise WorkbenchError(f"the checkpoint of run {self.name!r} at step {folder.name} keeps no {name}; it has: {kept}")
            tensors = load_tensors(folder / f"{name}.safetensors", listed[f"{name}.safetensors"])
        load_into(net.state_dict(), tensors, f"{folder}/{name}.safetensors")
        return net.eval().requires_grad_(False)


@torch.no_grad()
def load_into(target: dict[str, Tensor], saved: dict[str, Tensor], where: str) -> None:
    """Copy saved tensors into those of `target`, which keep their memory layout.

    Raises
    ------
    WorkbenchError
        If names or shapes differ.
    """
    wrong = sorted(set(target) ^ set(saved)) or [k for k in target if target[k].shape != saved[k].shape]
    if wrong:
        raise WorkbenchError(f"{where} does not fit the configuration: {wrong[0]!r} differs ({len(wrong)} in all)")
    for name, tensor in target.items():
        tensor.copy_(saved[name])


# ------------------------------------------------------------------------------------------------- making runs


def list_runs() -> list[Run]:
    """All runs in the outputs folder, the oldest first. A folder whose settings cannot be read is left out, and that is said once."""
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
    runs = list_runs()
    if not text.strip(" ,"):
        return [run for run in runs if run.history()]
    found: dict[Path, Run] = {}
    for word in filter(None, (part.strip() for part in text.split(","))):
        if any(run.name == word for run in runs):
            chosen = [Run(word)]
        elif any(sign in word for sign in "*?["):
            chosen = [run for run in runs if fnmatchcase(run.name, word)]
            if not chosen:
                raise WorkbenchError(f"no run in {outputs_dir()} goes by {word!r}; {len(runs)} runs are there")
        else:
            chosen = [run for run in runs if word in _tags(run)] or [Run(word)]  # which tells what is wrong
        found |= {run.path: run for run in chosen if run.path not in found}
    return list(found.values())


def _tags(run: Run) -> list:
    try:
        return run.provenance.get("tags", [])
    except UnreadableError as error:
        say_once(str(error))
        return []


def resume_command(resume: str) -> str:
    """The command that goes on with a run, or with "run@step" forks it, to be pasted into a shell."""
    return shlex.join(["papermill", "train.ipynb", "-p", "resume", resume])


def create_run(config: Config) -> Run:
    """Claim a run folder for a new run, and write its `config.json`.

    Without a name the run is called after its preset and the parameters that differ, with a number where that exists. `config.json`
    appears whole, and only where there is none: that claims the folder, so runs started at once never collide.

    Raises
    ------
    ParameterError
        If a run with the given name exists.
    StorageError
        If the folder cannot be written to.
    """
    base, number = config.run or config.derived_name, 1
    while True:
        name = base if number == 1 else f"{base}-{number}"
        path = outputs_dir() / name
        # A folder that `reserve` made has no config.json yet: it is for the run of that very name.
        made = _make_folder(path)
        if made or config.run:
            try:
                if claim_text(path / "config.json", config.replace(run=name).to_json()):
                    with suppress(OSError):  # it says nothing beside a config.json
                        (path / RESERVED).unlink(missing_ok=True)
                    return Run(path)
            except StorageError:
                if made:
                    shutil.rmtree(path, ignore_errors=True)
                raise
            if config.run:
                raise ParameterError(f"run={name!r} exists already; go on with it by resume={name!r}, or choose another name")
        number += 1


def reserve(config: Config) -> str:
    """A free run name for `config`, with its folder made, for a caller that needs the name before the run starts.

    Raises
    ------
    ParameterError
        If a run with the given name exists.
    """
    if config.resume and split_resume(config.resume)[1] is None:
        return config.run
    base, number = config.run or config.derived_name, 1
    while not _make_folder(outputs_dir() / (name := base if number == 1 else f"{base}-{number}")) and not config.run:
        number += 1
    folder = outputs_dir() / name
    if (folder / "config.json").exists():
        raise ParameterError(f"run={name!r} exists already; go on with it by resume={name!r}, or choose another name")
    with storing(folder):
        (folder / RESERVED).touch()
    return name


def release(name: str) -> None:
    """Give back a name of `reserve` under which no run was begun: deletes the mark, the notebook that was refused, and an empty folder."""
    if name in ("", "..") or name != Path(name).name:
        raise ParameterError(f"run={name!r} is not the name of a run")
    folder = outputs_dir() / name
    if (folder / RESERVED).exists() and not (folder / "config.json").exists():
        with storing(folder):
            for file in (RESERVED, "train.ipynb"):
                (folder / file).unlink(missing_ok=True)
        with suppress(OSError):  # there is something else in it
            folder.rmdir()


def _make_folder(path: Path) -> bool:
    """Make a folder; False if it exists."""
    with storing(path):
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            if not path.is_dir():
                raise
            return False
    return True


@contextmanager
def holding(run: Run) -> Iterator[Hold]:
    """Context in which no other process trains a run, on this machine or another.

    Raises
    ------
    BusyError
        If one does. The process that started this one, and signed the run for it, is no other.
    """
    if run.path == DEMO:
        raise WorkbenchError(f"run {run.name!r} ships with the package, and is only to be looked at; train one of your own")
    mine = {os.getpid(), *(process.pid for process in psutil.Process().parents())}

    def busy(status: dict) -> bool:
        here = status.get("machine") == signature()["machine"]
        lost_elsewhere = status["state"] == "lost" and not here
        return (status["state"] in ACTIVE and not (here and status["pid"] in mine)) or (lost_elsewhere and moves(run.path))

    def refuse(status: dict) -> BusyError:
        return BusyError(
            f"run {run.name!r} is being trained already (process {status['pid']} on {status['host']}); stop it first, or fork it"
        )

    status = run.status()
    if busy(status):  # asked before the lock is taken, which renews the heartbeat
        raise refuse(status)
    with ExitStack() as stack:
        try:
            lock = stack.enter_context(hold(run.path, patience=10))
        except BusyError:
            raise refuse(run.status()) from None
        if run.status() != status and busy(run.status()):  # signed since
            raise refuse(run.status())
        yield lock


def fork_point(config: Config) -> tuple[Run, int] | None:
    """The parent run and step that a forked run starts from; None for a run that starts from nothing.

    Raises
    ------
    ParameterError, WorkbenchError
        If there is no such run, step or checkpoint, or no step is left to train.
    """
    step = start_step(config.resume) if config.resume else None
    if step is None:
        return None
    require_forkable(config)
    return Run(parent_folder(config.resume)), step


# ------------------------------------------------------------------------------------------------- provenance


def command_line() -> list[str]:
    """The command that the user gave: papermill's where a notebook runs under it, else that of this process."""
    if os.environ.get("WORKBENCH_COMMAND"):  # `launch` knows it and hands it on
        return json.loads(os.environ["WORKBENCH_COMMAND"])
    for process in psutil.Process().parents():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if any(Path(part).name in ("papermill", "jupyter-nbconvert") for part in command[:3]):
            return command
    return [sys.executable, *sys.orig_argv[1:]]


def describe_machine() -> dict:
    """Versions and machine, for the record."""
    packages = ("torch", "torchvision", "accelerate", "numpy", "pillow", "papermill", "jupyterlab")
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    machine = dict(host=socket.gethostname(), system=platform.platform(), processor=_processor(), cores=os.cpu_count(), gpus=gpus)
    return dict(python=platform.python_version(), versions=versions, machine=machine)


def git_state() -> dict:
    """Commit of the checkout that the package lies in, and whether it was modified; both None where there is no git."""

    def git(*words):
        return subprocess.run(
            ["git", "-C", str(Path(__file__).parents[1]), *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return dict(commit=git("rev-parse", "HEAD"), dirty=bool(git("status", "--porcelain", "--", "..")))
    except (OSError, subprocess.SubprocessError):
        return dict(commit=None, dirty=None)


def write_provenance(run: Run, config: Config, data, from_step: int) -> None:
    """Record where a run comes from; a training that goes on adds a line to `started` and leaves the rest as it was.

    Parameters
    ----------
    data
        The opened data set: `name`, `fingerprint` and `classes` are read.
    """
    start = dict(
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"), command=command_line(), from_step=from_step, git=git_state(), **describe_machine()
    )
    record = run.provenance
    if not record:
        parent = fork_point(config)
        record = dict(
            command=start["command"], git=start["git"], python=start["python"], versions=start["versions"], machine=start["machine"],
            data=dict(name=data.name, fingerprint=data.fingerprint, classes=list(data.classes)),
            parent=parent and dict(run=parent[0].name, step=parent[1]),
            note=config.note, tags=[tag for tag in config.tags.split(",") if tag],
        )  # fmt: skip
    if record.get("data", {}).get("fingerprint", data.fingerprint) != data.fingerprint:
        raise WorkbenchError(
            f"the data in {config.data!r} is not what run {run.name!r} was trained on: it has changed; restore it, or fork the run: resume='{run.name}@<step>'"
        )
    record.setdefault("started", []).append({k: start[k] for k in ("time", "command", "from_step", "git")})
    replace_text(run.path / "provenance.json", json.dumps(record, indent=2))


# ------------------------------------------------------------------------------------------------------- files


def _is_history(row: dict) -> bool:
    """Whether a line of `history.jsonl` is one: a step, and numbers where every line has some."""
    numbers = (row[name] for name in ("images", "seconds", "loss_d", "loss_g", "d_real", "d_fake") if name in row)
    return _is_step(row["step"]) and all(isinstance(value, int | float) for value in numbers)


def _is_spectra(row: dict) -> bool:
    def fits(layer):
        known = isinstance(layer["exact"], list) and layer["exact"]
        return known and all(value is None or isinstance(value, int | float) for value in layer["exact"])

    return _is_step(row["step"]) and all(fits(layer) for layer in row["layers"].values())


def _is_evaluation(record: dict) -> bool:
    scores = record["scores"].values()
    return _is_step(record["step"]) and isinstance(record["protocol"], str) and all(isinstance(value, int | float) for value in scores)


def _is_step(value) -> bool:
    return isinstance(value, int) and 0 <= value < 2**63


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _numbers(folder: Path, suffix: str) -> list[int]:
    """The numbers that name entries of a folder, ascending."""
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    numbers = {name: whole(name.removesuffix(suffix)) for name in names if name.endswith(suffix)}
    # "007.png" is no name that a training gives.
    return sorted(number for name, number in numbers.items() if number is not None and name == f"{number}{suffix}")
