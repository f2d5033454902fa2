"""The run folder: its name, configuration, provenance, history, status and checkpoints, and the models in it.

Whoever trains writes it and whoever looks reads it; there is no other connection between the two. Everything that is replaced is
replaced at once (written beside, then renamed), so a reader never sees half a file.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .attention.snapshots import Snapshot, load_snapshot
from .config import Config, outputs_dir, parent_config
from .files import flush, replace_text
from .model import Discriminator, Generator
from .parameters import ParameterError, WorkbenchError, nearest

ACTIVE = ("starting", "running", "stopping")
DEMO = Path(__file__).parent / "demo"


class Run:
    """A run folder.

    Parameters
    ----------
    path
        The folder, or the name of a run in the outputs folder; "demo" is a small one that ships with the package.

    Raises
    ------
    WorkbenchError
        If there is no run there; the message names the nearest.
    """

    def __init__(self, path: str | os.PathLike):
        folder = Path(path).expanduser()
        if not (folder / "config.json").exists():
            folder = outputs_dir() / path
        if not (folder / "config.json").exists() and str(path) == DEMO.name:
            folder = DEMO
        if not (folder / "config.json").exists():
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
        return self.name if self.path in (outputs_dir() / self.name, DEMO.resolve()) else str(self.path)

    @property
    def views(self) -> Path:
        """The folder for what is exported from this run: its own, or in the outputs folder where it ships with the package."""
        return (outputs_dir() / self.name if self.path == DEMO else self.path) / "views"

    def __repr__(self) -> str:
        return f"Run({self.name!r})"

    @property
    def config(self) -> Config:
        return Config.from_json((self.path / "config.json").read_text())

    def set_config(self, config: Config) -> None:
        """Replace `config.json`: a run that goes on may be made longer, or be watched more closely."""
        replace_text(self.path / "config.json", config.to_json())

    @property
    def provenance(self) -> dict:
        return _read_json(self.path / "provenance.json")

    # ------------------------------------------------------------------------------------------------ records

    def history(self) -> list[dict]:
        """The logged steps in order, with means over the steps since the last one.

        step, images, seconds, loss_d, loss_g, d_real, d_fake, gamma_..., lr_g, lr_d; norms of the gradients, grad_norm_d and grad_norm_g,
        and the largest, grad_norm_d_max and grad_norm_g_max; the shares of images that D's hinge loss is flat at, saturated_real and
        saturated_fake. Older runs do not have all of them.
        """
        return _read_lines(self.path / "history.jsonl")

    def spectra(self) -> list[dict]:
        """The layers' singular values in order, at the steps of the sample grids: step and layers, see `diagnostics.spectra`."""
        return _read_lines(self.path / "spectra.jsonl")

    def evaluations(self) -> list[dict]:
        """The evaluations in order: step, scores, protocol and what else belongs to it."""
        return _read_lines(self.path / "evaluations.jsonl")

    def append(self, file: str, record: dict) -> None:
        """Append a record to `history.jsonl`, `spectra.jsonl` or `evaluations.jsonl`."""
        with open(self.path / file, "a") as f:
            f.write(json.dumps(record) + "\n")

    def truncate(self, step: int) -> None:
        """Drop the records after `step`, which a training that goes on from there writes again."""
        for file in ("history.jsonl", "spectra.jsonl", "evaluations.jsonl"):
            rows = _read_lines(self.path / file)
            if (self.path / file).exists():
                replace_text(self.path / file, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))

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
        path = self.path / "train.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    # ------------------------------------------------------------------------------------------------- status

    def status(self) -> dict:
        """What the training does: `state` and `message`, `step`, `steps`, `alarms`, `seconds_per_step`, `pid`, `host`.

        State is created, starting, running, stopping, stopped, finished, failed, or lost: the process is gone and said nothing.
        """
        empty = dict(state="created", message="", step=0, steps=self.config.steps, alarms=[], seconds_per_step=None, pid=None, host=None)
        status = empty | _read_json(self.path / "status.json")
        if status["state"] in ACTIVE:
            if not _alive(status):
                status["state"] = "lost"
                said = self.log_tail(1)
                status["message"] = f"the training process is gone{f' (its last words: {said})' if said else ''}; {self.how_to_go_on()}"
            elif (self.path / "stop").exists():
                status["state"] = "stopping"
        return status

    def set_status(self, **changes) -> None:
        """Merge changes into `status.json`, and sign them with this process."""
        me = dict(pid=os.getpid(), host=socket.gethostname(), born=psutil.Process().create_time(), time=time.time())
        replace_text(self.path / "status.json", json.dumps(_read_json(self.path / "status.json") | me | changes))

    @property
    def active(self) -> bool:
        """Whether a training process works on this run."""
        return self.status()["state"] in ACTIVE

    def stop(self) -> None:
        """Ask the training to save and stop at its next step."""
        (self.path / "stop").touch()

    def how_to_go_on(self) -> str:
        """What to do to continue this run, in one line."""
        steps = self.checkpoint_steps()
        if not steps:
            return "nothing was saved yet: start it again"
        return f"saved at step {steps[-1]}; go on with: papermill train.ipynb -p resume {self.name}"

    # -------------------------------------------------------------------------------------------- checkpoints

    def checkpoint_steps(self) -> list[int]:
        return _numbers(self.path / "checkpoints", "")

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
        folder = self.path / "checkpoints"
        target = folder / str(step)
        if not target.exists():
            partial = folder / f".partial-{step}-{os.getpid()}"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for name, values in tensors.items():
                # Contiguous, since safetensors knows no other layout; whoever loads restores its own (see `load_into`).
                save_file({k: v.detach().cpu().contiguous() for k, v in values.items()}, partial / f"{name}.safetensors")
            (partial / "state.json").write_text(json.dumps(state))
            for file in partial.iterdir():
                flush(file)
            os.replace(partial, target)
            flush(folder)
        for old in self.checkpoint_steps()[:-keep] if keep else ():
            shutil.rmtree(folder / str(old), ignore_errors=True)

    def clean(self) -> None:
        """Delete what a killed training left half-written."""
        for partial in (self.path / "checkpoints").glob(".partial-*"):
            shutil.rmtree(partial, ignore_errors=True)
        (self.path / "stop").unlink(missing_ok=True)

    def generator(self, step: int | None = None, weights: str = "ema") -> Generator:
        """The generator of a checkpoint, in eval mode.

        Parameters
        ----------
        step
            G step; by default the newest checkpoint's.
        weights
            "ema": the averaged weights; "raw": those that were trained; "auto": the averaged ones where the run keeps such.

        Raises
        ------
        WorkbenchError
            If there is no such checkpoint, or the run keeps no average.
        """
        config = self.config
        if weights not in ("ema", "raw", "auto"):
            raise ParameterError(f"weights={weights!r} is not one of ema, raw, auto")
        if weights == "auto":
            weights = "ema" if config.ema_decay else "raw"
        if weights == "ema" and not config.ema_decay:
            raise WorkbenchError(f"run {self.name!r} keeps no averaged weights (ema_decay=0); use weights='raw'")
        file = "ema" if weights == "ema" else "generator"
        return self._load(Generator(config), self.checkpoint_path(step) / f"{file}.safetensors")

    def discriminator(self, step: int | None = None) -> Discriminator:
        """The discriminator of a checkpoint (by default the newest), in eval mode."""
        return self._load(Discriminator(self.config), self.checkpoint_path(step) / "discriminator.safetensors")

    def _load(self, net, file: Path):
        net = net.to(getattr(torch, self.config.dtype))
        load_into(net.state_dict(), load_file(file), str(file))
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
    """All runs in the outputs folder, the oldest first."""
    return [Run(p.parent) for p in sorted(outputs_dir().glob("*/config.json"), key=lambda p: p.stat().st_mtime)]


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
            chosen = [run for run in runs if word in run.provenance.get("tags", [])] or [Run(word)]  # which tells what is wrong
        found |= {run.path: run for run in chosen if run.path not in found}
    return list(found.values())


