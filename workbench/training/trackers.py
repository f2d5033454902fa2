"""TensorBoard and Weights & Biases, through Accelerate's trackers: they get what the run folder gets, as it is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from PIL import Image

from ..config import Config
from ..files import storing
from ..messages import WorkbenchError
from ..readers import words
from ..runs import Run

PROJECT = "sagan-workbench"


@contextmanager
def tracked(accelerator: Accelerator, run: Run, config: Config, step: int) -> Iterator[None]:
    """Context in which `accelerator.log` also reaches the trackers of `log_with`, in the main process.

    A resumed run goes on in the same TensorBoard folder, `tensorboard/` of the run, and in the same run of Weights & Biases, in the project
    that WANDB_PROJECT names (default: sagan-workbench).

    A WorkbenchError if a tracker cannot be started.

    Parameters
    ----------
    step
        The step that the training starts from.
    """
    names = [name for name in words(config.log_with) if name != "none" and accelerator.is_main_process]
    accelerator.log_with = [_tracker(name, run, step) for name in names]
    try:
        with storing(run.path):
            accelerator.init_trackers(PROJECT, asdict(config))
    except Exception as error:
        if isinstance(error, WorkbenchError):
            raise
        offline = "; or set WANDB_MODE=offline" if "wandb" in names else ""
        raise WorkbenchError(f"log_with={config.log_with!r}: {' '.join(str(error).split())}{offline}") from error
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()  # not `end_training`, which also destroys the process group


def _tracker(name: str, run: Run, step: int) -> GeneralTracker:
    if name == "tensorboard":
        return TensorBoardTracker("", run.path / "tensorboard", purge_step=step + 1)  # steps that a resumed run repeats
    started = run.provenance["started"][0]["time"]
    identity = hashlib.sha256(f"{run.path.resolve()} {started}".encode()).hexdigest()[:16]  # of this folder, also when it is resumed
    return WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), name=run.name, id=identity, resume="allow", dir=str(run.path))


def log_scores(accelerator: Accelerator, scores: Mapping[str, float], step: int) -> None:
    """Log the scores of an evaluation."""
    accelerator.log({f"evaluation/{name}": value for name, value in scores.items() if isinstance(value, float)}, step=step)


def log_samples(accelerator: Accelerator, run: Run, step: int) -> None:
    """Log the sample grid of a step."""
    if not accelerator.trackers:
        return
    with Image.open(run.sample_path(step)) as grid:
        images = np.asarray(grid.convert("RGB"))[None]
    for tracker in accelerator.trackers:
        tracker.log_images(dict(samples=images), step=step, **(dict(dataformats="NHWC") if tracker.name == "tensorboard" else {}))
