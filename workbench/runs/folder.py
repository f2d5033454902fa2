"""The run folder: name, configuration, provenance, records, samples, status, and the networks of its checkpoints.

Training writes it, and everything else reads it. Files are replaced atomically, so that readers never see half a file. Readers check
everything: a damaged line is left out and reported, a damaged file raises an `UnreadableError` that names it.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import Config, read_config
from ..files import (
    UnreadableError,
    read_json,
    remove_leftovers,
    replace_text,
    storing,
)
from ..json_lines import append_record, drop_records, read_records
from ..messages import ParameterError, WorkbenchError
from ..paths import DEMO, checkpoint_steps, find_run_folder, no_such_run, numbered, outputs_dir, program
from ..records import BY_TRAINING, is_evaluation, is_history, is_spectra
from .liveness import alive, wake
from .resume import may_change, require_resumable
from .status import ACTIVE, last_error, log_tail, read_status, write_status

if TYPE_CHECKING:
    from ..model import Discriminator, Generator


class Run:
    """A run folder.

    Parameters
    ----------
    path
        The name of a run in the outputs folder, or an explicit path (see `paths.find_run_folder`). "demo" is a small run that ships with
        the package and is never written to: new files about it go to `outputs/demo`.

    Raises
    ------
    WorkbenchError
        If there is no such run; the message suggests the nearest name.
    """

    def __init__(self, path: str | os.PathLike):
        folder = find_run_folder(path)
        if folder is None:
            raise WorkbenchError(no_such_run(str(path)))
        self.path = folder.resolve()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def reference(self) -> str:
        """The argument of `Run` that opens this run: its name, or its path if it lies outside the outputs folder."""
        return self.name if self.path in (outputs_dir() / self.name, DEMO) else str(self.path)

    @property
    def home(self) -> Path:
        """The folder for new files about this run: `path`, or for the demo a folder in the outputs folder."""
        return outputs_dir() / self.name if self.path == DEMO else self.path

    @property
    def views(self) -> Path:
        """The folder for exports from this run."""
        return self.home / "views"

    def __repr__(self) -> str:
        return f"Run({self.name!r})"

    @property
    def config(self) -> Config:
        """All settings.

        Raises
        ------
        UnreadableError
            If `config.json` is damaged or of another version.
        """
        return read_config(self.path)

    def update_config(self, config: Config) -> Config:
        """Update `config.json` with the parameters of `config` that may change when a run is resumed, and return the result.

        Raises
        ------
        ParameterError
            If `config` differs in any other parameter.
        """
        require_resumable(config, self.path)
        before = self.config
        config = before.replace(**{name: getattr(config, name) for name in may_change(before)}, run=self.name)
        replace_text(self.path / "config.json", config.to_json())
        return config

    @property
    def provenance(self) -> dict:
        """Command, commit, versions, machine, data and parent of the run, see `write_provenance`; {} before its first start.

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
        for name, kind in dict(data=dict, tags=list, started=list, note=str).items():
            if name in record and not isinstance(record[name], kind):
                raise UnreadableError(path, f"{name!r} is a {type(record[name]).__name__}")
        return record

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; their numbers if no names were recorded, [] without classes."""
        # From the provenance: opening the data may take hours if it was packed on another machine.
        count = self.config.num_classes or 0
        try:
            names = self.provenance["data"]["classes"]
        except (WorkbenchError, KeyError, TypeError):
            names = ()
        if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
            return [str(k) for k in range(count)]
        return [name.encode(errors="replace").decode() for name in names]  # of a folder whose name is not UTF-8

    # ------------------------------------------------------------------------------------------------ records

    def history(self) -> list[dict]:
        """The logged steps in order, with means over the steps since the last one; see `training.history.history_row`.

        step, images, seconds, loss_d, loss_g, d_real, d_fake, gamma_..., lr_g, lr_d; norms of the gradients, grad_norm_d and grad_norm_g,
        and the largest, grad_norm_d_max and grad_norm_g_max; shares of images at which D's hinge loss is flat, saturated_real and
        saturated_fake.
        """
        return read_records(self.path / "history.jsonl", is_history)

    def spectra(self) -> list[dict]:
        """The layers' singular values in order, at the steps of the sample grids: step and layers, see `diagnostics.spectra`."""
        return read_records(self.path / "spectra.jsonl", is_spectra)

    def evaluations(self) -> list[dict]:
        """The evaluations in order, see `records.evaluation_record`."""
        folders = dict.fromkeys((self.path, self.home))
        return [record for folder in folders for record in read_records(folder / "evaluations.jsonl", is_evaluation)]

    def append(self, file: str, record: dict) -> None:
        """Append a record to `history.jsonl`, `spectra.jsonl` or `evaluations.jsonl`.

        Raises
        ------
        StorageError
            If it cannot be written; the file is then unchanged.
        """
        with storing(self.home):
            self.home.mkdir(parents=True, exist_ok=True)
        append_record(self.home / file, record)

    def begin_records(self, origin: Run | None, step: int) -> None:
        """Prepare the records for a training that starts at `step`: drop later ones, except evaluations made after training.

        Parameters
        ----------
        origin
            The run whose checkpoint the training starts from: this run, or the parent of a fork, whose records are copied; None for fresh
            weights.

        Raises
        ------
        UnreadableError, StorageError
            If records cannot be read or written; they are then unchanged.
        """
        if origin is not None and origin.path == self.path:
            for file in ("history.jsonl", "spectra.jsonl"):
                drop_records(self.path / file, lambda record: record["step"] > step)
            drop_records(self.path / "evaluations.jsonl", lambda record: record["step"] > step and bool(record.get(BY_TRAINING)))
            return
        # A fork does not copy its parent's evaluations.
        before = {} if origin is None else {"history.jsonl": origin.history(), "spectra.jsonl": origin.spectra()}
        for file in ("history.jsonl", "spectra.jsonl", "evaluations.jsonl"):
            lines = [json.dumps(row) + "\n" for row in before.get(file, ()) if row["step"] <= step]
            if lines or (self.path / file).exists():
                replace_text(self.path / file, "".join(lines))

    def sample_steps(self) -> list[int]:
        return numbered(self.path / "samples", ".png")

    def sample_path(self, step: int) -> Path:
        return self.path / "samples" / f"{step}.png"

    def attention_steps(self) -> list[int]:
        """The steps of the attention snapshots."""
        return numbered(self.path / "attention", ".safetensors")

    def attention_path(self, step: int | None = None) -> Path:
        """The file of the attention snapshot of `step`, by default the newest; `attention.snapshots.load_snapshot` reads it.

        Raises
        ------
        WorkbenchError
            If there is none; the message lists the steps there are.
        """
        return self.new_attention_path(self._pick_step(self.attention_steps(), step, "attention snapshot"))

    def new_attention_path(self, step: int) -> Path:
        return self.path / "attention" / f"{step}.safetensors"

    def _pick_step(self, steps: list[int], step: int | None, kind: str) -> int:
        """`step`, which must be one of `steps`, by default the last of them."""
        if not steps:
            raise WorkbenchError(f"run {self.name!r} has no {kind} yet")
        if step is not None and step not in steps:
            raise WorkbenchError(f"run {self.name!r} has no {kind} at step {step}; there are: {', '.join(map(str, steps))}")
        return steps[-1] if step is None else step

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of `train.log`, the output of a training that `launch` started."""
        return log_tail(self.path, lines)

    # ------------------------------------------------------------------------------------------------- status

    def status(self) -> dict:
        """The state of the training: `state`, `message`, `step`, `steps`, `alarms`, `seconds_per_step`, `pid`, `host`. Never raises.

        `state` is created, starting, running, stopping, stopped, finished, failed, lost (its process died without reporting) or unreadable
        (the message names the damaged file).
        """
        status = dict(state="created", message="", step=0, steps=0, alarms=[], seconds_per_step=None, pid=None, host=None)
        try:
            status["steps"] = self.config.steps
            status |= read_status(self.path)
        except UnreadableError as error:
            return status | dict(state="unreadable", message=str(error))
        if status["state"] in ACTIVE:
            if not alive(status, self.path):
                log_error = last_error(self.path)
                reason = f" ({log_error[:300]})" if log_error else ""
                status |= dict(state="lost", message=f"died without reporting{reason}; {self.resume_hint()}")
            elif (self.path / "stop").exists():
                status["state"] = "stopping"
        return status

    def set_status(self, **changes) -> None:
        """Merge changes into `status.json`, see `write_status`."""
        write_status(self.path, **changes)

    @property
    def active(self) -> bool:
        """Whether a training process works on this run."""
        return self.status()["state"] in ACTIVE

    def stop(self) -> None:
        """Make the training, if it is active, save and stop after its current step; if it is suspended (SIGSTOP), it goes on for that."""
        status = self.status()
        if status["state"] in ACTIVE:
            with storing(self.path / "stop"):
                (self.path / "stop").touch()
            wake(status)

    def resume_hint(self) -> str:
        """How to resume this run, in one line with the shell command."""
        steps = self.checkpoint_steps()
        state = f"saved at step {steps[-1]}; resume with" if steps else "nothing was saved yet; start again with"
        return f"{state}: {shlex.join([*program(), 'train', '-p', 'resume', self.reference])}"

    # -------------------------------------------------------------------------------------------- checkpoints

    def checkpoint_steps(self) -> list[int]:
        return checkpoint_steps(self.path)

    def checkpoint_step(self, step: int | None = None) -> int:
        """`step`, by default that of the newest checkpoint; a WorkbenchError if there is no such checkpoint."""
        return self._pick_step(self.checkpoint_steps(), step, "checkpoint")

    def checkpoint_path(self, step: int | None = None) -> Path:
        """The folder of the checkpoint at `step`, by default the newest.

        Raises
        ------
        WorkbenchError
            If there is none; the message lists the steps there are.
        """
        return self.path / "checkpoints" / str(self.checkpoint_step(step))

    def clean(self) -> None:
        """Delete the unfinished files and the `stop` file of a killed training; only for the process that has locked the run."""
        for folder in (self.path, *(self.path / name for name in ("checkpoints", "samples", "attention"))):
            remove_leftovers(folder)
        with storing(self.path / "stop"):
            (self.path / "stop").unlink(missing_ok=True)

    def generator(self, step: int | None = None, weights: str = "ema") -> Generator:
        """The generator of a checkpoint, in eval mode.

        Parameters
        ----------
        step
            Step of the checkpoint; by default the newest.
        weights
            "ema": exponential moving average; "raw": the trained weights; "auto": EMA if available.

        Raises
        ------
        WorkbenchError
            If there is no such checkpoint or EMA, or the checkpoint is damaged.
        """
        config = self.config
        if weights not in ("ema", "raw", "auto"):
            raise ParameterError(f"weights={weights!r} is not one of ema, raw, auto")
        if weights == "auto":
            weights = "ema" if config.ema_decay else "raw"
        if weights == "ema" and not config.ema_decay:
            raise WorkbenchError(f"run {self.name!r} has no EMA (ema_decay=0); use weights='raw'")
        from ..model import Generator  # here, because it imports torch, which takes seconds

        return self._load(Generator, step, "ema" if weights == "ema" else "generator")

    def discriminator(self, step: int | None = None) -> Discriminator:
        """The discriminator of a checkpoint (by default the newest), in eval mode."""
        from ..model import Discriminator

        return self._load(Discriminator, step, "discriminator")

    def _load(self, kind, step: int | None, name: str):
        """A network of this class with the weights `name` of a checkpoint."""
        import torch

        from .checkpoints import load_network

        return load_network(kind(self.config).to(getattr(torch, self.config.dtype)), self.checkpoint_path(step), name)