def create_run(config: Config) -> Run:
    """Claim a run folder for a new run, and write its `config.json`.

    Without a name the run is called after its preset and the parameters that differ, with a number where that exists. Creating
    `config.json` is what claims a folder, and only one process can do it, so runs started at once never collide.

    Raises
    ------
    ParameterError
        If a run with the given name exists.
    """
    base, number = config.run or config.derived_name, 1
    while True:
        name = base if number == 1 else f"{base}-{number}"
        path = outputs_dir() / name
        # A folder that `reserve` made has no config.json yet: it is for the run of that very name.
        path.mkdir(parents=True, exist_ok=True) if config.run else None
        if config.run or _make_folder(path):
            try:
                with open(path / "config.json", "x") as f:
                    f.write(config.replace(run=name).to_json())
                return Run(path)
            except FileExistsError:
                if config.run:
                    raise ParameterError(f"run={name!r} exists already; go on with it by resume={name!r}, or choose another name") from None
        number += 1


def reserve(config: Config) -> str:
    """A free run name for `config`, with its folder made, for a caller that needs the name before the run starts."""
    if config.run:
        return config.run
    base, number = config.derived_name, 1
    while not _make_folder(outputs_dir() / (name := base if number == 1 else f"{base}-{number}")):
        number += 1
    return name


def _make_folder(path: Path) -> bool:
    """Make a folder; False if it exists."""
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        return False
    return True


def fork_point(config: Config) -> tuple[Run, int] | None:
    """The parent run and step that a forked run starts from; None for a run that starts from nothing."""
    if "@" not in config.resume:
        return None
    name, _, step = config.resume.partition("@")
    parent_config(config.resume)  # raises where there is no such run
    parent = Run(outputs_dir() / name)
    if not step.isdigit():
        raise ParameterError(
            f"resume={config.resume!r}: {step!r} is not a step; {name!r} has checkpoints at: {', '.join(map(str, parent.checkpoint_steps()))}"
        )
    parent.checkpoint_path(int(step))  # raises where there is no such checkpoint
    return parent, int(step)


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
            ["git", "-C", str(Path(__file__).parent), *words], capture_output=True, text=True, check=True, timeout=20
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
    parent = fork_point(config)
    record = _read_json(run.path / "provenance.json") or dict(
        command=start["command"], git=start["git"], python=start["python"], versions=start["versions"], machine=start["machine"],
        data=dict(name=data.name, fingerprint=data.fingerprint, classes=list(data.classes)),
        parent=parent and dict(run=parent[0].name, step=parent[1]),
        note=config.note, tags=[tag for tag in config.tags.split(",") if tag],
    )  # fmt: skip
    if record["data"]["fingerprint"] != data.fingerprint:
        raise WorkbenchError(
            f"the data in {config.data!r} is not what run {run.name!r} was trained on: it has changed; restore it, or fork the run: resume='{run.name}@<step>'"
        )
    record.setdefault("started", []).append({k: start[k] for k in ("time", "command", "from_step", "git")})
    replace_text(run.path / "provenance.json", json.dumps(record, indent=2))


# ------------------------------------------------------------------------------------------------------- files


def _alive(status: dict) -> bool:
    """Whether the process that signed a status still runs; on another machine: whether it was heard of in the last 10 minutes."""
    if status["host"] != socket.gethostname():
        return time.time() - status.get("time", 0) < 600
    try:
        process = psutil.Process(status["pid"])
        return abs(process.create_time() - status["born"]) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, TypeError):
        return False


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _numbers(folder: Path, suffix: str) -> list[int]:
    """The numbers that name entries of a folder, ascending."""
    stems = [p.name.removesuffix(suffix) for p in folder.iterdir() if p.name.endswith(suffix)] if folder.exists() else []
    return sorted(int(stem) for stem in stems if stem.isdigit())


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def _read_lines(path: Path) -> list[dict]:
    """The objects of a JSON-lines file; a last line that is still being written is left out."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
